"""Whether a network recognises the held-out ID images, and likely reasons if not.

Pixels that are normalised otherwise than in the module's training, or classes in another order than its outputs, give
scores that look plausible and rank images at random. The labels of the held-out images reveal it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special  # scipy.stats has the same functions and takes far longer to import
from torch import Tensor

from ood_core.data.selection import to_unit
from ood_core.detector.forward import OutputSpec, compute_outputs
from ood_core.detector.state import Normalisation, device_of
from ood_core.detector.wrapped_module import ModuleNetwork
from ood_core.errors import listed
from ood_core.evaluation import metrics
from ood_core.interfaces import Network, Outputs

TRIED = 256  # images on which another normalisation is compared with the given one
SCREENED = 64  # of these, on which the best of the others is chosen
BATCH = 32
GAIN = 0.05  # least gain in accuracy of another normalisation or order that is reported
LEVEL = 0.001  # significance level of the sign test between both, and of the binomial test against chance
LISTED = 20  # largest number of classes whose order is shown completely
MOST_CLASSES = 5000  # largest number for which another order is searched; the assignment takes its square in memory
_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
_BYTES = Normalisation((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
_CAFFE = Normalisation((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
_SWAP = "the channels in the order BGR (flip them in the module)"

USUAL: tuple[tuple[str, Normalisation | None, bool], ...] = (
    ("mean=(0, 0, 0) and std=(1, 1, 1)", Normalisation(), False),
    ("mean=(0.485, 0.456, 0.406) and std=(0.229, 0.224, 0.225)", _IMAGENET, False),
    ("mean=(0.5, 0.5, 0.5) and std=(0.5, 0.5, 0.5)", Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), False),
    ("mean=(0.4914, 0.4822, 0.4465) and std=(0.247, 0.2435, 0.2616)", _CIFAR, False),
    ("mean=(0, 0, 0) and std=(1/255, 1/255, 1/255), pixels from 0 to 255,", _BYTES, False),
    (_SWAP, None, True),
    (f"{_SWAP}, mean=(0.485, 0.458, 0.4076) and std=(1/255, 1/255, 1/255)", _CAFFE, True),
)
"""Usual inputs of modules: description, normalisation (None: as given), whether channels are BGR."""


def explain(
    network: Network, held: Outputs, classes: Sequence[str], load_rows: Callable[[NDArray[np.int64]], Tensor]
) -> str:
    """Return one line about a suspicious accuracy on held-out ID images; "" if it is not.

    `load_rows` returns the images of some rows, [n, 3, S, S], uint8 or float in [0, 1].
    """
    found = metrics.accuracy(held.logits, held.labels)
    if found > 1 - GAIN:  # nothing could be that much better
        return ""
    reason = _other_order(held, classes) or _other_normalisation(network, held, load_rows)
    if not reason and near_chance(held):
        reason = "that is near chance: are mean, std, image_size and the order of the classes those of its training?"
    return reason and f"the module classifies {found:.1%} of {len(held)} held-out images correctly; {reason}"


def near_chance(held: Outputs) -> bool:
    """Return whether labels and predictions agree hardly more often than independent ones of the same frequencies.

    That is so below twice chance and a fifth of the way from chance to 1 (p < 0.05), or if they agree no more often and
    the images suffice to exclude half of the way (p < 0.05).
    """
    count, classes = len(held), held.logits.shape[1]
    predicted, labels = held.logits.argmax(1), held.labels
    shares = [torch.bincount(of, minlength=classes).double() / count for of in (predicted, labels)]
    chance = float(shares[0] @ shares[1])
    right = int((predicted == labels).sum())
    above = float(special.bdtrc(right - 1, count, chance)) < LEVEL
    hardly, half_way = min(2 * chance, chance + 0.2 * (1 - chance)), (1 + chance) / 2
    below_hardly, below_half = (float(special.bdtr(right, count, of)) < 0.05 for of in (hardly, half_way))
    return below_hardly or (below_half and not above)


def _better(after: NDArray[np.bool_], before: NDArray[np.bool_]) -> bool:
    """Return whether more of the same images are classified correctly: by `GAIN`, and in a sign test."""
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return gained - lost >= GAIN * len(after) and float(special.bdtrc(gained - 1, gained + lost, 0.5)) < LEVEL


def _other_order(held: Outputs, classes: Sequence[str]) -> str:
    """Describe an order of the classes that fits the outputs far better, if there is one.

    It is fitted to one half of the images and tested on the other, or noise would have one as well.
    """
    count = held.logits.shape[1]
    if count != len(classes) or not 1 < count <= MOST_CLASSES:
        return ""
    predicted, labels = held.logits.argmax(1).numpy(), held.labels.numpy()
    halves = np.array_split(np.random.default_rng(0).permutation(len(labels)), 2)
    after = np.zeros(len(labels), bool)
    for one, other in (halves, halves[::-1]):
        after[other] = _assigned(predicted[one], labels[one], count)[predicted[other]] == labels[other]
    if not _better(after, predicted == labels):
        return ""

    def natural_key(name: str) -> list[tuple[int, str]]:  # 'class2' before 'class10'
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

    order, name = _assigned(predicted, labels, count).tolist(), "another order"
    best = float((np.array(order)[predicted] == labels).mean())
    for usual, key in (("numerical order", natural_key), ("alphabetical order", str)):
        places = sorted(range(count), key=lambda place: key(classes[place]))
        if float((np.array(places)[predicted] == labels).mean()) >= best - 0.02:
            order, name = places, usual
            break
    names = listed([f"'{classes[place]}'" for place in order], count if count <= LISTED else 5)
    return (
        f"{after.mean():.1%} if the module's outputs are the classes in {name}: {names}; pass 'classes' in the order "
        "of the module's outputs or, if labels are numbers, renumber them so that label i is the class of output i"
    )


def _assigned(predicted: NDArray[np.int64], labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the label for each output, each used once, with most correct predictions; ties keep the order."""
    from scipy.optimize import linear_sum_assignment  # slow

    matrix = np.zeros((count, count))
    np.add.at(matrix, (predicted, labels), 1.0)
    matrix += 1e-6 * np.eye(count)
    return np.asarray(linear_sum_assignment(matrix, maximize=True)[1], np.int64)


