"""Finds the tensors of a torch module that are embeddings and logits.

Nothing is guessed from an order. Evidence is a linear layer that makes one tensor of the other, a usual key, or as many
columns as there are ID classes; if that is ambiguous, the error names the options `embeddings` and `logits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ood_core.detector.module_outputs import Key, LayerCall, Observation, Source, Sources, is_linear
from ood_core.errors import OODError

EMBEDDINGS = ("embeddings", "features", "pooler_output", "image_embeds")  # the last two are those of Hugging Face
LOGITS = "logits"

SQUASHED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda rows: rows.softmax(1),
    "log-softmax": lambda rows: rows.log_softmax(1),
    "sigmoid": torch.sigmoid,
}
"""Functions that modules apply to logits before they return them."""


@dataclass(frozen=True)
class ClassOutputs:
    """Candidate for the logits."""

    source: Source
    rows: Tensor  # the logits, [N, C]
    key: Key | None = None  # of the returned value, before or after its softmax; None for a layer that the user names
    call: LayerCall | None = None  # of the layer that makes them of embeddings, if one is seen
    note: str = ""  # how logits differ from the returned value, or from the layer's outputs


def locate_sources(
    seen: Observation, classes: int, embeddings: Key | None = None, logits: Key | bool | None = None
) -> Sources:
    """Return the sources of embeddings and logits for a number of ID classes; raise OODError if they are ambiguous.

    `embeddings` and `logits` are keys, positions or layers that the user names, None to find them, False to read none.
    """
    named = None if embeddings is None else seen.source(embeddings, "embeddings")
    finds = logits is None or logits is False
    head = _only_head(seen, classes, named) if finds else _named_head(seen, seen.source(logits, "logits"))
    source = named or _embeddings(seen, head)
    if head is None or logits is False:
        return Sources(source, None)
    if head.source.kind == "returned" and _are_probabilities(head.rows):
        raise OODError(
            f"{seen.describe()}: rows are probabilities, and no layer is seen whose softmax they are; return the "
            "logits, name the layer that gives them (logits=...), or score embeddings alone (logits=False)"
        )
    return Sources(source, head.source, head.note)


def classifier_of(module: nn.Module, embeddings: Tensor, logits: Tensor) -> str | None:
    """Return the name of the linear layer (or 1x1 convolution) that maps these embeddings to these logits."""
    for name, layer in module.named_modules():
        if is_linear(layer) and layer.weight.flatten(1).shape == (logits.shape[1], embeddings.shape[1]):
            weight = layer.weight.flatten(1)
            if _near(linear(embeddings.to(weight), weight, layer.bias), logits):
                return str(name)
    return None


def _only_head(seen: Observation, classes: int, embeddings: Source | None) -> ClassOutputs | None:
    """Return the one value that holds class outputs, None if there is none; raise if there are several."""
    named = embeddings.name if embeddings is not None and embeddings.kind == "returned" else None
    heads = {key: _head(seen, key, classes) for key in seen.rows if key != named}
    if LOGITS in heads:
        return heads[LOGITS]
    inputs = [head.call.input for head in heads.values() if head.call is not None and head.call.input is not None]

    def is_head(key: Key, head: ClassOutputs) -> bool:
        rows = seen.rows[key]
        if key in EMBEDDINGS or any(_same(rows, given) for given in inputs):
            return False
        return head.call is not None or rows.shape[1] == classes or _are_probabilities(rows)

    found = {key: head for key, head in heads.items() if is_head(key, head)}
    if not found and embeddings is not None and len(heads) == 1:
        return next(iter(heads.values()))
    fitting = [head for head in found.values() if head.rows.shape[1] == classes]
    if len(fitting) > 1:  # a width may be a coincidence, a layer that makes the values is none
        fitting = [head for head in fitting if head.call is not None]
    if len(found) > 1 and len(fitting) != 1:
        keys = " or ".join(f"logits={key!r}" for key in found)
        raise OODError(f"{seen.describe()}: several may be outputs for {classes} ID classes; choose: Detector({keys})")
    return next(iter(fitting or found.values()), None)


def _named_head(seen: Observation, source: Source) -> ClassOutputs:
    if source.kind == "returned" and source.name in seen.rows:
        return _head(seen, source.name, None)
    call = next((call for call in reversed(seen.calls) if call.name == source.name), None)
    if call is None:
        raise OODError(f"logits={source.name!r}: that is a map, no logits [N, C]; {seen.describe()}")
    return ClassOutputs(_layer_source(seen, "output", call), call.output, None, call)


def _head(seen: Observation, key: Key, classes: int | None) -> ClassOutputs:
    """Return a returned value as class outputs, with the layer that makes it if one does."""
    rows, source = seen.rows[key], Source("returned", key)
    related = {
        relation: call
        for call in seen.calls
        if is_linear(call.module) and call.input is not None and (relation := _relation(rows, call)) is not None
    }
    for relation in sorted(related, key=("", *SQUASHED, *related).index):
        call = related[relation]
        if relation in SQUASHED:
            return ClassOutputs(_layer_source(seen, "output", call), call.output, key, call, f"before the {relation}")
        return ClassOutputs(source, rows, key, call, f"{relation} output of '{call.name}'".strip())
    for other, given in seen.rows.items():
        if other != key and (name := classifier_of(seen.module, given, rows)) is not None:
            return ClassOutputs(source, rows, key, LayerCall(name, seen.module.get_submodule(name), given, rows))
    return ClassOutputs(source, rows, key, _other_call(seen, rows, classes))


def _other_call(seen: Observation, rows: Tensor, classes: int | None) -> LayerCall | None:
    """Return the innermost layer, linear or not, that makes class outputs of rows of another width.

    If their number is not that of the ID classes, it needs a weight for each pair of columns, as cosine heads have.
    """
    for call in seen.calls:
        if call.input is None or call.input.shape[1] == rows.shape[1] or not _same(call.output, rows):
            continue
        widths = {rows.shape[1], call.input.shape[1]}
        weighted = any(set(of.shape) == widths for of in call.module.parameters(recurse=False))
        if weighted or classes in (None, rows.shape[1]):
            return call
    return None


def _relation(rows: Tensor, call: LayerCall) -> str | None:
    """Return how these rows follow from a layer's outputs: "" if they are equal, None if they do not."""
    output = call.output
    if rows.shape == output.shape:
        if _same(rows, output) or (isinstance(call.module, nn.Conv2d) and _near(rows, output)):
            return ""
        for name, function in SQUASHED.items():
            if _near(rows, function(output)):
                return name
        wide = output.double()  # sums of 16 bits overflow
        scale = float((rows * wide).sum() / (wide * wide).sum().clamp_min(1e-12))
        if scale <= 0 or not _near(rows, (scale * wide).to(output.dtype)):
            return None
        return "" if abs(scale - 1) < torch.finfo(_precision(rows, output)).eps else f"{scale:.4g} times the"
    if rows.shape[1] < output.shape[1]:
        dtype = _precision(rows, output)
        if (rows.to(dtype)[:, :, None] == output.to(dtype)[:, None]).all(0).any(1).all():
            return "columns of the"
    return None


