"""Reads a saved detector, and refuses one that has changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ood_core.data.selection import to_unit
from ood_core.detector import manifest as manifests
from ood_core.detector.bundle import CALIBRATION, EXAMPLES, PRETEXT, WEIGHTS, WITNESS
from ood_core.detector.forward import compute_outputs
from ood_core.detector.manifest import FILE, Manifest, ScorerEntry
from ood_core.detector.state import (
    DetectorState,
    Examples,
    FittedScorer,
    Origin,
    Preprocessing,
    TrainedTask,
    head_of,
)
from ood_core.detector.wrapped_module import ModuleNetwork, Normalisation, parse_sources
from ood_core.errors import OODError
from ood_core.evaluation.calibration import Calibration
from ood_core.interfaces import Backbone, EvaluationView, Network, Plugin, PretextTask, Scorer
from ood_core.pipeline import networks
from ood_core.plugins import Plugins
from ood_core.recipe.build import RecipeReader
from ood_core.recipe.yaml import parse
from ood_core.runtime import torch_state
from ood_core.store.artifacts import load_score

TOLERANCE = 1e-3
"""Largest change of a reference embedding, relative to its length."""


@torch_state.computing()
def load_detector(
    folder: Path, plugins: Plugins, module: Any = None, device: torch.device | None = None
) -> DetectorState:
    """Load a saved detector.

    Args:
        folder: Of the detector.
        plugins: The installed ones.
        module: The user's own, for a detector that was fitted to it; its weights are set.
        device: For the network; default: the GPU if there is one.

    Raises:
        OODError: A file is missing or changed, a plugin is missing or of another version, or the network gives other
            embeddings than when the detector was saved.
    """
    manifest = manifests.read_manifest(folder, plugins)
    manifests.verify_files(folder, manifest)
    try:
        state = _Reading(folder, manifest, plugins).state(module, device or networks.device())
    except (KeyError, RuntimeError, SafetensorError) as error:  # written by a version with other contents
        reason = " ".join(str(error).split())
        raise OODError(f"{folder}: cannot be read by this version: {type(error).__name__}: {reason}") from error
    _require_same_embeddings(folder, manifest, state)
    return state


class _Reading:
    """A folder whose files are those of its manifest."""

    def __init__(self, folder: Path, manifest: Manifest, plugins: Plugins) -> None:
        self.folder, self.manifest = folder, manifest
        self.reader = RecipeReader(plugins, files=False)

    def state(self, module: Any, device: torch.device) -> DetectorState:
        manifest, reference = self.manifest, load_file(self.folder / WITNESS)
        backbone = None if manifest.backbone is None else cast(Backbone, self._plugin("backbone", manifest.backbone))
        network = self._network(backbone, module, reference["images"]).to(device)
        calibration = load_file(self.folder / CALIBRATION)
        return DetectorState(
            network=network,
            backbone=backbone,
            classifier=manifest.classifier,
            head=head_of(network) if manifest.classifier else None,
            classes=tuple(manifest.classes),
            preprocessing=Preprocessing(manifest.image_size, EvaluationView(**manifest.view)),
            scorers=tuple(self._scorer(index, entry, calibration) for index, entry in enumerate(manifest.scorers)),
            origin=Origin(
                manifest.name, manifest.recipe, manifest.variant, manifest.case, manifest.seed, manifest.created
            ),
            reference_images=reference["images"],
            reference_embeddings=reference["embeddings"],
            independent=manifest.calibration["independent"],
            holdout=manifest.calibration["holdout"],
            id_accuracy=manifest.id_accuracy,
            tpr=manifest.tpr,
            per_class=manifest.per_class,
            examples=self._examples(),
            trained_task=self._trained_task(backbone, device),
        )

    def _plugin(self, kind: str, entry: Mapping[str, Any]) -> Plugin:
        plugin = self.reader.plugin(kind, parse(json.dumps(entry), str(self.folder / FILE)))
        if plugin is None:
            raise self.reader.errors[0]
        return plugin

    def _network(self, backbone: Backbone | None, module: Any, images: Tensor) -> Network:
        weights = load_file(self.folder / WEIGHTS)
        if backbone is None:
            return self._module_network(module, weights, images)
        if module is not None:
            raise OODError(f"{self.folder}: has a backbone of its own; leave yours out")
        network = backbone.build_empty(self.manifest.image_size, self.manifest.outputs).float()
        network.load_state_dict(weights)
        return network.eval().requires_grad_(False)

    def _module_network(self, module: Any, weights: Mapping[str, Tensor], images: Tensor) -> Network:
        if module is None:
            raise OODError(
                f"{self.folder}: was fitted to a module of your own, which is not part of it; so it is loaded from "
                "Python alone: Detector.load(path, backbone=module), a module of the same architecture"
            )
        given, entry = self.manifest.normalisation, self.manifest.module
        assert given is not None and entry is not None, "a detector without a backbone has both"
        network = ModuleNetwork(module, Normalisation.of(given["mean"], given["std"]))
        if (precision := network.precision) != entry["precision"]:
            raise OODError(
                f"{self.folder}: was fitted to a module in {entry['precision']}, this one is in {precision}; "
                f"convert it: module.to(torch.{entry['precision']})"
            )
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise OODError(
                f"{self.folder}: the module is of another architecture: {' '.join(str(error).split())}"
            ) from None
        network.use_sources(to_unit(images), parse_sources(entry))
        return network

    def _scorer(self, index: int, entry: ScorerEntry, calibration: Mapping[str, Tensor]) -> FittedScorer:
        scorer = cast(Scorer, self._plugin("scorer", entry.plugin))
        predicted = calibration.get(f"predicted.{index}")
        return FittedScorer(
            entry.name,
            scorer,
            load_score(self.folder / entry.file, scorer),
            Calibration(calibration[f"scores.{index}"].numpy(), None if predicted is None else predicted.numpy()),
        )

    def _examples(self) -> Examples | None:
        if EXAMPLES not in self.manifest.files:
            return None
        found = load_file(self.folder / EXAMPLES)
        encoded, ends = found["pictures"].numpy().tobytes(), np.cumsum(found["sizes"].numpy())
        starts = ends - found["sizes"].numpy()
        pictures = tuple(encoded[start:end] for start, end in zip(starts, ends, strict=True))
        return Examples(found["embeddings"], found["labels"], pictures)

    def _trained_task(self, backbone: Backbone | None, device: torch.device) -> TrainedTask | None:
        if self.manifest.pretext is None or backbone is None:
            return None
        found = load_file(self.folder / PRETEXT)
        weights = {name.removeprefix("network."): of for name, of in found.items() if name.startswith("network.")}
        state = {name.removeprefix("task."): of for name, of in found.items() if name.startswith("task.")}
        pretext = cast(PretextTask, self._plugin("pretext", self.manifest.pretext))
        network = backbone.build_empty(self.manifest.image_size, self.manifest.pretext_outputs).float()
        return restored_task(pretext, network, weights, state, self.manifest.image_size, device)


def restored_task(
    pretext: PretextTask,
    network: Network,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    image_size: int,
    device: torch.device,
) -> TrainedTask:
    """Return a trained task around a network of its architecture."""
    head = networks.head_of(network)
    network.load_state_dict(weights)
    task = networks.restored_task(pretext, network, image_size, state).to(device).requires_grad_(False)
    return TrainedTask(pretext, None if head is None else len(head.bias), weights, state, task)


def _require_same_embeddings(folder: Path, manifest: Manifest, state: DetectorState) -> None:
    """Raise OODError if the reference images have other embeddings; name the libraries of other versions."""
    found = compute_outputs(state.network, state.reference_images)[0].embeddings
    expected = state.reference_embeddings
    same = found.shape == expected.shape
    change = float(((found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-12)).max()) if same else 1.0
    if change <= TOLERANCE:
        return
    now = manifests.versions()
    differing = [
        f"{name} {was}, here {now.get(name)}" for name, was in manifest.versions.items() if was != now.get(name)
    ]
    why = f"made with {'; '.join(differing)}" if differing else "with the same versions: is the module another one?"
    raise OODError(f"{folder}: the network gives embeddings {change:.1%} off those it had when saved; {why}")
