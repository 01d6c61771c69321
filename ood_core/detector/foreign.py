"""A torch module of the user's own, or anything else that can be called with images, as a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ood_core.detector.parts import device_of
from ood_core.errors import OODError
from ood_core.interfaces import Network


@dataclass(frozen=True)
class Normalisation:
    """What is subtracted from each channel of images in [0, 1], and what they are then divided by."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalisation:
        """Return the normalisation.

        Raises:
            OODError: There are not three numbers of each, or a deviation is not positive.
        """
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise OODError(f"mean and std are three numbers each, and std is positive; not {mean} and {std}")
        return cls((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


class ForeignNetwork(Network):
    """Calls a module with normalised images, and finds embeddings and logits in what it gives.

    It may give both as a pair, or one tensor: logits if a linear layer makes them, whose inputs then are the
    embeddings; embeddings else. A module with timm's methods is asked through those.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: Callable[[Tensor], Any], normalisation: Normalisation, example: Tensor) -> None:
        """Call the module once.

        Args:
            module: The user's, of which a copy is kept.
            normalisation: What it wants of images.
            example: [B, 3, S, S] in [0, 1].

        Raises:
            OODError: It gives anything else than embeddings and logits.
        """
        super().__init__()
        self.module = _frozen(module) if isinstance(module, nn.Module) else _Called(module)
        for name, values in vars(normalisation).items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))
        self.has_methods = all(callable(getattr(module, name, None)) for name in ("forward_features", "forward_head"))
        self.hooked: str | None = None
        """The linear layer that makes the one tensor which the module returns."""
        self.classifier: str | None = None
        self.num_features, self.outputs = 0, 0
        where = device_of(self)
        self.to(where)  # the statistics, to where the module is
        with torch.no_grad():
            self._observe(example.to(where))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return embeddings and logits side by side, [B, D + C]."""
        embeddings, logits = self._both((images - self.mean) / self.std)
        return torch.cat([embeddings, logits], 1) if logits is not None and self.outputs else embeddings

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the one part or the other."""
        return features[:, : self.num_features] if pre_logits else features[:, self.num_features :]

    def get_classifier(self) -> nn.Module:
        """Return the linear layer that makes logits of embeddings, where there is one."""
        return nn.Identity() if self.classifier is None else self.get_submodule(self.classifier)

    def reset_classifier(self, num_classes: int) -> None:
        """Refuse: this network is scored as it is."""
        raise OODError("a module of your own is scored as it is; its classifier cannot be replaced")

    # ----------------------------------------------------------------------------------------------------------------

    def _observe(self, example: Tensor) -> None:
        """Find out what the module gives."""
        shown = (example - self.mean) / self.std
        if not self.has_methods:
            self.hooked = self._find_classifier(shown)
        embeddings, logits = self._both(shown)
        for what, rows in (("embeddings", embeddings), ("logits", logits)):
            if rows is not None and (rows.ndim != 2 or len(rows) != len(example)):
                raise OODError(f"the module gives {what} {list(rows.shape)} for {len(example)} images, not [N, D]")
        self.num_features = embeddings.shape[1]
        if logits is not None and not torch.equal(logits, embeddings):  # timm's without a head give embeddings for them
            self.outputs = logits.shape[1]
            self.classifier = self.hooked or self._matching_layer(embeddings, logits)

    def _both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.has_methods:
            module: Any = self.module
            features = module.forward_features(images)
            return module.forward_head(features, pre_logits=True), module.forward_head(features)
        if self.hooked is None:
            return _pair(self.module(images))
        seen: list[Tensor] = []
        layer = self.get_submodule(self.hooked)
        handle = layer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            logits = self.module(images)
        finally:
            handle.remove()
        return seen[-1], logits

    def _find_classifier(self, shown: Tensor) -> str | None:
        """Return the name of the linear layer whose outputs the module returns, None if it is none."""
        made: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda _module, _inputs, output: made.update({name: output})

        linear = [(name, layer) for name, layer in self.named_modules() if isinstance(layer, nn.Linear)]
        handles = [layer.register_forward_hook(keep(name)) for name, layer in linear]
        try:
            returned = self.module(shown)
        finally:
            for handle in handles:
                handle.remove()
        if not isinstance(returned, Tensor):
            return None
        same = [name for name, output in made.items() if torch.equal(output, returned)]
        return same[-1] if same else None

    def _matching_layer(self, embeddings: Tensor, logits: Tensor) -> str | None:
        """Return the name of the linear layer that makes these logits of these embeddings."""
        shape = (logits.shape[1], embeddings.shape[1])
        for name, layer in self.named_modules():
            fits = isinstance(layer, nn.Linear) and layer.weight.shape == shape
            if fits and torch.allclose(layer(embeddings), logits, rtol=1e-3, atol=1e-3):
                return str(name)
        return None


def _frozen(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, so that neither side sees what the other one does to it."""
    return copy.deepcopy(module).eval().requires_grad_(False)


class _Called(nn.Module):
    """A function in a module's place."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        """Return what the function returns."""
        return self.function(images)


def _pair(returned: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(returned, Tensor):
        return returned, None
    if isinstance(returned, dict) and "embeddings" in returned:
        return returned["embeddings"], returned.get("logits")
    if (
        isinstance(returned, (tuple, list))
        and len(returned) == 2
        and all(isinstance(part, Tensor) for part in returned)
    ):
        return returned[0], returned[1]
    raise OODError(
        f"the module gives a {type(returned).__name__}; wanted are embeddings [N, D], a pair of embeddings and logits, "
        "or the outputs of a linear layer"
    )
