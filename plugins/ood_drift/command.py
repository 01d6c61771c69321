"""`ood drift`: whether new images still score as the calibration images did."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ood_core.cli.echo import echo
from ood_core.cli.options import DetectorName, Images, ScorerName
from ood_core.cli.runs import detector_folder
from ood_core.errors import OODError, format_image_count

FILE, FORMATS = "drift.svg", ("svg", "png")


def command(
    run: DetectorName,
    images: Images = [],  # noqa: B006 - typer's default of an argument that may be missing
    scores: Annotated[
        Path | None, typer.Option(help="Instead of images: CSV or JSON Lines that `ood score` wrote.")
    ] = None,
    scorer: ScorerName = None,
    alpha: Annotated[float, typer.Option(help="False alarm rate of each test.")] = 0.01,
    out: Annotated[Path, typer.Option(help="The drawing, .svg or .png, or a folder for it.")] = Path(FILE),
    fail_on_drift: Annotated[bool, typer.Option("--fail-on-drift", help="Exit with 1 if there is drift.")] = False,
) -> None:
    """Test whether images still score as held-out in-distribution images did, and draw it.

    Two tests: of all images together (Kolmogorov-Smirnov), and one in their order, which reports the image at which
    there was enough evidence.
    """
    if bool(images) == (scores is not None):
        raise typer.BadParameter("name images, or a table with --scores", param_hint="IMAGES")
    try:
        drifted = _compare(run, images, scores, scorer, alpha, drawing_file(out))
    except KeyboardInterrupt:
        echo("interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(int(drifted and fail_on_drift))


def drawing_file(out: Path) -> Path:
    """Return the path of the drawing.

    Raises:
        OODError: It has another suffix.
    """
    if out.is_dir() or not out.suffix:
        return out / FILE
    if out.suffix[1:] not in FORMATS:
        raise OODError(f"--out {out}: a drawing is a file that ends in .svg or .png, or a folder")
    return out


def _compare(run: str, images: list[str], scores: Path | None, scorer: str | None, alpha: float, file: Path) -> bool:
    """Print the verdict, and return whether there is drift."""
    from ood_core.data import image_paths
    from ood_core.data.folders import PassedOver
    from ood_core.detector import Detector
    from ood_core.detector.image_inputs import file_ref
    from ood_core.evaluation.drift_tests import Sequential, drifted, verdict
    from ood_core.store.files import replacing
    from ood_drift.comparison import compare, read_scores, score_stream
    from ood_drift.drawing import draw_drift

    image_paths.require(images)
    state = Detector.load(detector_folder(run)).state
    sequential = Sequential(state.scorer(scorer).calibration.scores, alpha)  # a wrong alpha, before images are scored
    skipped = PassedOver()
    refs = map(file_ref, image_paths.named(images, skipped))
    stream = read_scores(scores, scorer) if scores else score_stream(state, refs, scorer)
    found = compare(state, stream, scorer, sequential)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(draw_drift(found, file.suffix[1:]))
    except OSError as error:
        raise OODError(f"{file}: cannot be written: {error.strerror}") from error
    echo(verdict(found.ks, found.sequential, alpha))
    if stream.unusable:
        echo(f"not scored: {format_image_count(stream.unusable)}; the first: {stream.first_reason}", err=True)
    if not state.independent:
        echo("a scorer was fitted to the held-out images as well: new ID images may look like drift", err=True)
    if text := str(skipped):
        echo(text, err=True)
    echo(f"drawing: {os.path.relpath(file)}", err=True)
    return drifted(found.ks, found.sequential, alpha)
