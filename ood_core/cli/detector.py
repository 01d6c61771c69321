"""`ood detector`: the detector of one network of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ood_core.cli.echo import echo
from ood_core.cli.options import STORE, PerClass, RunName, StoreFolder, Tpr
from ood_core.cli.runs import run_folder
from ood_core.runtime.run_files import DETECTOR, LOCK


def command(
    run: RunName,
    variant: Annotated[str | None, typer.Option(help="A variant of the run.")] = None,
    case: Annotated[str | None, typer.Option(help="A case of its protocol.")] = None,
    seed: Annotated[int | None, typer.Option(help="One of its seeds. [default: the first]")] = None,
    tpr: Tpr = None,
    per_class: PerClass = False,
    examples: Annotated[
        bool, typer.Option("--examples/--no-examples", help="Store training images as thumbnails, for explanations.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for the detector. [default: RUN/detector]")] = None,
    store: StoreFolder = STORE,
) -> None:
    """Make the detector of a run, which scores new images.

    Runs of one network have theirs already; of an ablation or a protocol with several cases, choose one.
    """
    from dataclasses import replace

    from ood_core.detector.bundle import save_detector
    from ood_core.detector.from_run import NetworkChoice, build_detector
    from ood_core.detector.predictions import summary_lines
    from ood_core.errors import OODError
    from ood_core.plan.make import make_plan
    from ood_core.plugins import find
    from ood_core.run import lock
    from ood_core.store.store import Store

    folder, plugins = run_folder(run), find()
    if not (folder / LOCK).is_file():
        raise OODError(f"{folder}: is no run: it has no {LOCK}")
    made = make_plan(lock.read(folder / LOCK).recipes, plugins)
    state = build_detector(made, Store(store), NetworkChoice(variant, case, seed))
    state = replace(state, tpr=state.tpr if tpr is None else tpr, per_class=per_class)
    state = state if examples else replace(state, examples=None)
    target = folder / DETECTOR if out is None else out
    save_detector(state, target, plugins)
    echo(*summary_lines(state), f"detector: {target}")
