"""Reads the embeddings and logits of a torch module: returned values, and inputs and outputs of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from ood_core.errors import OODError, suggest

Key: TypeAlias = str | int
Call: TypeAlias = Callable[[Tensor], Any]

LISTED = 6  # maximum number of names in an error


@dataclass(frozen=True)
class Source:
    """Location of embeddings or logits: a returned value, the input or output of a layer, or the result of a method."""

    kind: Literal["returned", "input", "output", "method"]
    name: Key  # key or position of the value, or name of the layer or method
    pooled: bool = False  # whether maps [N, D, H, W] are averaged over their positions

    def __str__(self) -> str:
        what = "returned value" if self.kind == "returned" else f"{self.kind} of"
        text = str(self.name) if self.kind == "method" else f"{what} {self.name!r}"
        return f"{text}, mean over positions" if self.pooled else text


@dataclass(frozen=True)
class Sources:
    """Locations of embeddings, and of logits if there are any; a note says how they differ from returned values."""

    embeddings: Source
    logits: Source | None
    note: str = ""


@dataclass(frozen=True)
class LayerCall:
    """First input and output of a layer, [N, D] each; None for an input of another shape."""

    name: str
    module: nn.Module
    input: Tensor | None
    output: Tensor


@dataclass(frozen=True)
class Observation:
    """One forward pass of a module."""

    module: nn.Module
    returned: Mapping[Key, Any]  # all returned values, by key or position
    rows: Mapping[Key, Tensor]  # those that are [N, D]
    calls: Sequence[LayerCall]  # of the layers with outputs [N, D], in the order in which they ended
    shapes: Mapping[str, list[int] | None]  # of the outputs of all layers, by name; None for other objects than tensors

    def describe(self) -> str:
        """Return the returned values with their shapes, for an error."""
        shown = (f"'{key}' {_text(of)}" if isinstance(key, str) else _text(of) for key, of in self.returned.items())
        return "the module returns " + ", ".join(shown)

    def hint(self) -> str:
        """Return how the user names the embeddings, for an error."""
        names = list(dict.fromkeys(call.name for call in self.calls))
        listed = f"; layers that give [N, D]: {', '.join(map(repr, names[-LISTED:]))}"
        if not self.shapes:
            listed = "; no layers are seen in a function or ScriptModule: give the module itself, or return both"
        return f"name what has the embeddings, a layer or what is returned: Detector(embeddings=...){listed}"

    def source(self, name: Any, option: str) -> Source:
        """Return the value or layer that the user names; raise OODError if there is none, or it is not [N, D]."""
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise OODError(f"{option} names a layer, or a key or position of what is returned; not {name!r}")
        is_returned = name in self.returned
        if not is_returned and name not in self.shapes:
            names = [key for key in (*self.returned, *self.shapes) if isinstance(key, str)]
            near = suggest(name, names) if isinstance(name, str) else ""
            if " There is: " in near:  # a list of all layers is no help
                near = f" {self.hint()}"
            raise OODError(f"{option}={name!r}: {self.describe()}, and has no layer of this name.{near}")
        shape = _shape(self.returned[name]) if is_returned else self.shapes[str(name)]
        kind: Literal["returned", "output"] = "returned" if is_returned else "output"
        if shape is not None and (len(shape) <= 2 or shape[2:] == [1, 1]):
            return Source(kind, name)
        if shape is not None and len(shape) == 4 and shape[2] == shape[3]:
            return Source(kind, name, pooled=True)
        value = _text(self.returned[name]) if is_returned else shape or "no dense tensor"
        raise OODError(
            f"{option}={name!r}: {value} is neither [N, D] nor a map [N, D, S, S], which is averaged; "
            "name another layer, or give a module that returns [N, D], such as the first token"
        )


def observe(module: nn.Module, call: Call, images: Tensor) -> Observation:
    """Call the module once and record the layers with outputs [N, D]; maps of 1x1 convolutions are averaged."""
    calls: list[LayerCall] = []
    shapes: dict[str, list[int] | None] = {}
    count = images.shape[0]

    def record(name: str, layer: nn.Module, given: Any, output: Any) -> None:
        shapes[name] = _shape(output)
        if (rows := as_rows(output, count, is_linear(layer))) is not None:
            inputs = as_rows(given, count, is_linear(layer))
            calls.append(LayerCall(name, layer, None if inputs is None else inputs.clone(), rows.clone()))

    with _recording(module, [name for name, _ in module.named_modules() if name], record):
        returned = named_values(call(images))
    rows = {key: found for key, value in returned.items() if (found := as_rows(value, count)) is not None}
    return Observation(module, returned, rows, calls, shapes)


def read_sources(sources: Sources, module: nn.Module, call: Call, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return embeddings [N, D] and logits [N, C] of images; raise OODError if they are not at their sources."""
    wanted = [source for source in (sources.embeddings, sources.logits) if source is not None]
    found: dict[tuple[str, Key], Any] = {}

    def record(name: str, _layer: nn.Module, given: Any, output: Any) -> None:
        for kind, value in (("input", given), ("output", output)):
            found[kind, name] = value.clone() if isinstance(value, Tensor) else value  # later layers may work in place

    with _recording(module, {str(source.name) for source in wanted if source.kind in ("input", "output")}, record):
        returned = call(images)
    found |= {("returned", key): value for key, value in named_values(returned).items()}
    read = []
    for source in wanted:
        value = found.get((source.kind, source.name))
        rows = as_rows(value, images.shape[0], source.pooled)  # len() would make a traced graph one of this batch alone
        if rows is None:
            raise OODError(f"{source} is {_text(value)} for {len(images)} images, not [{len(images)}, D]")
        read.append(rows)
    return read[0], read[1] if len(read) > 1 else None


