"""`ood export`: a detector as one graph that runs without this framework."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from ood_core.cli.echo import echo
from ood_core.cli.runs import detector_folder


def command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The folder of a run or detector, or a run's name below `runs/`.")
    ],
    format: Annotated[
        Literal["onnx", "torch"],
        typer.Option(help="`onnx`, for onnxruntime and others; `torch` for torch.export.load."),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="The file, .onnx or .pt2, or an existing folder (default: beside the detector).")
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A scorer of the graph, repeatable; the first one decides (default: all)."),
    ] = None,
    tpr: Annotated[
        float | None, typer.Option(help="Share of in-distribution images to accept (default: the detector's).")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Version of ONNX's operators (default: the exporter's).")] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest deviation of a score from the detector's: of its size, absolute below 1.")
    ] = 1e-4,
) -> None:
    """Write the network of a detector with its scores and its threshold as one graph, and verify it.

    The preprocessing of images is in the file's metadata under `ood`.
    """
    from ood_core.detector import Detector, manifest
    from ood_core.plugins import find
    from ood_export.exporting import export

    folder = detector_folder(run)
    file = target(folder, out, format)
    digest = manifest.read_manifest(folder, find()).digest
    detector = Detector.load(folder, device="cpu")
    made = export(detector, file, scorers=scorer or (), tpr=tpr, opset=opset, tolerance=tolerance, digest=digest)
    echo(
        f"graph: {os.path.relpath(made.file)}, {made.size / 1e6:.1f} MB; {made.scorers[0]} decides; verified by "
        f"{made.images} images: same decisions, scores within {made.deviation:.0e} of the detector's"
    )


def target(folder: Path, out: Path | None, format: str) -> Path:
    """Return the file to write, for `--out` and the folder of the detector; refuse the suffix of another format."""
    from ood_core.errors import OODError
    from ood_export.formats import FORMATS

    suffix = FORMATS[format].suffix
    if out is None:
        return folder.with_name(folder.name + suffix)
    if out.is_dir():
        return out / f"{folder.name}{suffix}"
    if out.suffix != suffix:
        raise OODError(f"--out {out}: a graph of format {format} is a file that ends in {suffix}, or a folder")
    return out
