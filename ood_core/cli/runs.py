"""Find the runs and detectors that commands name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from ood_core.cli.options import RUNS, STORE
from ood_core.runtime.run_files import DETECTOR, DOCUMENT, LOCK


def run_names() -> list[str]:
    """Return the names of the runs below `RUNS`."""
    found = []
    for parent, folders, files in os.walk(RUNS):
        if DOCUMENT in files:
            found.append(Path(parent).relative_to(RUNS).as_posix())
        folders[:] = [name for name in folders if name != DETECTOR and Path(parent, name) != STORE]
    return sorted(found)


def run_rows() -> list[tuple[str, str]]:
    """Return the name of each run, and its date, the rows of its table, whether it has a detector, and its recipe."""
    return [(name, _describe_run(RUNS / name)) for name in run_names()]


def _describe_run(folder: Path) -> str:
    try:
        document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
        date, rows, recipe = str(document["started"])[:10], len(document["rows"]), document["name"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return f"{DOCUMENT} cannot be read"
    detector = DETECTOR if (folder / DETECTOR).is_dir() else ""
    return f"{date} {rows:3} rows {detector:{len(DETECTOR)}} {recipe}"


def run_folder(run: str) -> Path:
    """Return the folder of a run.

    Raises:
        OODError: There is none of this name.
    """
    return _folder(run, "run", run_names, (DOCUMENT, LOCK))


def detector_folder(run: str) -> Path:
    """Return the folder of a detector: of a run by its name or folder, or of a detector that lies alone.

    Raises:
        OODError: There is none of this name, or the run has none.
    """
    from ood_core.detector.detector import folder_of
    from ood_core.detector.manifest import FILE
    from ood_core.errors import OODError

    found = folder_of(_folder(run, "detector", _names_with_detector, (FILE, DETECTOR, DOCUMENT)))
    if not (found / FILE).is_file():
        makes = f"`ood detector {run}` makes one" if (found / DOCUMENT).is_file() else "and no run is there either"
        raise OODError(f"{found}: has no detector; {makes}")
    return found


def _names_with_detector() -> Iterable[str]:
    return (name for name in run_names() if (RUNS / name / DETECTOR).is_dir())


def _folder(run: str, what: str, known: Callable[[], Iterable[str]], contents: Collection[str]) -> Path:
    """Return a folder as named or below `RUNS`; the first with such contents: data may have its name."""
    from ood_core.errors import OODError, suggest

    folders = [folder for folder in ((Path(run), RUNS / run) if run else ()) if folder.is_dir()]
    for folder in folders:
        if any((folder / name).exists() for name in contents):
            return folder
    if folders:
        return folders[0]
    raise OODError(f"no {what} '{run}', neither a folder nor below {RUNS}/.{suggest(run, list(known()))}")
