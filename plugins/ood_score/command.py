"""`ood score`: the scores of new images, and which of them are out-of-distribution."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from ood_core.cli.echo import echo
from ood_core.cli.options import DetectorName, Device, Images, PerClass, ScorerName, Tpr
from ood_core.cli.runs import detector_folder
from ood_core.errors import OODError, format_image_count
from ood_score.formats import SUFFIXES, Format, RowEncoder

if TYPE_CHECKING:
    from ood_score.predict_files import Request
    from ood_score.resumable_file import ResumableTable
    from ood_score.rows import Row, ScoreCounts
    from ood_score.table import Printed

    Target: TypeAlias = "ResumableTable | Printed | _Stdout"

INTERRUPTED, CLOSED = 128 + signal.SIGINT, 141
"""Exit codes, as a shell has them: of an interrupt, and of a closed pipe (SIGPIPE)."""

PAGE = Path("explained.html")
"""The page of --explain if there is no --out."""


def command(
    run: DetectorName,
    images: Images,
    format: Annotated[
        Format | None,
        typer.Option(help="[default: by the suffix of --out; else a table at a terminal, CSV in a pipe]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the rows, .csv or .jsonl; the same command resumes it.")
    ] = None,
    scorer: ScorerName = None,
    all_scores: Annotated[bool, typer.Option("--all-scores", help="A column for each scorer.")] = False,
    tpr: Tpr = None,
    per_class: PerClass = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once; scores agree up to rounding.")] = 64,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Paths on stdin end with NUL, as find -print0 does.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="A page beside --out: the most OOD images, nearest ID images, error maps.")
    ] = False,
    explain_to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for that page.")] = None,
    fail_on_ood: Annotated[bool, typer.Option("--fail-on-ood", help="Exit with 1 if any image is OOD.")] = False,
    device: Device = None,
) -> None:
    """Score images with the detector of a run: one row each, with the decision and its p-value.

    Exits with 3 if some image could not be scored; its row has the reason.
    """
    from ood_core.data import image_paths
    from ood_core.data.folders import PassedOver
    from ood_core.detector import Detector
    from ood_core.detector.predictions import decision_rule
    from ood_core.store.files import require_writable
    from ood_score import explanation_page
    from ood_score.predict_files import Request
    from ood_score.rows import Columns, ScoreCounts

    counts, skipped = ScoreCounts(), PassedOver()
    try:
        image_paths.require(images)
        names = image_paths.named(images, skipped, null)
        if (first := next(names, None)) is None:
            raise OODError(skipped.behind("stdin: lists no images"))
        format = _format(format, out)
        page = None
        if explain or explain_to:
            page = PAGE if out is None else out.with_suffix(PAGE.suffix)
            page = page if explain_to is None else explain_to / page.name
            require_writable(page.parent, "--explain-to")
        folder = detector_folder(run)
        state = Detector.load(folder, device=device).state
        rule = decision_rule(state, scorer, tpr, per_class or None)
        shown = tuple(of.name for of in state.scorers) if all_scores else ()
        request = Request(state, rule, Columns(shown, page is not None and format is Format.JSONL), batch_size)
        with _open_target(request, folder, format, out) as target:
            _score(request, chain([first], names), target, counts)
        if text := str(skipped):
            echo(text, err=True)
        if page is not None:
            explanation_page.write(page, request, counts)
            echo(f"page: {os.path.relpath(page)}", err=True)
    except KeyboardInterrupt:
        resume = "; the same command goes on from there" if out else ""
        echo(f"interrupted after {counts.images} images{resume}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
        raise typer.Exit(CLOSED) from None
    raise typer.Exit(counts.exit_code(fail_on_ood))


def _format(given: Format | None, out: Path | None) -> Format:
    if out is None:
        return given or (Format.TABLE if sys.stdout.isatty() else Format.CSV)
    found = given or SUFFIXES.get(out.suffix.lower())
    if found is None:
        raise OODError(f"--out {out}: ends in none of {', '.join(SUFFIXES)}; name it so, or add --format")
    if found is Format.TABLE:
        raise OODError(f"--out {out}: a table is for looking at; --format csv or jsonl can be read again")
    return found


class _Stdout:
    """Rows in a pipe; the header comes with the first of them."""

    def __init__(self, encoder: RowEncoder) -> None:
        self.encoder, self.header = encoder, encoder.header

    def write(self, rows: Sequence[Row]) -> None:
        sys.stdout.buffer.write(self.header + self.encoder.encode(rows))
        sys.stdout.buffer.flush()
        self.header = b""


def _open_target(request: Request, folder: Path, format: Format, out: Path | None) -> AbstractContextManager[Target]:
    from ood_score import formats, resumable_file, table

    if format is Format.TABLE:
        return nullcontext(table.Printed(sys.stdout, request.columns, request.state.classes))
    encoder = formats.row_encoder(format, request.columns)
    if out is None:
        return nullcontext(_Stdout(encoder))
    return resumable_file.open_resumable(out, encoder, resumable_file.describe(request, folder, format))


def _score(request: Request, names: Iterator[str], target: Target, counts: ScoreCounts) -> None:
    """Write the rows of all images, then report on stderr how many there were and the speed."""
    from ood_score.predict_files import predict_files
    from ood_score.resumable_file import ResumableTable

    if isinstance(target, ResumableTable):
        names = target.skip_written(names, counts)
    before, begun = counts.images, time.perf_counter()
    rows_visible = not isinstance(target, ResumableTable) and sys.stdout.isatty()
    with _progress(rows_visible) as update:
        for rows in predict_files(request, names):
            target.write(rows)
            counts.add(rows)
            update(counts)
    new, seconds = counts.images - before, time.perf_counter() - begun
    there = f"; {before if new else 'all'} of them were there before" if before else ""
    speed = f"; {new / seconds:.4g} images/s" if new else ""
    echo(f"{counts.summary()}{there}{speed}", err=True)
    if counts.first is not None:
        reason = f"{counts.first.file}: {counts.first.error}"
        echo(f"{format_image_count(counts.unscored)} could not be scored; the first: {reason}", err=True)


@contextmanager
def _progress(rows_visible: bool) -> Iterator[Callable[[ScoreCounts], None]]:
    """Show the number of images at a terminal, unless rows appear there."""
    if rows_visible or not sys.stderr.isatty():
        yield lambda counts: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda counts: bar.update(task, description=counts.summary())
