"""Outputs to check scorers with: Gaussians beside the classifier that fits them, and images through a small network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ood_core.interfaces import Head, Network, Outputs, Scorer

_OFFSET, _SPREAD, _FAR = 10.0, 4.0, 6.0  # in standard deviations of a class
_HELD_OUT, _KNOWN = 1_000_003, 2_000_003  # added to the seed
_SIZE, _NOISE, _DIM = 16, 0.02, 0.02  # pixels of an image, deviation within a class, brightness of far images
_CONFIDENCE = 8.0  # what the small network's logits reach for the right class


def make_outputs(rows: int = 300, classes: int = 5, dimension: int = 16, seed: int = 0) -> Outputs:
    """Return outputs like those of a trained network: a Gaussian for each class, and the classifier that fits them.

    As behind a ReLU, no entry of an embedding is negative: some methods are made for that. The class means depend on
    `dimension` alone, so outputs of different seeds are training and test data of one task.
    Labels are balanced and in turn: 0, 1, ..., C-1, 0, ... There are held-out and known OOD outputs beside them.
    """
    return replace(
        _known_classes(rows, classes, dimension, seed),
        held_out=_known_classes(rows, classes, dimension, seed + _HELD_OUT),
        known_ood=make_far_outputs(20, classes, dimension, seed + _KNOWN),
    )


def make_far_outputs(rows: int = 300, classes: int = 5, dimension: int = 16, seed: int = 0) -> Outputs:
    """Return outputs that are OOD by any account, for what `make_outputs` is ID.

    The embeddings lie in directions that no class uses and the classifier does not see, far from all classes, and
    are shorter than those of ID images; so the logits are flat and small.
    """
    unused = _axes(classes, dimension)[classes + 1 :]
    directions = normalize(_noise(rows, len(unused), seed).abs())
    return _outputs(_FAR * directions @ unused, torch.full((rows,), -1), classes)


def make_image_outputs(scorer: Scorer, rows: int = 100, classes: int = 5, seed: int = 0) -> Outputs:
    """Return what a small network says of images, with the network and what the scorer's probes read of it.

    Like `make_outputs`, for scorers that need "layers" or "network". A class is a pattern of 16 x 16 pixels with a
    little noise; the classifier was fitted to the patterns.
    """
    network = _network(classes)
    labels = torch.arange(rows) % classes
    return replace(
        _seen(scorer, network, _pictures(rows, classes, seed), labels),
        held_out=_seen(scorer, network, _pictures(rows, classes, seed + _HELD_OUT), labels),
        known_ood=_seen(scorer, network, _dim_pictures(20, seed + _KNOWN), torch.full((20,), -1)),
    )


def make_far_image_outputs(scorer: Scorer, rows: int = 100, classes: int = 5, seed: int = 0) -> Outputs:
    """Return what the small network of `make_image_outputs` says of noise that is almost black: little."""
    return _seen(scorer, _network(classes), _dim_pictures(rows, seed), torch.full((rows,), -1))


def rotate(outputs: Outputs) -> Outputs:
    """Return the same task with embeddings of both signs, as behind layer normalisation: rotated, the same each time.

    Logits, layers and images stay as they are.
    """
    turn: Tensor = torch.linalg.qr(_noise(*2 * (outputs.embeddings.shape[1],), seed=0))[0]
    head = outputs.head
    return replace(
        outputs,
        embeddings=outputs.embeddings @ turn,
        head=None if head is None else Head(head.weight @ turn, head.bias),
        held_out=None if outputs.held_out is None else rotate(outputs.held_out),
        known_ood=None if outputs.known_ood is None else rotate(outputs.known_ood),
    )


def _known_classes(rows: int, classes: int, dimension: int, seed: int) -> Outputs:
    axes = _axes(classes, dimension)
    labels = torch.arange(rows) % classes
    centres = _OFFSET * axes[0] + _SPREAD * axes[1 : classes + 1]
    return _outputs((centres[labels] + _noise(rows, dimension, seed)).relu(), labels, classes)


def _axes(classes: int, dimension: int) -> Tensor:
    """Return unit vectors [D, D]: the direction all embeddings share, one for each class, and the unused ones."""
    assert classes + 2 <= dimension, "make_outputs needs at least two dimensions more than classes"
    return torch.eye(dimension)[_noise(1, dimension, seed=0)[0].argsort()]


def _noise(rows: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(rows, dimension, generator=torch.Generator().manual_seed(seed))


def _outputs(embeddings: Tensor, labels: Tensor, classes: int) -> Outputs:
    # Of Gaussians with unit covariance, this is the best linear classifier.
    weight = _SPREAD * _axes(classes, embeddings.shape[1])[1 : classes + 1]
    head = Head(weight, torch.full((classes,), -(_SPREAD**2) / 2))
    return Outputs(embeddings, embeddings @ weight.T + head.bias, labels, classes, head)


class SmallNetwork(Network):
    """Two convolutions without bias, the mean over positions, a linear layer; float64, so that rounding is no matter.

    Layers are called "layer1" and "layer2". There is dropout in front of the linear layer, for scorers that turn it on.
    """

    num_features = 24

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(12, self.num_features, 3, 2, padding=1, bias=False), nn.ReLU())
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(self.num_features, classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return maps [B, 24, S/2, S/2]."""
        maps: Tensor = self.layer2(self.layer1(images))
        return maps

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or the mean over positions."""
        embeddings = features.mean((2, 3))
        return embeddings if pre_logits else self.classifier(self.dropout(embeddings))

    def get_classifier(self) -> nn.Linear:
        """Return the linear layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the linear layer."""
        self.classifier = nn.Linear(self.num_features, num_classes).double()


def _network(classes: int) -> SmallNetwork:
    """Return the network for this many patterns: random convolutions, the classifier by least squares."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallNetwork(classes).double().eval().requires_grad_(False)
    embeddings = network.forward_head(network.forward_features(_pictures(20 * classes, classes, seed=-1)), True)
    targets = _CONFIDENCE * torch.eye(classes, dtype=torch.float64).repeat(20, 1)
    ridge = 1e-6 * torch.eye(network.num_features, dtype=torch.float64)
    network.classifier.weight.copy_(torch.linalg.solve(embeddings.T @ embeddings + ridge, embeddings.T @ targets).T)
    network.classifier.bias.zero_()
    return network


