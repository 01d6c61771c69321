"""Hostile image files: each has a score or a reason, the others have their scores, and nothing is started or hangs."""

import io
import json
import math
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

TRIALS = 60
UNREADABLE = 3  # exit code of `ood score` where images could not be scored
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(written by EPS) (w) file closefile\nshowpage\n"


def encoded(form, mode, size, generator):
    """Return a file of random pixels."""
    width, height = size
    pixels = generator.randbytes(width * height * len(Image.new(mode, (1, 1)).tobytes()))
    stream = io.BytesIO()
    Image.frombytes(mode, size, pixels).save(stream, form)
    return stream.getvalue()


def png_of(width, height):
    """Return a file of a few bytes whose header promises so many pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def hostile(generator, damage):
    """Return the content of a file."""
    forms = {"PNG": ("RGB", "LA", "I;16"), "JPEG": ("CMYK", "L"), "TIFF": ("F", "LAB"), "GIF": ("P",), "BMP": ("1",)}
    match generator.randrange(10):
        case 0:
            return png_of(generator.choice((0, 1, 60_000, 2**31 - 1)), generator.choice((0, 1, 60_000, 2**31 - 1)))
        case 1:
            return EPS
        case 2:
            return generator.randbytes(generator.randrange(0, 2000))
        case 3:
            return b""
        case 4:
            return b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    form = generator.choice(sorted(forms))
    mode = generator.choice(forms[form])
    size = generator.choice(((1, 1), (1, 500), (500, 1), (13, 7)))
    content = encoded(form, mode, size, generator)
    return content if generator.random() < 0.3 else damage(content, generator)


@pytest.mark.slow
def test_each_hostile_file_has_a_score_or_a_reason(generator, cut_or_changed, tiny_run, ood, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for trial in range(TRIALS):
        suffix = generator.choice((".png", ".jpg", ".JPEG", ".gif", ".tif", ".bmp", ".webp"))
        (folder / f"{trial:02}{suffix}").write_bytes(hostile(generator, cut_or_changed))
    good = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(good).save(folder / "zz good.png")
    code, _, err = ood("score", tiny_run.detector, folder, "--out", "rows.jsonl")
    assert code == UNREADABLE, err
    assert "Traceback" not in err
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(found) == TRIALS + 1
    for row in found:
        scored = [value for name, value in row.items() if name in ("score", "p_value") and value is not None]
        assert row.get("error") or (scored and all(map(math.isfinite, scored))), row
    assert not next(row for row in found if row["file"].endswith("zz good.png")).get("error")


@pytest.mark.slow
def test_a_recipe_skips_hostile_files_or_names_one(generator, cut_or_changed, tiny_text, ood_run, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    for row, picture in enumerate(pictures):
        path = tmp_path / "ood" / "a class" / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    for trial in range(TRIALS):
        path.with_name(f"hostile {trial}.png").write_bytes(hostile(generator, cut_or_changed))
    (tmp_path / "tiny.yaml").write_text(tiny_text)
    near = "data.near=[{use: folder, path: ood}]"
    code, _, err = ood_run("tiny.yaml", "--set", near)
    assert code in (1, 2)
    assert "hostile" in err
    assert "Traceback" not in err
    code, _, err = ood_run("tiny.yaml", "--set", near, "--set", "data.unreadable=skip")
    assert code == 0, err
    assert "Traceback" not in err
