"""`ood drift`: whether new images still score as those that a detector was calibrated by."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ood_core.cli.runs import detector_folder

if TYPE_CHECKING:
    from ood_drift.verdict import Stream

FILE = "drift.svg"
"""What the drawing is called, unless --out says otherwise."""

FORMATS = ("svg", "png")


def command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The folder of a run or detector, or a run's name below `runs/`.")
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES...", help="Pictures, folders and globs, in this order; `-` lists paths on stdin."
        ),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Instead of images: the CSV or JSON Lines that `ood score` made of them.")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="Whose scores; those that decide unless given.")] = None,
    alpha: Annotated[float, typer.Option(help="How often each test may see drift where there is none.")] = 0.01,
    out: Annotated[Path, typer.Option(help="The drawing, .svg or .png, or a folder for it.")] = Path(FILE),
    fail_on_drift: Annotated[bool, typer.Option("--fail-on-drift", help="Exit with 1 if there is drift.")] = False,
) -> None:
    """Say in one line whether images still score as held-out in-distribution images did, and draw it.

    Two tests: one of all images together (Kolmogorov-Smirnov), and one that goes through them in their order, and says
    at which image there was enough evidence.
    """
    if bool(images) == (scores is not None):
        raise typer.BadParameter("name images, or a table with --scores", param_hint="IMAGES")
    try:
        drifted = _compare(run, images or [], scores, scorer, alpha, target(out))
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(int(drifted and fail_on_drift))


def target(out: Path) -> Path:
    """Return the file to draw into.

    Raises:
        OODError: It is no kind of file that is drawn.
    """
    from ood_core.errors import OODError

    if out.is_dir() or not out.suffix:
        return out / FILE
    if out.suffix[1:] not in FORMATS:
        raise OODError(f"--out {out}: a drawing is a file that ends in .svg or .png, or a folder")
    return out


def _compare(run: str, images: list[str], scores: Path | None, scorer: str | None, alpha: float, file: Path) -> bool:
    """Print the verdict, and return whether there is drift."""
    from ood_core.data import image_paths as paths
    from ood_core.data.folders import PassedOver
    from ood_core.detector import Detector
    from ood_core.detector.image_inputs import file_ref
    from ood_core.evaluation.drift_tests import drifted, verdict
    from ood_drift import verdict as drifting

    paths.require(images)
    detector = Detector.load(detector_folder(run))
    sequential = drifting.begin(detector.state, scorer, alpha)  # mistakes are told before all images are scored
    passed = PassedOver()
    shown = map(file_ref, paths.named(images, passed))
    stream = drifting.read(scores, scorer) if scores else drifting.score(detector.state, shown, scorer)
    found = drifting.compare(detector.state, stream, scorer, sequential)
    _write(file, drifting.draw(found, file.suffix[1:]))
    typer.echo(verdict(found.ks, found.sequential, alpha))
    _remark(stream, detector.state.independent)
    if text := str(passed):
        typer.echo(text, err=True)
    typer.echo(f"drawing: {os.path.relpath(file)}", err=True)
    return drifted(found.ks, found.sequential, alpha)


def _remark(stream: Stream, independent: bool) -> None:
    if stream.unusable:
        images = "1 image" if stream.unusable == 1 else f"{stream.unusable} images"
        typer.echo(f"not scored: {images}; the first: {stream.first_reason}", err=True)
    if not independent:
        typer.echo("a scorer was fitted to the held-out images as well: new ID images may look like drift", err=True)


def _write(file: Path, drawing: bytes) -> None:
    from ood_core.errors import OODError
    from ood_core.store.store import replacing

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(drawing)
    except OSError as error:
        raise OODError(f"{file}: cannot be written: {error.strerror}") from error
