"""Pictures of every kind become RGB pixels; broken, cut off and exploding ones become one line."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from ood_core.data import decoding
from ood_core.data.decoding import decode, pixel_digest, to_rgb
from ood_core.errors import OODError


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 9), [9, 9, 9]),
        (Image.new("1", (2, 2), 1), [255, 255, 255]),
        (Image.new("RGB", (2, 2), (1, 2, 3)), [1, 2, 3]),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 255)), [1, 2, 3]),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 0)), [255, 255, 255]),
        (Image.new("LA", (2, 2), (7, 255)), [7, 7, 7]),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), [255, 255, 255]),
        (Image.fromarray(np.full((2, 2), 257 * 10, np.uint16)), [10, 10, 10]),
    ],
)
def test_every_mode_becomes_rgb(image, expected):
    pixels = decoding.to_rgb(image)
    assert pixels.shape == (3, 2, 2)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 0, 0].tolist() == expected


def test_a_palette_with_a_transparent_colour_lies_on_white():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert decoding.to_rgb(image)[:, 0, 0].tolist() == [10, 20, 30]
    image.info["transparency"] = 0
    assert decoding.to_rgb(image)[:, 0, 0].tolist() == [255, 255, 255]


def test_a_picture_is_turned_upright(tmp_path):
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert decoding.to_rgb(Image.open(tmp_path / "turned.jpg")).shape == (3, 4, 2)


def photograph(width=60, height=40, mode="RGB"):
    """Return something with edges and colours, so that decoders could differ."""
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    waves = np.stack([np.sin(x * y), np.cos(3 * x), np.sin(2 * y + x)], -1)
    return Image.fromarray(((waves + 1) * 127.5).astype(np.uint8)).convert(mode)


def encoded(image, form="JPEG", **options):
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def by_pillow(content):
    with Image.open(io.BytesIO(content)) as picture:
        return to_rgb(picture)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_has_the_pixels_that_pillow_finds(subsampling, quality, progressive):
    content = encoded(photograph(), subsampling=subsampling, quality=quality, progressive=progressive)
    assert torch.equal(to_rgb(decode(content, "here")), by_pillow(content))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_so_has_a_jpeg_without_colours_or_in_four(mode):
    content = encoded(photograph(mode=mode))
    assert torch.equal(to_rgb(decode(content, "here")), by_pillow(content))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_its_exif_data_say(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photograph(), exif=exif)
    pixels = to_rgb(decode(content, "here"))
    assert pixels.shape == ((3, 60, 40) if orientation > 4 else (3, 40, 60))
    assert torch.equal(pixels, by_pillow(content))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_other_formats_are_read(form):
    image = photograph()
    pixels = to_rgb(decode(encoded(image, form), "here"))
    assert pixels.shape == (3, 40, 60)
    if form not in ("WEBP", "GIF"):
        assert torch.equal(pixels, to_rgb(image))


def test_of_an_animation_the_first_frame_is_read():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert to_rgb(decode(content, "here"))[:, 0, 0].tolist() == [255, 0, 0]


def test_paths_and_open_files_are_read_as_bytes_are(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(photograph()))
    from_path = to_rgb(decode(tmp_path / "a.jpg", "here"))
    with (tmp_path / "a.jpg").open("rb") as opened:
        assert torch.equal(from_path, to_rgb(decode(opened, "here")))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_a_picture_that_is_cut_off_is_refused_not_half_decoded(form, share):
    content = encoded(photograph(300, 200), form)
    with pytest.raises(OODError, match=r"^cat\.img: broken picture: \S"):
        decode(content[: int(len(content) * share)], "cat.img")


def damaged(content):
    """Return a JPEG with a hole in the middle and its end in place."""
    middle = len(content) // 2
    return content[:middle] + bytes(200) + content[middle + 200 :]


def camera():
    exif = Image.Exif()
    exif[0x010F] = "camera"
    return exif


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"exif": camera()}], ids=["plain", "exif"])
def test_a_jpeg_with_a_hole_is_refused_not_filled_up(mode, options):
    content = encoded(photograph(300, 200, mode), **options)
    assert decode(content, "cat.jpg").size == (300, 200)
    with pytest.raises(OODError, match=r"^cat\.jpg: broken picture: Corrupt JPEG data"):
        decode(damaged(content), "cat.jpg")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # the tests have warnings of their own
@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\xff\xff\xff\0", b"MM\0*\0\0\0\x08\0\x05\1"])
def test_broken_exif_data_do_not_matter(exif):
    content = encoded(photograph(), exif=b"Exif\0\0" + exif)
    assert torch.equal(to_rgb(decode(content, "here")), to_rgb(decode(encoded(photograph()), "here")))


def test_a_jpeg_is_turned_as_its_xmp_data_say():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    content = encoded(photograph(), xmp=xmp)
    assert to_rgb(decode(content, "here")).shape == (3, 60, 40)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about the tags of a TIFF
@pytest.mark.parametrize("form", ["AVIF", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG", "PPM", "JPEG2000"])
def test_whatever_is_wrong_with_a_file_is_one_line(form):
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    content, random = encoded(photograph(), form), np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        changed = bytearray(content)
        changed[random.integers(min(len(content), 300))] = random.integers(256)
        try:
            to_rgb(decode(bytes(changed[: random.integers(len(content) // 2, len(content))]), "cat.img"))
        except OODError as error:
            refused += 1
            assert str(error).startswith("cat.img: ")
            assert "\n" not in str(error)
    assert refused > 0


def test_pictures_below_the_limit_are_decoded_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 40 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(photograph(), "PNG"), "here").size == (60, 40)


@pytest.mark.parametrize("content", [b"", b"hello, I am no picture", b"\xff\xd8\xff\xe0 no more"])
def test_what_is_no_picture_is_named(content):
    with pytest.raises(OODError, match=r"^cat\.img: (not a picture in a known format|broken picture: \S)"):
        decode(content, "cat.img")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OODError, match=r"^gone: cannot be read: No such file"):
        decode(tmp_path / "gone.png", "gone")


def bomb(width, height):
    """Return a small PNG that claims to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"0" * 1000)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(40_000, 40_000), (13_400, 13_400)])
