"""The source `published`: a name for whatever other source can open the set where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ood_core.errors import OODError, suggest
from ood_core.interfaces import DatasetSource, ImageSet, Split

SETS = Path(__file__).parent / "sets"  # one YAML for each set; the folder is the list
LISTS = Path(__file__).parent / "wnids"  # classes carved out of ImageNet, a WordNet id and a name in each line
PATHS = ("path", "root", "train", "test", "names", "labels")  # options of a layout beneath the data folder


@dataclass(frozen=True, kw_only=True)
class Published(DatasetSource):
    """A published set by name, in whichever of the usual layouts it lies.

    Attributes:
        dataset: Its name; `ood-run --datasets` lists them.
        root: The folder that the sets lie in.
    """

    name = "published"
    dataset: str
    root: Path = Path()

    def check(self) -> None:
        facts(self.dataset)

    def open(self, split: Split) -> ImageSet:
        """Raise OODError: one of the alternatives is opened in its place."""
        raise OODError(self.missing(["no source for any of its layouts is installed"]))

    def alternatives(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(
            {key: self._placed(key, value) for key, value in layout.items()}
            for layout in facts(self.dataset)["layouts"]
        )

    def _placed(self, option: str, value: Any) -> Any:
        if option == "wnids":
            return str(LISTS / value)
        return str(self.root / value) if option in PATHS else value

    def missing(self, reasons: Sequence[str]) -> str:
        """Return what to fetch from where, how to lay it out, which option to set, and what was looked for."""
        known = facts(self.dataset)
        return (
            f"{known['title']} is not in '{self.root}'; fetch it from {known['source']} and lay it out as "
            f"{layouts(self.dataset)} there, or set 'root' (of all sets: 'data.root'); "
            f"looked for: {'; '.join(reasons)}"
        )

    @classmethod
    def catalogue(cls) -> Mapping[str, tuple[str, str, str, str, str]]:
        found = {}
        for name in names():
            known = facts(name)
            images = ", ".join(f"{split} {count}" for split, count in known["images"].items())
            found[name] = (known["title"], str(known["classes"]), images, known["licence"], known["source"])
        return found


def names() -> list[str]:
    """Return the names of all sets."""
    return sorted(file.stem for file in SETS.glob("*.yaml"))


def facts(name: str) -> dict[str, Any]:
    """Return what is known of a set; raise OODError if there is none of this name."""
    if name not in names():
        raise OODError(f"no published set '{name}'.{suggest(name, names())}")
    return dict(yaml.safe_load((SETS / f"{name}.yaml").read_text(encoding="utf-8")))


def layouts(name: str) -> str:
    """Return in words how the files of a set may lie beneath the root: the source that reads them, and where."""
    described = []
    for layout in facts(name)["layouts"]:
        where = ", ".join(str(layout[option]) for option in PATHS if layout.get(option, ".") != ".")
        what = layout["use"] if layout["use"] != "torchvision" else f"torchvision's {layout['dataset']}"
        described.append(f"{what} ({where})" if where else what)
    return " or ".join(described)
