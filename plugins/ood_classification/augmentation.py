"""What supervised training does to images and labels: parts of views, and the mixing of batches."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import TypeAlias

from PIL import Image, ImageOps
from torch import Tensor

from ood_core.data.transforms import Transform
from ood_core.runtime.torchvision_compat import prepare_torchvision

Mix: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# timm passes over sections that it cannot read, and so would train without what was misspelt
POLICIES = re.compile(
    r"rand(-(m|mmax|n|inc)\d+|-(mstd|p)\d+(\.\d+)?|-t(weights|3aw?))*"
    r"|augmix(-(m|d|b)\d+|-w[1-9]\d*|-mstd\d+(\.\d+)?)*"
    r"|(original|originalr|v0|v0r|3a)(-mstd\d+(\.\d+)?)?"
)
"""Names of timm's policies of automatic augmentation."""


def recoloured(image_size: int, policy: str | None, jitter: float) -> Transform:
    """Return timm's second stage of augmentation: a policy, jitter, or a policy that leaves room for jitter."""
    prepare_torchvision()
    from timm.data.transforms_factory import create_transform  # slow
    from torchvision.transforms import v2

    _, second, _ = create_transform(
        image_size,
        is_training=True,
        auto_augment=policy,
        color_jitter=jitter or None,  # type: ignore[arg-type] # timm takes None
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),  # BEiT's; what is turned in from outside gets this colour
        separate=True,
    )
    # timm keeps a list of operations or, for AutoAugment, of pairs of them
    kept = second.transforms[0] if policy else None
    operations = getattr(kept, "ops", None) or chain.from_iterable(getattr(kept, "policy", ()))
    for operation in operations:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterized
    change: Transform = v2.Compose([v2.ToPILImage(), second, v2.PILToTensor()])
    return change


def _posterized(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Posterize; with 0 bits, which timm draws and newer Pillow refuses, to black."""
    return ImageOps.posterize(image, min(bits, 8)) if bits > 0 else Image.new(image.mode, image.size)


def erasing(probability: float) -> Transform:
    """Return what puts noise in place of a rectangle of some images; all become float32."""
    prepare_torchvision()
    from timm.data.random_erasing import RandomErasing  # slow

    erase: Transform = RandomErasing(probability, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]
    return partial(_erased, erase)


def _erased(erase: Transform, image: Tensor) -> Tensor:
    """The noise is standard normal for a network whose pixels are normalised with mean = std = 0.5, as BEiT's are."""
    return erase(image.float() / 127.5 - 1) / 2 + 0.5


def mixing(mixup: float, cutmix: float, classes: int) -> Mix:
    """Return what mixes images [B, 3, S, S] and labels [B], to [B, classes]; with both parameters, one or the other."""
    if not (mixup or cutmix):
        return _unmixed
    prepare_torchvision()
    from torchvision.transforms import v2  # slow

    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    mix: Mix = v2.RandomChoice([kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha])
    return mix


def _unmixed(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images, labels
