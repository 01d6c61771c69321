"""Building blocks of data sources: pictures in files with their labels, and checks of lists and class names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import PIL.Image

from ood_core.data.decoding import decode
from ood_core.data.files import digest_files
from ood_core.errors import OODError
from ood_core.escapes import printable
from ood_core.interfaces import ImageSet

UNLABELLED = "unlabelled"  # the one class of pictures without labels
MOST_DIGITS = 4000  # of a class number; Python makes no number of many more


class FileImages(ImageSet):
    """Pictures by their paths, with the label of each; OODError if a path occurs twice."""

    encoded = True

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int], classes: Sequence[str], notes: Sequence[str] = ()
    ) -> None:
        self.classes, self.notes = tuple(classes), tuple(notes)
        self.labels, self._paths = list(labels), list(paths)
        self.places = [str(path.absolute()) for path in self._paths]
        if (most := Counter(self.places).most_common(1)) and most[0][1] > 1:
            raise OODError(f"{most[0][0]}: the picture is there twice")
        # The digest is over names in their order; a row's place and label belong to one of them.
        ranks = {path: rank for rank, path in enumerate(sorted(set(self._paths)))}
        content = digest_files(ranks), self.classes, [ranks[path] for path in self._paths], self.labels
        self.fingerprint = sha256(repr(content).encode()).hexdigest()

    def image(self, index: int) -> PIL.Image.Image:
        """Return one picture, in the mode it is stored in."""
        return decode(self._paths[index], printable(str(self._paths[index])))


def numbers_first(name: str) -> tuple[bool, int, str]:
    """Return a sort key: class numbers by their value, before names by the alphabet."""
    return (False, int(name), "") if name.isdecimal() and len(name) <= MOST_DIGITS else (True, 0, name)


def require_files(paths: Iterable[Path], listed: str) -> None:
    """Raise OODError unless all pictures of a list are regular files; names the first one that is not."""
    absent = [path for path in paths if not path.is_file()]
    if irregular := [path for path in absent if path.exists()]:
        raise OODError(f"{listed}: {len(irregular)} of its pictures are not regular files, such as {irregular[0]}")
    if absent:
        raise OODError(f"{listed}: {len(absent)} of its pictures are not there, such as {absent[0]}")


def require_distinct(classes: Iterable[str], where: str) -> None:
    """Raise OODError for class names that differ only by case or blanks around: most likely one, written twice."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(name.strip().casefold(), name)
        if other != name:
            raise OODError(f"{where}: the classes '{other}' and '{name}' differ in writing alone; give them one name")
