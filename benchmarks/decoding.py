"""Throughput of the loader in images per second, beside that of the backbone.

    python benchmarks/decoding.py [FOLDER]        FOLDER holds cifar10/test-*.parquet; default: ../shared/data

Small pictures: 32 x 32 WebP in parquet, decoded, then from the cache. Large: JPEGs of 500 x 375.
"""

import os
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from ood_core.data import cache
from ood_core.data.decoding import decode, to_rgb
from ood_core.data.files import digest_files
from ood_core.data.loaders import EvaluationTransform, evaluation_batches
from ood_core.data.selection import Selection
from ood_core.pipeline import networks
from ood_core.plugins import find

SMALL, LARGE = 4000, 300
"""How many images of each kind."""


def rate(count, function):
    """Return how many images a second a function gets through."""
    begun = time.perf_counter()
    function()
    return count / (time.perf_counter() - begun)


def show(name, images_per_second, than=None):
    """Print a line."""
    ratio = "" if than is None else f"   {images_per_second / than:6.1f} x the backbone"
    print(f"{name:58} {images_per_second:9.0f} images/s{ratio}")


def backbone(plugins, model, options, shape):
    """Return the images a second of a network without gradients."""
    made = plugins.get("backbone", "timm")(model=model, options=options)
    network = networks.build(made, shape[-1], 10).eval()
    batch = torch.rand(shape)
    with torch.inference_mode():
        network(batch)
        return rate(3 * len(batch), lambda: [network(batch) for _ in range(3)])


def loaded(source, size, limit=None):
    """Return the images a second of the loader, anew each time: what is in the cache comes from there."""
    images = Selection(name="images", source=source, limit=limit).open("test")
    return rate(
        len(images), lambda: [None for _ in evaluation_batches(images, EvaluationTransform(image_size=size), 128)]
    )


def small(plugins, folder):
    """Compare for 32 x 32 pixels."""
    source = plugins.get("dataset", "parquet")(path=folder / "cifar10")
    slow = backbone(plugins, "vit_tiny_patch16_224", {"patch_size": 4}, (64, 3, 32, 32))
    show("backbone ViT-Ti/4 at 32 pixels", slow)
    show("loader, WebP in parquet, decoded", loaded(source, 32, SMALL // 10), slow)
    show("loader, the same out of the cache", loaded(source, 32, SMALL // 10), slow)
    os.environ["OOD_CACHE"] = "off"
    show("loader without a cache, second time", loaded(source, 32, SMALL // 10), slow)


def photograph(random):
    """Return a picture with the smoothness of a photograph, as JPEG."""
    rough = PIL.Image.fromarray(random.integers(0, 256, (47, 63, 3), dtype=np.uint8))
    target = BytesIO()
    rough.resize((500, 375), PIL.Image.Resampling.BICUBIC).save(target, "JPEG", quality=90)
    return target.getvalue()


def by_pillow(encoded):
    """Decode as Pillow alone does."""
    with PIL.Image.open(BytesIO(encoded)) as picture:
        return to_rgb(picture)


def large(plugins, folder):
    """Compare for 500 x 375 pixels, scored at 224."""
    random = np.random.default_rng(0)
    pictures = [photograph(random) for _ in range(LARGE)]
    (folder / "test" / "photographs").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        (folder / "test" / "photographs" / f"{number}.jpg").write_bytes(picture)
    slow = backbone(plugins, "vit_base_patch16_224", {}, (4, 3, 224, 224))
    show("backbone ViT-B/16 at 224 pixels", slow)
    pillow = rate(LARGE, lambda: [by_pillow(picture) for picture in pictures])
    ours = rate(LARGE, lambda: [to_rgb(decode(picture, "here")) for picture in pictures])
    show("decoding a 500 x 375 JPEG by Pillow", pillow, slow)
    show(f"decoding it here, {ours / pillow:.2f} x Pillow", ours, slow)
    show("loader: decoded, resized, cut to 224", loaded(plugins.get("dataset", "folder")(path=folder), 224), slow)


def digests(folder, files=20_000):
    """Compare the fingerprint of many files for the first and the second time."""
    folder.mkdir()
    for number in range(files):
        (folder / str(number)).write_bytes(str(number).encode() * 4000)
    time.sleep(cache.RACY_SECONDS + 0.1)  # files that were written just now are not trusted
    paths = list(folder.iterdir())
    first, second = (rate(files, lambda: digest_files(paths)) for _ in range(2))
    print(f"{'fingerprint of ' + str(files) + ' files, first time':58} {first:9.0f} files/s")
    print(f"{'the same, from the cache':58} {second:9.0f} files/s   {second / first:6.1f} x the first time")


def main():
    """Print all of it."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    plugins = find()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["OOD_CACHE"] = f"{temporary}/cache"
        digests(Path(temporary, "files"))
        if (data / "cifar10").is_dir():
            small(plugins, data)
        else:
            print(f"skipped: 32 x 32 pixels, because there is no {data / 'cifar10'}")
        os.environ["OOD_CACHE"] = "off"
        large(plugins, Path(temporary, "large"))


if __name__ == "__main__":
    main()
