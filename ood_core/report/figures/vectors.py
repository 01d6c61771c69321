"""matplotlib's SVG in a third of its bytes: relative coordinates to a tenth of a point, no ids, no repeated styles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

HALO = "halo"
"""Class of words that the page keeps readable on top of what is drawn below them."""

_TOKEN = re.compile(r"[A-Za-z]|-?[\d.]+(?:e-?\d+)?")
_PAIRS = {"M": 1, "L": 1, "Q": 2, "C": 3}
"""How many points each command of a path takes."""

_DROPPED = (
    re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL),
    re.compile(r"<defs>\s*</defs>"),
    re.compile(r"; stroke-dashoffset: 0(?=[;\"])"),
    re.compile(r' transform="rotate\(-0 [^"]*"'),
    re.compile(r' style="fill: none"'),
)


def compact(svg: str, ink: str, title: str, words: str) -> str:
    """Return a small SVG element that has a name and takes the ink of the text around it.

    Args:
        svg: As matplotlib writes it.
        ink: The colour in it that stands for the text's.
        title: Shown by the mouse.
        words: Read out in place of the picture.
    """
    for pattern in _DROPPED:
        svg = pattern.sub("", svg)
    svg = re.sub(r'<path d="([^"]*)"\s*/>', "", svg)  # the background and frame, neither filled nor drawn
    svg = re.sub(r' d="([^"]*)"', lambda found: f' d="{_relative(found[1])}"', svg)
    svg = re.sub(r'(<text) style="([^"]*)"', lambda found: found[1] + _text_style(found[2], ink), svg)
    svg = re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1], ink), svg)
    svg = re.sub(r' (x|y|transform)="([^"]*)"', lambda found: f' {found[1]}="{_rounded(found[2])}"', svg)
    svg = _without_groups(re.sub(r">\s+<", "><", svg).strip())
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None, "matplotlib says how large a figure is"
    head = f'<svg class="drawing" role="img" aria-label="{escape(words)}" viewBox="{_rounded(box[1])}">'
    return re.sub(r"^<svg[^>]*>", lambda _: f"{head}<title>{escape(title)}</title>", svg)


def _relative(path: str) -> str:
    """Return a path in relative coordinates; tenths are whole numbers on the way, so that nothing adds up."""
    tokens = iter(_TOKEN.findall(path))
    x = y = 0
    parts: list[str] = []
    last = ""
    for command in tokens:
        if command in "zZ":
            parts.append("z")
            last = ""
            continue
        points = [_tenths(tokens) for _ in range(_PAIRS[command])]
        if command == "M":
            text = f"M{_number(points[0][0])}{_joined(points[0][1])}"
        else:
            numbers = [value for px, py in points for value in (px - x, py - y)]
            text = ("" if last == command else command.lower()) + _run(numbers, last == command)
        x, y = points[-1]
        parts.append(text)
        last = command
    return "".join(parts)


def _tenths(tokens: Iterator[str]) -> tuple[int, int]:
    return round(10 * float(next(tokens))), round(10 * float(next(tokens)))


def _run(numbers: list[int], joined: bool) -> str:
    first, *rest = numbers
    return (_joined(first) if joined else _number(first)) + "".join(_joined(number) for number in rest)


def _joined(tenths: int) -> str:
    """Return a number behind another one; a minus sign separates them as well as a space does."""
    text = _number(tenths)
    return text if text.startswith("-") else f" {text}"


def _number(tenths: int) -> str:
    whole, part = divmod(abs(tenths), 10)
    sign = "-" if tenths < 0 else ""
    return f"{sign}{whole or '' if part else whole}{f'.{part}' if part else ''}"


def _rounded(text: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda found: _number(round(10 * float(found[0]))), text)


def _attributes(style: str, ink: str) -> str:
    """Return a style as attributes, which are shorter, without what is the default."""
    pairs = [pair.split(": ", 1) for pair in style.split("; ") if ": " in pair]
    return "".join(
        f' {name}="{_rounded(value.replace(ink, "currentColor"))}"'
        for name, value in pairs
        if (name, value) not in {("stroke-linejoin", "miter"), ("stroke-linecap", "butt")}
    )


def _text_style(style: str, ink: str) -> str:
    anchor = re.search(r"text-anchor: (\w+)", style)
    fill = re.search(r"fill: (#\w+)", style)
    colour = f' fill="{fill[1]}"' if fill is not None and fill[1] != ink else ""
    return colour + (f' text-anchor="{anchor[1]}"' if anchor is not None and anchor[1] != "start" else "")


def _without_groups(svg: str) -> str:
    """Leave out groups, which carry nothing but ids; those would be the same in every drawing of the page."""
    svg = svg.replace(f'<g id="{HALO}"><text', f'<text class="{HALO}"')
    return re.sub(r"<g(?: id=\"[^\"]*\")?>|</g>", "", svg)
