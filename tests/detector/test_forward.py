"""One pass of a detector's network."""

from dataclasses import dataclass

import pytest
import torch

from ood_core.detector.forward import OutputSpec, compute_outputs
from ood_core.errors import OODError
from ood_core.interfaces import Probe


@dataclass(frozen=True, kw_only=True)
class Unnamed(Probe):
    def layers(self, network):
        return ()

    def read(self, network, features, maps):
        return features.flatten(1)


def test_what_a_probe_reads_without_names_is_one_line(tiny_detector):
    with pytest.raises(OODError, match=r"^probe 'Unnamed' reads a Tensor, not tensors by name$"):
        compute_outputs(tiny_detector.state.network, torch.zeros(2, 3, 8, 8), OutputSpec(probes=(Unnamed(),)))
