"""Vector drawings for the page: matplotlib's SVG in a third of its bytes, in the page's colour, with a description.

Coordinates are relative, to a tenth of a point; there are no ids and no repeated styles.

Ink is `currentColor`, so that a drawing follows the page into its dark colours. The colours of series are a middle grey
in brightness and differ from white and from the dark paper by a contrast of three at least; dashes and markers tell the
series apart without them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ood_core.escapes import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
"""Placeholder of the page's colour of text."""

HALO = "halo"
"""Class of words that stay readable on top of other marks."""

WIDTH, HEIGHT = 300, 210
"""Points; a drawing is shown as wide as its place is."""

FONT = 10
"""Points; the page sets the typeface."""

_PIXELS = 72
_MARGINS = (0.135, 0.165, 0.84, 0.805)  # left, bottom, width, height of the axes

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


@dataclass(frozen=True)
class Style:
    """Style of a series: its colour, its dashes in line widths, and its marker as strokes in a unit square."""

    colour: str
    dashes: tuple[float, ...]
    marker: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Drawing:
    """An SVG element, and its description."""

    title: str
    words: str
    svg: str


ID_STYLE = Style("#3a7fc4", (), (((0, 0), (0, 0)),))
"""In-distribution: filled, solid, dots."""

_COLOURS = ("#c8620f", "#2b8f57", "#a85fc4", "#cf4552", "#8a7326", "#16879a", "#7a7a7a")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (10, 3))
_MARKERS = (
    (((-0.8, -0.8), (0.8, 0.8)), ((-0.8, 0.8), (0.8, -0.8))),
    (((-1, -0.8), (1, -0.8), (0, 1), (-1, -0.8)),),
    (((-1, 0), (1, 0)), ((0, -1), (0, 1))),
    (((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8), (-0.8, -0.8)),),
    (((-1, 0), (0, -1), (1, 0), (0, 1), (-1, 0)),),
    (((-1, 0.8), (1, 0.8), (0, -1), (-1, 0.8)),),
)


def style(index: int) -> Style:
    """Return the style of the index-th series; they repeat after 210, as the lists share no factor."""
    return Style(_COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)], _MARKERS[index % len(_MARKERS)])


def axes(across: str, up: str) -> Axes:
    """Return empty axes with a label each, and with light lines at their ticks."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # slow
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / _PIXELS, HEIGHT / _PIXELS), dpi=_PIXELS)
    FigureCanvasSVG(figure)
    made = figure.add_axes(_MARGINS)
    made.set_xlabel(across, fontsize=FONT, color=INK, labelpad=2, parse_math=False)
    made.set_ylabel(up, fontsize=FONT, color=INK, labelpad=3, parse_math=False)
    made.tick_params(length=0, pad=4, labelsize=FONT, colors=INK)
    made.tick_params(bottom=False, left=False)
    made.grid(color=INK, linewidth=0.5, alpha=0.2, clip_on=False, solid_capstyle="butt")
    made.locator_params(nbins=5)
    for side, spine in made.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=INK, linewidth=0.7, alpha=0.6, capstyle="butt")
    return made


def shares(made: Axes) -> None:
    """Set both axes to 0 to 100 %."""
    ticks = [0, 0.25, 0.5, 0.75, 1]
    for axis, limits in ((made.xaxis, made.set_xlim), (made.yaxis, made.set_ylim)):
        limits(-0.01, 1.01)
        axis.set_ticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])


def line(made: Axes, x: Any, y: Any, style: Style, **more: Any) -> None:
    """Draw a series."""
    dashes = (0, style.dashes) if style.dashes else "solid"
    made.plot(x, y, color=style.colour, linestyle=dashes, linewidth=1.5, clip_on=False, solid_capstyle="butt", **more)


def rule(made: Axes, x: Sequence[float], y: Sequence[float], dotted: bool = True) -> None:
    """Draw a line of reference in the page's ink."""
    dashes = (0, (2, 2)) if dotted else "solid"
    width = 1 if dotted else 0.5
    made.plot(x, y, color=INK, linestyle=dashes, linewidth=width, clip_on=False, solid_capstyle="butt")


def dots(made: Axes, points: Any, style: Style, size: float) -> None:
    """Draw markers of a size in points at [N, 2], as one path; call it after setting the limits."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    (left, right), (low, high) = made.get_xlim(), made.get_ylim()
    scale_x = size * (right - left) / (_MARGINS[2] * WIDTH) / 2
    scale_y = size * (high - low) / (_MARGINS[3] * HEIGHT) / 2
    vertices = [(x + scale_x * u, y + scale_y * v) for x, y in points for stroke in style.marker for u, v in stroke]
    codes = [Path.MOVETO if first == 0 else Path.LINETO for stroke in style.marker for first in range(len(stroke))]
    path = Path(vertices, codes * len(points))
    path.should_simplify = False
    dot = all(len(set(stroke)) == 1 for stroke in style.marker)
    width = size if dot else 0.8
    ends = "round" if dot else "butt"
    made.add_patch(PathPatch(path, fill=False, edgecolor=style.colour, linewidth=width, capstyle=ends, clip_on=False))


def word(made: Axes, x: float, y: float, text: str, **more: Any) -> None:
    """Write a word in the page's ink."""
    made.text(x, y, text, fontsize=FONT, color=INK, parse_math=False, **more)


def finish(made: Axes, title: str, clauses: Sequence[str]) -> Drawing:
    """Return the drawing on the axes, with its title and clauses that describe it in words and numbers."""
    import matplotlib

    text, words = io.StringIO(), "; ".join(clauses) + "."
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": f"{title}\0{words}", "path.simplify_threshold": 0.6}
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure = made.get_figure(root=True)
    assert figure is not None, "axes are part of a figure"
    with matplotlib.rc_context(settings):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return Drawing(title, words, compact(text.getvalue(), INK, title, f"{title}. {words}"))


def compact(svg: str, ink: str, title: str, words: str) -> str:
    """Return a small SVG element, its ink in the colour of the text around it; words are for screen readers."""
    svg = "\n".join(map(printable, svg.split("\n")))  # texts hold the names of classes and sets
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
    head = f'<svg class="drawing" role="img" aria-label="{escape(printable(words))}" viewBox="{_rounded(box[1])}">'
    return re.sub(r"^<svg[^>]*>", lambda _: f"{head}<title>{escape(printable(title))}</title>", svg)


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
