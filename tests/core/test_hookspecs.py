"""Every hook is called as promised, and plugins/README.md has a section on it with an example that works."""

import inspect
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ood_core import hookspecs, report
from ood_core.errors import OODError
from ood_core.hookspecs import hookimpl
from ood_core.plan import make
from ood_core.plugins import find, find_commands, hook_manager
from ood_core.recipe.read import read_recipes
from ood_core.run import executors
from ood_core.run.schedule import run
from ood_core.store.store import Store
from ood_core.testing import scorer_checks

from ..conftest import TINY
from ..packaging.packages import VERSION, write_package

ROOT = Path(__file__).parents[2]
README = (ROOT / "plugins" / "README.md").read_text()
EXAMPLE = ROOT / "tests" / "example_plugin" / "ood-example"

HOOKS = {
    name: list(inspect.signature(function).parameters)
    for name, function in vars(hookspecs).items()
    if name.startswith("ood_")
}
REGISTRATIONS = [name for name in HOOKS if name.startswith("ood_register_")]
OBSERVATIONS = [name for name in HOOKS if name not in REGISTRATIONS]


class Recorder:
    """A plugin that listens to everything and writes down what it is told."""

    def __init__(self):
        self.calls = defaultdict(list)

    @hookimpl
    def ood_before_run(self, plan):
        self.calls["ood_before_run"].append(plan)

    @hookimpl
    def ood_before_stage(self, stage, stored):
        self.calls["ood_before_stage"].append((stage, stored))

    @hookimpl
    def ood_on_progress(self, stage, done, total):
        self.calls["ood_on_progress"].append((stage, done, total))

    @hookimpl
    def ood_after_epoch(self, stage, metrics):
        self.calls["ood_after_epoch"].append((stage, metrics))

    @hookimpl
    def ood_after_stage(self, stage, facts):
        self.calls["ood_after_stage"].append((stage, facts))

    @hookimpl
    def ood_after_run(self, plan, results):
        self.calls["ood_after_run"].append((plan, results))

    @hookimpl
    def ood_after_report(self, report):
        self.calls["ood_after_report"].append(report)

    @hookimpl
    def ood_on_error(self, stage, error):
        self.calls["ood_on_error"].append((stage, error))


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a plugin is told in a run, in a second one from the store, and in one that fails."""
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "tiny.yaml").write_text(TINY)
    recorder, plugins = Recorder(), find()
    plugins.manager.register(recorder)
    made = make.make_plan(read_recipes(folder / "tiny.yaml"), plugins)
    store = Store(folder / "store")
    results = [run(made, store, plugins.hook), run(made, store, plugins.hook)]
    found = report.write(made, results[0], store, folder / "out")
    plugins.hook.ood_after_report(report=found)
    failing = make.make_plan(read_recipes(folder / "tiny.yaml", ["training=[]", "scorers=[energy]"]), plugins)
    with pytest.raises(OODError, match="needs logits") as caught:
        run(failing, store, plugins.hook)
    return SimpleNamespace(
        calls=recorder.calls, plan=made, store=store, results=results, failing=failing, error=caught.value
    )


def before_run(seen):
    assert seen.calls["ood_before_run"] == [seen.plan, seen.plan, seen.failing]


def before_stage(seen):
    stages = seen.plan.stages
    told = seen.calls["ood_before_stage"]
    first, second = told[: len(stages)], told[len(stages) : 2 * len(stages)]
    assert {(stage.key, stored) for stage, stored in first} == {(stage.key, False) for stage in stages}
    assert second == [(stage, True) for stage in stages]
    begun = [stage.key for stage, _ in first]
    for stage in stages:
        assert all(begun.index(earlier.key) < begun.index(stage.key) for earlier in stage.inputs)


def on_progress(seen):
    by_stage = defaultdict(list)
    for stage, done, total in seen.calls["ood_on_progress"]:
        by_stage[stage].append((done, total))
    for stage in seen.plan.stages:
        assert [done for done, _ in by_stage[stage]] == sorted({done for done, _ in by_stage[stage]})
        assert by_stage[stage][-1][0] == by_stage[stage][-1][1]
    (training,) = (stage for stage in seen.plan.stages if stage.kind == "train")
    steps = 2 * (len(training.images.opened) // 16)
    assert by_stage[training] == [(step, steps) for step in range(1, steps + 1)]


def after_epoch(seen):
    assert {str(stage) for stage, _ in seen.calls["ood_after_epoch"]} == {"train classification"}
    told = [metrics for _, metrics in seen.calls["ood_after_epoch"]]
    assert [(metrics["epoch"], metrics["epochs"]) for metrics in told] == [(1, 2), (2, 2)]
    assert all(metrics["loss"] > 0 and 0 <= metrics["accuracy"] <= 1 for metrics in told)


def after_stage(seen):
    expected = [(stage, seen.store.facts(stage)) for stage in seen.plan.stages]
    told = seen.calls["ood_after_stage"]
    assert told[len(expected) : 2 * len(expected)] == expected
    assert {stage.key: facts for stage, facts in told[: len(expected)]} == {
        stage.key: facts for stage, facts in expected
    }


def after_run(seen):
    told = seen.calls["ood_after_run"]
    assert told[:2] == [(seen.plan, results) for results in seen.results]
    ((failing, results),) = told[2:]
    assert failing == seen.failing
    assert not results.rows


def after_report(seen):
    (found,) = seen.calls["ood_after_report"]
    assert found.rows == seen.results[0].rows


def on_error(seen):
    ((stage, error),) = seen.calls["ood_on_error"]
    assert str(stage) == "fit energy"
    assert str(seen.error) == f"fit energy: {error}"


TESTS = {
    f"ood_{test.__name__}": test
    for test in (before_run, before_stage, on_progress, after_epoch, after_stage, after_run, after_report, on_error)
}


@pytest.mark.parametrize("hook", OBSERVATIONS)
def test_an_observing_hook_is_told_what_happens(hook, seen):
    assert hook in TESTS, f"no test of {hook}"
    TESTS[hook](seen)


@pytest.mark.parametrize("hook", REGISTRATIONS)
def test_a_registering_hook_is_called_once(hook, tmp_path, monkeypatch):
    source = "from ood_core.hookspecs import hookimpl\nCALLS = []\n"
    source += f"@hookimpl\ndef {hook}():\n    CALLS.append(1)\n    return []\n"
    monkeypatch.syspath_prepend(write_package(tmp_path, "ood-called", source))
    if hook == "ood_register_commands":
        monkeypatch.setattr("ood_core.plugins.COMMANDS_GROUP", hookspecs.GROUP)  # that of the package
        find_commands()
    else:
        find()
    called = [sys.modules.pop(name) for name in ("ood_called.hooks", "ood_called")]
    assert called[0].CALLS == [1]


RAISING = """\
from ood_core.hookspecs import hookimpl
CALLS = []
class Observer:
"""
for _name, _arguments in HOOKS.items():
    if _name in OBSERVATIONS:
        RAISING += f"    @hookimpl\n    def {_name}(self{''.join(f', {name}' for name in _arguments)}):\n"
        RAISING += f"        CALLS.append('{_name}')\n        raise END('no server')\n"


@pytest.mark.parametrize(
    ("end", "jobs"),
    [("ConnectionError", 1), ("SystemExit", 1), pytest.param("ConnectionError", 2, marks=pytest.mark.slow)],
)
def test_an_observer_that_raises_is_named_once_for_each_hook_and_left_out(
    install, ood_run, tiny, monkeypatch, caplog, end, jobs
):
    folder = install("ood-watch", RAISING.replace("END", end))
    names = folder.parent / f"ood_watch-{VERSION}.dist-info" / "entry_points.txt"
    names.write_text("[ood]\nwatch = ood_watch.hooks:Observer\n")
    monkeypatch.setattr(executors, "places", lambda *_: (jobs, 1))
    code, out, _ = ood_run(tiny, "--set", "data.far=[]", "--set", "scorers=[energy]")
    said = [record.getMessage() for record in caplog.records if "left out from here on" in record.getMessage()]
    calls = sys.modules["ood_watch.hooks"].CALLS
    assert code == 0
    assert "energy" in out
    assert sorted(calls) == sorted(set(OBSERVATIONS) - {"ood_on_error"})
    for hook in calls:
        (line,) = (line for line in said if f": {hook} raised" in line)
        assert re.fullmatch(
            rf"plugin watch \(ood-watch {VERSION}\): {hook} raised and is left out from here on: {end}: no server "
            rf"\(ood_watch/hooks.py:\d+, in {hook}\)",
            line,
        )


def test_an_interrupt_in_an_observer_goes_on(install, tiny, tmp_path):
    folder = install("ood-watch", RAISING.replace("END", "KeyboardInterrupt"))
    names = folder.parent / f"ood_watch-{VERSION}.dist-info" / "entry_points.txt"
    names.write_text("[ood]\nwatch = ood_watch.hooks:Observer\n")
    plugins = find()
    with pytest.raises(KeyboardInterrupt):
        run(make.make_plan(read_recipes(tiny), plugins), Store(tmp_path / "store"), plugins.hook)


def test_a_console_that_raises_is_named_on_stderr_and_the_run_goes_on(ood_run, tiny, monkeypatch, caplog):
    def broken(self, *_):
        raise UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range")

    monkeypatch.setattr("ood_console.hooks.Console._title", broken)
    code, out, _ = ood_run(tiny, "--set", "training=[]", "--set", "scorers=[mahalanobis]")
    assert code == 0
    assert "report: runs/tiny/report.html" in out
    assert [line.count("left out") for line in caplog.messages if "plugin console" in line] == [1]


# ------------------------------------------------------------------------------------------------- documentation


def sections():
    """Return heading and text of every section on a hook."""
    parts = re.split(r"^### (ood_.*)$", README, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def python(section):
    """Return the one example of a section."""
    (example,) = re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return example


def test_every_hook_has_a_section_under_its_signature_in_the_order_of_the_hooks():
    assert list(sections()) == [f"{name}({', '.join(arguments)})" for name, arguments in HOOKS.items()]


@pytest.mark.parametrize("heading", sections())
def test_the_example_of_a_hook_can_be_registered_and_called(heading, monkeypatch, seen):
    monkeypatch.syspath_prepend(EXAMPLE)
    module = ModuleType("example")
    exec(python(sections()[heading]), vars(module))
    hook = heading.partition("(")[0]
    manager = hook_manager()
    manager.register(module)
    manager.check_pending()
    returned = getattr(manager.hook, hook)(**told(hook, seen))  # pluggy leaves out None
    assert len(returned) == (hook in REGISTRATIONS)


def told(hook, seen):
    """Return the arguments of the hook's last call."""
    if hook in REGISTRATIONS:
        return {}
    call = seen.calls[hook][-1]
    return dict(zip(HOOKS[hook], call if isinstance(call, tuple) else (call,), strict=True))


