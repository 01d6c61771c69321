"""Find the runs and detectors that commands name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ood_core.cli.options import RUNS


def run_folder(run: str) -> Path:
    """Return the folder of a run.

    Raises:
        OODError: There is none of this name.
    """
    from ood_core.report.formats.run_folder import DOCUMENT

    return _folder(run, "run", lambda: (file.parent for file in RUNS.rglob(DOCUMENT)))


def detector_folder(run: str) -> Path:
    """Return the folder of a detector: of a run by its name or folder, or of a detector that lies alone.

    Raises:
        OODError: There is none of this name, or the run has none.
    """
    from ood_core.detector.detector import folder_of
    from ood_core.detector.manifest import FILE
    from ood_core.errors import OODError
    from ood_core.report.formats.run_folder import DOCUMENT

    found = folder_of(_folder(run, "detector", lambda: (file.parent.parent for file in RUNS.rglob(f"detector/{FILE}"))))
    if not (found / FILE).is_file():
        makes = f"`ood detector {run}` makes one" if (found / DOCUMENT).is_file() else "and no run is there either"
        raise OODError(f"{found}: has no detector; {makes}")
    return found


def _folder(run: str, what: str, known: Callable[[], Iterable[Path]]) -> Path:
    from ood_core.errors import OODError, suggest

    for folder in (Path(run), RUNS / run) if run else ():
        if folder.is_dir():
            return folder
    names = [folder.relative_to(RUNS).as_posix() for folder in known()]
    raise OODError(f"no {what} '{run}', neither a folder nor below {RUNS}/.{suggest(run, names)}")
