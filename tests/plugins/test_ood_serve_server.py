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
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest
from PIL import Image

from ood_serve import command as serve
from ood_serve.limits import Limits
from ood_serve.server import _leave_in_time, listen, make_server
from ood_serve.service import Service

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
        self.told = self.url = ""

    def when_ready(self):
        """Return it as soon as it has said where it listens."""
        self.told = self.process.stdout.readline()
        self.url = self.told.rsplit(" ", 1)[-1].strip()
        return self

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


@pytest.fixture(scope="module", autouse=True)
def served(tiny_run):
    """A service of the tiny detector; it gets ready while the other tests run, and the last one has it."""
    started = Served(tiny_run.detector, "--grace", "3")
    yield started
    started.process.kill()
    started.process.communicate()


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


@pytest.fixture(scope="module")
def impatient(serving):
    """Where a service listens, in this process, that waits 0.4 seconds for a request."""
    with serving(timeout=0.4) as address:
        yield address


def silence(connection):
    """Return how many seconds it takes until the other side closes; fails if it says anything."""
    begun = time.monotonic()
    connection.settimeout(10)
    assert connection.recv(1) == b""
    return time.monotonic() - begun


def test_a_connection_that_brings_no_whole_request_is_closed_in_time(impatient):
    with socket.create_connection(impatient) as none, socket.create_connection(impatient) as half:
        half.sendall(b"GET /heal")
        assert silence(half) < 3
        assert silence(none) < 3


def test_further_bytes_of_a_head_buy_no_further_time(impatient):
    with socket.create_connection(impatient) as connection:
        begun = time.monotonic()
        with pytest.raises(OSError):  # reset or broken pipe, as it comes
            while time.monotonic() - begun < 5:
                connection.sendall(b"GET /" if time.monotonic() - begun < 0.02 else b"x")
                time.sleep(0.03)
        assert time.monotonic() - begun < 3


def ask(address, content, source="127.0.0.1"):
    """Return status, headers and JSON of an answer to these bytes."""
    with socket.create_connection(address, timeout=10, source_address=(source, 0)) as connection:
        connection.sendall(content)
        with connection.makefile("rb") as stream:
            status = int(stream.readline().split()[1])
            headers = dict(line.decode().lower().strip().split(": ", 1) for line in iter(stream.readline, b"\r\n"))
            return status, headers, json.loads(stream.read(int(headers["content-length"])))


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 30000,
        b"POST /no HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nTrailer: ",
    ],
)
def test_a_head_without_an_end_is_refused(impatient, begun):
    with socket.create_connection(impatient, timeout=10) as connection, suppress(ConnectionError):
        connection.sendall(begun)
        for _ in range(200):  # 13 MB, of which none is kept
            connection.sendall(b"x" * 2**16)
        pytest.fail("all of it was read")


def test_a_head_that_is_too_large_or_broken_gets_an_answer_with_security_headers(impatient):
    for content, expected in (
        (
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 12000,
            "request line and headers are larger than 65536",
        ),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 2**16, "request line and headers are larger than 65536"),
        (b"nonsense\r\n\r\n", "Invalid HTTP request received"),
        (b"POST /score HTTP/1.1\r\nContent-Length: 1\r\n\r\nxnonsense\r\n\r\n", "Invalid HTTP request received"),
    ):
        status, headers, told = ask(impatient, content)
        assert status == (431 if "larger" in expected else 400)
        assert told["error"].startswith(expected)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["connection"] == "close"