def test_a_decompression_bomb_is_refused(size):
    with pytest.raises(OODError, match=rf"^cat\.img: refused: {size[0]} x {size[1]} is more than 178956970 pixels$"):
        decode(bomb(*size), "cat.img")
    with pytest.raises(Image.DecompressionBombError):  # Pillow's own limit is what it was
        Image.open(io.BytesIO(bomb(40_000, 40_000)))


def test_a_jpeg_bomb_is_refused_by_its_header():
    content = bytearray(encoded(photograph()))
    start = content.index(b"\xff\xc0") + 5  # where the frame's header has height and width
    content[start : start + 4] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(OODError, match=r"^cat\.img: refused: 60000 x 60000 is more than 178956970 pixels"):
        decode(bytes(content), "cat.img")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.ones((4, 4), np.float32), "refused: floats have no known range; save it with 8 or 16 bits"),
        (np.full((4, 4), 200, np.int32), "refused: more than 16 bits have no known range"),
        (np.full((4, 4), 70_000, np.int32), "refused: more than 16 bits have no known range"),
    ],
)
def test_numbers_without_a_range_are_refused(pixels, message):
    with pytest.raises(OODError, match=f"^cat: {message}"):
        decode(encoded(Image.fromarray(pixels), "TIFF"), "cat")


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"]
)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_an_open_picture_has_the_pixels_of_its_file_or_is_refused_as_it_is(mode, form):
    if mode not in ("I", "F", "I;16"):
        image = photograph().convert("RGBA").convert("LA" if mode == "PA" else "RGB").convert(mode)
    else:
        image = Image.new(mode, (8, 8), 200)
    try:
        content = encoded(image, form)
    except OSError:
        pytest.skip(f"{form} has no mode {mode}")
    opened = Image.open(io.BytesIO(content))
    try:
        expected = to_rgb(decode(content, "here"))
    except OODError as error:
        assert mode in ("I", "F")
        for picture in (opened, image):
            with pytest.raises(OODError, match=f"^{str(error).removeprefix('here: ')}$"):
                to_rgb(picture)
    else:
        assert torch.equal(to_rgb(opened), expected)


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_transparency_lies_on_white_as_well(mode):
    straight = Image.new(mode.upper(), (2, 2), (10, 20, 30, 128) if mode == "RGBa" else (10, 128))
    assert torch.equal(to_rgb(straight.convert(mode)), to_rgb(straight.convert(mode).convert(mode.upper())))
    assert to_rgb(straight.convert(mode)).min() > 100


