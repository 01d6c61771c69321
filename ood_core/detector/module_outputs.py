"""Reads the embeddings and logits of a torch module: among what it returns, and what its layers take and give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from ood_core.errors import OODError, suggest

Key: TypeAlias = str | int
Call: TypeAlias = Callable[[Tensor], Any]
Keep: TypeAlias = Callable[[str, nn.Module, Any, Any], None]

LISTED = 6
"""Names that an error lists at most."""


@dataclass(frozen=True)
class Source:
    """Where embeddings or logits are read.

    Attributes:
        kind: A value that the module returns, the input or output of a layer, or the result of a method.
        name: Key or position of the value, or name of the layer or method.
        pooled: Whether maps [N, D, H, W] are averaged over their positions.
    """

    kind: Literal["returned", "input", "output", "method"]
    name: Key
    pooled: bool = False

    def __str__(self) -> str:
        what = "returned value" if self.kind == "returned" else f"{self.kind} of"
        text = str(self.name) if self.kind == "method" else f"{what} {self.name!r}"
        return f"{text}, mean over positions" if self.pooled else text


@dataclass(frozen=True)
class Sources:
    """Where embeddings are read, and logits if there are any; a note says how they differ from what is returned."""

    embeddings: Source
    logits: Source | None
    note: str = ""


@dataclass(frozen=True)
class Layer:
    """A layer that was called: its first input and its output, [N, D] each; None for an input of another shape."""

    name: str
    module: nn.Module
    given: Tensor | None
    made: Tensor


@dataclass(frozen=True)
class Seen:
    """What a module returned for some images, and what its layers made of them, in the order in which they ended.

    Attributes:
        module: The module.
        returned: By key or position, whatever it is.
        rows: Those of it that are [N, D].
        layers: Those whose outputs are [N, D].
        shapes: Of the outputs of all layers, by name; None for what is no tensor.
    """

    module: nn.Module
    returned: Mapping[Key, Any]
    rows: Mapping[Key, Tensor]
    layers: Sequence[Layer]
    shapes: Mapping[str, list[int] | None]

    def text(self) -> str:
        """Return the values with their shapes, for an error."""
        named = [f"'{key}' " if isinstance(key, str) else "" for key in self.returned]
        shown = [_text(value) for value in self.returned.values()]
        return "the module returns " + ", ".join(f"{name}{text}" for name, text in zip(named, shown, strict=True))

    def hint(self) -> str:
        """Return how the user names the embeddings, for an error."""
        names = list(dict.fromkeys(layer.name for layer in self.layers))
        listed = f"; layers that give [N, D]: {', '.join(map(repr, names[-LISTED:]))}"
        if not self.shapes:
            listed = "; no layers are seen in a function or ScriptModule: give the module itself, or return both"
        return f"name what has the embeddings, a layer or what is returned: Detector(embeddings=...){listed}"

    def source(self, name: Any, option: str) -> Source:
        """Return the value or layer that the user names.

        Raises:
            OODError: There is none of this name, or it is not [N, D].
        """
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise OODError(f"{option} names a layer, or a key or position of what is returned; not {name!r}")
        returned = name in self.returned
        if not returned and name not in self.shapes:
            known = [key for key in (*self.returned, *self.shapes) if isinstance(key, str)]
            near = suggest(name, known) if isinstance(name, str) else ""
            if " There is: " in near:  # a list of all layers is no help
                near = f" {self.hint()}"
            raise OODError(f"{option}={name!r}: {self.text()}, and has no layer of this name.{near}")
        shape = _shape(self.returned[name]) if returned else self.shapes[str(name)]
        if shape is not None and (len(shape) <= 2 or shape[2:] == [1, 1]):
            return Source("returned" if returned else "output", name)
        if shape is not None and len(shape) == 4 and shape[2] == shape[3]:
            return Source("returned" if returned else "output", name, pooled=True)
        value = _text(self.returned[name]) if returned else shape or "no dense tensor"
        raise OODError(
            f"{option}={name!r}: {value} is neither [N, D] nor a map [N, D, S, S], which is averaged; "
            "name another layer, or give a module that returns [N, D], such as the first token"
        )


def observe(module: nn.Module, call: Call, images: Tensor) -> Seen:
    """Call the module once and keep what its layers make that is [N, D]; maps of 1x1 convolutions are averaged."""
    layers: list[Layer] = []
    shapes: dict[str, list[int] | None] = {}
    count = images.shape[0]

    def keep(name: str, layer: nn.Module, given: Any, made: Any) -> None:
        shapes[name] = _shape(made)
        rows = as_rows(made, count, is_linear(layer))
        if rows is not None:
            inputs = as_rows(given, count, is_linear(layer))
            layers.append(Layer(name, layer, None if inputs is None else inputs.clone(), rows.clone()))

    with _hooked(module, [name for name, _ in module.named_modules() if name], keep):
        returned = values(call(images))
    rows = {key: found for key, value in returned.items() if (found := as_rows(value, count)) is not None}
    return Seen(module, returned, rows, layers, shapes)


def read(sources: Sources, module: nn.Module, call: Call, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return embeddings [N, D] and logits [N, C] of images.

    Raises:
        OODError: They are not where they were found, or of another shape.
    """
    wanted = [source for source in (sources.embeddings, sources.logits) if source is not None]
    names = {str(source.name) for source in wanted if source.kind in ("input", "output")}
    kept: dict[tuple[str, Key], Any] = {}

    def keep(name: str, _layer: nn.Module, given: Any, made: Any) -> None:
        for kind, value in (("input", given), ("output", made)):
            kept[kind, name] = value.clone() if isinstance(value, Tensor) else value  # later layers may work in place

    with _hooked(module, names, keep):
        returned = call(images)
    kept |= {("returned", key): value for key, value in values(returned).items()}
    found = []
    for source in wanted:
        value = kept.get((source.kind, source.name))
        rows = as_rows(value, images.shape[0], source.pooled)  # len() would make a traced graph one of this batch alone
        if rows is None:
            raise OODError(f"{source} is {_text(value)} for {len(images)} images, not [{len(images)}, D]")
        found.append(rows)
    return found[0], found[1] if len(found) > 1 else None