def named_values(returned: Any) -> dict[Key, Any]:
    """Return the values of a tensor, mapping, tuple, dataclass or other object by key or position."""
    if isinstance(returned, Tensor):
        return {0: returned}
    if isinstance(returned, Mapping):
        found: dict[Key, Any] = dict(returned)
    elif isinstance(returned, (tuple, list)):
        found = dict(returned._asdict()) if hasattr(returned, "_asdict") else dict(enumerate(returned))
    else:
        found = dict(getattr(returned, "__dict__", {}))
    if not found:
        raise OODError(f"the module returns a {type(returned).__name__}, which holds no tensors")
    return {key: value for key, value in found.items() if value is not None}


def as_rows(value: Any, count: int, maps: bool = False) -> Tensor | None:
    """Return [N, D] of dense floats [N], [N, D] or [N, D, 1, 1], with `maps` of [N, D, S, S]; None for others."""
    if not _is_dense(value) or not value.is_floating_point() or not value.ndim or value.shape[0] != count:
        return None
    if value.ndim <= 2:
        return value if value.ndim == 2 else value[:, None]
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        return value.flatten(1)
    return value.mean((2, 3)) if value.ndim == 4 and maps and value.shape[2] == value.shape[3] else None


@contextmanager
def _recording(
    module: nn.Module, names: Iterable[str], record: Callable[[str, nn.Module, Any, Any], None]
) -> Iterator[None]:
    """Call `record` with the name, module, first input and output of these layers after each of their calls."""

    def hook(name: str, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        record(name, layer, next(iter((*inputs, *named.values())), None), output)

    layers = dict(module.named_modules())
    with ExitStack() as stack:
        for name in names:
            if not isinstance(layers[name], torch.jit.ScriptModule):  # those call no hooks
                handle = layers[name].register_forward_hook(partial(hook, name), with_kwargs=True)
                stack.callback(handle.remove)
        yield


def _shape(value: Any) -> list[int] | None:
    return list(value.shape) if _is_dense(value) else None


def _is_dense(value: Any) -> TypeGuard[Tensor]:
    """Return whether this is a tensor, neither sparse nor nested."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested


def _text(value: Any) -> str:
    """Return the shape of a dense tensor, or the type of a value, for an error."""
    if _is_dense(value):
        return str(list(value.shape))
    if isinstance(value, Tensor) and not value.is_nested:
        return f"a {str(value.layout)[6:]} tensor, which .to_dense() makes dense"
    return f"a {'nested tensor' if isinstance(value, Tensor) else type(value).__name__}"


def is_linear(layer: nn.Module) -> bool:
    """Return whether a layer is linear, or a convolution that is linear at each position."""
    if isinstance(layer, nn.Conv2d):
        plain = layer.stride == (1, 1) and layer.padding in ((0, 0), "valid") and layer.groups == 1
        return plain and layer.kernel_size == (1, 1)
    return isinstance(layer, nn.Linear)
