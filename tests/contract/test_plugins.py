"""What every installed plugin class keeps to, whatever its kind."""

import copy
import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
import torch

from ood_core.data.selection import to_unit
from ood_core.interfaces import NEEDS, PLUGIN_KINDS, Batch, Plugin
from ood_core.plan.image_sets import SELECTION_KEYS
from ood_core.plugins import find
from ood_core.recipe.build import RecipeReader, describe, digest, identity
from ood_core.recipe.yaml import parse

from ..plugins.small_training import build_network, digits, training_data
from .required import required

PLUGINS = find()
CLASSES = [
    pytest.param(found.kind, found.cls, id=f"{kind}-{name}") for (kind, name), found in PLUGINS.registered.items()
]
KEYS_OF_THE_RECIPE = {"dataset": {"use", "name", *SELECTION_KEYS}, "scorer": {"use", "name"}}

each_class = pytest.mark.parametrize(("kind", "cls"), CLASSES)


def test_there_is_a_plugin_of_every_kind():
    assert {kind for kind, _ in PLUGINS.registered} == set(PLUGIN_KINDS)


@each_class
def test_its_declaration_is_whole(kind, cls):
    assert "__dataclass_params__" in vars(cls), "the decorator is missing"
    assert cls.__dataclass_params__.frozen
    fields = dataclasses.fields(cls)
    assert all(field.kw_only for field in fields)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cls.name)
    assert "name" in vars(cls)
    options = {field.name for field in fields}
    assert options & KEYS_OF_THE_RECIPE.get(kind, {"use", "name"}) == set()
    assert documented(cls) <= options <= set().union(*map(documented, cls.__mro__))


def documented(cls):
    """Return the attributes of which the docstring of a class has an entry."""
    attributes = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("Attributes:\n")[2]
    return set(re.findall(r"^    (\w+): \S", attributes, flags=re.MULTILINE))


@each_class
def test_its_options_come_back_from_a_recipe_with_or_without_defaults(kind, cls):
    plugin, reader = cls(**required(cls)), RecipeReader(PLUGINS)
    spelt_out = describe(plugin)
    needed = {name: spelt_out[name] for name in ("use", *required(cls))}
    for options in (spelt_out, needed):
        assert reader.plugin(kind, parse(json.dumps(options), "here")) == plugin
    assert reader.errors == []


# ---------------------------------------------------------------------------------------------- options and keys


def other(value, file):
    """Return another value of the same kind; of what is None, a word."""
    if isinstance(value, Plugin):
        return changed(value, dataclasses.fields(value)[0].name, file)
    if isinstance(value, Path):
        return file
    if isinstance(value, dict):
        return {**value, "something": 1}
    if isinstance(value, tuple):
        return (*value, *value[:1]) or ("something",)
    if isinstance(value, bool):
        return not value
    return "something" if value is None else value + type(value)(1)


def changed(plugin, option, file):
    """Return a copy of a plugin object in which one option differs, whether or not the class would take it."""
    twin = copy.copy(plugin)
    object.__setattr__(twin, option, other(getattr(plugin, option), file))
    return twin


@pytest.mark.parametrize(("kind", "cls"), [of for of in CLASSES if of.values[0] != "dataset"])
def test_another_value_of_any_option_makes_another_key(kind, cls, tmp_path):
    file = tmp_path / "file"
    file.write_text("another content")
    plugin = cls(**required(cls))
    before = digest(identity(plugin, PLUGINS))
    for field in dataclasses.fields(cls):
        assert digest(identity(changed(plugin, field.name, file), PLUGINS)) != before, field.name


FILES = {
    *("arrays", "cub", "flat-folder", "folder", "huggingface", "image-list", "manifest", "parquet", "places365"),
    *("published", "stanford-dogs", "tar", "tiny-imagenet", "torchvision", "wnids"),
}
"""Sources whose images are known by the content of files, of which each has tests of its own."""


@pytest.mark.parametrize(
    "cls", [pytest.param(cls, id=name) for name, cls in PLUGINS.classes("dataset").items() if name not in FILES]
)
def test_another_value_of_any_option_of_a_source_without_files_makes_other_images(cls):
    source = cls(**required(cls))
    before = source.open("train").fingerprint
    for field in dataclasses.fields(cls):
        value = getattr(source, field.name)
        twin = dataclasses.replace(source, **{field.name: value + 1 if isinstance(value, int) else value * 0.5})
        assert twin.open("train").fingerprint != before, field.name


SMALL = {
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "mim": {"min_block": 1, "tokenizer": PLUGINS.get("tokenizer", "kmeans")(vocabulary=8)},
    "simmim": {"mask_unit": 4},
}
"""Options that suit images of 8 x 8 pixels, for pretext tasks whose defaults do not."""


each_pretext = pytest.mark.parametrize(("name", "cls"), PLUGINS.classes("pretext").items())


def task_and_batch(name, cls):
    """Return a task of a pretext around a small network, and eight digits for it."""
    torch.manual_seed(0)
    pretext, network = cls(**required(cls) | SMALL.get(name, {})), build_network()
    images, labels = digits()
    views = pretext.views(8, network.grid)
    samples = zip(*(views(image) for image in images[:8]), strict=True)
    batch = Batch(tuple(to_unit(torch.stack(view)) for view in samples), labels[:8], to_unit(images[8:16]))
    return pretext.build(network, training_data()), batch


@each_pretext
@torch.no_grad()
def test_a_legend_names_every_row_of_the_pictures_of_a_pretext(name, cls):
    task, batch = task_and_batch(name, cls)
    pictures = task.eval().pictures(batch)
    assert set(pictures) == set(cls.picture_legends)
    for title, picture in pictures.items():
        rows, columns = (side // 100 for side in picture.shape[1:])  # tiles of 8 x 8 pixels, 12 times, with a margin
        assert (rows, columns) == (cls.picture_legends[title].count("; ") + 1, 8)


@each_pretext
def test_a_pretext_declares_whether_its_loss_reads_labels(name, cls):
    task, batch = task_and_batch(name, cls)
    task, labels = task.train(), batch.labels
    losses = []
    for numbers in (labels, labels, (labels + torch.arange(8)) % 10):
        torch.manual_seed(0)
        losses.append(task(batch._replace(labels=numbers))["loss"].item())
    assert losses[0] == losses[1]
    assert (losses[0] != losses[2]) == cls.uses_labels


@pytest.mark.parametrize("cls", PLUGINS.classes("scorer").values())
def test_a_scorer_needs_what_outputs_have(cls):
    assert cls.needs
    assert cls.needs <= set(NEEDS)