def require_layers(sources: Sources, module: nn.Module) -> None:
    """Refuse a module that has no layer of such a name.

    Raises:
        OODError: Names the layer.
    """
    names = {name for name, _ in module.named_modules()}
    for source in (sources.embeddings, sources.logits):
        if source is not None and source.kind in ("input", "output") and source.name not in names:
            raise OODError(f"the module has no layer '{source.name}', at which the detector reads")


def values(returned: Any) -> dict[Key, Any]:
    """Return what a module returned by key or position: of a mapping, tuple, dataclass or object with attributes."""
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
    """Return [N, D] of dense floats [N], [N, D] or [N, D, 1, 1], with `maps` of [N, D, S, S]; None of all else."""
    if not _is_dense(value) or not value.is_floating_point() or not value.ndim:
        return None
    if value.shape[0] != count:
        return None
    if value.ndim <= 2:
        return value if value.ndim == 2 else value[:, None]
    if value.ndim == 4 and (value.shape[2:] == (1, 1) or (maps and value.shape[2] == value.shape[3])):
        return value.flatten(1) if value.shape[2:] == (1, 1) else value.mean((2, 3))
    return None


# ------------------------------------------------------------------------------------------------------------ tensors


@contextmanager
def _hooked(
    module: nn.Module, names: Iterable[str], keep: Callable[[str, nn.Module, Any, Any], None]
) -> Iterator[None]:
    """Have layers hand over their first input and their output."""
    handles = []

    def hook(name: str) -> Callable[..., None]:
        def call(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            keep(name, layer, next(iter((*inputs, *named.values())), None), output)

        return call

    try:
        layers = dict(module.named_modules())
        for name in names:
            layer = layers[name]
            if not isinstance(layer, torch.jit.ScriptModule):  # those call no hooks
                handles.append(layer.register_forward_hook(hook(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shape(value: Any) -> list[int] | None:
    return list(value.shape) if _is_dense(value) else None


def _is_dense(value: Any) -> TypeGuard[Tensor]:
    """Return whether this is a tensor that is neither sparse nor nested."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested


def _text(value: Any) -> str:
    """Return the shape of a dense tensor, or what a value is instead, for an error."""
    if _is_dense(value):
        return str(list(value.shape))
    if isinstance(value, Tensor) and not value.is_nested:
        return f"a {str(value.layout)[6:]} tensor, which .to_dense() makes dense"
    return f"a {'nested tensor' if isinstance(value, Tensor) else type(value).__name__}"


def is_map(shape: list[int] | None) -> bool:
    """Return whether this is the shape of maps [N, D, H, W] of more than one position."""
    return shape is not None and len(shape) == 4 and shape[2:] != [1, 1]


def is_linear(layer: nn.Module) -> bool:
    """Return whether a layer is linear, or a convolution that is linear at each position."""
    if isinstance(layer, nn.Conv2d):
        plain = layer.stride == (1, 1) and layer.padding in ((0, 0), "valid") and layer.groups == 1
        return plain and layer.kernel_size == (1, 1)
    return isinstance(layer, nn.Linear)
