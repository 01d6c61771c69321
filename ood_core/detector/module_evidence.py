"""Finds which tensors of a torch module are embeddings, and which are logits.

Nothing is guessed from an order. Evidence is a linear layer that makes the one tensor of the other, a key by which
libraries name such tensors, or as many columns as there are ID classes; where that leaves two readings, the error names
the options `embeddings` and `logits` of `Detector`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ood_core.detector.module_outputs import Key, Layer, Seen, Source, Sources, is_linear, is_map
from ood_core.errors import OODError

EMBEDDINGS = ("embeddings", "features", "pooler_output", "image_embeds")
"""Keys that name embeddings [N, D]; the last two are those of Hugging Face models."""

LOGITS = "logits"

SQUASHED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda rows: rows.softmax(1),
    "log-softmax": lambda rows: rows.log_softmax(1),
    "sigmoid": torch.sigmoid,
}
"""What modules apply to logits before they return them."""


@dataclass(frozen=True)
class Head:
    """Class outputs.

    Attributes:
        source: Where the logits are read.
        rows: The logits, [N, C].
        key: Of the returned value that they are, or are before their softmax; None for a layer that the user names.
        layer: What makes them of embeddings, None if no such layer is seen.
        note: How logits differ from what is returned, or what the module does to the layer's outputs.
    """

    source: Source
    rows: Tensor
    key: Key | None = None
    layer: Layer | None = None
    note: str = ""


def find(seen: Seen, classes: int, embeddings: Key | None = None, logits: Key | bool | None = None) -> Sources:
    """Return where embeddings and logits are read.

    Args:
        seen: What the module made of some images.
        classes: Number of ID classes.
        embeddings: Key, position or layer that the user names; None to find them.
        logits: Likewise; False to read none.

    Raises:
        OODError: There are none, or there are two readings.
    """
    named = None if embeddings is None else seen.source(embeddings, "embeddings")
    if logits is None or logits is False:
        head = _only_head(seen, classes, named)
    else:
        head = _named_head(seen, seen.source(logits, "logits"))
    source = named or _embeddings(seen, head)
    if head is None or logits is False:
        return Sources(source, None)
    if head.source.kind == "returned" and _are_probabilities(head.rows):
        raise OODError(
            f"{seen.text()}: rows are probabilities, and no layer is seen whose softmax they are; return the logits, "
            "name the layer that gives them (logits=...), or score embeddings alone (logits=False)"
        )
    return Sources(source, head.source, head.note)


def classifier_of(module: nn.Module, embeddings: Tensor, logits: Tensor) -> str | None:
    """Return the name of the linear layer (or 1x1 convolution) that makes these logits of these embeddings."""
    for name, layer in module.named_modules():
        if not is_linear(layer):
            continue
        weight = layer.weight.flatten(1)
        if weight.shape == (logits.shape[1], embeddings.shape[1]):
            made = linear(embeddings.to(weight), weight, layer.bias)
            if _near(made, logits):
                return str(name)
    return None


def _only_head(seen: Seen, classes: int, embeddings: Source | None) -> Head | None:
    """Return the one value that holds class outputs, None if there is none.

    Raises:
        OODError: There are several.
    """
    named = embeddings.name if embeddings is not None and embeddings.kind == "returned" else None
    heads = {key: _head(seen, key, classes) for key in seen.rows if key != named}
    if LOGITS in heads:
        return heads[LOGITS]
    given = [head.layer.given for head in heads.values() if head.layer is not None]

    def is_head(key: Key, head: Head) -> bool:
        rows = seen.rows[key]
        if key in EMBEDDINGS or any(inputs is not None and _same(rows, inputs) for inputs in given):
            return False
        return head.layer is not None or rows.shape[1] == classes or _are_probabilities(rows)

    found = {key: head for key, head in heads.items() if is_head(key, head)}
    if not found and embeddings is not None and len(heads) == 1:
        return next(iter(heads.values()))
    fitting = [head for head in found.values() if head.rows.shape[1] == classes]
    if len(fitting) > 1:  # a width may be a coincidence, a layer that makes the values is none
        fitting = [head for head in fitting if head.layer is not None]
    if len(found) > 1 and len(fitting) != 1:
        keys = " or ".join(f"logits={key!r}" for key in found)
        raise OODError(f"{seen.text()}: several may be outputs for {classes} ID classes; choose: Detector({keys})")
    return next(iter(fitting or found.values()), None)


def _named_head(seen: Seen, source: Source) -> Head:
    if source.kind == "returned" and source.name in seen.rows:
        return _head(seen, source.name, None)
    layer = next((layer for layer in reversed(seen.layers) if layer.name == source.name), None)
    if layer is None:
        raise OODError(f"logits={source.name!r}: that is a map, no logits [N, C]; {seen.text()}")
    return Head(Source("output", layer.name, _pooled(seen, layer)), layer.made, None, layer)


def _head(seen: Seen, key: Key, classes: int | None) -> Head:
    """Return a returned value as class outputs, with the layer that makes it if one does."""
    rows = seen.rows[key]
    related = {
        relation: layer
        for layer in seen.layers
        if is_linear(layer.module) and layer.given is not None and (relation := _relation(rows, layer)) is not None
    }
    for relation in sorted(related, key=("", *SQUASHED, *related).index):
        layer = related[relation]
        if relation in SQUASHED:
            source = Source("output", layer.name, _pooled(seen, layer))
            return Head(source, layer.made, key, layer, f"before the {relation}")
        return Head(Source("returned", key), rows, key, layer, f"{relation} output of '{layer.name}'".strip())
    for other, given in seen.rows.items():
        if other != key and (name := classifier_of(seen.module, given, rows)) is not None:
            return Head(Source("returned", key), rows, key, Layer(name, seen.module.get_submodule(name), given, rows))
    return Head(Source("returned", key), rows, key, _other_layer(seen, rows, classes))


def _other_layer(seen: Seen, rows: Tensor, classes: int | None) -> Layer | None:
    """Return the innermost layer, linear or not, that makes class outputs of rows of another width.

    Where there are more or fewer than ID classes, it must have a weight for each pair of columns, as cosine heads do.
    """
    for layer in seen.layers:
        if layer.given is None or layer.given.shape[1] == rows.shape[1] or not _same(layer.made, rows):
            continue
        widths = {rows.shape[1], layer.given.shape[1]}
        weighted = any(set(of.shape) == widths for of in layer.module.parameters(recurse=False))
        if weighted or classes in (None, rows.shape[1]):
            return layer
    return None


def _relation(rows: Tensor, layer: Layer) -> str | None:
    """Return what a layer's outputs went through to be these rows: "" for nothing; None if they are others."""
    output = layer.made
    if rows.shape == output.shape:
        if _same(rows, output) or (isinstance(layer.module, nn.Conv2d) and _near(rows, output)):
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


