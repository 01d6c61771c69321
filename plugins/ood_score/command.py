"""`ood score`: the scores of new images, and which of them are out-of-distribution."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import typer

from ood_core.cli.runs import detector_folder
from ood_core.errors import OODError
from ood_score.formats import SUFFIXES, Format

if TYPE_CHECKING:
    from ood_core.data.folders import PassedOver
    from ood_score.counts import Tally
    from ood_score.formats import Lines
    from ood_score.predict_files import Request
    from ood_score.rows import Row

INTERRUPTED, CLOSED = 128 + signal.SIGINT, 141
"""Exit codes, as a shell has them: of an interrupt, and where nobody reads any more (SIGPIPE)."""

PAGE = Path("explained.html")
"""The page of --explain, where there is no --out that it could lie beside."""


def command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The folder of a run or detector, or a run's name below `runs/`.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES...", help="Pictures, folders and globs; `-` lists paths on stdin."),
    ],
    format: Annotated[
        Format | None,
        typer.Option(help="By the suffix of --out; else a table at a terminal, and CSV in a pipe.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the rows, .csv or .jsonl; the same command goes on with it.")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="Which scorer decides; the first unless given.")] = None,
    all_scores: Annotated[bool, typer.Option("--all-scores", help="A column for each scorer.")] = False,
    tpr: Annotated[
        float | None, typer.Option(help="Share of in-distribution images to accept; the detector's unless given.")
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="A threshold for each predicted class.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once; changes no score.")] = 64,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Paths on stdin end with NUL, as find -print0 does.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="A page beside --out: the most OOD images, what is nearest, error maps.")
    ] = False,
    explain_to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for that page.")] = None,
    fail_on_ood: Annotated[bool, typer.Option("--fail-on-ood", help="Exit with 1 if any image is OOD.")] = False,
    device: Annotated[str | None, typer.Option(help="Such as cpu; a GPU where there is one, unless given.")] = None,
) -> None:
    """Score images with the detector of a run: a row for each, whether it is out-of-distribution and how sure that is.

    Exits with 3 if some image could not be scored; it has a row that says why.
    """
    from ood_core.data.folders import PassedOver
    from ood_score.counts import Tally

    tally, passed = Tally(), PassedOver()
    try:
        names, shown = _names(images, passed, null), _format(format, out)
        page = _page(out, explain_to) if explain or explain_to else None
        folder = detector_folder(run)
        near = page is not None and shown is Format.JSONL
        request = _request(folder, device, _Wanted(scorer, all_scores, tpr, per_class, near, batch_size))
        with _target(request, folder, shown, out) as target:
            _score(request, names, target, tally)
        if text := str(passed):
            typer.echo(text, err=True)
        if page is not None:
            _explain(page, request, tally)
    except KeyboardInterrupt:
        after = f"interrupted after {tally.images} images"
        typer.echo(after + ("; the same command goes on from there" if out else ""), err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
        raise typer.Exit(CLOSED) from None
    raise typer.Exit(tally.exit_code(fail_on_ood))


# --------------------------------------------------------------------------------------------------- what is asked for


class _Wanted(NamedTuple):
    """Of the options those that decide what becomes of an image."""

    scorer: str | None
    all_scores: bool
    tpr: float | None
    per_class: bool
    near: bool
    batch_size: int


def _names(images: list[str], passed: PassedOver, null: bool) -> Iterator[str]:
    """Return the paths, of which there is at least one."""
    from ood_core.data import image_paths as paths

    paths.require(images)
    names = paths.named(images, passed, null)
    first = next(names, None)
    if first is None:
        raise OODError(passed.behind("stdin: lists no images"))
    return chain([first], names)


def _format(given: Format | None, out: Path | None) -> Format:
    if out is None:
        return given or (Format.TABLE if sys.stdout.isatty() else Format.CSV)
    found = given or SUFFIXES.get(out.suffix.lower())
    if found is None:
        raise OODError(f"--out {out}: ends in none of {', '.join(SUFFIXES)}; name it so, or add --format")
    if found is Format.TABLE:
        raise OODError(f"--out {out}: a table is for looking at; --format csv or jsonl can be read again")
    return found


def _page(out: Path | None, folder: Path | None) -> Path:
    from ood_core.store.store import require_writable

    page = PAGE if out is None else out.with_suffix(PAGE.suffix)
    page = page if folder is None else folder / page.name
    require_writable(page.parent, "--explain-to")
    return page


def _request(folder: Path, device: str | None, wanted: _Wanted) -> Request:
    from ood_core.detector import Detector
    from ood_core.detector.predictions import decision_rule
    from ood_score.predict_files import Request
    from ood_score.rows import Columns

    state = Detector.load(folder, device=device).state
    by = decision_rule(state, wanted.scorer, wanted.tpr, True if wanted.per_class else None)
    columns = Columns(tuple(of.name for of in state.scorers) if wanted.all_scores else (), wanted.near)
    return Request(state, by, columns, wanted.batch_size)


# --------------------------------------------------------------------------------------------------------- what is done


class _Target(Protocol):
    """Where rows are written."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows."""