def test_a_body_in_chunks_of_one_byte_is_no_large_head(impatient):
    head = b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, _, told = ask(impatient, head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
    assert (status, told["error"]) == (405, "POST /healthz is not possible, only GET")


def test_slow_bodies_of_one_client_shut_no_other_one_out(tiny_detector):
    server = make_server(Service(tiny_detector.state, Limits(queue=4, max_images=4)))
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    content = picture.getvalue()
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\n\r\n"
    with listen("127.0.0.1", 0) as listening, ExitStack() as slow:
        address = listening.getsockname()[:2]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_for(lambda: server.started)
        for _ in range(2):
            slow.enter_context(half_asked(f"http://{address[0]}:{address[1]}", content))
        wait_for(lambda: sum(server._service.admission._arriving.values()) == 2)
        assert ask(address, head.encode() + content)[0] == 429
        assert ask(address, head.encode() + content, source="127.0.0.2")[0] == 200
        slow.close()
        server.handle_exit(signal.SIGINT, None)
        thread.join(10)
    assert not thread.is_alive()


def test_a_kept_connection_may_be_idle_for_longer_but_not_with_half_a_request(impatient):
    with socket.create_connection(impatient, timeout=10) as connection:
        for pause in (0.6, 0.0):  # longer than a head may take
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            time.sleep(pause)
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert silence(connection) < 3


def test_the_process_ends_with_the_grace_even_if_the_service_does_not(monkeypatch):
    codes, signalled = [], threading.Event()
    monkeypatch.setattr(os, "_exit", codes.append)
    stuck = SimpleNamespace(signalled=signalled)
    waiting = threading.Thread(target=_leave_in_time, args=(stuck, 0.3))
    waiting.start()
    time.sleep(0.05)
    assert waiting.is_alive()
    begun = time.monotonic()
    signalled.set()
    waiting.join(10)
    assert codes == [0]
    assert 0.15 < time.monotonic() - begun < 2


def test_a_port_that_is_taken_is_told_in_one_line(ood, tiny_run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, said = ood("serve", tiny_run.detector, "--port", port)
    assert code == 2
    assert said == f"127.0.0.1:{port}: cannot listen there: address already in use; --port 0 takes any free port\n"


def test_a_host_that_is_not_there_is_told(ood, tiny_run):
    code, _, said = ood("serve", tiny_run.detector, "--host", "192.0.2.1", "--port", 0)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("192.0.2.1:0: cannot listen there: cannot assign requested address")
    code, _, said = ood("serve", tiny_run.detector, "--host", "no such host")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("--host no such host: no such host")


def test_wrong_names_and_limits_end_before_anything_is_loaded(ood, tiny_run):
    code, _, said = ood("serve", "nowhere")
    assert (code, said) == (2, "no detector 'nowhere', neither a folder nor below runs/. There is none\n")
    code, _, said = ood("serve", tiny_run.detector, "--queue", 8)
    assert code == 2
    assert said.startswith("a request of 64 images never fits into a queue of 8")


@pytest.mark.parametrize("name", serve.EXTRA)
def test_a_missing_package_is_told_with_the_command_that_installs_it(ood, tiny_run, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    code, _, said = ood("serve", tiny_run.detector)
    assert code == 2
    assert said == f"ood serve needs '{name}', which is not installed: pip install 'ood-framework[serve]'\n"


def test_sixty_four_clients_get_their_own_answers_and_a_signal_ends_it_in_time(served, tiny_detector, files, rounded):
    service = served.when_ready()
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
        assert found == rounded({name: scores[row] for name, scores in expected.items()})

    client = httpx2.Client(base_url=service.url)
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert float(values["ood_batch_images_sum"]) == 64
    assert float(values["ood_batch_images_count"]) < 60, "some passed together"

    encoded = files[5].read_bytes()
    connection = half_asked(service.url, encoded)
    never = half_asked(service.url, encoded)
    wait_for(lambda: "ood_accepted_images 2.0" in client.get("/metrics").text)
    begun = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    wait_for(lambda: client.get("/readyz").status_code == 503)
    refused = client.post("/score", content=encoded, headers=PNG)
    assert (refused.status_code, refused.json()) == (503, {"error": "the service is stopping"})
    assert refused.headers["retry-after"] == "1"
    connection.sendall(encoded[-1:])
    status, answer = read(connection)
    assert status == 200
    assert answer["results"][0]["scores"]["energy"] == rounded(expected["energy"][5])
    assert read(never) == (503, {"error": "the service is stopping"})
    assert service.end() == (0, "")
    assert time.monotonic() - begun < 3.2, "the grace, and what it takes to see the end"
