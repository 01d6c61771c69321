"""A detector as a folder: written, read, and refused if it has changed since.

    manifest.json             description, and the digests of the other files
    weights.safetensors       of the network
    score-0.safetensors ...   the fitted scores
    calibration.safetensors   the scores of the held-out ID images, ascending, and their predicted classes
    witness.safetensors       the reference images with their embeddings
    examples.safetensors      ID images for explanations, if there are any
    pretext.safetensors       the stage of masked image modelling, if there was one

Nothing is pickled. The folder is written beside its place and renamed, so that an existing detector is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from ood_core.data.files import content_digest
from ood_core.data.selection import to_unit
from ood_core.detector import manifest as manifests
from ood_core.detector.forward import OutputSpec, compute_outputs
from ood_core.detector.loading_checks import (
    UNREADABLE,
    describe_error,
    limit_size,
    require_consistent,
    require_reference,
    require_scores,
)
from ood_core.detector.manifest import (
    CALIBRATION,
    EXAMPLES,
    FILE,
    PRETEXT,
    SCORE,
    WEIGHTS,
    WITNESS,
    CalibrationEntry,
    Manifest,
    ScorerEntry,
)
from ood_core.detector.predictions import decision_rule
from ood_core.detector.state import DetectorState, Examples, FittedScorer, Origin, Preprocessing, TrainedTask, head_of
from ood_core.detector.wrapped_module import ModuleNetwork, parse_sources
from ood_core.errors import OODError, one_line
from ood_core.escapes import printable
from ood_core.evaluation.calibration import Calibration
from ood_core.interfaces import Backbone, Network, Plugin, PretextTask, Scorer
from ood_core.pipeline import networks
from ood_core.plugins import Plugins
from ood_core.recipe.build import RecipeReader, describe
from ood_core.recipe.yaml import parse
from ood_core.runtime import torch_state
from ood_core.runtime.leftovers import remove_leftovers, temporary_path
from ood_core.store.artifacts import load_score, save_score
from ood_core.store.files import put_in_place, require_utf8, require_writable, save_tensors, writing

TOLERANCE = 1e-3  # largest change of a reference embedding, relative to its length
READABLE = 0o644  # files of safetensors can be read by their owner alone; a service may run as another user


def save_detector(state: DetectorState, folder: Path, plugins: Plugins) -> None:
    """Write a detector into a folder of its own; a detector in it is replaced when all is written."""
    require_utf8(folder, "folder")
    try:
        packages = manifests.packages_of(_plugins_of(state), plugins)
    except OODError as error:
        raise OODError(f"{folder}: the detector scores, but cannot be saved: {error}") from None
    require_writable(folder.parent, "folder")
    remove_leftovers(folder.parent)
    temporary = temporary_path(folder)
    try:
        if folder.exists() and not (folder / FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise OODError(f"{folder}: holds something else than a detector; name another folder")
        with writing(folder):
            temporary.mkdir(parents=True)
            _write(state, temporary, packages)
            for file in temporary.iterdir():
                file.chmod(READABLE)
            put_in_place(temporary, folder)
    except OSError as error:
        raise OODError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _plugins_of(state: DetectorState) -> list[Plugin]:
    stage = state.trained_task
    parts = [*(of.scorer for of in state.scorers), state.backbone, None if stage is None else stage.pretext]
    return [part for part in parts if part is not None]


def _write(state: DetectorState, folder: Path, packages: Mapping[str, str]) -> None:
    save_tensors(folder / WEIGHTS, state.network.state_dict())
    calibrations: dict[str, Tensor] = {}
    entries = []
    for index, of in enumerate(state.scorers):
        file = SCORE.format(index)
        save_score(folder, of.score, file)
        calibrations[f"scores.{index}"] = torch.from_numpy(of.calibration.scores)
        if of.calibration.predicted is not None:
            calibrations[f"predicted.{index}"] = torch.from_numpy(of.calibration.predicted)
        threshold = decision_rule(state, of.name).thresholds.tolist()
        entries.append(ScorerEntry(of.name, describe(of.scorer), file, threshold if state.per_class else threshold[0]))
    save_tensors(folder / CALIBRATION, calibrations)
    save_tensors(folder / WITNESS, {"images": state.reference_images, "embeddings": state.reference_embeddings})
    if (examples := state.examples) is not None:
        sizes = torch.tensor([len(picture) for picture in examples.pictures])
        pictures = torch.frombuffer(bytearray(b"".join(examples.pictures)), dtype=torch.uint8)
        tensors = {"embeddings": examples.embeddings, "labels": examples.labels, "sizes": sizes, "pictures": pictures}
        save_tensors(folder / EXAMPLES, tensors)
    if (stage := state.trained_task) is not None:
        named = {f"network.{name}": tensor for name, tensor in stage.weights.items()}
        save_tensors(folder / PRETEXT, named | {f"task.{name}": tensor for name, tensor in stage.state.items()})
    files = {file.name: content_digest(file) for file in sorted(folder.iterdir())}
    (folder / FILE).write_text(manifests.text_of(_manifest(state, entries, files, packages)), encoding="utf-8")


def _manifest(
    state: DetectorState, entries: Sequence[ScorerEntry], files: Mapping[str, str], packages: Mapping[str, str]
) -> Manifest:
    origin, network, stage = state.origin, state.network, state.trained_task
    own = network if isinstance(network, ModuleNetwork) else None
    head = networks.head_of(network)
    other_outputs = len(state.classes) if state.classifier else None  # of a classifier that is no linear layer
    return Manifest(
        format=manifests.FORMAT,
        **vars(origin) | {"recipe": dict(origin.recipe)},
        backbone=None if state.backbone is None else describe(state.backbone),
        outputs=other_outputs if head is None else len(head.bias),
        image_size=state.preprocessing.image_size,
        view=state.preprocessing.view,
        normalisation=None if own is None else own.normalisation,
        module=None if own is None else own.manifest_entry(),
        classes=list(state.classes),
        classifier=state.classifier,
        scorers=list(entries),
        tpr=state.tpr,
        per_class=state.per_class,
        calibration=CalibrationEntry(len(state.scorers[0].calibration), state.independent, state.holdout),
        id_accuracy=state.id_accuracy,
        pretext=None if stage is None else describe(stage.pretext),
        pretext_outputs=None if stage is None else stage.outputs,
        exact=False,  # scores depend on the batch by rounding; earlier versions tried to prevent it
        packages=dict(packages),
        versions=manifests.versions(),
        files=dict(files),
    )


@torch_state.computing()
def load_detector(
    folder: Path, plugins: Plugins, module: Any = None, device: torch.device | None = None
) -> DetectorState:
    """Load and verify a saved detector; the weights of `module`, if it was fitted to one of the user's own, are set."""
    manifest = manifests.read_manifest(folder, plugins)
    manifests.verify_files(folder, manifest)
    try:
        state = _Reading(folder, manifest, plugins).state(module, device or networks.device())
    except OODError as error:
        named = str(error).startswith(printable(str(folder)))
        raise error if named else OODError(f"{folder}: {error}") from error
    except UNREADABLE as error:  # written by a version with other contents
        raise OODError(f"{folder}: cannot be read by this version: {describe_error(error)}") from error
    spec = OutputSpec(len(state.classes), state.classifier, state.head)
    outputs = compute_outputs(state.network, state.reference_images, spec)[0]
    require_consistent(folder, manifest, state, outputs)
    found, expected = outputs.embeddings, state.reference_embeddings
    same = found.shape == expected.shape
    change = float(((found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-12)).max()) if same else 1.0
    if change <= TOLERANCE:
        require_scores(folder, manifest, state)
        return state
    now = manifests.versions()
    other = [f"{name} {was}, here {now.get(name)}" for name, was in manifest.versions.items() if was != now.get(name)]
    why = f"made with {'; '.join(other)}" if other else "with the same versions: is the module another one?"
    raise OODError(f"{folder}: the network gives embeddings {change:.1%} off those it had when saved; {why}")