@dataclass
class _Stdout:
    """Rows for other programs."""

    lines: Lines
    begun: bool = False

    def write(self, rows: Sequence[Row]) -> None:
        header = b"" if self.begun else self.lines.header
        sys.stdout.buffer.write(header + self.lines.encode(rows))
        sys.stdout.buffer.flush()
        self.begun = True


@contextmanager
def _target(request: Request, folder: Path, shown: Format, out: Path | None) -> Iterator[_Target]:
    from ood_score import formats, resumable_file, table

    if out is not None:
        with resumable_file.kept(
            out, formats.lines(shown, request.columns), resumable_file.about(request, folder, shown)
        ) as target:
            yield target
    elif shown is Format.TABLE:
        yield table.Printed(sys.stdout, request.columns, request.state.classes)
    else:
        yield _Stdout(formats.lines(shown, request.columns))


def _score(request: Request, names: Iterator[str], target: _Target, tally: Tally) -> None:
    """Write the rows of all images, then say on stderr how many there were and how quickly it went."""
    from ood_score.predict_files import passed
    from ood_score.resumable_file import Kept

    if isinstance(target, Kept):
        names = target.remaining(names, tally)
    there, begun = tally.images, time.perf_counter()
    with _progress(rows_seen=not isinstance(target, Kept) and sys.stdout.isatty()) as update:
        for rows in passed(request, names):
            target.write(rows)
            tally.add(rows)
            update(tally)
    _summarise(tally, there, time.perf_counter() - begun)


def _summarise(tally: Tally, there: int, seconds: float) -> None:
    """Say what there was; of so many images the rows were there before, the others took so many seconds."""
    from ood_score.counts import counted
    from ood_score.table import printable

    new = tally.images - there
    rows = f"; {there} of them were there before" if new else "; all of them were there before"
    speed = f"; {new / seconds:.4g} images/s" if new else ""
    typer.echo(f"{tally.summary()}{rows if there else ''}{speed}", err=True)
    if tally.first is not None:
        reason = printable(f"{tally.first.file}: {tally.first.error}")
        typer.echo(f"{counted(tally.unscored)} could not be scored; the first: {reason}", err=True)


@contextmanager
def _progress(rows_seen: bool) -> Iterator[Callable[[Tally], None]]:
    """Show how many images there were, at a terminal on which there are no rows."""
    if rows_seen or not sys.stderr.isatty():
        yield lambda tally: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda tally: bar.update(task, description=tally.summary())


def _explain(page: Path, request: Request, tally: Tally) -> None:
    from ood_score import explanation_page

    explanation_page.write(page, request, tally)
    typer.echo(f"page: {os.path.relpath(page)}", err=True)
