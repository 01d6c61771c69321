"""The service, asked in this process: its answers, what it refuses and how, what it counts."""

import asyncio
import itertools
import json
import re
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image, ImageFile
from starlette.testclient import TestClient

from ood_core.detector import Detector, predictions
from ood_core.errors import OODError
from ood_core.evaluation.drift_tests import Sequential, kolmogorov_smirnov
from ood_serve import batching, monitoring, uploads
from ood_serve.application import application
from ood_serve.limits import Admission, Limits, RequestError
from ood_serve.service import Service

SCORERS = ("mahalanobis", "softmax", "entropy", "energy", "gradnorm")


def encoded(array, kind="PNG"):
    file = BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def header_of(width, height):
    """A PNG whose header promises so many pixels, and that has none of them."""
    picture = bytearray(encoded(np.zeros((1, 1, 3), np.uint8)))
    picture[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    picture[29:33] = zlib.crc32(bytes(picture[12:29])).to_bytes(4, "big")
    return bytes(picture)


def ready(client):
    until = time.monotonic() + 10
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.01)
    return client


@pytest.fixture(scope="module")
def serving(tiny_detector):
    """`serving(**limits)`: a client of a service with these limits."""
    opened = []

    def serve(detector=tiny_detector, **limits):
        service = Service(detector.state, Limits(**limits))
        client = TestClient(application(service), raise_server_exceptions=False)
        client.__enter__()
        client.service = service
        opened.append(client)
        return ready(client)

    yield serve
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(serving):
    return serving()


