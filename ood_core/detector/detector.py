"""The detector as users have it in their hands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core import plugins
from ood_core.detector import bundle, from_module, labelled_data, loading
from ood_core.detector.forward import score_images
from ood_core.detector.image_inputs import ImageBatch, image_refs, iter_batches
from ood_core.detector.predictions import Predictions, ScoredBatch, concatenate, decide, decision_rule
from ood_core.detector.state import DetectorState
from ood_core.detector.wrapped_module import ModuleNetwork, Normalisation
from ood_core.errors import OODError
from ood_core.evaluation.calibration import TPR
from ood_core.interfaces import EvaluationView, Network

DETECTOR = "detector"
"""What its folder is called in that of a run."""

BATCH = 64
"""Images that pass through the network at once."""


class Detector:
    """Tells images that a classifier was not made for from those it was.

    From a run:

        detector = Detector.load("runs/mood")
        detector.predict("photos/").is_ood

    or of one's own network, without any recipe:

        detector = Detector(image_size=224).fit(module, (images, labels), ["energy", "mahalanobis"])
        detector.save("detector")

    Scores are float64, and higher means more OOD. The methods that scikit-learn's outlier detectors have follow its
    conventions instead: `score_samples` and `decision_function` are high for ID images.

    Args:
        image_size: S, the side in pixels of what the module is given.
        mean: Of each channel, subtracted from images in [0, 1].
        std: Of each channel, by which they are then divided; one number each gives the module grey images.
        embeddings: Layer of the module whose outputs are the embeddings, or key or position of what it returns; found
            unless given.
        logits: Likewise; False where there are none to use.
        crop_fraction: Share of the resized image's shorter side that the central square keeps.
        interpolation: Of the resizing, which is antialiased; "bilinear" or "bicubic".
        squash: Whether both sides are resized, so that nothing of an image that is not square is cut off.
        holdout: Share of the images to calibrate by, where none are given for that.
        tpr: Share of ID images to accept.
        per_class: Whether each predicted class gets a threshold of its own.
        examples: Whether up to 1000 of the images are kept as thumbnails, to show what is nearest to a new one.
        seed: Of the hold-out, and of scorers that draw.
        name: What the detector is called.
    """

    def __init__(
        self,
        *,
        image_size: int | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        embeddings: str | int | None = None,
        logits: str | int | bool | None = None,
        crop_fraction: float = 1.0,
        interpolation: str = "bicubic",
        squash: bool = False,
        holdout: float = 0.2,
        tpr: float = TPR,
        per_class: bool = False,
        examples: bool = True,
        seed: int = 0,
        name: str = "detector",
    ) -> None:
        _require(image_size, holdout, tpr)
        self.image_size, self.mean, self.std = image_size, mean, std
        self.embeddings, self.logits = embeddings, logits
        self.crop_fraction, self.interpolation, self.squash = crop_fraction, interpolation, squash
        self.holdout, self.tpr, self.per_class = holdout, tpr, per_class
        self.examples, self.seed, self.name = examples, seed, name
        self._state: DetectorState | None = None

    def __repr__(self) -> str:
        if self._state is None:
            return f"Detector({self.name!r}, not fitted)"
        network, found = self._state.network, self.id_accuracy
        read = f"; {network.describe()}" if isinstance(network, ModuleNetwork) else ""
        accuracy = "" if found is None else f", ID accuracy {found:.1%}"
        scorers = ", ".join(self.scorers)
        return f"Detector({self.name!r}, {len(self.classes)} classes, scorers {scorers}{accuracy}{read})"

    # ------------------------------------------------------------------------------------------------ making, keeping

    @classmethod
    def load(cls, path: str | Path, *, backbone: Any = None, device: str | None = None) -> Self:
        """Return a saved detector, every file of it verified.

        Args:
            path: Its folder, or that of a run, in which it is called `detector`.
            backbone: The module, for a detector that was fitted to one that is not a plugin's.
            device: Where the network is to run, such as "cpu"; on the GPU where there is one, unless given.

        Raises:
            OODError: A file is missing or changed, a plugin is missing or of another version, or the device is not
                there; says which.
        """
        return cls.from_state(loading.load(folder_of(Path(path)), plugins.find(), backbone, _usable(device)))

    @classmethod
    def from_state(cls, state: DetectorState) -> Self:
        """Return the detector with what was fitted."""
        network = state.network
        normalisation = network.normalisation if isinstance(network, ModuleNetwork) else Normalisation()
        made = cls(
            image_size=state.preprocessing.image_size,
            mean=normalisation.mean,
            std=normalisation.std,
            **_named(network),
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
    ) -> Self:
        """Fit scorers to what a network makes of ID images, calibrate them on others, and return the detector.

        Args:
            backbone: A torch module or function that returns logits [N, C], embeddings [N, D], or both in a tuple,
                mapping or object; or a plugin's backbone. Embeddings that a module does not return are the inputs of
                the layer that makes the logits; `repr` says what was taken for which. A copy of a module is kept.
            dataset: ID images with labels: a folder with a folder for each class, a pair (images, labels), a data set
                of torch or Hugging Face, or what yields pairs, longer tuples or dicts. Without labels all are of one
                class. Images are in [0, 1] or uint8, not normalised.
            scorers: Names, mappings with options as in a recipe, or scorers; the first one decides.
            held_out: ID images to calibrate by, in any of those forms; a share of the others, unless given.
            classes: Names of the classes, in the order of the module's outputs.

        Warns:
            OODWarning: The module hardly recognises the held-out images, the central square leaves much of them out, or
                a scorer takes much memory.

        Raises:
            OODError: The module gives no embeddings, a scorer needs what is not there, or a picture is broken.
        """
        if self.image_size is None:
            raise OODError("say which image_size the module wants: Detector(image_size=224)")
        train = labelled_data.read_labelled(dataset, classes)
        kept = None if held_out is None else labelled_data.read_labelled(held_out, train.classes)
        self._state = from_module.fit(
            backbone, train, from_module.named(scorers, plugins.find()), kept, self._options(self.image_size)
        )
        return self

    def _options(self, image_size: int) -> from_module.Options:
        return from_module.Options(
            image_size=image_size,
            view=_view(self.crop_fraction, self.interpolation, self.squash),
            normalisation=Normalisation.of(self.mean, self.std),
            embeddings=self.embeddings,
            logits=self.logits,
            holdout=self.holdout,
            tpr=self.tpr,
            per_class=self.per_class,
            examples=self.examples,
            seed=self.seed,
            name=self.name,
        )

    def save(self, path: str | Path) -> None:
        """Write the detector into a folder of its own; whole or not at all.

        Raises:
            OODError: The folder cannot be written, or holds something else.
        """
        bundle.save(self.state, Path(path), plugins.find())

    @property
    def state(self) -> DetectorState:
        """All that was learned.

        Raises:
            OODError: Nothing was.
        """
        if self._state is None:
            raise OODError("the detector is not fitted; call fit, or Detector.load")
        return self._state

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the ID classes."""
        return self.state.classes

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers; the first one decides, unless another one is asked to."""
        return tuple(of.name for of in self.state.scorers)

    @property
    def id_accuracy(self) -> float | None:
        """Share of the held-out ID images that the network classifies correctly; None without logits or labels.

        Of a network that saw these images in its training it says little, but that it sees them as it did there.
        """
        return self.state.id_accuracy

    def threshold(self, tpr: float | None = None, scorer: str | None = None) -> float:
        """Return the score above which an image is OOD.

        Raises:
            OODError: There is no such scorer, or too few calibration images for such a rate.
        """
        return float(decision_rule(self.state, scorer, tpr, per_class=False).thresholds[0])

    def interval(self, tpr: float | None = None, confidence: float = 0.95) -> tuple[float, float]:
        """Return between what the share of new ID images lies that the threshold accepts.

        Raises:
            OODError: There are too few calibration images for such a rate.
        """
        share = self.state.tpr if tpr is None else tpr
        return self.state.scorers[0].calibration.interval(share, confidence)

    # ------------------------------------------------------------------------------------------------------- new images

    def score(self, images: Any, *, batch_size: int = BATCH) -> dict[str, NDArray[np.float64]]:
        """Return float64 [N] for each scorer by name; higher means more OOD.

        Args:
            images: A path, a folder, a picture, an array, a tensor, or anything that yields such or batches of such:
                see `inputs.items`.
            batch_size: Images that pass through the network at once; changes scores by rounding at most.

        Raises:
            OODError: An image cannot be read, or a score is not finite; says which.
        """
        found = self._scored(images, batch_size)
        for row in range(len(found)):
            if (reason := found.broken(row)) is not None:
                raise OODError(f"image {row}: {reason}")
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
        """Return decisions on N images: is_ood, score, p_value, predicted class.

        Args:
            images: As in `score`.
            scorer: Name of the one that decides; the first one unless given.
            tpr: Share of ID images to accept; that of the detector unless given.
            per_class: Whether each predicted class has a threshold of its own; as the detector has it unless given.
            batch_size: Images that pass through the network at once.

        Raises:
            OODError: An image cannot be read, there is no such scorer, or there are too few calibration images.
        """
        by = decision_rule(self.state, scorer, tpr, per_class)
        return decide(self.state, self._scored(images, batch_size), by)

    def score_samples(self, images: Any) -> NDArray[np.float64]:
        """Return minus the deciding score, [N]: as scikit-learn has it, lower means more OOD."""
        return -self.score(images)[self.scorers[0]]

    def decision_function(self, images: Any) -> NDArray[np.float64]:
        """Return the threshold less the deciding score, [N]: as scikit-learn has it, negative for OOD images."""
        found = self.predict(images)
        return found.threshold - found.score

    def stream(self, images: Any, *, batch_size: int = BATCH) -> Iterator[tuple[ImageBatch, ScoredBatch | None]]:
        """Yield batch after batch with its scores, in constant memory; images that cannot be read are among its errors.

        The scores are those of the images that could be read, in their order; None where no image of a batch could.
        """
        if batch_size < 1:
            raise OODError(f"batch_size must be 1 or more, not {batch_size}")
        for shown in iter_batches(image_refs(images), self.state.preprocessing, batch_size, self.state.device):
            yield shown, score_images(self.state, shown.images) if len(shown.images) else None

    def _scored(self, images: Any, batch_size: int) -> ScoredBatch:
        parts = []
        for shown, found in self.stream(images, batch_size=batch_size):
            if shown.errors:
                raise OODError(next(iter(shown.errors.values())))
            assert found is not None, "a batch without errors has images"
            parts.append(found)
        if not parts:
            raise OODError("there are no images to score")
        return concatenate(parts)


def _require(image_size: int | None, holdout: float, tpr: float) -> None:
    """Refuse options that cannot be meant.

    Raises:
        OODError: Names the first one.
    """
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise OODError(f"image_size must be a whole number of pixels, not {image_size!r}")
    for name, share in (("holdout", holdout), ("tpr", tpr)):
        if not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise OODError(f"{name} must lie between 0 and 1, not {share!r}")


def _named(network: Network) -> dict[str, Any]:
    """Return the options that name embeddings and logits where they were read; inputs of layers are found again."""
    if not isinstance(network, ModuleNetwork) or network.sources.embeddings.kind == "method":
        return {}
    embeddings, logits = network.sources.embeddings, network.sources.logits
    return {
        "embeddings": None if embeddings.kind == "input" else embeddings.name,
        "logits": False if logits is None else logits.name,
    }


def _view(crop_fraction: float, interpolation: str, squash: bool) -> EvaluationView:
    """Return how images become squares.

    Raises:
        OODError: Names the option that cannot be meant.
    """
    if interpolation not in ("bilinear", "bicubic"):
        raise OODError(f"interpolation must be 'bilinear' or 'bicubic', not {interpolation!r}")
    if not isinstance(crop_fraction, (int, float)) or not 0 < crop_fraction <= 1:
        raise OODError(f"crop_fraction must be above 0 and at most 1, not {crop_fraction!r}")
    if not isinstance(squash, bool):
        raise OODError(f"squash must be True or False, not {squash!r}")
    return EvaluationView(crop_fraction=crop_fraction, interpolation=interpolation, squash=squash)  # type: ignore[arg-type]


def _usable(device: str | None) -> torch.device | None:
    """Return the device of this name.

    Raises:
        OODError: It is not there.
    """
    try:
        return None if device is None else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # an assertion where torch was built without it
        reason = str(error).splitlines()[0].rstrip(".")
        raise OODError(f"device '{device}' cannot be used here: {reason}") from None


def folder_of(path: Path) -> Path:
    """Return the folder of a detector: itself, or `detector` in that of a run."""
    within = path / DETECTOR
    return within if within.is_dir() else path
