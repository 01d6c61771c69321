"""From nodes to plugin objects and back to words, keys and labels."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pluggy
import pytest

from ood_core.interfaces import PositiveFloat, PositiveInt, Scorer
from ood_core.plugins import Plugins, Registered
from ood_core.recipe.build import RecipeReader, describe, digest, identity, label, recipe_text
from ood_core.recipe.yaml import parse
from ood_core.runtime.plugin_packages import Package


@dataclass(frozen=True, kw_only=True)
class Simple(Scorer):
    """Simple."""

    name = "simple"
    scores = None
    scale: PositiveFloat = 1.0
    mode: Literal["min", "mean"] = "min"
    layers: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None

    def __post_init__(self):
        if self.scale == 13:
            raise ValueError("13 brings bad luck")

    def fit(self, train):
        return None


@dataclass(frozen=True, kw_only=True)
class Fused(Scorer):
    """Fused."""

    name = "fused"
    scores = None
    best: Scorer
    others: tuple[Scorer, ...] = ()
    worst: Scorer | None = None
    count: PositiveInt = 1

    def fit(self, train):
        return None


PACKAGE = Package("test", "ood-test", "1.0")
PLUGINS = Plugins(
    pluggy.PluginManager("ood"),
    (PACKAGE,),
    {("scorer", cls.name): Registered("scorer", cls, PACKAGE) for cls in (Simple, Fused)},
)


def read(text):
    reader = RecipeReader(PLUGINS)
    plugin = reader.plugin("scorer", parse(f"x: {text}", "r.yaml").value["x"])
    return plugin, [str(error) for error in reader.errors]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("simple", Simple()),
        ("{use: simple}", Simple()),
        ("{use: simple, scale: 2}", Simple(scale=2.0)),
        ("{use: simple, mode: mean, layers: [a, b]}", Simple(mode="mean", layers=("a", "b"))),
        ("{use: simple, extra: {depth: 2, names: [x]}}", Simple(extra={"depth": 2, "names": ["x"]})),
        ("{use: fused, best: simple}", Fused(best=Simple())),
        ("{use: fused, best: simple, worst: null}", Fused(best=Simple())),
        ("{use: fused, best: simple, worst: {use: simple, scale: 4}}", Fused(best=Simple(), worst=Simple(scale=4.0))),
        (
            "{use: fused, best: {use: simple, scale: 3}, others: [simple, {use: fused, best: simple}]}",
            Fused(best=Simple(scale=3.0), others=(Simple(), Fused(best=Simple()))),
        ),
    ],
)
def test_a_mapping_becomes_an_object(text, expected):
    assert read(text) == (expected, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{use: simple, scale: -1}", "option 'scale' of scorer 'simple' must be greater than 0, not -1"),
        ("{use: simple, scale: '1'}", "option 'scale' of scorer 'simple' must be a valid number, not \"1\""),
        ("{use: simple, scale: true}", "option 'scale' of scorer 'simple' must be a valid number, not true"),
        ("{use: simple, scale: 13}", "scorer 'simple': 13 brings bad luck"),
        ("{use: simple, mode: max}", "option 'mode' of scorer 'simple' must be 'min' or 'mean', not \"max\""),
        ("{use: simple, layers: [1]}", "option 'layers' of scorer 'simple' must be a valid string, not 1, at 0"),
        ("{use: simple, weights: none.pt}", "option 'weights' of scorer 'simple': no file 'none.pt'"),
        ("{use: fused}", "scorer 'fused' needs the option 'best'"),
        ("{use: fused, best: {use: simpel}}", "no scorer 'simpel'. Did you mean 'simple'?"),
        ("{use: fused, best: simple, others: simple}", "option 'others' of scorer 'fused' must be a list"),
        ("{use: fused, best: simple, others: [{use: simple, scal: 1}]}", "no option of scorer 'simple': 'scal'."),
        ("{scale: 1}", "a scorer must be a name, or a mapping with 'use: name'"),
        ("[simple]", "a scorer must be a name, or a mapping with 'use: name'"),
        ("{use: 3}", "a scorer must be a name, or a mapping with 'use: name'"),
    ],
)
def test_a_mistake_names_option_plugin_and_place(text, message):
    plugin, errors = read(text)
    assert plugin is None or "others" in text
    assert len(errors) == 1
    assert errors[0].startswith("r.yaml: line 1: " + message)


@pytest.mark.parametrize(("text", "shown"), [(".nan", "nan"), (".inf", "inf"), ("-.inf", "-inf"), ("1e400", "inf")])
def test_a_number_that_is_not_finite_is_refused(text, shown):
    _, errors = read(f"{{use: simple, scale: {text}}}")
    assert errors == [f"r.yaml: line 1: option 'scale' of scorer 'simple' must be finite, not {shown}"]


def test_a_description_holds_every_option():
    assert describe(Fused(best=Simple(layers=("a",)))) == {
        "use": "fused",
        "best": {"use": "simple", "scale": 1.0, "mode": "min", "layers": ["a"], "extra": {}, "weights": None},
        "others": [],
        "worst": None,
        "count": 1,
    }


def test_a_label_tells_what_is_not_left_at_its_default():
    assert label(Simple()) == "simple"
    assert label(Simple(scale=2.0, mode="mean")) == "simple(scale=2.0, mode=mean)"


def test_a_plugin_is_written_as_a_recipe_has_it_and_read_back_the_same():
    assert recipe_text(Simple()) == "simple"
    made = Fused(best=Simple(mode="mean", extra={"a": None, "b": True}), others=(Simple(), Simple(scale=2.0)))
    best = "{use: simple, mode: mean, extra: {a: null, b: true}}"
    text = f"{{use: fused, best: {best}, others: [simple, {{use: simple, scale: 2.0}}]}}"
    assert recipe_text(made) == text
    assert read(text) == (made, [])


def test_an_identity_depends_on_a_files_content_not_on_its_path(tmp_path):
    for folder, content in (("one", "x"), ("two", "x"), ("three", "y")):
        (tmp_path / folder).write_text(content)
    one, two, three = (digest(identity(Simple(weights=tmp_path / name), PLUGINS)) for name in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_an_identity_names_the_version_of_nested_plugins():
    assert identity(Fused(best=Simple()), PLUGINS)["options"]["best"]["from"] == "ood-test 1.0"


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
