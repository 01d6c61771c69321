"""Small pictures in files, each told by its red, and what lies around them."""

import io

import numpy as np
import PIL.Image


def picture(value):
    return PIL.Image.new("RGB", (4, 3), (value, 0, 255 - value))


def encoded(value, form="PNG"):
    target = io.BytesIO()
    picture(value).save(target, form)
    return target.getvalue()


def cut_off():
    """Return the first part of a larger PNG."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    target = io.BytesIO()
    PIL.Image.fromarray(noise).save(target, "PNG")
    return target.getvalue()[:1000]


def write(folder, *values):
    """Write N.png, whose red is N, for each value."""
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        (folder / f"{value}.png").write_bytes(encoded(value))
    return folder


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def red(images, index):
    return np.asarray(images.image(index).convert("RGB"))[0, 0, 0]


def reds(images):
    return [red(images, index) for index in range(len(images))]
