"""Writes a detector as a folder.

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

import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ood_core.data.files import content_digest
from ood_core.detector import manifest as manifests
from ood_core.detector.manifest import FILE, Manifest, ScorerEntry
from ood_core.detector.predictions import decision_rule
from ood_core.detector.state import DetectorState
from ood_core.detector.wrapped_module import ModuleNetwork
from ood_core.errors import OODError
from ood_core.pipeline import networks
from ood_core.plugins import Plugins
from ood_core.recipe.build import describe
from ood_core.store.artifacts import save_score
from ood_core.store.files import flush, require_writable, save_tensors, writing

WEIGHTS, CALIBRATION = "weights.safetensors", "calibration.safetensors"
WITNESS, EXAMPLES, PRETEXT = "witness.safetensors", "examples.safetensors", "pretext.safetensors"
SCORE = "score-{}.safetensors"

READABLE = 0o644
"""Files of safetensors can be read by their owner alone; a service may run as another user."""


def save_detector(state: DetectorState, folder: Path, plugins: Plugins) -> None:
    """Write a detector into a folder of its own; a detector in it is replaced when all is written.

    Raises:
        OODError: The folder cannot be written, or holds something else.
    """
    require_writable(folder.parent, "folder")
    mark = uuid.uuid4().hex[:8]
    temporary, old = folder.with_name(f".{folder.name}.{mark}"), folder.with_name(f".{folder.name}.{mark}.old")
    try:
        if folder.exists() and not (folder / FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise OODError(f"{folder}: holds something else than a detector; name another folder")
        with writing(folder):
            temporary.mkdir(parents=True)
            _write(state, temporary, plugins)
            for file in temporary.iterdir():
                file.chmod(READABLE)
                flush(file)
            flush(temporary)
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
            flush(folder.parent)
    except OSError as error:
        raise OODError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write(state: DetectorState, folder: Path, plugins: Plugins) -> None:
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
    (folder / FILE).write_text(manifests.text_of(_manifest(state, entries, files, plugins)), encoding="utf-8")


def _manifest(
    state: DetectorState, entries: Sequence[ScorerEntry], files: Mapping[str, str], plugins: Plugins
) -> Manifest:
    origin, network, stage = state.origin, state.network, state.trained_task
    parts = [*(of.scorer for of in state.scorers), state.backbone, None if stage is None else stage.pretext]
    own = network if isinstance(network, ModuleNetwork) else None
    head = networks.head_of(network)
    other_outputs = len(state.classes) if state.classifier else None  # of a classifier that is no linear layer
    return Manifest(
        format=manifests.FORMAT,
        name=origin.name,
        created=origin.created,
        variant=origin.variant,
        case=origin.case,
        seed=origin.seed,
        backbone=None if state.backbone is None else describe(state.backbone),
        outputs=other_outputs if head is None else len(head.bias),
        image_size=state.preprocessing.image_size,
        view=vars(state.preprocessing.view),
        normalisation=None if own is None else {name: list(of) for name, of in vars(own.normalisation).items()},
        module=None if own is None else own.manifest_entry(),
        classes=list(state.classes),
        classifier=state.classifier,
        scorers=list(entries),
        tpr=state.tpr,
        per_class=state.per_class,
        calibration={
            "images": len(state.scorers[0].calibration),
            "independent": state.independent,
            "holdout": state.holdout,
        },
        id_accuracy=state.id_accuracy,
        pretext=None if stage is None else describe(stage.pretext),
        pretext_outputs=None if stage is None else stage.outputs,
        exact=False,  # scores depend on the batch by rounding; earlier versions tried to prevent it
        packages=manifests.packages_of([part for part in parts if part is not None], plugins),
        versions=manifests.versions(),
        recipe=dict(origin.recipe),
        files=dict(files),
    )
