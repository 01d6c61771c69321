"""ResNet-20 with weights from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from ood_core.errors import OODError
from ood_core.interfaces import Backbone
from ood_example.resnet import ResNet20

CLASSES = 10  # of CIFAR-10, on which the weights were trained


@dataclass(frozen=True, kw_only=True)
class CifarResNet20(Backbone):
    """ResNet-20 for 32x32 images, trained on CIFAR-10.

    Attributes:
        weights: A safetensors file with all tensors of the network and no others.
    """

    name = "resnet20-cifar"
    weights: Path

    def check(self) -> None:
        """Raise OODError where there is no such file."""
        if not self.weights.is_file():
            raise OODError(f"backbone '{self.name}': no file {self.weights}")

    def build(self, image_size: int, classes: int | None) -> ResNet20:
        """Return the trained network; another number of classes than ten gets a fresh classifier.

        Raises:
            OODError: The images are not 32 pixels wide, or the file does not fit.
        """
        self.check()
        if image_size != 32:
            raise OODError(f"backbone '{self.name}' takes images of 32 pixels, not {image_size}")
        network = ResNet20(CLASSES)
        self._load(network)
        if classes is not None:
            network.reset_classifier(classes)
        return network

    def build_empty(self, image_size: int, classes: int | None) -> ResNet20:
        """Return the network without weights; the file need not be there."""
        return ResNet20(CLASSES if classes is None else classes)

    def _load(self, network: ResNet20) -> None:
        try:
            network.load_state_dict(load_file(self.weights))
        except (RuntimeError, SafetensorError) as error:
            raise OODError(f"backbone '{self.name}': {self.weights}: {' '.join(str(error).split())}") from error