@pytest.fixture(scope="module")
def arrays():
    return np.random.default_rng(0).integers(0, 256, (70, 13, 10, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(arrays, tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for row, array in enumerate(arrays):
        kind = ("png", "jpg", "webp")[row % 3]
        Image.fromarray(array).save(root / f"{row:02}.{kind}")
    return sorted(root.iterdir())


def post(client, *pictures, **query):
    return client.post("/score", files=[("image", (f"{i}.png", of)) for i, of in enumerate(pictures)], params=query)


def raw(client, body, kind="image/png", **query):
    return client.post("/score", content=body, headers={"content-type": kind} if kind else {}, params=query)


def numbers(client):
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


# -------------------------------------------------------------------------------------------------------- answers


def test_files_get_the_scores_that_python_gives_them(client, tiny_detector, files, rounded):
    expected = tiny_detector.score(files)
    answer = client.post("/score", files=[("image", (of.name, of.read_bytes())) for of in files[:60]]).json()
    assert [result["name"] for result in answer["results"]] == [file.name for file in files[:60]]
    for row, result in enumerate(answer["results"]):
        assert result["scores"] == rounded({name: expected[name][row] for name in SCORERS})
        alone = raw(client, files[row].read_bytes()).json()["results"][0]
        assert alone["scores"] == rounded(result["scores"])


def test_decisions_are_those_of_predict(client, tiny_detector, files, rounded):
    found = tiny_detector.predict(files[:9], scorer="energy", tpr=0.5)
    answer = post(client, *(file.read_bytes() for file in files[:9]), scorer="energy", tpr=0.5).json()
    assert (answer["scorer"], answer["tpr"], answer["detector"]) == ("energy", 0.5, tiny_detector.name)
    for row, result in enumerate(answer["results"]):
        assert result["is_ood"] == found.is_ood[row]
        assert result["score"] == rounded(found.score[row])
        assert (result["threshold"], result["p_value"]) == (found.threshold[row], found.p_value[row])
        assert result["predicted"] == found.class_name(row)
        assert "nearest" not in result
        assert "error" not in result


def test_nearest_are_training_images_with_pictures_by_distance(client, tiny_detector, arrays):
    result = raw(client, encoded(arrays[0]), nearest=3).json()["results"][0]
    distances = [of["distance"] for of in result["nearest"]]
    assert len(distances) == 3
    assert distances == sorted(distances)
    assert all(of["picture"].startswith("data:image/webp;base64,") for of in result["nearest"])
    assert {of["class"] for of in result["nearest"]} <= set(tiny_detector.classes)
    assert all(of.keys() == {"class", "distance", "picture"} for of in result["nearest"])


def test_an_error_map_is_that_of_the_reconstruction(tiny_detector, serving, arrays):
    seen = []

    def errors(images):
        seen.append(images)
        return images[:, 0, :2, :3]

    state = replace(tiny_detector.state, trained_task=SimpleNamespace(patch_errors=errors))
    client = serving(Detector.from_state(state))
    picture = encoded(np.resize(arrays[0], (8, 8, 3)))
    result = raw(client, picture, error_map=True).json()["results"][0]
    assert result["error_map"] == seen[-1][0, 0, :2, :3].tolist()
    assert seen[-1].max() <= 1
    assert "error_map" not in raw(client, picture).json()["results"][0]


def test_the_scale_of_error_maps_is_that_of_the_detectors_own_images_whatever_is_sent(tiny_detector, serving):
    mapping = SimpleNamespace(patch_errors=lambda images: images[:, 0, ::2, ::2])
    client = serving(Detector.from_state(replace(tiny_detector.state, trained_task=mapping)))
    own = tiny_detector.state.reference_images[:16, 0, ::2, ::2].float() / 255
    for level in (3, 250):
        answer = raw(client, encoded(np.full((8, 8, 3), level, np.uint8)), error_map=True).json()
        assert answer["error_scale"] == pytest.approx(np.quantile(own.numpy(), 0.99), rel=1e-6)
        assert np.allclose(answer["results"][0]["error_map"], level / 255)
    assert "error_scale" not in raw(client, encoded(np.zeros((8, 8, 3), np.uint8))).json()
    client.service.ready = False
    early = raw(client, encoded(np.zeros((8, 8, 3), np.uint8)), error_map=True)
    assert refused(early, 503) == "the scale of error maps is not known yet; try again"
    assert early.headers["retry-after"] == "1"


def test_the_one_broken_picture_among_several_says_so_and_the_others_are_scored(client, arrays):
    response = post(client, encoded(arrays[0]), b"no picture", encoded(arrays[1]), b"")
    assert response.status_code == 200
    good, bad, other, empty = response.json()["results"]
    assert bad == {"name": "1.png", "error": "1.png: not a picture in a known format"}
    assert empty["error"] == "3.png: the file is empty"
    assert good["scores"]["energy"] != other["scores"]["energy"]


# -------------------------------------------------------------------------------------------------------- refusals


def refused(response, status):
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    return response.json()["error"]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"scorer": "enrgy"}, "the detector has no scorer 'enrgy'. Did you mean 'energy'?"),
        ({"tpr": 1.5}, "a TPR must lie between 0 and 1, not 1.5"),
        ({"tpr": "nan"}, "a TPR must lie between 0 and 1, not nan"),
        ({"tpr": "high"}, "query parameter 'tpr' must be a valid number, not 'high'"),
        ({"trp": 0.9}, "no query parameter 'trp'. Did you mean 'tpr'?"),
        ({"nearest": 1000}, "query parameter 'nearest' must be less than or equal to 100, not '1000'"),
        (
            {"error_map": True},
            "the detector has no task that predicts hidden patches; leave out 'error_map'",
        ),
    ],
)
def test_a_wrong_question_is_told_with_the_nearest_right_one(client, arrays, query, told):
    assert refused(raw(client, encoded(arrays[0]), **query), 422) == told


def test_too_high_a_rate_names_how_many_images_it_needs(client, arrays):
    assert "calibration images" in refused(raw(client, encoded(arrays[0]), tpr=0.999), 422)


def test_a_wrong_path_or_method_is_told_with_the_right_one(client):
    assert refused(client.post("/scor"), 404) == "no such path '/scor'. Did you mean '/score'?"
    response = client.get("/score")
    assert refused(response, 405) == "GET /score is not possible, only POST"
    assert response.headers["allow"] == "POST"


def test_a_body_without_an_image_is_told_how_to_send_one(client):
    assert refused(raw(client, b""), 400).startswith("the body is empty; send image/*")
    assert refused(raw(client, b"x", "text/plain"), 415).startswith("content type 'text/plain': send image/*")
    assert refused(raw(client, b"x", None), 415).startswith("no content type")
    text = client.post("/score", files={"image": (None, "photo.png")})
    assert refused(text, 400) == "field 'image' holds text, not a file; curl wants -F image=@photo.png"
    kind = "multipart/form-data; boundary=x"
    assert "holds no image, or was cut off" in refused(raw(client, b"--x--\r\n", kind), 400)
    assert "is broken" in refused(raw(client, b"nonsense", kind), 400)
    assert "is broken" in refused(raw(client, b"--x--\r\n", "multipart/form-data"), 400)


