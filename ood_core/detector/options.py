"""Options of a detector, validated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ood_core.detector.state import Preprocessing
from ood_core.detector.wrapped_module import Normalisation
from ood_core.errors import OODError
from ood_core.evaluation import TPR
from ood_core.interfaces import EvaluationView


@dataclass(kw_only=True, eq=False, repr=False)
class DetectorOptions:
    """The options of `Detector`, which documents them; `fit` reads them."""

    image_size: int | None = None
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    embeddings: str | int | None = None
    logits: str | int | bool | None = None
    crop_fraction: float = 1.0
    interpolation: str = "bicubic"
    squash: bool = False
    holdout: float = 0.2
    tpr: float = TPR
    per_class: bool = False
    examples: bool = True
    seed: int = 0
    name: str = "detector"

    def __post_init__(self) -> None:
        if self.image_size is not None and (not isinstance(self.image_size, int) or self.image_size < 1):
            raise OODError(f"image_size must be a whole number of pixels, not {self.image_size!r}")
        for option, share in (("holdout", self.holdout), ("tpr", self.tpr)):
            if not isinstance(share, (int, float)) or not 0 <= share < 1:
                raise OODError(f"{option} must lie between 0 and 1, not {share!r}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise OODError(f"interpolation must be 'bilinear' or 'bicubic', not {self.interpolation!r}")
        if not isinstance(self.crop_fraction, (int, float)) or not 0 < self.crop_fraction <= 1:
            raise OODError(f"crop_fraction must be above 0 and at most 1, not {self.crop_fraction!r}")
        if not isinstance(self.squash, bool):
            raise OODError(f"squash must be True or False, not {self.squash!r}")

    @property
    def preprocessing(self) -> Preprocessing:
        """Resizing and cropping of images.

        Raises:
            OODError: There is no image_size.
        """
        if self.image_size is None:
            raise OODError("say which image_size the module wants: Detector(image_size=224)")
        view = {"crop_fraction": self.crop_fraction, "interpolation": self.interpolation, "squash": self.squash}
        return Preprocessing(self.image_size, EvaluationView(**view))  # type: ignore[arg-type]

    @property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation of the module's images.

        Raises:
            OODError: There are not three numbers of each, or one, or a deviation is not positive.
        """
        return Normalisation.of(self.mean, self.std)
