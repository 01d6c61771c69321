"""The image sets of one case by their roles, and checks that no image has two of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ood_core.errors import listed
from ood_core.records.stages import Images


@dataclass(frozen=True, kw_only=True)
class CaseData:
    """The data of one case: the ID set in its parts, OOD sets that may be known, and those that measure.

    Attributes:
        case: Its name; empty if the protocol has only one.
        draw: Number of its random draw.
        train: ID images to train on and to fit scorers to.
        holdout: ID images kept back from `train`, for the threshold.
        test: ID images that measure.
        known: OOD images that scorers may be fitted to.
        auxiliary: OOD images that networks may be trained on.
        shifted: Covariate-shifted ID images; OOD is measured once without and once with them as ID.
        ood: Groups and OOD sets that measure.
    """

    case: str
    draw: int
    train: Images
    holdout: Images | None
    test: Images
    known: tuple[Images, ...]
    auxiliary: Images | None
    shifted: tuple[Images, ...]
    ood: tuple[tuple[str, Images], ...]

    @property
    def measuring(self) -> list[tuple[str, Images]]:
        """The sets that measure, in words: all but ID test images that the source itself gives for training, too."""
        sets = [("OOD set", images) for _, images in self.ood] + [("shifted ID set", images) for images in self.shifted]
        own = self.train.opened.source == self.test.opened.source
        return sets if own else [*sets, ("ID test set", self.test)]

    @property
    def fitted(self) -> list[tuple[str, Images]]:
        """The sets that something is fitted to or tuned on, in words."""
        sets = [("ID training set", self.train), *(("known OOD set", images) for images in self.known)]
        sets += [("held-out ID set", self.holdout)] if self.holdout is not None else []
        return sets + ([("auxiliary set", self.auxiliary)] if self.auxiliary is not None else [])


def mistakes(sets: CaseData) -> Iterator[tuple[Images, str]]:
    """Yield the mistakes, each with its set."""
    train, test, name = sets.train.opened, sets.test.opened, sets.test.name
    if train.source == test.source:
        notes = "".join(f"; {note}" for note in test.notes)  # such as what the source could take splits from
        yield sets.test, f"ID set '{name}' gives the same images for training and test; it needs a split of each{notes}"
    if train.classes != test.classes:
        differ = next((pair for pair in zip(train.classes, test.classes, strict=False) if len(set(pair)) > 1), None)
        first = f"'{differ[0]}' and '{differ[1]}'" if differ else f"{len(train.classes)} and {len(test.classes)}"
        yield sets.test, f"ID set '{name}' has other classes for training than for test: {first}"
    # images of the ID classes, out of the ID set itself, are not OOD
    for images in (*(images for _, images in sets.ood), *sets.known):
        shared = [name for name in images.opened.classes if name in test.classes]
        if shared and images.opened.source in (test.source, train.source):
            yield images, f"OOD set '{images.name}' shares classes with the ID set: {listed(shared)}"
    yield from _shared_images(sets)


def gaps(sets: CaseData) -> list[str]:
    """Return a note on ID classes without images for training, and one for test."""
    notes = []
    for part in (sets.train, sets.test):
        counts = np.bincount(part.opened.labels.numpy(), minlength=len(part.opened.classes))
        empty = [part.opened.classes[label] for label in np.flatnonzero(counts == 0)]
        if len(empty) == 1:
            notes.append(f"{part}: no image of the class '{empty[0]}'")
        elif empty:
            notes.append(f"{part}: no image of {len(empty)} classes: {listed([repr(name) for name in empty])}")
    return notes


def _shared_images(sets: CaseData) -> Iterator[tuple[Images, str]]:
    """No image has two roles; none that something is fitted to or tuned on may measure."""
    for role, images in sets.fitted:
        for kind, tested in sets.measuring:
            if shared := images.opened.shared_with(tested.opened):
                pair = f"{role} '{images.name}' shares {shared} images with {kind} '{tested.name}'"
                yield images, f"{pair}; what is fitted to must not measure"
    if sets.auxiliary is not None and (shared := sets.auxiliary.opened.shared_with(sets.train.opened)):
        yield sets.auxiliary, f"auxiliary set '{sets.auxiliary.name}' shares {shared} images with the ID training set"
    for images in sets.shifted:
        if shared := images.opened.shared_with(sets.test.opened):
            yield images, f"shifted ID set '{images.name}' shares {shared} images with the ID test set"