def test_a_cut_off_multipart_body_is_refused(client, arrays):
    whole = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n' + encoded(arrays[0])
    assert "cut off" in refused(raw(client, whole, "multipart/form-data; boundary=x"), 400)


@pytest.mark.parametrize("charset", ["foo", "hex", "idna", "undefined", "utf-16", "a\0b", "../os", "", "é", "x" * 4000])
def test_a_charset_of_a_form_is_no_error_of_the_service(client, arrays, charset):
    def form(kind, disposition):
        head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="é.png"{disposition}\r\n'
        body = (head + f"Content-Type: image/png{disposition}\r\n\r\n").encode() + encoded(arrays[0]) + b"\r\n--x--\r\n"
        kind = kind.encode("latin-1")
        return client.post("/score", content=body, headers={b"Content-Type": b"multipart/form-data; boundary=x" + kind})

    for answer in (
        form(f"; charset={charset}", ""),
        form(f'; charset="{charset}"', ""),
        form("", f"; charset={charset}"),
    ):
        assert answer.status_code in (200, 400), answer.text
        assert answer.status_code == 200 or "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/score", "/healthz", "/readyz", "/metrics", "/openapi.json", "/no", "/a%0d"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_answer_has_security_headers(client, method, path):
    headers = client.request(method, path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    assert ("script-src" in policy) == (path in ("/", "/docs"))
    assert not re.search(r"https?:|\*", policy)


def test_errors_of_the_service_have_them_too(client, arrays, monkeypatch):
    monkeypatch.setattr(batching, "score_images", lambda *_: 1 / 0)
    answer = raw(client, encoded(arrays[0]))
    assert answer.status_code == 500
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def body_of(chunks, pause=0.0):
    """Return a request whose body comes in these chunks."""

    async def stream():
        for chunk in chunks:
            await asyncio.sleep(pause)
            yield chunk

    return SimpleNamespace(headers={"content-type": "image/png"}, stream=stream)


def test_a_body_that_comes_too_slowly_is_refused(monkeypatch):
    monkeypatch.setattr(uploads, "BODY_SECONDS", 0.05)
    for chunks, pause in (([b"x"], 9.0), (itertools.repeat(b"x"), 0.001)):
        with pytest.raises(RequestError, match=r"bytes of the body arrived in 0 s, which is too slow") as caught:
            asyncio.run(uploads.read_uploads(body_of(chunks, pause), Limits()))
        assert caught.value.status == 408
    monkeypatch.setattr(uploads, "BODY_RATE", 10)  # each chunk buys a tenth of a second
    (found,) = asyncio.run(uploads.read_uploads(body_of([b"x"] * 100, 0.001), Limits()))
    assert found.encoded == b"x" * 100


def test_bodies_from_one_address_take_half_of_the_queue():
    admission = Admission(5)
    with ExitStack() as arriving:
        for host in ("10.0.0.1", "2001:db8::1", ""):
            for _ in range(2):
                arriving.enter_context(admission.receive(host))
        for host in ("10.0.0.1", "2001:db8::f:2", ""):  # of an IPv6 network everyone has all addresses
            with pytest.raises(RequestError, match="2 bodies from your address are still arriving") as caught:
                arriving.enter_context(admission.receive(host))
            assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
        for host in ("10.0.0.2", "2001:db8:1::1"):
            arriving.enter_context(admission.receive(host))
    with admission.receive("10.0.0.1"), admission.receive("10.0.0.1"):
        assert dict(admission._arriving) == {"10.0.0.1": 2}


def test_a_picture_that_cannot_be_read_is_told_why(client, arrays):
    whole = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert refused(raw(client, b"plain words"), 422) == "image: not a picture in a known format"
    assert refused(raw(client, whole[: len(whole) // 2]), 422).startswith("image: broken picture: ")
    both = refused(post(client, b"one", b"two"), 422)
    assert both == "0.png: not a picture in a known format; 1.png: not a picture in a known format"


def test_a_program_is_not_interpreted(client):
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert refused(raw(client, script), 422) == "image: EPS is a program, not a picture; save it as PNG or JPEG"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(20_000, 5_000), (16_000, 16_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(client, monkeypatch, width, height):
    bomb = header_of(width, height)

    def load(_):
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    told = refused(raw(client, bomb), 413)
    assert told == f"image: {width} x {height} is more than 50000000 pixels; send it smaller"


def test_too_many_bytes_pixels_or_images_are_too_large(serving, arrays):
    client = serving(max_bytes=2000, max_pixels=200, max_images=2)
    picture = encoded(arrays[0])
    assert refused(raw(client, bytes(2001)), 413) == "the body is larger than 2000 bytes"

    def chunks():
        for _ in range(100):
            yield bytes(100)

    assert refused(raw(client, chunks()), 413) == "the body is larger than 2000 bytes"
    assert refused(post(client, bytes(2001)), 413) == "the body is larger than 2000 bytes"
    for count in (3, 9):
        assert refused(post(client, *[picture[:50]] * count), 413) == "more than 2 images in one request"
    larger = encoded(np.zeros((20, 20, 3), np.uint8))
    assert refused(raw(client, larger), 413) == "image: 20 x 20 is more than 200 pixels; send it smaller"
    assert raw(client, picture).status_code == 200


def test_limits_that_contradict_each_other_are_refused():
    with pytest.raises(OODError, match="a request of 9 images never fits into a queue of 8"):
        Limits(queue=8, max_images=9)
    with pytest.raises(OODError, match="--max-pixels 10000000000: at most"):
        Limits(max_pixels=10**10)


# --------------------------------------------------------------------------------------------------- time and room


class Gate:
    """Has the network wait, so that requests gather."""

    def __init__(self, monkeypatch):
        self.open, self.entered, self.sizes = threading.Event(), threading.Event(), []
        passed = batching.score_images

        def waiting(fitted, images):
            self.entered.set()
            self.sizes.append(len(images))
            assert self.open.wait(20)
            return passed(fitted, images)

        monkeypatch.setattr(batching, "score_images", waiting)


@pytest.fixture
def gate(monkeypatch):
    held = None

    def hold():
        nonlocal held
        held = Gate(monkeypatch)
        return held

    yield hold
    held.open.set()


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_what_gathers_while_the_network_is_at_work_passes_together(serving, gate, arrays):
    client = serving(batch_size=5)
    held = gate()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(raw, client, encoded(arrays[0]))
        assert held.entered.wait(10)
        others = [pool.submit(raw, client, encoded(array)) for array in arrays[1:9]]
        wait_for(lambda: numbers(client)["ood_queue_images"] == 8)
        held.open.set()
        assert [response.result().status_code for response in (first, *others)] == [200] * 9
    assert held.sizes == [1, 5, 3]


def test_a_full_queue_refuses_and_says_when_to_come_again(serving, gate, arrays):
    client = serving(queue=3, max_images=3)
    held = gate()
    with ThreadPoolExecutor(3) as pool:
        accepted = [pool.submit(raw, client, encoded(array)) for array in arrays[:2]]
        wait_for(lambda: len(client.service.admission) == 2)
        two = post(client, encoded(arrays[2]), encoded(arrays[3]))
        assert refused(two, 503) == "3 images are waiting, 3 at most; try again"
        assert two.headers["retry-after"] == "1"
        accepted.append(pool.submit(raw, client, encoded(arrays[2])))
        wait_for(lambda: len(client.service.admission) == 3)
        assert refused(raw(client, encoded(arrays[3])), 503) == "3 images are waiting, 3 at most; try again"
        held.open.set()
        assert [response.result().status_code for response in accepted] == [200] * 3
    assert len(client.service.admission) == 0
    assert post(client, *map(encoded, arrays[:3])).status_code == 200


def test_a_request_that_takes_too_long_ends_and_its_images_do_not_pass(serving, gate, arrays):
    client = serving(timeout=0.2)
    held = gate()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(raw, client, encoded(arrays[0]))
        assert held.entered.wait(10)
        second = pool.submit(raw, client, encoded(arrays[1]))
        for response in (first, second):
            assert refused(response.result(), 504) == "the images were not scored within 0.2 s"
    assert len(client.service.admission) == 0
    held.open.set()
    assert raw(client, encoded(arrays[2])).status_code in (200, 504)
    assert held.sizes[:2] == [1, 1], "the second image was given up, the third passed alone"


def test_a_stopping_service_answers_what_it_has_and_refuses_the_rest(serving, gate, arrays):
    client = serving()
    held = gate()
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(raw, client, encoded(arrays[0]))
        assert held.entered.wait(10)
        client.service.admission.stopping = True
        assert refused(raw(client, encoded(arrays[1])), 503) == "the service is stopping"
        assert refused(client.get("/readyz"), 503) == "the service is stopping"
        assert client.get("/healthz").json() == {"status": "live"}
        held.open.set()
        assert accepted.result().status_code == 200


def test_a_lone_image_waits_for_nobody(serving, arrays):
    client = serving(max_wait=5000.0)
    begun = time.perf_counter()
    assert raw(client, encoded(arrays[0])).status_code == 200
    assert time.perf_counter() - begun < 2.5


def test_an_image_waits_for_those_that_are_being_decoded(tiny_detector):
    told = []
    batcher = batching.Batcher(tiny_detector.state, 4, 5000.0, lambda found, _: told.append(len(found)))

    async def three():
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in range(2)]
        for _ in range(3):
            batcher.expect()
        batcher.start()
        batcher.put(batching.Job(tiny_detector.state.reference_images[0], answers[0]))
        await asyncio.sleep(0.05)
        assert not told
        batcher.put(batching.Job(tiny_detector.state.reference_images[1], answers[1]))
        await asyncio.sleep(0.05)
        assert not told
        batcher.dismiss()
        return await asyncio.gather(*answers)

    found = asyncio.run(three())
    assert batcher.close(5)  # it is told after the answers are there
    assert told == [2]
    assert found[0].scored.scores["energy"] != found[1].scored.scores["energy"]


# ----------------------------------------------------------------------------------------------------------- trouble


def test_our_own_error_is_logged_with_an_id_and_the_client_sees_no_more(client, arrays, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("secret of the house")

    with monkeypatch.context() as patch:
        patch.setattr(batching, "score_images", fails)
        response = raw(client, encoded(arrays[0]))
    assert response.status_code == 500
    assert response.json().keys() == {"error", "id"}
    assert response.json()["error"] == "internal error"
    assert "secret" not in response.text
    assert response.json()["id"] in caplog.text
    assert "secret of the house" in caplog.text
    assert raw(client, encoded(arrays[0])).status_code == 200


@pytest.mark.parametrize("raised", [RuntimeError("black"), SystemExit(3)])
def test_an_image_that_the_network_fails_on_takes_no_other_down(client, arrays, monkeypatch, raised):
    passed = batching.score_images

    def fails_on_black(fitted, images):
        if (images.flatten(1).amax(1) == 0).any():
            raise raised
        return passed(fitted, images)

    monkeypatch.setattr(batching, "score_images", fails_on_black)
    service = client.service
    black = np.zeros((8, 8, 3), np.uint8)
    for _ in range(6):
        service._batcher.expect()  # so that the next ones are passed together
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(raw, client, encoded(of)) for of in (arrays[0], black, arrays[1])]
        for _ in range(6):
            service._batcher.dismiss()
        assert [answer.result().status_code for answer in answers] == [200, 500, 200]


def test_a_score_that_is_not_finite_is_no_score(client, arrays, monkeypatch):
    def broken(self, row):
        return "scorer 'energy' gave nan"

    monkeypatch.setattr(predictions.ScoredBatch, "broken", broken)
    assert refused(raw(client, encoded(arrays[0])), 422) == "image: scorer 'energy' gave nan"


def test_a_service_whose_first_image_does_not_pass_is_not_ready(tiny_detector, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(batching, "score_images", fails)
    with TestClient(application(Service(tiny_detector.state, Limits()))) as client:
        wait_for(lambda: "no such kernel" in caplog.text)
        assert refused(client.get("/readyz"), 503) == "the first image has not passed yet"
        assert client.get("/healthz").status_code == 200


# ----------------------------------------------------------------------------------------------------------- numbers


def test_metrics_count_what_was_answered(serving, arrays, tiny_detector):
    client = serving()
    before = numbers(client)
    assert not [name for name in before if "_created" in name]
    assert before["ood_batch_images_count"] == 0, "the first image, by which it gets ready, does not count"
    assert before['ood_images_total{decision="ood"}'] == before["ood_drift_images"] == 0
    pictures = [encoded(array) for array in arrays[:12]]
    decisions = [result["is_ood"] for result in post(client, *pictures).json()["results"]]
    raw(client, b"nonsense")
    raw(client, pictures[0], scorer="none")
    after = numbers(client)
    assert after['ood_images_total{decision="ood"}'] == sum(decisions)
    assert after['ood_images_total{decision="id"}'] == 12 - sum(decisions)
    assert after["ood_batch_images_sum"] == after["ood_drift_images"] == 12
    assert after['ood_request_seconds_count{status="200"}'] == 1
    assert after['ood_request_seconds_count{status="422"}'] == 2
    assert after['ood_errors_total{kind="picture"}'] == after['ood_errors_total{kind="query"}'] == 1
    assert after["ood_queue_images"] == after["ood_accepted_images"] == 0


def test_drift_is_that_of_the_scores_that_decide(serving, arrays, tiny_detector):
    client = serving()
    calibration = tiny_detector.state.scorers[0].calibration.scores
    scores = tiny_detector.score(arrays[:60])["mahalanobis"]
    for array in arrays[:60]:
        raw(client, encoded(array), scorer="energy")
    found, expected = numbers(client), Sequential(calibration)
    expected.update(scores)
    assert found["ood_drift_ks"] == kolmogorov_smirnov(calibration, scores).statistic
    assert found["ood_drift_ks_p_value"] == kolmogorov_smirnov(calibration, scores).p_value
    assert found["ood_drift_log_evidence"] == expected.log_martingale
    assert found["ood_drift_alarm"] == (expected.alarm_at is not None)


def test_drift_leaves_out_what_is_no_score_and_tests_many_together():
    drift = monitoring.Drift(np.arange(50.0))
    drift.observe(np.array([1.0, np.nan, np.inf, 2.0]))
    drift.observe(np.arange(2000.0))
    assert drift.read()["images"] == 2002
    assert drift.read()["alarm"]


# ------------------------------------------------------------------------------------------------------ documentation


def test_the_schema_has_types_for_every_answer(client):
    schema = client.get("/openapi.json").json()
    score = schema["paths"]["/score"]["post"]
    assert set(score["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    assert {of["name"] for of in score["parameters"]} == {"scorer", "tpr", "per_class", "nearest", "error_map"}
    neighbour = schema["components"]["schemas"]["Neighbour"]["properties"]
    assert set(neighbour) == {"class", "distance", "picture"}
    assert score["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/ScoreResponse")
    for status in ("400", "408", "413", "415", "422", "503", "504"):
        assert score["responses"][status]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    assert {"ScoreResponse", "Result", "Refused", "Neighbour", "Error"} <= set(schema["components"]["schemas"])


def test_every_endpoint_has_a_tag_and_a_summary_in_words(client):
    schema = client.get("/openapi.json").json()
    known = {tag["name"] for tag in schema["tags"]}
    ways = {path: of for path, ways in schema["paths"].items() for of in ways.values()}
    assert set(ways) == {"/score", "/healthz", "/readyz", "/metrics"}
    assert {tag for of in ways.values() for tag in of["tags"]} == known
    assert all(" " in of["summary"] and of["description"] for of in ways.values())


def test_the_documented_lines_serve_a_detector_of_ones_own_module(tmp_path, monkeypatch, rounded):
    text = Path(__file__).parents[2].joinpath("docs", "serving.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.S)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    images, labels = torch.rand(60, 3, 8, 8), torch.arange(60) % 3
    own = Detector(image_size=8, holdout=0.4).fit(model, (images, labels), ["energy"])
    own.save(tmp_path / "digits-detector")
    monkeypatch.chdir(tmp_path)
    run = []
    monkeypatch.setattr(uvicorn, "run", lambda served, **options: run.append(uvicorn.Config(served, **options)))
    exec(lines, {"model": model})
    (config,) = run
    assert config.port == 8000
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    with TestClient(config.app) as client:
        answer = raw(ready(client), encoded(picture)).json()
    assert answer["results"][0]["scores"] == rounded({"energy": own.score(picture)["energy"][0]})


def test_the_documentation_asks_no_other_host(client):
    text = client.get("/docs").text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
    assert client.get("/redoc").status_code == 404


def test_floats_are_written_with_all_their_bits(client, arrays):
    text = raw(client, encoded(arrays[0])).text
    score = json.loads(text)["results"][0]["score"]
    assert f'"score":{score!r}' in text