@pytest.mark.parametrize("heading", sections())
def test_the_packages_said_to_use_a_hook_do(heading, plugins):
    said = re.findall(r"`ood_(\w+)`", re.search(r"Used\s+by ([^.]*)\.", sections()[heading]).group(1))
    name = heading.partition("(")[0]
    users = {implementation.plugin_name for implementation in getattr(plugins.hook, name).get_hookimpls()}
    if name == "ood_register_commands":
        users = find_commands().keys()
    assert said
    assert set(said) <= users


def test_the_facts_of_stages_are_listed(seen):
    table = sections()["ood_after_stage(stage, facts)"]
    listed = {
        kind: set(re.findall(r"`(\w+)`", facts)) for kind, facts in re.findall(r"^\| `(\w+)` \|(.*)", table, re.M)
    }
    recorded = defaultdict(set)
    for stage, facts in seen.calls["ood_after_stage"]:
        recorded[stage.kind] |= facts.keys() - {"stage", "key", "seconds", "threads", "peak_memory_mb", "alike", "work"}
    assert listed == recorded


def files_shown():
    return re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "text"), files_shown(), ids=[name for name, _ in files_shown()])
def test_a_file_of_the_example_package_is_shown_as_it_is(name, text):
    assert text == (EXAMPLE / name).read_text()