def _embeddings(seen: Seen, head: Head | None) -> Source:
    """Return where the embeddings are that belong to the class outputs, if there are any.

    Raises:
        OODError: No value and no layer has them, or several may.
    """
    rows = {key: of for key, of in seen.rows.items() if head is None or key != head.key}
    for name in EMBEDDINGS:
        if name in rows:
            return Source("returned", name)
    layer = None if head is None else head.layer
    left = list(rows)
    if layer is not None and layer.given is not None:
        for key, of in rows.items():
            if _same(of, layer.given):
                return Source("returned", key)
        # what other linear layers make are outputs of other heads, or projections: not what this one is given
        left = [key for key in rows if _head(seen, key, None).layer is None]
    if len(left) == 1:
        return Source("returned", left[0])
    if layer is not None and layer.given is not None and not left:
        return Source("input", layer.name, _pooled(seen, layer))
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
    raise OODError(f"{seen.text()}: {problem}; {seen.hint()}".replace("otherwise; ", "otherwise "))


def _pooled(seen: Seen, layer: Layer) -> bool:
    return is_map(seen.shapes.get(layer.name))


def _precision(*tensors: Tensor) -> torch.dtype:
    """Return the coarsest type to which any of these are rounded, also if they were made float32 afterwards."""
    found = {of.dtype for of in tensors}
    for dtype in (torch.float16, torch.bfloat16):
        if any(torch.equal(of.to(dtype).to(of.dtype), of) for of in tensors):
            found.add(dtype)
    return max(found, key=lambda dtype: torch.finfo(dtype).eps)


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether rows are equal as far as the coarser of both tells."""
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
