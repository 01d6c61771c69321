"""`ood serve` as a process: many clients at once, signals, and what it says when it cannot begin."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from ood_core import commands
from ood_core.commands import serve
from ood_core.service import Limits, Service
from ood_core.service.server import listen, make

OOD = str(Path(sys.executable).with_name("ood"))
PNG = {"Content-Type": "image/png"}


class Served:
    """A service in a process of its own."""

    def __init__(self, detector, *options):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [OOD, "serve", str(detector), "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.told = self.process.stdout.readline()
        self.url = self.told.rsplit(" ", 1)[-1].strip()

    def end(self):
        """Return the exit code and what was said on stderr."""
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


def half_asked(url, encoded):
    """Send all of a request but its last byte; return the connection."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(encoded)}\r\n\r\n"
    connection.sendall(head.encode() + encoded[:-1])
    return connection


@pytest.fixture
def served(tiny_run):
    """`served(*options)`: a service of the tiny detector."""
    started = []

    def start(*options):
        started.append(Served(tiny_run.detector, *options))
        return started[-1]

    yield start
    for of in started:
        of.process.kill()
        of.process.communicate()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    arrays = np.random.default_rng(0).integers(0, 256, (64, 13, 10, 3), dtype=np.uint8)
    for row, array in enumerate(arrays):
        Image.fromarray(array).save(root / f"{row:02}.png")
    return sorted(root.iterdir())


def read(connection):
    """Return status and JSON of an answer."""
    with connection, connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = dict(line.decode().lower().strip().split(": ", 1) for line in iter(stream.readline, b"\r\n"))
        return status, json.loads(stream.read(int(headers["content-length"])))


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_sixty_four_clients_get_their_own_answers_and_a_signal_ends_it_in_order(served, tiny_detector, files):
    service = served()
    assert service.told.startswith(
        f"serving {tiny_detector.name} (mahalanobis, softmax, entropy, energy, gradnorm) on "
    )
    expected = tiny_detector.score(files)

    async def all_at_once():
        async with httpx2.AsyncClient(timeout=30, limits=httpx2.Limits(max_connections=64)) as client:
            return await asyncio.gather(
                *(client.post(f"{service.url}/score", content=of.read_bytes(), headers=PNG) for of in files)
            )

    for row, answer in enumerate(asyncio.run(all_at_once())):
        assert answer.status_code == 200
        found = answer.json()["results"][0]["scores"]
        assert found == {name: scores[row] for name, scores in expected.items()}

    client = httpx2.Client(base_url=service.url)
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert float(values["ood_batch_images_sum"]) == 64
    assert float(values["ood_batch_images_count"]) < 60, "some passed together"

    encoded = files[5].read_bytes()
    connection = half_asked(service.url, encoded)
    wait_for(lambda: "ood_accepted_images 1.0" in client.get("/metrics").text)
    service.process.send_signal(signal.SIGTERM)
    wait_for(lambda: client.get("/readyz").status_code == 503)
    refused = client.post("/score", content=encoded, headers=PNG)
    assert (refused.status_code, refused.json()) == (503, {"error": "the service is stopping"})
    assert refused.headers["retry-after"] == "1"
    connection.sendall(encoded[-1:])
    status, answer = read(connection)
    assert status == 200
    assert answer["results"][0]["scores"]["energy"] == expected["energy"][5]
    assert service.end() == (0, "")


def test_what_never_comes_whole_is_cut_off_when_the_grace_ends(tiny_detector, files):
    service = Service(tiny_detector.fitted, Limits(grace=1.5))
    server = make(service)
    with listen("127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        connection = half_asked(url, files[0].read_bytes())
        wait_for(lambda: len(service.admission) == 1)
        begun = time.monotonic()
        server.handle_exit(signal.SIGINT, None)
        assert read(connection) == (503, {"error": "the service is stopping"})
        thread.join(10)
        assert not thread.is_alive()
        assert time.monotonic() - begun < 5


def test_a_port_that_is_taken_is_told_in_one_line(command_line, tiny_run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, said = command_line("ood", commands.run)("serve", tiny_run.detector, "--port", port)
    assert code == 2
    assert said == f"127.0.0.1:{port}: cannot listen there: address already in use; --port 0 takes any free port\n"


def test_a_host_that_is_not_there_is_told(command_line, tiny_run):
    call = command_line("ood", commands.run)
    code, _, said = call("serve", tiny_run.detector, "--host", "192.0.2.1", "--port", 0)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("192.0.2.1:0: cannot listen there: cannot assign requested address")
    code, _, said = call("serve", tiny_run.detector, "--host", "no such host")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("--host no such host: no such host")


def test_wrong_names_and_limits_end_before_anything_is_loaded(command_line, tiny_run):
    call = command_line("ood", commands.run)
    code, _, said = call("serve", "nowhere")
    assert (code, said) == (2, "no detector 'nowhere', neither a folder nor below runs/. There is none\n")
    code, _, said = call("serve", tiny_run.detector, "--queue", 8)
    assert code == 2
    assert said.startswith("a request of 64 images never fits into a queue of 8")


@pytest.mark.parametrize("name", serve.EXTRA)
def test_a_missing_package_is_told_with_the_command_that_installs_it(command_line, tiny_run, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    code, _, said = command_line("ood", commands.run)("serve", tiny_run.detector)
    assert code == 2
    assert said == f"ood serve needs '{name}', which is not installed: pip install 'ood-framework[serve]'\n"
