"""Fuzzed requests: each is answered with an error of the client's or closed, and the service goes on as before."""

import io
import json
import socket

import numpy as np
import pytest
from PIL import Image

TRIALS = 300


@pytest.fixture
def address(serving):
    """Where a service listens."""
    with serving(timeout=0.4) as opened:
        yield opened


def picture():
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def requests(image):
    """Return well-formed requests of all kinds."""
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    body = form + image + b"\r\n--x--\r\n"
    plain = b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    parts = (
        b"POST /score?nearest=1 HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x; charset=utf-8\r\n"
    )
    chunked = b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [
        plain % len(image) + image,
        parts + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        chunked + b"%x\r\n" % len(image) + image + b"\r\n0\r\n\r\n",
        *(
            b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path
            for path in (b"/", b"/healthz", b"/metrics", b"/docs", b"/none")
        ),
    ]


def answer(address, request):
    """Return status and body of the first answer; (0, b"") where the connection is closed without one."""
    with socket.create_connection(address, timeout=20) as connection:
        try:
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                status = stream.readline().split()
                lines = iter(lambda: stream.readline().strip(), b"")
                headers = dict(line.decode().lower().split(": ", 1) for line in lines)
                return (int(status[1]), stream.read(int(headers.get("content-length", 0)))) if status else (0, b"")
        except ConnectionError:
            return 0, b""


def scores_of(answered):
    """Return the scores of an image that was accepted."""
    status, body = answered
    assert status == 200, body
    return json.loads(body)["results"][0]["scores"]


@pytest.mark.slow
def test_fuzzed_requests_cost_the_service_nothing(generator, cut_or_changed, address, rounded):
    image = picture()
    whole = requests(image)
    scores = scores_of(answer(address, whole[0]))
    for trial in range(TRIALS):
        request = cut_or_changed(generator.choice(whole), generator)
        status, _ = answer(address, request)
        assert status < 500 or status in (503, 504), f"trial {trial}: {status} for {request!r}"
    assert scores_of(answer(address, whole[0])) == rounded(scores)
    assert answer(address, whole[4])[0] == 200