def test_the_example_package_is_shown_from_the_entry_point_to_the_classes():
    assert [name for name, _ in files_shown()] == [
        "pyproject.toml",
        "ood_example/hooks.py",
        "ood_example/scorer.py",
        "ood_example/backbone.py",
    ]


def test_the_files_of_the_example_package_are_listed():
    tree = README.partition("```\nood-example/\n")[2].partition("```")[0]
    recipes_beside = {path.name for path in EXAMPLE.glob("*.yaml")}
    there = {path.name for path in EXAMPLE.rglob("*.*") if path.is_file() and "__pycache__" not in path.parts}
    assert {line.split()[0] for line in tree.splitlines()} == {"ood_example/", *there - recipes_beside}
    for name in ("README.md", "ood_example/resnet.py"):
        assert f"](../tests/example_plugin/ood-example/{name})" in README


def test_the_recipe_that_is_shown_is_whole(tmp_path, monkeypatch):
    information = tmp_path / "ood_example-2.3.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ood-example\nVersion: 2.3.1\n")
    (information / "entry_points.txt").write_text("[ood]\nexample = ood_example.hooks\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    weights, shown = re.search(r'^python -c "(.*?)"$.*?^```yaml\n(.*?)^```$', README, re.MULTILINE | re.DOTALL).groups()
    exec(weights, {})
    (tmp_path / "own.yaml").write_text(shown)
    made = make.make_plan(read_recipes(tmp_path / "own.yaml"), find())
    assert [stage.kind for stage in made.stages] == [*["extract"] * 4, "fit", "score", "score", "score", "measure"]


@pytest.mark.parametrize("check", scorer_checks(), ids=lambda check: check.__name__)
def test_the_test_that_is_shown_passes(check, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    module = ModuleType("shown")
    exec(python(README.partition("## Testing")[2].partition("\n## ")[0]), vars(module))
    module.test_the_scorer_keeps_the_contract(check)


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / "plugins" / link).exists()] == []


@pytest.mark.parametrize("check", scorer_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("Scorers with less to write", "LogitSpread"),
        ("Scorers with less to write", "PowerShaping"),
        ("Scorers that need more", "Peak"),
    ],
)
def test_the_scorers_that_are_shown_keep_the_contract(section, name, check, monkeypatch):
    module = ModuleType("scorers_that_are_shown")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # annotations are looked up there
    exec(python(README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]), vars(module))
    check(getattr(module, name)())