class _Reading:
    """A folder whose files are those of its manifest."""

    def __init__(self, folder: Path, manifest: Manifest, plugins: Plugins) -> None:
        self.folder, self.manifest = folder, manifest
        self.reader = RecipeReader(plugins, files=False)

    def state(self, module: Any, device: torch.device) -> DetectorState:
        manifest, reference = self.manifest, load_file(self.folder / WITNESS)
        require_reference(self.folder, manifest, reference)
        weights, calibration = load_file(self.folder / WEIGHTS), load_file(self.folder / CALIBRATION)
        backbone: Backbone | None = None
        network: Network
        if manifest.backbone is None:
            network = self._module_network(module, weights, reference["images"])
        elif module is not None:
            raise OODError(f"{self.folder}: has a backbone of its own; leave yours out")
        else:
            with limit_size(weights, manifest.outputs, f"{self.folder / FILE}: backbone"):
                backbone = cast(Backbone, self._plugin("backbone", manifest.backbone))
                network = backbone.build_empty(manifest.image_size, manifest.outputs).float()
            network.load_state_dict(weights)
        network = network.to(device).eval().requires_grad_(False)
        return DetectorState(
            network=network,
            backbone=backbone,
            classifier=manifest.classifier,
            head=head_of(network) if manifest.classifier else None,
            classes=tuple(manifest.classes),
            preprocessing=Preprocessing(manifest.image_size, manifest.view),
            scorers=tuple(self._scorer(index, entry, calibration) for index, entry in enumerate(manifest.scorers)),
            origin=Origin(
                manifest.name, manifest.recipe, manifest.variant, manifest.case, manifest.seed, manifest.created
            ),
            reference_images=reference["images"],
            reference_embeddings=reference["embeddings"],
            independent=manifest.calibration.independent,
            holdout=manifest.calibration.holdout,
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

    def _module_network(self, module: Any, weights: Mapping[str, Tensor], images: Tensor) -> Network:
        if module is None:
            raise OODError(
                f"{self.folder}: was fitted to a module of your own, which is not part of it; so it is loaded from "
                "Python alone: Detector.load(path, backbone=module), a module of the same architecture"
            )
        given, entry = self.manifest.normalisation, self.manifest.module
        assert given is not None and entry is not None, "a detector without a backbone has both"
        network = ModuleNetwork(module, given.mean, given.std)
        if (precision := network.precision) != entry["precision"]:
            raise OODError(
                f"{self.folder}: was fitted to a module in {entry['precision']}, this one is in {precision}; "
                f"convert it: module.to(torch.{entry['precision']})"
            )
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise OODError(f"{self.folder}: the module is of another architecture: {one_line(error)}") from None
        network.use_sources(to_unit(images), parse_sources(entry))
        return network

    def _scorer(self, index: int, entry: ScorerEntry, calibration: Mapping[str, Tensor]) -> FittedScorer:
        scorer = cast(Scorer, self._plugin("scorer", entry.plugin))
        scores, predicted = calibration[f"scores.{index}"].numpy(), calibration.get(f"predicted.{index}")
        calibrated = Calibration(scores, None if predicted is None else predicted.numpy())
        return FittedScorer(entry.name, scorer, load_score(self.folder / entry.file, scorer), calibrated)

    def _examples(self) -> Examples | None:
        if EXAMPLES not in self.manifest.files:
            return None
        found = load_file(self.folder / EXAMPLES)
        pictures = tuple(of.numpy().tobytes() for of in torch.split(found["pictures"], found["sizes"].tolist()))
        return Examples(found["embeddings"], found["labels"], pictures)

    def _trained_task(self, backbone: Backbone | None, device: torch.device) -> TrainedTask | None:
        if self.manifest.pretext is None or backbone is None:
            return None
        weights, state = dict[str, Tensor](), dict[str, Tensor]()
        for name, tensor in load_file(self.folder / PRETEXT).items():
            part, _, key = name.partition(".")
            (weights if part == "network" else state)[key] = tensor
        with limit_size(weights | state, self.manifest.pretext_outputs, f"{self.folder / FILE}: pretext"):
            pretext = cast(PretextTask, self._plugin("pretext", self.manifest.pretext))
            network = backbone.build_empty(self.manifest.image_size, self.manifest.pretext_outputs).float()
            network.load_state_dict(weights)
            return restored_task(pretext, network, state, self.manifest.image_size, device)


def restored_task(
    pretext: PretextTask, network: Network, state: Mapping[str, Tensor], image_size: int, device: torch.device
) -> TrainedTask:
    """Return a trained task around its network, from the state of the task without it."""
    head, weights = networks.head_of(network), dict(network.state_dict())
    task = networks.restored_task(pretext, network, image_size, state).to(device).requires_grad_(False)
    return TrainedTask(pretext, None if head is None else len(head.bias), weights, state, task)
