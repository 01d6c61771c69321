"""ResNet-20 for 32x32 images (He et al., 2016, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from ood_core.interfaces import Network

WIDTHS = (16, 32, 64)
BLOCKS = 3  # in each stage: 6 * 3 + 2 = 20 layers


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self._stride = stride
        self._missing = (outputs - inputs) // 2

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the block's width, smaller by the stride."""
        inner = relu(self.bn1(self.conv1(maps)))
        return relu(self.bn2(self.conv2(inner)) + self._shortcut(maps))

    def _shortcut(self, maps: Tensor) -> Tensor:
        sampled = maps[:, :, :: self._stride, :: self._stride]
        return pad(sampled, (0, 0, 0, 0, self._missing, self._missing))  # zero channels on both sides (option A)


class ResNet20(Network):
    """Three stages of three blocks, global average, one linear layer.

    Args:
        classes: Outputs of the classifier.
    """

    num_features = WIDTHS[-1]
    _mean: Tensor
    _std: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], stride=2)
        self.linear = nn.Linear(self.num_features, classes)
        # Not in the state dict: constants of the training, not weights.
        self.register_buffer("_mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return [B, 64, S/4, S/4] of images [B, 3, S, S] in [0, 1]."""
        normalised = (images - self._mean) / self._std
        maps: Tensor = self.layer3(self.layer2(self.layer1(relu(self.bn1(self.conv1(normalised))))))
        return maps

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or the average over positions [B, 64]."""
        embeddings = features.mean(dim=(2, 3))
        return embeddings if pre_logits else self.linear(embeddings)

    def get_classifier(self) -> nn.Linear:
        """Return the linear layer."""
        return self.linear

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the linear layer."""
        self.linear = nn.Linear(self.num_features, num_classes)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, stride=1) for _ in range(BLOCKS - 1)))
