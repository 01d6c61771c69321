"""`Detector`, the public class: fit, save, load, score, predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core import plugins
from ood_core.detector import bundle, from_module
from ood_core.detector.forward import score_images
from ood_core.detector.image_inputs import ImageBatch, image_refs, iter_batches
from ood_core.detector.labelled_data import read_labelled
from ood_core.detector.predictions import Predictions, ScoredBatch, concatenate, decide, decision_rule
from ood_core.detector.state import DetectorOptions, DetectorState
from ood_core.detector.wrapped_module import ModuleNetwork
from ood_core.errors import OODError
from ood_core.runtime.run_files import DETECTOR

BATCH = 64  # default batch size of the network


@dataclass(kw_only=True, eq=False, repr=False)
class Detector(DetectorOptions):
    """Separates out-of-distribution images from those that a classifier was made for.

        detector = Detector.load("runs/mood")  # of a run, or of one's own network without any recipe:
        detector = Detector(image_size=224).fit(module, (images, labels), ["energy", "mahalanobis"])
        detector.predict("photos/").is_ood

    Scores are float64, and higher means more OOD. The methods that scikit-learn's outlier detectors have follow its
    conventions instead: `score_samples` and `decision_function` are high for ID images.

    Args:
        image_size: S, the side in pixels of the module's images.
        mean: Of each channel, subtracted from images in [0, 1].
        std: Of each channel, by which they are then divided; one number each gives the module grey images.
        embeddings: Layer of the module whose outputs are the embeddings, or key or position in what it returns;
            default: found.
        logits: Likewise; False to use none.
        crop_fraction: Share of the resized image's shorter side that the central square keeps.
        interpolation: Of the resizing, which is antialiased; "bilinear" or "bicubic".
        squash: Whether both sides are resized, so that an image that is not square is used whole.
        holdout: Share of the images to calibrate on if `fit` is given no others for that.
        tpr: Share of ID images to accept.
        per_class: Whether each predicted class gets a threshold of its own.
        examples: Whether up to 1000 of the images are kept as thumbnails, to show the nearest to a new one.
        seed: Of the hold-out, and of scorers that draw.
        name: Of the detector, in reports.
    """

    _state: DetectorState | None = field(default=None, init=False)

    def __repr__(self) -> str:
        if self._state is None:
            return f"Detector({self.name!r}, not fitted)"
        network, found = self._state.network, self.id_accuracy
        read = f"; {network.describe()}" if isinstance(network, ModuleNetwork) else ""
        accuracy = "" if found is None else f", ID accuracy {found:.1%}"
        scorers = ", ".join(self.scorers)
        return f"Detector({self.name!r}, {len(self.classes)} classes, scorers {scorers}{accuracy}{read})"

    @classmethod
    def load(cls, path: str | Path, *, backbone: Any = None, device: str | None = None) -> Self:
        """Load a saved detector and verify every file.

        Args:
            path: Its folder, or that of a run with a folder `detector`.
            backbone: The module, for a detector that was fitted to a module of the user's own.
            device: For the network, such as "cpu"; default: the GPU if there is one.

        Raises:
            OODError: A file is missing or changed, a plugin is missing or of another version, the device is not
                available, or the network gives other embeddings than when the detector was saved.
        """
        try:
            found = None if device is None else torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # an assertion if torch was built without it
            reason = str(error).splitlines()[0].rstrip(".")
            raise OODError(f"device '{device}' cannot be used here: {reason}") from None
        return cls.from_state(bundle.load_detector(folder_of(Path(path)), plugins.find(), backbone, found))

    @classmethod
    def from_state(cls, state: DetectorState) -> Self:
        """Make the detector of a fitted state; its options are those it was fitted with."""
        network = state.network
        made = cls(
            image_size=state.preprocessing.image_size,
            **(network.options() if isinstance(network, ModuleNetwork) else {}),
            **vars(state.preprocessing.view),
            holdout=state.holdout,
            tpr=state.tpr,
            per_class=state.per_class,
            examples=state.examples is not None,
            seed=state.origin.seed,
            name=state.origin.name,
        )
        made._state = state
        return made

    def fit(
        self,
        backbone: Any,
        dataset: Any,
        scorers: Any,
        *,
        held_out: Any = None,
        classes: Sequence[str] | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Fit scorers to a network's outputs for ID images, calibrate them on others, and return the detector.

        Args:
            backbone: A torch module or function that returns logits [N, C], embeddings [N, D], or both in a tuple,
                mapping or object; or a plugin's backbone. Embeddings that a module does not return are the inputs of
                the layer that makes the logits; `repr` shows which values are used. A copy of a module is kept.
            dataset: ID images with labels: a folder with a folder for each class, a pair (images, labels), a data set
                of torch or Hugging Face, or an iterable of pairs, longer tuples or dicts. Without labels all are of one
                class. Images are in [0, 1] or uint8, not normalised.
            scorers: Names, mappings with options as in a recipe, or scorers; the first one decides.
            held_out: ID images to calibrate on, in any of those forms; default: a share of the others.
            classes: Names of the classes, in the order of the module's outputs.
            progress: Whether to show a bar of each pass over the images; default: if standard error is a terminal.

        Warns:
            OODWarning: The module hardly recognises the held-out images, the central square leaves much of them out, or
                a scorer takes much memory, or the calibration images are too few for `tpr`.

        Raises:
            OODError: The module gives no embeddings, a scorer's needs are not met, or an image cannot be read.
        """
        train = read_labelled(dataset, classes)
        calibrating = None if held_out is None else read_labelled(held_out, train.classes)
        named = from_module.named_scorers(scorers, plugins.find())
        if calibrating is None:
            train, calibrating = from_module.split_holdout(train, self.holdout, self.seed)
        self._state = from_module.fit_detector(backbone, (train, calibrating), named, self, progress)
        return self

    def save(self, path: str | Path) -> None:
        """Write the detector into a folder of its own; whole or not at all.

        Raises:
            OODError: The folder cannot be written, or holds something else.
        """
        bundle.save_detector(self.state, Path(path), plugins.find())

    @property
    def state(self) -> DetectorState:
        """All that was learned; raises OODError if the detector is not fitted."""
        if self._state is None:
            raise OODError("the detector is not fitted; call fit, or Detector.load")
        return self._state

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the ID classes."""
        return self.state.classes

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers; the first one decides by default."""
        return tuple(of.name for of in self.state.scorers)

    @property
    def id_accuracy(self) -> float | None:
        """Share of the held-out ID images that the network classifies correctly; None without logits or labels.

        If the network was trained on these images, this shows only that it sees them as it did in training.
        """
        return self.state.id_accuracy

    def threshold(self, tpr: float | None = None, scorer: str | None = None) -> float:
        """Return the score above which an image is OOD.

        Raises:
            OODError: There is no such scorer, or too few calibration images for such a rate.
        """
        return float(decision_rule(self.state, scorer, tpr, per_class=False).thresholds[0])

    def interval(self, tpr: float | None = None, confidence: float = 0.95) -> tuple[float, float]:
        """Return the interval of the share of new ID images that the threshold accepts; raises as `threshold`."""
        share = self.state.tpr if tpr is None else tpr
        return self.state.scorers[0].calibration.interval(share, confidence)

    def score(self, images: Any, *, batch_size: int = BATCH) -> dict[str, NDArray[np.float64]]:
        """Return float64 [N] for each scorer by name; higher means more OOD.

        Args:
            images: A path, folder, picture, array or tensor, or an iterable of such: see `image_inputs.image_refs`.
            batch_size: Images that pass through the network at once; changes scores by rounding at most.

        Raises:
            OODError: An image cannot be read, or a score is not finite.
        """
        found = self._score(images, batch_size)
        found.require_finite()
        return dict(found.scores)

    def predict(
        self,
        images: Any,
        *,
        scorer: str | None = None,
        tpr: float | None = None,
        per_class: bool | None = None,
        batch_size: int = BATCH,
    ) -> Predictions:
        """Return decisions on N images, given as in `score`: is_ood, score, p_value, predicted class.

        Another deciding `scorer` than the first, `tpr` and `per_class` replace the detector's own.

        Raises:
            OODError: An image cannot be read, there is no such scorer, or there are too few calibration images.
        """
        rule = decision_rule(self.state, scorer, tpr, per_class)
        return decide(self.state, self._score(images, batch_size), rule)

    def score_samples(self, images: Any) -> NDArray[np.float64]:
        """Return minus the deciding score, [N]: as in scikit-learn, lower means more OOD."""
        return -self.score(images)[self.scorers[0]]

    def decision_function(self, images: Any) -> NDArray[np.float64]:
        """Return the threshold minus the deciding score, [N]: as in scikit-learn, negative for OOD images."""
        found = self.predict(images)
        return found.threshold - found.score

    def stream(self, images: Any, *, batch_size: int = BATCH) -> Iterator[tuple[ImageBatch, ScoredBatch | None]]:
        """Yield batch after batch with its scores, in constant memory; unreadable images are among its errors.

        The scores are those of the readable images, in their order; None if a batch has none.
        """
        if batch_size < 1:
            raise OODError(f"batch_size must be 1 or more, not {batch_size}")
        for batch in iter_batches(image_refs(images), self.state.preprocessing, batch_size, self.state.device):
            yield batch, score_images(self.state, batch.images) if len(batch.images) else None

    def _score(self, images: Any, batch_size: int) -> ScoredBatch:
        parts = []
        for batch, found in self.stream(images, batch_size=batch_size):
            batch.require_readable()
            assert found is not None, "a batch without errors has images"
            parts.append(found)
        if not parts:
            raise OODError("there are no images to score")
        return concatenate(parts)


def folder_of(path: Path) -> Path:
    """Return the folder of a detector: itself, or `detector` in the folder of a run."""
    return path / DETECTOR if (path / DETECTOR).is_dir() else path