def _embeddings(seen: Observation, head: ClassOutputs | None) -> Source:
    """Return the source of the embeddings that belong to the class outputs; raise if none or several may."""
    rows = {key: of for key, of in seen.rows.items() if head is None or key != head.key}
    for name in EMBEDDINGS:
        if name in rows:
            return Source("returned", name)
    left = list(rows)
    call = None if head is None else head.call
    if call is not None and call.input is not None:
        for key, of in rows.items():
            if _same(of, call.input):
                return Source("returned", key)
        # outputs of other linear layers are other heads, or projections: not the input of this one
        left = [key for key in rows if _head(seen, key, None).call is None]
    if len(left) == 1:
        return Source("returned", left[0])
    if call is not None and call.input is not None and not left:
        return _layer_source(seen, "input", call)
    if left:
        problem = f"any of {', '.join(map(repr, left))} may be the embeddings"
    elif head is None:
        problem = "neither embeddings [N, D] nor logits [N, C]"
    else:
        key = head.source.name if head.key is None else head.key
        problem = (
            "these are as many columns as ID classes, or probabilities: taken for class outputs, and no layer is seen "
            f"that makes them of embeddings; if they are the embeddings, Detector(embeddings={key!r}); for scorers of "
            f"logits alone, Detector(embeddings={key!r}, logits={key!r}) takes them for both; otherwise"
        )
    raise OODError(f"{seen.describe()}: {problem}; {seen.hint()}".replace("otherwise; ", "otherwise "))


def _layer_source(seen: Observation, kind: Literal["input", "output"], call: LayerCall) -> Source:
    shape = seen.shapes.get(call.name)
    return Source(kind, call.name, pooled=shape is not None and len(shape) == 4 and shape[2:] != [1, 1])


def _precision(*tensors: Tensor) -> torch.dtype:
    """Return the coarsest type to which any of these are rounded, also if they were made float32 afterwards."""
    found = {of.dtype for of in tensors}
    for dtype in (torch.float16, torch.bfloat16):
        if any(torch.equal(of.to(dtype).to(of.dtype), of) for of in tensors):
            found.add(dtype)
    return max(found, key=lambda dtype: torch.finfo(dtype).eps)


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether rows are equal in the coarser precision of both."""
    if one.shape != other.shape:
        return False
    dtype = _precision(one, other)
    return torch.equal(one.to(dtype), other.to(dtype))


def _near(one: Tensor, other: Tensor) -> bool:
    """Return whether rows are the same up to rounding."""
    coarse = torch.finfo(_precision(one, other)).eps > 1e-4  # 16 bits
    one, other = one.double(), other.double()
    return bool((one - other).norm() <= (2e-2 if coarse else 1e-4) * other.norm())


def _are_probabilities(rows: Tensor) -> bool:
    tolerance = max(1e-3, rows.shape[1] * torch.finfo(rows.dtype).eps)
    return rows.shape[1] > 1 and bool((rows >= 0).all() and ((rows.double().sum(1) - 1).abs() < tolerance).all())
