"""The page of `--explain`: the images that are most OOD, beside the nearest ID images and where patches surprise.

Only a bounded number of rows is kept while images are scored; the images of these are read again for the page. One HTML
file without external resources.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from numpy.typing import NDArray

from ood_core.detector.forward import compute_outputs
from ood_core.detector.from_run import thumbnail
from ood_core.detector.image_inputs import file_ref, iter_batches
from ood_core.errors import OODError, format_image_count
from ood_core.escapes import printable, printable_lines
from ood_core.store.files import write_text
from ood_score.predict_files import NEAREST, Request
from ood_score.rows import Row, ScoreCounts

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

BATCH = 32
"""Maximum number of images in a forward pass: an error map takes many passes."""

COLOURS = "inferno"
FAINTEST, STRONGEST = 0.1, 0.75
"""Opacity of an error map over its image, at the least and at the greatest error."""

Errors = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbour:
    """An ID training image: its class, the distance of its embedding, and the image as a data URI."""

    class_name: str
    distance: float
    picture: str


@dataclass(frozen=True)
class Explained:
    """A row, its image as preprocessed for the network, and their explanation.

    Attributes:
        row: The row.
        picture: The image, a data URI.
        neighbours: Nearest ID training images, nearest first.
        errors: float32 [h, w], prediction errors of the patches; None without a task that predicts them.
        gone: Reason why the image could not be read again.
    """

    row: Row
    picture: str = ""
    neighbours: Sequence[Neighbour] = ()
    errors: Errors | None = None
    gone: str = ""


def write(path: Path, request: Request, counts: ScoreCounts) -> None:
    """Write the page; it is whole or not there.

    Raises:
        OODError: It cannot be written.
    """
    text = render(request, explain(request, counts.most_ood()), counts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise OODError(f"{path}: cannot be written: {error.strerror}") from error


def explain(request: Request, rows: Sequence[Row]) -> list[Explained]:
    """Return the rows in their order, each with its image, neighbours and error map."""
    found: list[Explained] = []
    size = min(request.batch_size, BATCH)
    for shown in iter_batches(
        map(file_ref, [row.file for row in rows]), request.state.preprocessing, size, request.state.device
    ):
        of_batch = rows[len(found) : len(found) + len(shown.names)]
        seen = iter(_seen(request, shown.images) if len(shown.images) else ())
        for place, row in enumerate(of_batch):
            reason = shown.errors.get(place)
            found.append(Explained(row, **next(seen)) if reason is None else Explained(row, gone=reason))
    return found


def _seen(request: Request, shown: torch.Tensor) -> Iterator[dict[str, Any]]:
    """Yield for each image [B, 3, S, S] its fields of `Explained`."""
    state = request.state
    found, as_given = compute_outputs(state.network, shown)
    near: list[list[Neighbour]] = [[] for _ in shown]
    if state.examples is not None:
        distances, rows = state.examples.nearest(found.embeddings, NEAREST)
        labels, pictures = state.examples.labels, state.examples.pictures
        near = [
            [
                Neighbour(state.classes[int(labels[row])], distance, _uri(pictures[row], "webp"))
                for distance, row in zip(*pair, strict=True)
            ]
            for pair in zip(distances.tolist(), rows.tolist(), strict=True)
        ]
    maps = None if state.trained_task is None else state.trained_task.patch_errors(as_given).float().cpu().numpy()
    for row, image in enumerate(shown):
        yield {
            "picture": _uri(thumbnail(image), "webp"),
            "neighbours": near[row],
            "errors": None if maps is None else maps[row],
        }


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def render(request: Request, explained: Sequence[Explained], counts: ScoreCounts) -> str:
    """Return the page of these rows in their order; the counts are of all images, also of those that are not shown."""
    import matplotlib  # slow
    from matplotlib.colors import to_hex

    colours = matplotlib.colormaps[COLOURS]
    loader = PackageLoader("ood_score")
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=printable_lines
    )
    environment.filters["printable"] = printable
    errors = [one.errors for one in explained if one.errors is not None]
    greatest = float(np.quantile(np.concatenate([of.ravel() for of in errors]), 0.99)) if errors else 0.0
    return environment.get_template("explained.html.j2").render(
        request=request,
        summary=counts.summary(),
        left_out=max(counts.images - counts.unscored - len(explained), 0),
        shown=format_image_count(len(explained)),
        counts=counts,
        explained=[(one, _heat(one.errors, greatest, colours), _facts(one.row)) for one in explained],
        greatest=greatest,
        gradient=", ".join(to_hex(colours(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
        style=Markup(loader.get_source(environment, "explained.css")[0]),
    )


def _facts(row: Row) -> list[tuple[str, str]]:
    numbers = {"score": row.score, "threshold": row.threshold, "p-value": row.p_value, **row.scores}
    found = [(name, "" if value is None else f"{value:.4g}") for name, value in numbers.items()]
    return found if row.predicted is None else [*found, ("predicted", row.predicted)]


def _heat(errors: Errors | None, greatest: float, colours: Colormap) -> str:
    """Return a map as a data URI, a pixel for each patch; the same colour is the same error all over the page."""
    if errors is None:
        return ""
    shares = (errors / (greatest or 1.0)).clip(0, 1)
    pixels = colours(shares)
    pixels[..., 3] = FAINTEST + (STRONGEST - FAINTEST) * shares
    encoded = io.BytesIO()
    PIL.Image.fromarray((pixels * 255).round().astype(np.uint8)).save(encoded, "PNG")
    return _uri(encoded.getvalue(), "png")