def _pictures(rows: int, classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(classes, 3, _SIZE, _SIZE, generator=generator, dtype=torch.float64)
    # one bright and one dark channel for each class, so that colours tell classes apart even when averaged
    colours = 0.2 + 0.8 * torch.rand(classes, 3, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((patterns * colours)[torch.arange(rows) % classes] + _NOISE * noise).clamp(0, 1)


def _dim_pictures(rows: int, seed: int) -> Tensor:
    noise = torch.rand(rows, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return _DIM * noise


@torch.no_grad()
def _seen(scorer: Scorer, network: SmallNetwork, images: Tensor, labels: Tensor) -> Outputs:
    """Return the network's outputs and the arrays of the probes, as extraction stores them."""
    maps: dict[str, Tensor] = {}

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            hooks.enter_context(module.register_forward_hook(lambda *args, name=name: maps.update({name: args[-1]})))
        features = network.forward_features(images)
    layers: dict[str, Tensor] = {}
    for probe in scorer.probes():
        read = probe.read(network, features, {name: maps[name] for name in probe.layers(network)})
        layers |= {name: array.float() for name, array in read.items()}
    embeddings = network.forward_head(features, pre_logits=True)
    logits = network.forward_head(features)
    head = Head(network.classifier.weight.float(), network.classifier.bias.float())
    return Outputs(
        embeddings.float(), logits.float(), labels, len(head.bias), head, layers, network=network, images=images
    )
