"""A torch module of the user's own, or anything else that can be called with images, as a network."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ood_core.detector.module_evidence import classifier_of, find
from ood_core.detector.module_outputs import Key, Source, Sources, observe, read, require_layers
from ood_core.detector.state import device_of
from ood_core.errors import OODError
from ood_core.interfaces import Network
from ood_core.interfaces.checks import require_finite

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601, as Pillow and torchvision have them)."""

OF_SIZES = ("size", "shape", "mat1", "dimension", "expected input", "height", "width")
"""Words of errors about images of a size, or of a number, that a module does not take."""

METHODS = Sources(Source("method", "forward_head(pre_logits=True)"), Source("method", "forward_head()"))
"""Where models of timm have both."""


@dataclass(frozen=True)
class Normalisation:
    """What is subtracted from each channel of images in [0, 1], and what they are then divided by.

    Three numbers each, or one each for a module that takes grey images.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalisation:
        """Return the normalisation.

        Raises:
            OODError: There are not three numbers of each, or one, or a deviation is not positive.
        """
        try:
            mean, std = tuple(map(float, mean)), tuple(map(float, std))
        except (TypeError, ValueError):
            raise OODError(f"mean and std are sequences of numbers, not {mean!r} and {std!r}") from None
        if len(mean) not in (1, 3) or len(std) != len(mean) or min(std) <= 0:
            raise OODError(
                "mean and std are three numbers each, or one each for a module of one channel, and std is positive; "
                f"not {mean} and {std}"
            )
        return cls(mean, std)


class ModuleNetwork(Network):
    """Calls a module with normalised images, and reads embeddings and logits where they were found.

    A module of one channel is given grey images; one in another precision is given images in its own, and its outputs
    are float32. Models of timm are asked through their methods.

    Args:
        module: The user's, of which a copy is kept.
        normalisation: What it wants of images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: Callable[[Tensor], Any], normalisation: Normalisation) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.module = _frozen(module) if isinstance(module, nn.Module) else _Called(module)
        for name, values in vars(normalisation).items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))
        self.sources = METHODS
        self.classifier: str | None = None
        self.num_features, self.outputs = 0, 0
        self.tried = 0  # images at once that the module took
        self.to(device_of(self))  # the statistics, to where the module is

    def find(
        self,
        images: Tensor,
        names: Sequence[str],
        classes: int,
        embeddings: Key | None = None,
        logits: Key | bool | None = None,
    ) -> None:
        """Find embeddings and logits in what the module makes of images [B, 3, S, S] in [0, 1].

        Args:
            images: At least one.
            names: Of these images.
            classes: Number of ID classes.
            embeddings: What the user names: a layer, or a key or position of what the module returns.
            logits: Likewise; False to read none.

        Raises:
            OODError: They are not there or may be any of several, or the module raises something.
        """
        if _has_methods(self.module) and embeddings is None and (logits is None or logits is False):
            self.use(images, METHODS if logits is None else Sources(METHODS.embeddings, None))
            return
        with torch.no_grad():
            seen = observe(self.module, self._call, self._shown(images))
        require_finite("the module gives", {f"values ({key!r})": rows for key, rows in seen.rows.items()}, names)
        self.use(images, find(seen, classes, embeddings, logits))

    def use(self, images: Tensor, sources: Sources) -> None:
        """Read embeddings and logits from here on where others have found them; images as in `find`.

        Raises:
            OODError: There is no such layer or value, or the module raises something.
        """
        require_layers(sources, self.module)
        self.sources, self.outputs, self.classifier = sources, 0, None
        with torch.no_grad():
            embeddings, logits = self._both(images)
            for what, rows in (("embeddings", embeddings), ("logits", logits)):
                if rows is not None and (rows.ndim != 2 or len(rows) != len(images)):
                    raise OODError(f"the module gives {what} {list(rows.shape)} for {len(images)} images, not [N, D]")
            self.num_features = embeddings.shape[1]
            # timm's without a head give embeddings for both; elsewhere the user may name one value for both
            headless = sources.embeddings.kind == "method" and logits is not None and torch.equal(logits, embeddings)
            if logits is not None and not headless:
                self.outputs = logits.shape[1]
                self.classifier = classifier_of(self.module, embeddings, logits)
        self.tried = len(images)

    @property
    def precision(self) -> str:
        """What the module computes in, such as "float32"."""
        return str(_dtype(self.module))[6:]

    def entry(self) -> dict[str, Any]:
        """Return where embeddings and logits are read, for `sources_of` and for readers of the manifest."""
        found: dict[str, Any] = {"embeddings": vars(self.sources.embeddings) | {"width": self.num_features}}
        logits = self.sources.logits
        found["logits"] = None if logits is None else vars(logits) | {"width": self.outputs}
        return found | {"note": self.sources.note, "precision": self.precision}

    def describe(self) -> str:
        """Return where embeddings and logits are read, with their widths."""
        sources = self.sources
        note = f" ({sources.note})" if sources.note else ""
        logits = f"{sources.logits} [{self.outputs}]{note}" if sources.logits is not None and self.outputs else "none"
        precision = "" if self.precision == "float32" else f"; in {self.precision}"
        return f"embeddings: {sources.embeddings} [{self.num_features}]; logits: {logits}{precision}"

    def forward_features(self, images: Tensor) -> Tensor:
        """Return embeddings and logits side by side, [B, D + C]."""
        embeddings, logits = self._both(images)
        return torch.cat([embeddings, logits], 1) if logits is not None and self.outputs else embeddings

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the one part or the other."""
        return features[:, : self.num_features] if pre_logits else features[:, self.num_features :]

    def get_classifier(self) -> nn.Module:
        """Return the linear layer that makes logits of embeddings, where there is one."""
        return nn.Identity() if self.classifier is None else self.module.get_submodule(self.classifier)

    def reset_classifier(self, num_classes: int) -> None:
        """Refuse: this network is scored as it is."""
        raise OODError("a module of your own is scored as it is; its classifier cannot be replaced")

    # ----------------------------------------------------------------------------------------------------------------

    def _shown(self, images: Tensor) -> Tensor:
        """Return images as the module is given them: normalised, of one channel if it takes one, in its precision."""
        images = images.to(self.mean.device)
        if len(self.mean) == 1:
            images = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        return ((images - self.mean) / self.std).to(_dtype(self.module))

    def _both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return float32 embeddings and logits."""
        shown = self._shown(images)
        if self.sources.embeddings.kind == "method":
            embeddings, logits = self._call(shown, _of_methods)
            logits = None if self.sources.logits is None else logits
        else:
            embeddings, logits = read(self.sources, self.module, self._call, shown)
        return embeddings.float(), None if logits is None else logits.float()

    def _call(self, shown: Tensor, function: Callable[[nn.Module, Tensor], Any] | None = None) -> Any:
        """Return what the module returns.

        Raises:
            OODError: It raised something; says what, and what it was given.
        """
        try:
            return self.module(shown) if function is None else function(self.module, shown)
        except OODError:
            raise
        except Exception as error:  # whatever a module of the user's raises
            if torch.compiler.is_exporting():
                raise
            lines = str(error).strip().splitlines()
            what = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
            given = f"{list(shown.shape)} {str(shown.dtype)[6:]} on {shown.device}"
            cause = self._cause(shown, error)
            raise OODError(f"the module raises {what}; it was given images {given}{cause}") from error

    def _cause(self, shown: Tensor, error: Exception) -> str:
        """Return what may be wrong with images that the module cannot take."""
        first = next((layer for layer in self.module.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is not None and first.in_channels != shown.shape[1]:
            mend = "; Detector(mean=[0.0], std=[1.0]) gives it grey images" if first.in_channels == 1 else ""
            return f", and its first convolution has in_channels={first.in_channels}{mend}"
        tensors = [of for of in self.module.parameters() if of.is_floating_point()]
        for what, found in (
            ("types", {str(of.dtype)[6:] for of in tensors}),
            ("devices", {str(of.device) for of in tensors}),
        ):
            if len(found) > 1:
                return f", and has weights of several {what}: {', '.join(sorted(found))}"
        if isinstance(error, NotImplementedError) or not any(word in str(error).lower() for word in OF_SIZES):
            return ""
        if self.tried and self.tried != len(shown):
            return f"; {self.tried} at once were taken: does it take any number?"
        return f"; is image_size={shown.shape[-1]} what it takes?"


def sources_of(entry: Mapping[str, Any]) -> Sources:
    """Return where embeddings and logits are read, of what `ModuleNetwork.entry` said."""
    read = [
        None if of is None else Source(of["kind"], of["name"], of["pooled"])
        for of in (entry["embeddings"], entry["logits"])
    ]
    assert read[0] is not None, "there are embeddings always"
    return Sources(read[0], read[1], entry["note"])


def _has_methods(module: Any) -> bool:
    """Return whether a module has timm's methods; those of a ScriptModule have no signature."""
    if isinstance(module, torch.jit.ScriptModule) or not callable(getattr(module, "forward_features", None)):
        return False
    method = getattr(module, "forward_head", None)
    return callable(method) and "pre_logits" in inspect.signature(method).parameters


def _of_methods(module: Any, shown: Tensor) -> tuple[Tensor, Tensor]:
    features = module.forward_features(shown)
    return module.forward_head(features, pre_logits=True), module.forward_head(features)


def _dtype(module: nn.Module) -> torch.dtype:
    """Return the precision of a module's first weights, float32 without any."""
    return next((of.dtype for of in module.parameters() if of.is_floating_point()), torch.float32)


def _frozen(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, so that neither side sees what the other one does to it.

    Wrappers that compile or distribute are taken off: what is in them has the same weights, and layers that call hooks.

    Raises:
        OODError: It cannot be copied.
    """
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, parallel) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, parallel) else module._orig_mod  # type: ignore[assignment]
    weights = list(module.parameters())
    if any(is_lazy(of) or of.is_meta for of in weights):
        raise OODError("the module has no weights yet: load them, or pass a batch through its lazy layers")
    # tensors made in inference mode may not take part in the gradients that some scorers need
    plain = {id(of): of.clone() for of in module.buffers() if of.is_inference()}
    plain |= {id(of): nn.Parameter(of.clone(), False) for of in weights if of.is_inference()}
    try:
        with torch.no_grad():  # copies of a ScriptModule's weights would be results of an operation
            copied = copy.deepcopy(module, plain)
    except Exception as error:  # locks, open files, tensors within a graph
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OODError(f"the module cannot be copied: {reason[:300]}; give a function that calls it") from error
    for parameter in copied.parameters():  # a ScriptModule has no requires_grad_
        parameter.requires_grad_(False)
    return copied.eval()


class _Called(nn.Module):
    """A function in a module's place."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        """Return what the function returns."""
        return self.function(images)
