"""matplotlib's SVG in a third of its bytes: relative coordinates to a tenth of a point, no ids, no repeated styles."""

from __future__ import annotations

import re
from html import escape

HALO = "halo"
"""Class of words that stay readable on top of other marks."""

_TOKEN = re.compile(r"[A-Za-z]|-?[\d.]+(?:e-?\d+)?")
_PAIRS = {"M": 1, "L": 1, "Q": 2, "C": 3}
"""Number of points of each command of a path."""

_DROPPED = (
    re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL),
    re.compile(r"<defs>\s*</defs>"),
    re.compile(r"; stroke-dashoffset: 0(?=[;\"])"),
    re.compile(r' transform="rotate\(-0 [^"]*"'),
    re.compile(r' style="fill: none"'),
)


def compact(svg: str, ink: str, title: str, words: str) -> str:
    """Return a small SVG element in the colour of the text around it.

    Args:
        svg: As matplotlib writes it.
        ink: The placeholder of the text's colour.
        title: Its tooltip.
        words: Its description for screen readers.
    """
    for pattern in _DROPPED:
        svg = pattern.sub("", svg)
    svg = re.sub(r'<path d="([^"]*)"\s*/>', "", svg)  # the background and frame, neither filled nor drawn
    svg = re.sub(r' d="([^"]*)"', lambda found: f' d="{_relative(found[1])}"', svg)
    svg = re.sub(r'(<text) style="([^"]*)"', lambda found: found[1] + _text_style(found[2], ink), svg)
    svg = re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1], ink), svg)
    svg = re.sub(r' (x|y|transform)="([^"]*)"', lambda found: f' {found[1]}="{_rounded(found[2])}"', svg)
    svg = re.sub(r">\s+<", "><", svg).strip().replace(f'<g id="{HALO}"><text', f'<text class="{HALO}"')
    svg = re.sub(r"<g(?: id=\"[^\"]*\")?>|</g>", "", svg)  # groups have only ids, the same in every drawing
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None, "matplotlib says how large a figure is"
    head = f'<svg class="drawing" role="img" aria-label="{escape(words)}" viewBox="{_rounded(box[1])}">'
    return re.sub(r"^<svg[^>]*>", lambda _: f"{head}<title>{escape(title)}</title>", svg)


def _relative(path: str) -> str:
    """Return a path in relative coordinates; tenths are whole numbers on the way, so that no rounding error adds up."""
    tokens = iter(_TOKEN.findall(path))
    x = y = 0
    parts: list[str] = []
    last = ""
    for command in tokens:
        if command in "zZ":
            parts.append("z")
            last = ""
            continue
        points = [[round(10 * float(next(tokens))) for _ in "xy"] for _ in range(_PAIRS[command])]
        if command == "M":
            name, (x, y) = "M", (0, 0)
        else:
            name = "" if last == command else command.lower()
        numbers = [_number(value - start) for point in points for value, start in zip(point, (x, y), strict=True)]
        # a minus sign separates numbers as well as a space does
        text = "".join(number if number.startswith("-") else f" {number}" for number in numbers)
        parts.append(name + (text.removeprefix(" ") if name else text))
        x, y = points[-1]
        last = command
    return "".join(parts)


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
