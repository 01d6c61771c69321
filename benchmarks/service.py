"""The service beside a bare forward pass of the same network, one image at a time; then 64 clients beside one.

python benchmarks/service.py [NAME...]     vit_base_patch16_224, vit_tiny_patch16_224, small; default: all

Everything goes over 127.0.0.1 to an `ood serve` that was started from the shell, and is warm. The
photograph is a JPEG of 640 x 427 pixels, which the service decodes and resizes for each request. Load comes from
autocannon, through `npx`, which must be able to install it; without it that part is skipped.
"""

import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from ood_core.detector import Detector
from ood_core.runtime.torchvision_compat import prepare_torchvision

prepare_torchvision()
import timm  # noqa: E402

from ood_timm.backbone import Timm  # noqa: E402

OOD = str(Path(sys.executable).with_name("ood"))
SMALL = {"patch_size": 4, "img_size": 16, "embed_dim": 96, "depth": 4, "num_heads": 4}  # that of recipes/mood.yaml
NETWORKS = {
    "vit_base_patch16_224": ("vit_base_patch16_224", 224, {}),
    "vit_tiny_patch16_224": ("vit_tiny_patch16_224", 224, {}),
    "small": ("vit_base_patch16_224", 16, SMALL),
}
CLIENTS = 64
REQUESTS = {"vit_base_patch16_224": (16, 64), "vit_tiny_patch16_224": (64, 256), "small": (200, 1024)}  # of 1, of 64
ROUNDS = 5
ROUND_SECONDS = 1.5


def photograph():
    file = BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).save(file, "JPEG", quality=90)
    return file.getvalue()


def of_its_size(name):
    """Return a JPEG that need not be resized."""
    size, file = NETWORKS[name][1], BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).resize((size, size)).save(file, "JPEG", quality=90)
    return file.getvalue()


def multipart(encoded):
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return head + encoded + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def made(name, folder):
    """Save a detector of a network with random weights; return it."""
    model, size, options = NETWORKS[name]
    images = np.random.default_rng(0).integers(0, 256, (40, size, size, 3), dtype=np.uint8)
    backbone = Timm(model=model, options={key: value for key, value in options.items() if key != "img_size"})
    detector = Detector(image_size=size, name=name, tpr=0.8).fit(backbone, (images, np.arange(40) % 4), ["mahalanobis"])
    detector.save(folder)
    return detector


def bare(name):
    """Return a function that passes one image through the network alone."""
    model, size, options = NETWORKS[name]
    network = timm.create_model(model, **options).eval()
    image = torch.rand(1, 3, size, size)

    def passing():
        with torch.inference_mode():
            network(image)

    return passing


def started(folder):
    process = subprocess.Popen([OOD, "serve", str(folder), "--port", "0"], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline().rsplit(":", 1)[1])


def asking(port, body, kind, method="POST", path="/score"):
    """Return a function that asks once, over a connection that is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask():
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer

    return ask


def alternating(functions):
    """Return the median milliseconds of each; the best of rounds that alternate."""
    best = dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        function()
    for _ in range(ROUNDS):
        for name, function in functions.items():
            time.sleep(0.3)  # threads of the other process that still spin have come to rest
            times, until = [], time.perf_counter() + ROUND_SECONDS
            while time.perf_counter() < until or len(times) < 5:
                begun = time.perf_counter()
                function()
                times.append(time.perf_counter() - begun)
            best[name] = min(best[name], statistics.median(times) * 1000)
    return best


def network_seconds(port):
    """Return seconds and passes that the service has spent in network and scorers."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return float(values["ood_inference_seconds_sum"]), float(values["ood_inference_seconds_count"])


def load(port, picture, clients, requests):
    """Return what autocannon counted."""
    npx = shutil.which("npx")
    if npx is None:
        return None
    command = [npx, "--yes", "autocannon", "--json", "-c", str(clients), "-a", str(requests), "-t", "120", "-m", "POST"]
    form = json.dumps({"image": {"type": "file", "path": str(picture)}})  # as a raw body it would be read as text
    command += ["-F", form, f"http://127.0.0.1:{port}/score"]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def latency(name, detector, port, encoded, picture):
    found = alternating(
        {
            "bare forward pass, timm": bare(name),
            "service, image/jpeg": asking(port, encoded, "image/jpeg"),
            "service, multipart": asking(port, *multipart(encoded)),
            "service, of its size": asking(port, of_its_size(name), "image/jpeg"),
            "service, GET /healthz": asking(port, None, "image/jpeg", "GET", "/healthz"),
            "Detector.score": lambda: detector.score(picture),
        }
    )
    base = found["bare forward pass, timm"]
    for what, value in found.items():
        print(f"{name:22} {what:26} {value:8.2f} ms   {value / base:5.2f} x bare", flush=True)
    seconds, passes = network_seconds(port)
    print(f"{name:22} {'of which network, scorers':26} {1000 * seconds / passes:8.2f} ms   on average")


def throughput(name, port, picture):
    rates = {}
    for clients, requests in zip((1, CLIENTS), REQUESTS[name], strict=True):
        found = load(port, picture, clients, requests)
        if found is None:
            print(f"{name:22} autocannon cannot be had; no load")
            return
        rates[clients] = found["2xx"] / found["duration"]
        lost = found["errors"] + found["timeouts"] + found["non2xx"]
        print(
            f"{name:22} {clients:2} clients: {rates[clients]:7.1f} images/s, {found['2xx']} answered, {lost} lost, "
            f"median {found['latency']['p50']} ms, 99 % {found['latency']['p99']} ms",
            flush=True,
        )
    print(f"{name:22} {CLIENTS} clients get {rates[CLIENTS] / rates[1]:.2f} x what one gets")


def main():
    encoded = photograph()
    for name in sys.argv[1:] or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "photograph.jpg"
            picture.write_bytes(encoded)
            detector = made(name, Path(folder) / "detector")
            process, port = started(Path(folder) / "detector")
            try:
                latency(name, detector, port, encoded, picture)
                throughput(name, port, picture)
            finally:
                process.terminate()
                print(f"{name:22} ended with exit code {process.wait(30)}")


if __name__ == "__main__":
    main()