def _other_normalisation(network: Network, held: Outputs, load_rows: Callable[[NDArray[np.int64]], Tensor]) -> str:
    """Describe a usual normalisation with a far higher accuracy than the network's, if there is one."""
    if not isinstance(network, ModuleNetwork) or len(network.mean) != 3:  # a plugin's own knows its pixels
        return ""
    rows = np.random.default_rng(0).permutation(len(held))[:TRIED]
    images, labels = load_rows(rows), held.labels.numpy()[rows]
    few = images[:SCREENED]
    shares = [float((_predicted(network, few, of, bgr) == labels[:SCREENED]).mean()) for _, of, bgr in USUAL]
    name, normalisation, swapped = USUAL[int(np.argmax(shares))]  # the more usual one of those that are alike
    after = _predicted(network, images, normalisation, swapped) == labels
    before = held.logits.argmax(1).numpy()[rows] == labels
    if not _better(after, before):
        return ""
    gained = f"{after.mean():.1%} of {len(labels)} of them with {name} ({before.mean():.1%} as given)"
    return f"{gained}; give the normalisation of the module's training"


def _predicted(
    network: ModuleNetwork, images: Tensor, normalisation: Normalisation | None, swapped: bool
) -> NDArray[np.int64]:
    """Return the predicted classes under another normalisation, undone by the inverse of the network's own."""
    found = []
    for part in torch.split(images, BATCH):
        unit, mean, std = to_unit(part.to(device_of(network))), network.mean, network.std
        if normalisation is not None:
            mean, std = (unit.new_tensor(of).view(3, 1, 1) for of in (normalisation.mean, normalisation.std))
        inputs = (unit - mean) / std
        shown = (inputs.flip(1) if swapped else inputs) * network.std + network.mean
        found.append(compute_outputs(network, shown, OutputSpec(logits=True))[0].logits.argmax(1))
    return np.asarray(torch.cat(found))
