"""What lies in the folders of the store, as objects: outputs of the network, and fitted scores.

A fitted score is written as one safetensors file. Its tensors are the file's; everything else - plain values, tuples,
the scores and other frozen dataclasses within it - stands in the notes beside them, which refer to the tensors by name.
Nothing is imported because a file says so: classes are looked up among those that the scorer declares.
"""

from __future__ import annotations

import json
import mmap
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import FormulaScorer, Head, Outputs, Score, Scorer
from ood_core.records.facts import ExtractFacts
from ood_core.records.stages import Extraction
from ood_core.store.files import load_notes, load_tensors, map_array, reading, save_tensors
from ood_core.store.store import Store

HEAD = "head.safetensors"
LAYERS = "layers.json"
"""What a probe read: the name of each array, in the order of its files 0.npy, 1.npy, ..."""

SCORE = "score.safetensors"


def load_outputs(extraction: Extraction, store: Store) -> Outputs:
    """Return the outputs that extraction stages left in the store, memory-mapped."""
    base = extraction.base
    embeddings, logits, labels = (
        map_array(store.file(base, f"{name}.npy")) for name in ("embeddings", "logits", "labels")
    )
    facts = store.facts(base)
    assert isinstance(facts, ExtractFacts), "its files were found"
    layers: dict[str, np.memmap[Any, Any]] = {}
    for stage in extraction.probes:
        path = store.file(stage, LAYERS)
        with reading(path):
            names = list(json.loads(path.read_text(encoding="utf-8")))
        layers |= {name: map_array(store.file(stage, f"{index}.npy")) for index, name in enumerate(names)}
    return Outputs(
        torch.from_numpy(embeddings),
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        base.classes,
        head=Head(**load_tensors(store.file(base, HEAD))) if facts.head else None,
        layers={name: torch.from_numpy(array) for name, array in layers.items()},
        release=_release([embeddings, logits, labels, *layers.values()]),
    )


def load_together(extractions: Sequence[Extraction], store: Store) -> Outputs:
    """Return the outputs of several small sets as one, in memory; classes are numbered set after set."""
    parts = [load_outputs(extraction, store) for extraction in extractions]
    sizes = [len(extraction.base.images.opened.classes) for extraction in extractions]
    firsts = accumulate(sizes[:-1], initial=0)
    return replace(
        parts[0],
        embeddings=torch.cat([part.embeddings for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        labels=torch.cat([part.labels + first for part, first in zip(parts, firsts, strict=True)]),
        layers={name: torch.cat([part.layers[name] for part in parts]) for name in parts[0].layers},
        release=None,
    )


def _release(arrays: Sequence[np.memmap[Any, Any]]) -> Callable[[int, int], None] | None:
    """Return what drops the pages of rows that were read, which would otherwise count as memory until the end."""
    if not hasattr(mmap, "MADV_DONTNEED"):  # Windows drops them by itself
        return None

    def release(start: int, stop: int) -> None:
        for array in arrays:
            mapping: mmap.mmap | None = getattr(array, "_mmap", None)
            if mapping is None:  # an empty array is not mapped
                continue
            row = array.nbytes // len(array)
            header = len(mapping) - array.nbytes
            first = (header + start * row) // mmap.PAGESIZE * mmap.PAGESIZE
            mapping.madvise(mmap.MADV_DONTNEED, first, header + stop * row - first)

    return release


def save_score(folder: Path, score: Score, file: str = SCORE) -> None:
    """Write a fitted score into a file of the folder."""
    tensors: dict[str, Tensor] = {}
    save_tensors(folder / file, tensors, notes=_encode(score, "", tensors))


def load_score(path: Path, scorer: Scorer) -> Any:
    """Return the score that this scorer, or one with the same options, left in a file.

    Raises:
        OODError: The file was written by another version of the class; names the fields that differ.
    """
    notes = load_notes(path)
    classes = {_name(cls): cls for part in scorer.parts() for cls in (type(part), *_classes_within(part.scores))}
    fits_nothing = isinstance(scorer, FormulaScorer) and type(scorer).fit is FormulaScorer.fit
    if fits_nothing and notes.get("class") not in classes:  # an earlier version had a class of its own for it
        return scorer
    return _decode(notes, load_tensors(path), classes, path)


def plain_values(score: Score) -> dict[str, Any]:
    """Return what a fitted score has to say in a report: its numbers and words, and those of the values within it."""
    found: dict[str, Any] = {}
    for field in fields(score):  # type: ignore[arg-type]
        value = getattr(score, field.name)
        if isinstance(value, (bool, int, float, str)):
            found[field.name] = value
        elif is_dataclass(value):
            found |= {f"{field.name}.{name}": inner for name, inner in plain_values(value).items()}  # type: ignore[arg-type]
    return found


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, (tuple, list)):
        return [_encode(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
        within = {name: _encode(getattr(value, name), f"{path}.{name}".lstrip("."), tensors) for name in names}
        return {"class": _name(type(value)), "fields": within}
    assert value is None or isinstance(value, (bool, int, float, str)), f"{path} of a score is a {type(value).__name__}"
    return value


def _decode(noted: Any, tensors: dict[str, Tensor], classes: dict[str, type], path: Path) -> Any:
    if isinstance(noted, list):
        return tuple(_decode(item, tensors, classes, path) for item in noted)
    if not isinstance(noted, dict):
        return noted
    if "tensor" in noted:
        return tensors[noted["tensor"]]
    name = str(noted.get("class", ""))
    cls = classes.get(name.replace("ood_core.outputs.", "ood_core.interfaces.outputs."))  # its former module
    if cls is None:
        raise OODError(f"{path}: holds a {name}, which this version's scorer does not make; fit it again")
    values = {name: _decode(item, tensors, classes, path) for name, item in noted["fields"].items()}
    wanted = {field.name for field in fields(cls)}
    if wanted != values.keys():
        differing = ", ".join(sorted(wanted ^ values.keys()))
        raise OODError(f"{path}: was saved by another version of {cls.__name__}: {differing}")
    return cls(**values)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _classes_within(cls: type) -> Iterator[type]:
    """Yield a dataclass and those that the annotations of its fields name."""
    yield cls
    hints = list(typing.get_type_hints(cls).values())
    while hints:
        hint = hints.pop()
        hints += typing.get_args(hint)
        if isinstance(hint, type) and hint is not cls and is_dataclass(hint):
            yield from _classes_within(hint)


def save_picture(path: Path, picture: Tensor) -> str:
    """Write a picture, [3, H, W] in [0, 1], as PNG; return the name of the file."""
    pixels = picture.detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(path)
    return path.name
