"""Arguments and options that several commands share, so that they are spelt and explained alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")
"""Where runs are that are named without their folder."""

STORE = RUNS / "store"


def complete_recipe(incomplete: str) -> list[str]:
    """Return the names of shipped recipes that begin like this, for the shell's completion."""
    from ood_core.runtime.shipped import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Return the names of runs that begin like this, for the shell's completion."""
    from ood_core.cli.runs import run_names

    return [name for name in run_names() if name.startswith(incomplete)]


Recipes = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE...", help="A recipe file, or the name of a shipped one.", autocompletion=complete_recipe
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a value of the recipe.")
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AXIS=VALUE,...", help="Keep the variants with these values of an axis; `variant=NAME` of a list."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Trainings and extractions side by side. [default: one for each GPU, or each core]"),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for the reports; of several recipes, one within it for each. [default: runs/RECIPE]"),
]
StoreFolder = Annotated[Path, typer.Option("--store", envvar="OOD_STORE", help="Folder of finished stages.")]

Smoke = Annotated[
    bool, typer.Option("--smoke", help="One epoch on few images, into runs/RECIPE-smoke: does everything work?")
]


@dataclass(frozen=True)
class RunOptions:
    """The options of a command; of several recipes `out` has a folder each, `jobs` None leaves it to the machine."""

    overrides: tuple[str, ...]
    only: tuple[str, ...]
    out: Path | None
    store: Path
    jobs: int | None
    smoke: bool = False


RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The folder of a run, or its name below `runs/`.", autocompletion=complete_run),
]
RunNames = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...", help="The folder of a run, or its name below `runs/`.", autocompletion=complete_run
    ),
]
DetectorName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The folder of a run or detector, or a run's name below `runs/`.",
        autocompletion=complete_run,
    ),
]
Images = Annotated[
    list[str], typer.Argument(metavar="IMAGES...", help="Image files, folders and globs; `-` reads paths from stdin.")
]
ScorerName = Annotated[
    str | None, typer.Option("--scorer", help="The scorer that decides. [default: the detector's first]")
]
Tpr = Annotated[
    float | None,
    typer.Option(help="Share of in-distribution images to accept. [default: the detector's, 0.95 if it can]"),
]
PerClass = Annotated[bool, typer.Option("--per-class", help="One threshold for each predicted class.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1. [default: a GPU if there is one]")]
