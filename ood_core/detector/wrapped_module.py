"""A torch module or function of the user as a network."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ood_core.detector.module_evidence import classifier_of, locate_sources
from ood_core.detector.module_outputs import Key, Source, Sources, observe, read_sources
from ood_core.detector.state import Normalisation, device_of
from ood_core.errors import OODError
from ood_core.interfaces import Network
from ood_core.interfaces.checks import require_finite
from ood_core.runtime.plugin_errors import torchvision_page

LUMA = (0.299, 0.587, 0.114)  # grey from red, green and blue (ITU-R BT.601, as in Pillow and torchvision)
OF_SIZES = ("size", "shape", "mat1", "dimension", "expected input", "height", "width")  # in errors about sizes
METHODS = Sources(Source("method", "forward_head(pre_logits=True)"), Source("method", "forward_head()"))  # of timm


class ModuleNetwork(Network):
    """Calls a copy of a module with normalised images, and reads embeddings and logits at their sources.

    A module of one channel gets grey images; one in another precision gets images in its own, and its outputs are cast
    to float32. Models of timm are called through their methods.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: Callable[[Tensor], Any], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalisation = Normalisation.of(mean, std)
        self.module = _frozen(module) if isinstance(module, nn.Module) else _FunctionModule(module)
        for name, values in vars(self.normalisation).items():
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))
        self.sources = METHODS
        self.classifier: str | None = None
        self.num_features, self.outputs = 0, 0
        self.accepted = 0  # batch size with which the module has worked
        self.to(device_of(self))  # the buffers too

    def find_sources(
        self,
        images: Tensor,
        names: Sequence[str],
        classes: int,
        embeddings: Key | None = None,
        logits: Key | bool | None = None,
    ) -> None:
        """Find embeddings and logits in the module's outputs for images [B, 3, S, S] in [0, 1], at least one.

        `embeddings` and `logits` are the user's choice: a layer, or a key or position in the returned value.
        """
        if _has_methods(self.module) and embeddings is None and (logits is None or logits is False):
            self.use_sources(images, METHODS if logits is None else Sources(METHODS.embeddings, None))
            return
        with torch.no_grad():
            seen = observe(self.module, self._call, self._normalised(images))
        require_finite("the module gives", {f"values ({key!r})": rows for key, rows in seen.rows.items()}, names)
        self.use_sources(images, locate_sources(seen, classes, embeddings, logits))

    def use_sources(self, images: Tensor, sources: Sources) -> None:
        """Read embeddings and logits at these sources from now on; images as in `find_sources`."""
        names = dict(self.module.named_modules())
        for source in (sources.embeddings, sources.logits):
            if source is not None and source.kind in ("input", "output") and source.name not in names:
                raise OODError(f"the module has no layer '{source.name}', at which the detector reads")
        self.sources, self.outputs, self.classifier = sources, 0, None
        with torch.no_grad():
            embeddings, logits = self._read(images)
            for what, rows in (("embeddings", embeddings), ("logits", logits)):
                if rows is not None and (rows.ndim != 2 or len(rows) != len(images)):
                    raise OODError(f"the module gives {what} {list(rows.shape)} for {len(images)} images, not [N, D]")
            self.num_features = embeddings.shape[1]
            # timm's without a head give embeddings for both; elsewhere the user may name one value for both
            headless = sources.embeddings.kind == "method" and logits is not None and torch.equal(logits, embeddings)
            if logits is not None and not headless:
                self.outputs = logits.shape[1]
                self.classifier = classifier_of(self.module, embeddings, logits)
        self.accepted = len(images)

    @property
    def precision(self) -> str:
        """Type of the module's weights, such as "float32"."""
        return str(_dtype(self.module))[6:]

    def options(self) -> dict[str, Any]:
        """Return the options of `Detector` about the module; inputs of layers are found again."""
        embeddings, logits = self.sources.embeddings, self.sources.logits
        found: dict[str, Any] = dict(vars(self.normalisation))
        if embeddings.kind != "method":
            found["embeddings"] = None if embeddings.kind == "input" else embeddings.name
            found["logits"] = False if logits is None else logits.name
        return found

    def manifest_entry(self) -> dict[str, Any]:
        """Return the sources with their widths, for the manifest and `parse_sources`."""
        found: dict[str, Any] = {"embeddings": vars(self.sources.embeddings) | {"width": self.num_features}}
        logits = self.sources.logits
        found["logits"] = None if logits is None else vars(logits) | {"width": self.outputs}
        return found | {"note": self.sources.note, "precision": self.precision}

    def describe(self) -> str:
        """Return the sources with their widths, for a person."""
        sources = self.sources
        note = f" ({sources.note})" if sources.note else ""
        logits = f"{sources.logits} [{self.outputs}]{note}" if sources.logits is not None and self.outputs else "none"
        precision = "" if self.precision == "float32" else f"; in {self.precision}"
        return f"embeddings: {sources.embeddings} [{self.num_features}]; logits: {logits}{precision}"

    def forward_features(self, images: Tensor) -> Tensor:
        """Return embeddings and logits side by side, [B, D + C]."""
        embeddings, logits = self._read(images)
        return torch.cat([embeddings, logits], 1) if logits is not None and self.outputs else embeddings

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return embeddings or logits."""
        return features[:, : self.num_features] if pre_logits else features[:, self.num_features :]

    def get_classifier(self) -> nn.Module:
        """Return the linear layer that makes logits of embeddings; `nn.Identity` if there is none."""
        return nn.Identity() if self.classifier is None else self.module.get_submodule(self.classifier)

    def reset_classifier(self, num_classes: int) -> None:
        """Raise OODError: this network is scored as it is."""
        raise OODError("a module of your own is scored as it is; its classifier cannot be replaced")

    def _normalised(self, images: Tensor) -> Tensor:
        """Return the module's input: normalised, grey if it has one channel, in its precision."""
        images = images.to(self.mean.device)
        if len(self.mean) == 1:
            images = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        return ((images - self.mean) / self.std).to(_dtype(self.module))

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        inputs = self._normalised(images)
        if self.sources.embeddings.kind == "method":
            embeddings, logits = self._call(inputs, _call_methods)
            logits = None if self.sources.logits is None else logits
        else:
            embeddings, logits = read_sources(self.sources, self.module, self._call, inputs)
        return embeddings.float(), None if logits is None else logits.float()

    def _call(self, inputs: Tensor, function: Callable[[nn.Module, Tensor], Any] | None = None) -> Any:
        """Return the module's output; an error becomes an OODError with the input's shape and a likely cause."""
        try:
            return self.module(inputs) if function is None else function(self.module, inputs)
        except OODError:
            raise
        except Exception as error:  # whatever a module of the user's raises
            if torch.compiler.is_exporting():
                raise
            lines = str(error).strip().splitlines()
            what = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
            given = f"{list(inputs.shape)} {str(inputs.dtype)[6:]} on {inputs.device}"
            raise OODError(
                f"the module raises {what}; it was given images {given}{self._cause(inputs, error)}"
            ) from error

    def _cause(self, inputs: Tensor, error: Exception) -> str:
        """Return a likely reason why the module does not take these images."""
        if page := torchvision_page(str(error)):
            return page
        first = next((layer for layer in self.module.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is not None and first.in_channels != inputs.shape[1]:
            mend = "; Detector(mean=[0.0], std=[1.0]) gives it grey images" if first.in_channels == 1 else ""
            return f", and its first convolution has in_channels={first.in_channels}{mend}"
        weights = [of for of in self.module.parameters() if of.is_floating_point()]
        types, devices = {str(of.dtype)[6:] for of in weights}, {str(of.device) for of in weights}
        for what, found in (("types", types), ("devices", devices)):
            if len(found) > 1:
                return f", and has weights of several {what}: {', '.join(sorted(found))}"
        if isinstance(error, NotImplementedError) or not any(word in str(error).lower() for word in OF_SIZES):
            return ""
        if self.accepted and self.accepted != len(inputs):
            return f"; {self.accepted} at once were taken: does it take any number?"
        return f"; is image_size={inputs.shape[-1]} what it takes?"


def parse_sources(entry: Mapping[str, Any]) -> Sources:
    """Return the sources of `ModuleNetwork.manifest_entry`."""
    embeddings, logits = (
        None if of is None else Source(of["kind"], of["name"], of["pooled"])
        for of in (entry["embeddings"], entry["logits"])
    )
    assert embeddings is not None, "there are embeddings always"
    return Sources(embeddings, logits, entry["note"])


def _has_methods(module: Any) -> bool:
    """Return whether a module has timm's methods; in a ScriptModule they have no signature."""
    if isinstance(module, torch.jit.ScriptModule) or not callable(getattr(module, "forward_features", None)):
        return False
    method = getattr(module, "forward_head", None)
    return callable(method) and "pre_logits" in inspect.signature(method).parameters


def _call_methods(module: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    features = module.forward_features(inputs)
    return module.forward_head(features, pre_logits=True), module.forward_head(features)


def _dtype(module: nn.Module) -> torch.dtype:
    """Return the type of a module's first weights, float32 without any."""
    return next((of.dtype for of in module.parameters() if of.is_floating_point()), torch.float32)


def _frozen(module: nn.Module) -> nn.Module:
    """Return an independent copy in evaluation mode.

    Wrappers that compile or distribute are removed: the module inside has the same weights, and layers that call hooks.
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


class _FunctionModule(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)
