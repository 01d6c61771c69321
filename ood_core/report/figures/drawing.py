"""Vector drawings for the page: matplotlib's SVG, made small, in the page's colour of text, with a description.

Ink is `currentColor`, so that a drawing follows the page into its dark colours. The colours of series are a middle grey
in brightness and differ from white and from the dark paper by a contrast of three at least; dashes and markers tell the
series apart without them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ood_core.report.figures.svg import compact

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
"""Placeholder of the page's colour of text."""

WIDTH, HEIGHT = 300, 210
"""Points; a drawing is shown as wide as its place is."""

FONT = 10
"""Points; the page sets the typeface."""

_PIXELS = 72
_MARGINS = (0.135, 0.165, 0.84, 0.805)  # left, bottom, width, height of the axes


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


def area(made: Axes, heights: Any, edges: Any, style: Style) -> None:
    """Draw a histogram as an area with an outline."""
    face = (style.colour, 0.45)
    made.stairs(heights, edges, fill=True, facecolor=face, edgecolor=style.colour, linewidth=0.8, clip_on=False)


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


def finish(made: Axes, title: str, words: str) -> Drawing:
    """Return the drawing on the axes, with its title and a description in words and numbers."""
    import matplotlib

    text = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": f"{title}\0{words}", "path.simplify_threshold": 0.6}
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure = made.get_figure(root=True)
    assert figure is not None, "axes are part of a figure"
    with matplotlib.rc_context(settings):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return Drawing(title, words, compact(text.getvalue(), INK, title, f"{title}. {words}"))


def listed(parts: Sequence[str]) -> str:
    """Return clauses as one sentence."""
    return "; ".join(parts) + "."


def area_swatch() -> str:
    """Return the swatch of an area in a key."""
    colours = f'fill="{ID_STYLE.colour}" fill-opacity=".45" stroke="{ID_STYLE.colour}"'
    return _swatch(f'<rect x="1" y="1" width="26" height="8" {colours}/>')


def line_swatch(style: Style) -> str:
    """Return the swatch of a line in a key."""
    dashes = " ".join(f"{1.5 * length:g}" for length in style.dashes)
    return _swatch(f'<path d="M0 5h28" stroke="{style.colour}" stroke-width="2" stroke-dasharray="{dashes}"/>')


def dot_swatch(style: Style) -> str:
    """Return the swatch of a marker in a key."""
    strokes = [" L".join(f"{14 + 4 * x:g} {5 - 4 * y:g}" for x, y in stroke) for stroke in style.marker]
    path = "".join(f"M{stroke}" for stroke in strokes)
    width = 5 if style is ID_STYLE else 1.2
    return _swatch(
        f'<path d="{path}" fill="none" stroke="{style.colour}" stroke-width="{width}" stroke-linecap="round"/>'
    )


def _swatch(shape: str) -> str:
    return f'<svg class="swatch" viewBox="0 0 28 10" aria-hidden="true">{shape}</svg>'