def test_a_picture_that_breaks_when_its_pixels_are_read_is_one_line():
    content = encoded(photograph(300, 200), "PNG")
    with pytest.raises(OODError, match=r"^broken picture: "):
        to_rgb(Image.open(io.BytesIO(content[: len(content) // 2])))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def iptc(picture):
    """Return an IPTC file with a picture in it, of any format, which Pillow opens in turn."""
    headers = [(3, 20, b"\x0a"), (3, 30, b"\x0a"), (3, 60, b"\1\0"), (3, 120, b"\5")]
    parts = [b"\x1c" + bytes(tag) + struct.pack(">H", len(value)) + value for *tag, value in headers]
    return b"".join(parts) + b"\x1c\x08\x0a" + struct.pack(">H", len(picture)) + picture


@pytest.fixture
def no_programs(monkeypatch):
    """Fail where Pillow starts a program, whether or not Ghostscript is installed."""

    def start(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", start)


@pytest.mark.parametrize("content", [EPS, b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS])
def test_eps_is_refused_by_its_content(tmp_path, no_programs, content):
    (tmp_path / "cat.png").write_bytes(content)
    for source in (content, io.BytesIO(content), tmp_path / "cat.png"):
        with pytest.raises(OODError, match=r"^cat: EPS is a program, not a picture; save it as PNG or JPEG$"):
            decode(source, "cat")
    with pytest.raises(OODError, match=r"^refused: EPS is a program, not a picture; save it as PNG or JPEG$"):
        to_rgb(Image.open(tmp_path / "cat.png"))


def test_a_picture_around_an_eps_is_refused(no_programs):
    content = iptc(EPS)
    assert Image.open(io.BytesIO(content)).format == "IPTC"
    with pytest.raises(OODError, match=r"^cat: not a picture in a known format$"):
        decode(content, "cat")
    with pytest.raises(OODError, match=r"^refused: EPS is a program"):
        to_rgb(Image.open(io.BytesIO(content)))


def test_every_format_of_pillow_is_decoded_by_it_or_left_out():
    Image.init()
    left_out = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "WMF"}
    assert not left_out & set(decoding.FORMATS)
    assert Image.OPEN.keys() - left_out == set(decoding.FORMATS)


def test_pictures_are_opened_at_one_place_alone():
    root = Path(__file__).parents[2]
    opening = [
        file.relative_to(root).as_posix()
        for folder in ("ood_core", "plugins")
        for file in (root / folder).rglob("*.py")
        if "Image.open(" in file.read_text(encoding="utf-8")
    ]
    assert sorted(opening) == ["ood_core/data/decoding.py", "plugins/ood_samples/sources.py"]  # which ships its own


def test_sixteen_bits_are_scaled_to_eight():
    content = encoded(Image.fromarray(np.full((4, 4), 257 * 9, np.uint16)), "PNG")
    assert to_rgb(decode(content, "here")).unique().tolist() == [9]


def test_equal_pixels_have_one_digest_and_others_another():
    pixels = to_rgb(photograph())
    assert pixel_digest(pixels) == pixel_digest(pixels.clone()) >= 0
    changed = pixels.clone()
    changed[0, 0, 0] ^= 1
    assert pixel_digest(changed) != pixel_digest(pixels)
    assert pixel_digest(torch.zeros(3, 2, 8, dtype=torch.uint8)) != pixel_digest(
        torch.zeros(3, 4, 4, dtype=torch.uint8)
    )
    assert pixel_digest(pixels.transpose(1, 2)) == pixel_digest(pixels.transpose(1, 2).contiguous())
