"""Discovery: the order, who came from where, and every way in which a foreign package can be wrong."""

import importlib
import json
import re
import shutil
import sys
from importlib import metadata

import pytest
from grimp import build_graph

from ood_core.data.open_sources import DecodedImages
from ood_core.errors import OODError
from ood_core.plan.make import make_plan
from ood_core.plugins import COMPUTES, core_version, find, find_commands
from ood_core.recipe.read import read_recipes
from ood_core.runtime.plugin_packages import DISABLE, PREFER, Package
from ood_core.runtime.source_digest import source_digest

from ..packaging.packages import VERSION

REGISTERS = """\
from dataclasses import dataclass
from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Score, Scorer

@dataclass(frozen=True, kw_only=True)
class Written(Scorer):
    name = "{name}"
    scores = Score
    def fit(self, train): ...

@hookimpl
def ood_register_scorers():
    return [Written]
"""


READS = """
from PIL import Image
from ood_core.interfaces import DatasetSource, ImageSet

class Pictures(ImageSet):
    classes, labels, fingerprint, encoded = ("square",), [0] * 9, "squares", True
    def image(self, index):
        return Image.new('L', (8, 8), 7)

@dataclass(frozen=True, kw_only=True)
class Squares(DatasetSource):
    name = "squares"
    def open(self, split):
        return Pictures()

@hookimpl
def ood_register_datasets():
    return [Squares]
"""

DERIVED = """\
from dataclasses import dataclass
from ood_core.hookspecs import hookimpl
from ood_logits.energy import Energy

@dataclass(frozen=True, kw_only=True)
class Derived(Energy):
    name = "derived"

@hookimpl
def ood_register_scorers():
    from beside import Derived
    return [Derived]
"""


COMMANDS = "from ood_core.hookspecs import hookimpl\n@hookimpl\ndef ood_register_commands():\n    "


def mistake():
    """Return the message of what `find` refuses."""
    with pytest.raises(OODError) as caught:
        find()
    return str(caught.value)


def shipped(plugins, entry):
    """Return "entry (distribution version)" of an installed package, as messages show it."""
    return str(next(package for package in plugins.packages if package.entry == entry))


# ------------------------------------------------------------------------------------------------- what is found


def test_packages_come_in_order_of_their_names_wherever_they_lie(install):
    install("ood-zebra", "")
    install("ood-aardvark", "")
    entries = [package.entry for package in find().packages]
    assert entries == sorted(entries)
    assert (entries[0], entries[-1]) == ("aardvark", "zebra")


def test_a_third_party_class_is_found_under_its_package_and_version(install):
    install("ood-written", REGISTERS.format(name="written"))
    found = find()
    cls = found.get("scorer", "written")
    assert cls.__module__ == "ood_written.hooks"
    assert found.registered["scorer", "written"].package == Package("written", "ood-written", version_of("written"))
    assert found.version(cls()) == f"ood-written {version_of('written')}"
    assert found.classes("scorer")["written"] is cls
    assert "written" not in found.classes("backbone")


def test_a_package_that_stands_on_the_path_twice_is_found_once(install, monkeypatch):
    folder = install("ood-written", REGISTERS.format(name="written"))
    monkeypatch.syspath_prepend(folder.parent / ".." / folder.parent.name)
    assert [package.entry for package in find().packages].count("written") == 1


def test_an_entry_point_that_is_a_class_is_made_anew_for_each_find(install):
    source = "from ood_core.hookspecs import hookimpl\nclass Watch:\n    @hookimpl\n    def ood_before_run(self): ...\n"
    folder = install("ood-watch", source)
    (folder.parent / f"ood_watch-{VERSION}.dist-info" / "entry_points.txt").write_text(
        "[ood]\nwatch = ood_watch.hooks:Watch\n"
    )
    first, second = (find().manager.get_plugin("watch") for _ in range(2))
    assert type(first) is type(second) is sys.modules["ood_watch.hooks"].Watch
    assert first is not second


def test_the_nearest_name_is_suggested(plugins):
    with pytest.raises(OODError, match=r"^no scorer 'mahalanobbis'\. Did you mean 'mahalanobis'\?$"):
        plugins.get("scorer", "mahalanobbis")


def test_without_a_near_name_all_names_are_listed(plugins):
    with pytest.raises(OODError, match=r"^no tokenizer 'vqkd'\. There is: dalle, dvae, kmeans$"):
        plugins.get("tokenizer", "vqkd")


def test_a_class_that_no_package_registers_has_no_version(plugins):
    scorer = type("Foreign", (plugins.get("scorer", "energy"),), {"__module__": "__main__"})()
    with pytest.raises(OODError) as caught:
        plugins.version(scorer)
    assert str(caught.value) == (
        "no installed package registers the scorer Foreign of __main__; put the class into a package that returns it "
        "from the hook ood_register_scorers (plugins/README.md)"
    )


# --------------------------------------------------------------------------------------------------- versions


def version_of(entry):
    return next(package.version for package in find().packages if package.entry == entry)


def test_the_version_of_a_package_is_its_distributions_and_changes_with_its_files(install):
    folder = install("ood-written", REGISTERS.format(name="written"))
    versions = [version_of("written")]
    assert versions == [version_of("written")]
    assert re.fullmatch(re.escape(VERSION) + r"\+[0-9a-f]{8}", versions[0])
    for name, content in (("scorer.py", "K = 50\n"), ("table.json", "[1]"), ("scorer.py", "K = 51\n")):
        (folder / name).write_text(content)
        versions.append(version_of("written"))
    (folder / "scorer.py").rename(folder / "renamed.py")
    versions.append(version_of("written"))
    assert len(set(versions)) == 5


def test_a_copy_and_an_editable_install_of_the_same_files_have_one_version(install):
    folder = install("ood-written", "")
    before = version_of("written")
    origin = {"url": "file:///somewhere", "dir_info": {"editable": True}}
    (folder.parent / f"ood_written-{VERSION}.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "hooks.cpython-312.pyc").write_bytes(b"compiled")
    (folder / ".hooks.py.swp").write_bytes(b"an editor's")
    assert version_of("written") == before


def test_packages_of_one_distribution_are_told_apart_by_their_own_files(install):
    folder = install("ood-written", REGISTERS.format(name="written"))
    (folder.parent / "ood_second").mkdir()
    (folder.parent / "ood_second" / "__init__.py").write_text("")
    (folder.parent / f"ood_written-{VERSION}.dist-info" / "entry_points.txt").write_text(
        "[ood]\nwritten = ood_written.hooks\nsecond = ood_second\n"
    )
    before = version_of("written"), version_of("second")
    (folder.parent / "ood_second" / "scorer.py").write_text("K = 1\n")
    assert version_of("written") == before[0]
    assert version_of("second") != before[1]


def test_the_code_of_a_class_is_that_of_all_plugin_packages_that_it_derives_from(install, plugins):
    folder = install("ood-written", DERIVED)
    (folder.parent / "beside.py").write_text(DERIVED.partition("@hookimpl")[0])
    found = find()
    cls = found.get("scorer", "derived")
    assert found.code(cls) == {name: source_digest(name) for name in ("beside", "ood_logits")}
    assert found.code(plugins.get("scorer", "energy")) == {"ood_logits": source_digest("ood_logits")}
    (folder.parent / "beside.py").write_text("K = 50\n")
    assert find().code(cls) != found.code(cls)


def test_results_of_an_edited_copy_are_not_taken_from_the_store(install, tiny):
    folder = install("ood-written", REGISTERS.format(name="written") + READS)
    overrides = ["scorers=[written]", "data.near=[{use: squares}]"]
    before = make_plan(read_recipes(tiny, overrides), find()).stages
    with (folder / "hooks.py").open("a") as hooks:
        hooks.write("\n# another formula\n")
    after = make_plan(read_recipes(tiny, overrides), find()).stages
    changed = {str(one) for one, other in zip(before, after, strict=True) if one.key != other.key}
    shared = {"train classification", *(f"extract {of} (classification)" for of in ("digits", "digits train"))}
    assert {"fit written", "extract squares (classification)"} <= changed
    assert shared.isdisjoint(changed)


def test_pixels_that_an_edited_source_reads_are_not_those_of_the_cache(install):
    folder = install("ood-written", REGISTERS.format(name="written") + READS)
    assert grey_levels() == [7, 7]
    source = (folder / "hooks.py").read_text().replace("Image.new('L', (8, 8), 7)", "Image.new('L', (8, 8), 77)")
    (folder / "hooks.py").write_text(source)
    for name in ("ood_written.hooks", "ood_written"):
        del sys.modules[name]
    importlib.invalidate_caches()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    assert grey_levels() == [77, 77]


def grey_levels():
    pictures = DecodedImages(find().get("dataset", "squares")().open("test"), "squares")
    return [pictures.pixels(row).float().mean() for row in (0, 1)]  # the first one is read before there is a cache


def test_the_core_has_the_version_of_its_distribution_and_a_digest():
    version = metadata.version("ood-framework")
    assert re.fullmatch(re.escape(version) + r"\+[0-9a-f]{8}", core_version())


NO_RESULT = {
    "errors": "what messages say",
    "escapes": "how names are shown",
    "hookspecs": "the names of hooks",
    "plugins": "observers of a run",
    "records.results": "the table of a run",
    "runtime.memory": "what a stage has taken",
    "runtime.observers": "observers of a run",
    "runtime.plugin_errors": "what messages say",
    "runtime.plugin_packages": "where plugins come from",
    "runtime.source_digest": "keys themselves",
    "store.cost_model": "what a stage will take",
}
"""Modules of the core that stages or plugins import, and no number depends on."""


def test_whatever_stages_and_plugins_compute_with_is_in_the_digest_of_the_core(plugins):
    packages = {cls.__module__.partition(".")[0] for cls in (found.cls for found in plugins.registered.values())}
    graph = build_graph("ood_core", *packages, exclude_type_checking_imports=True, cache_dir=None)
    imported = {name for name in NO_RESULT if graph.find_modules_that_directly_import(f"ood_core.{name}")}
    assert imported == NO_RESULT.keys()
    for name in NO_RESULT:
        graph.remove_module(f"ood_core.{name}")
    found = {"ood_core.pipeline.dispatch"}  # the stages, whatever their kind
    for module in found | {name for name in graph.modules if name.partition(".")[0] in packages}:
        found |= graph.find_upstream_modules(module)
    needed = {name.removeprefix("ood_core.") for name in found if name.startswith("ood_core.")}
    parts = {part.removesuffix(".py").replace("/", ".") for part in COMPUTES}
    within = {name: [part for part in parts if f"{name}.".startswith(f"{part}.")] for name in needed}
    packages_above = {part.rpartition(".")[0] for part in parts}  # their __init__ holds a docstring
    assert [name for name, found_in in within.items() if not found_in and name not in packages_above] == []
    assert parts == {part for found_in in within.values() for part in found_in}


# --------------------------------------------------------------------------------- foreign packages that are wrong


def test_two_packages_with_one_entry_point_are_both_named(install):
    install("ood-twin", "")
    install("twin", "")
    assert mistake() == (
        f"two packages have the plugin entry point 'twin': twin (ood-twin {VERSION}) and twin (twin {VERSION}); "
        "uninstall one, or leave both out with OOD_DISABLE_PLUGINS=twin"
    )


def test_a_package_cannot_take_the_entry_point_of_a_shipped_one(install, plugins):
    install("logits", "")
    assert mistake() == (
        f"two packages have the plugin entry point 'logits': logits (logits {VERSION}) and "
        f"{shipped(plugins, 'logits')}; uninstall one, or leave both out with OOD_DISABLE_PLUGINS=logits"
    )


def test_two_packages_with_one_scorer_are_both_named(install, plugins):
    install("ood-hot", REGISTERS.format(name="energy"))
    assert mistake() == (
        f"two plugins register the scorer 'energy': hot (ood-hot {VERSION}) and {shipped(plugins, 'logits')}; "
        "choose one with OOD_PREFER=hot:energy or OOD_PREFER=logits:energy"
    )


def test_a_package_that_registers_a_name_twice_is_named(install):
    install("ood-hot", REGISTERS.format(name="hot").replace("[Written]", "[Written, Written]"))
    assert mistake() == f"plugin hot (ood-hot {VERSION}) registers the scorer 'hot' twice"


@pytest.mark.parametrize(("chosen", "module"), [("hot", "ood_hot.hooks"), ("logits", "ood_logits.energy")])
def test_of_two_scorers_with_one_name_the_preferred_one_is_taken_and_no_package_left_out(
    install, monkeypatch, chosen, module
):
    install("ood-hot", REGISTERS.format(name="energy"))
    monkeypatch.setenv(PREFER, f" {chosen}:energy,")
    found = find()
    assert found.get("scorer", "energy").__module__ == module
    assert found.registered["scorer", "energy"].package.entry == chosen
    assert "softmax" in found.classes("scorer")


@pytest.mark.parametrize(
    ("preferred", "message"),
    [
        ("energy", "'energy' is not PACKAGE:NAME, the entry point of a package and a plugin's name"),
        ("logitss:energy", "no plugin 'logitss' is loaded. Did you mean 'logits'?"),
        ("logits:enrgy", "plugin 'logits' registers no 'enrgy'. Did you mean 'energy'?"),
    ],
)
def test_a_preference_that_cannot_be_meant_is_a_mistake(monkeypatch, preferred, message):
    monkeypatch.setenv(PREFER, preferred)
    assert mistake() == f"OOD_PREFER: {message}"


def test_of_two_commands_with_one_name_the_preferred_one_is_taken(install, monkeypatch):
    source = (
        "from ood_core.hookspecs import hookimpl\n@hookimpl\ndef ood_register_commands():\n    return {'score': print}"
    )
    folder = install("ood-hot", source)
    (folder.parent / f"ood_hot-{VERSION}.dist-info" / "entry_points.txt").write_text(
        "[ood_commands]\nhot = ood_hot.hooks\n"
    )
    with pytest.raises(OODError, match=r"the command 'score': .*; choose one with OOD_PREFER=hot:score or"):
        find_commands()
    monkeypatch.setenv(PREFER, "hot:score")
    assert find_commands()["score"] is print
    find()  # to which the preference does not apply


def test_a_package_that_cannot_be_imported_is_named(install):
    install("ood-broken", "import nothing_of_this_name\n")
    assert mistake() == (
        f"plugin broken (ood-broken {VERSION}) cannot be loaded: ModuleNotFoundError: "
        "No module named 'nothing_of_this_name' (ood_broken/hooks.py:1, in <module>); "
        "mend or uninstall it, or leave it out with OOD_DISABLE_PLUGINS=broken"
    )


def test_an_import_error_of_many_lines_is_told_in_one(install):
    install("ood-broken", 'raise RuntimeError("no\\n  driver")\n')
    assert "cannot be loaded: RuntimeError: no driver (ood_broken/hooks.py:1, in <module>); mend" in mistake()


def test_a_registration_that_fails_is_named(install):
    install("ood-late", REGISTERS.format(name="late").replace("return [Written]", "from ood_late import scorer"))
    assert mistake() == (
        f"plugin late (ood-late {VERSION}) cannot be loaded: ImportError: cannot import name 'scorer' from 'ood_late' "
        f"({sys.modules['ood_late'].__file__}) (ood_late/hooks.py:13, in ood_register_scorers); "
        "mend or uninstall it, or leave it out with OOD_DISABLE_PLUGINS=late"
    )


ENDS = {
    "2, in <module>": "import sys\nsys.exit(3)\n",
    "13, in ood_register_scorers": REGISTERS.format(name="broken").replace("return [Written]", "exit(3)"),
}


@pytest.mark.parametrize("line", ENDS)
def test_a_package_that_ends_the_process_is_named(install, line):
    install("ood-broken", ENDS[line])
    assert mistake() == (
        f"plugin broken (ood-broken {VERSION}) cannot be loaded: SystemExit: 3 (ood_broken/hooks.py:{line}); "
        "mend or uninstall it, or leave it out with OOD_DISABLE_PLUGINS=broken"
    )


@pytest.mark.parametrize("ends", ["raise RuntimeError('no driver')", "exit(3)", "return 7"])
def test_a_package_whose_commands_cannot_be_registered_is_named(install, ood, ends):
    folder = install(
        "ood-broken", f"from ood_core.hookspecs import hookimpl\n@hookimpl\ndef ood_register_commands(): {ends}"
    )
    (folder.parent / f"ood_broken-{VERSION}.dist-info" / "entry_points.txt").write_text(
        "[ood_commands]\nbroken = ood_broken.hooks\n"
    )
    code, out, err = ood("--help")
    assert (code, out) == (2, "")
    assert err.startswith(f"plugin broken (ood-broken {VERSION}) cannot be loaded: ")
    assert err.count("\n") == 1


def test_a_registration_without_return_is_named(install):
    install("ood-mute", REGISTERS.format(name="mute").replace("return [Written]", "pass"))
    assert mistake() == (
        f"plugin mute (ood-mute {VERSION}) cannot be loaded: TypeError: 'NoneType' object is not iterable; "
        "mend or uninstall it, or leave it out with OOD_DISABLE_PLUGINS=mute"
    )


def test_a_misspelt_hook_is_named_with_the_right_one(install):
    install("ood-typo", REGISTERS.format(name="typo").replace("ood_register_scorers", "ood_register_scorer"))
    assert mistake() == (
        f"plugin typo (ood-typo {VERSION}) implements no hook there is: 'ood_register_scorer'. "
        "Did you mean 'ood_register_scorers'?"
    )


def test_one_misspelt_hook_is_not_suggested_for_another(install):
    source = "from ood_core.hookspecs import hookimpl\n"
    for name in ("ood_after_epochs", "ood_after_epochss"):
        source += f"@hookimpl\ndef {name}(): ...\n"
    install("ood-typo", source)
    assert mistake().endswith("'ood_after_epochs'. Did you mean 'ood_after_epoch'?")


def test_a_hook_that_is_not_marked_as_one_is_named(install):
    install("ood-unmarked", REGISTERS.format(name="unmarked").replace("@hookimpl\n", ""))
    assert mistake() == (
        f"plugin unmarked (ood-unmarked {VERSION}) cannot be loaded: TypeError: ood_register_scorers is not "
        "marked with @hookimpl; mend or uninstall it, or leave it out with OOD_DISABLE_PLUGINS=unmarked"
    )


def test_a_wrapper_of_a_hook_is_refused(install):
    source = "from ood_core.hookspecs import hookimpl\n@hookimpl(wrapper=True)\ndef ood_after_run(): yield\n"
    install("ood-wrapped", source)
    assert "cannot be loaded: TypeError: ood_after_run is a wrapper of a hook, which none may be; mend" in mistake()


def test_a_class_without_its_verb_is_named(install):
    install("ood-lazy", REGISTERS.format(name="lazy").replace("    def fit(self, train): ...\n", ""))
    assert mistake() == f"plugin lazy (ood-lazy {VERSION}) registers scorer 'lazy', which does not define fit"


WRONG_CLASSES = {
    "    scores = Score\n": ("", "scorer 'odd', which does not declare 'scores', the class that fit returns"),
    "scores = Score": (
        "scores = dict",
        "scorer 'odd', whose 'scores' is <class 'dict'>, not a class that derives from Score",
    ),
    "    scores": ("    needs = {'logit'}\n    scores", "scorer 'odd', which needs 'logit'. Did you mean 'logits'?"),
    'name = "odd"': (
        'name = "odd"; needs = "logits"',
        "scorer 'odd', whose needs are 'logits', not a frozenset of names",
    ),
    "@dataclass(frozen=True, kw_only=True)\nclass Written(Scorer):\n": (
        "class Written(Scorer):\n    k: int = 3\n",
        "scorer 'odd', whose class Written has fields (k) and is no dataclass; decorate it with "
        "@dataclass(frozen=True, kw_only=True)",
    ),
    '@dataclass(frozen=True, kw_only=True)\nclass Written(Scorer):\n    name = "odd"\n    scores = Score': (
        "class Kept(Score):\n    k: int\n"
        '@dataclass(frozen=True, kw_only=True)\nclass Written(Scorer):\n    name = "odd"\n    scores = Kept',
        "scorer 'odd', whose class Kept has fields (k) and is no dataclass; decorate it with "
        "@dataclass(frozen=True, kw_only=True)",
    ),
}


@pytest.mark.parametrize("right", WRONG_CLASSES)
def test_a_class_that_declares_what_cannot_be_is_named(install, right):
    wrong, message = WRONG_CLASSES[right]
    source = REGISTERS.format(name="odd")
    assert right in source
    install("ood-odd", source.replace(right, wrong))
    assert mistake() == f"plugin odd (ood-odd {VERSION}) registers {message}"


def test_class_variables_are_no_fields_that_want_a_decorator(install):
    source = REGISTERS.format(name="even").replace("@dataclass(frozen=True, kw_only=True)\n", "")
    install(
        "ood-even",
        "from typing import ClassVar\n" + source.replace("    scores", "    k: ClassVar[int] = 3\n    scores"),
    )
    assert find().get("scorer", "even").k == 3


def test_leaving_out_what_is_not_installed_is_a_mistake(monkeypatch):
    monkeypatch.setenv(DISABLE, "logits, mahalanobiss")
    assert mistake() == f"{DISABLE}: no plugin 'mahalanobiss' is installed. Did you mean 'mahalanobis'?"


def test_a_misspelt_argument_of_a_hook_is_named(install):
    source = "from ood_core.hookspecs import hookimpl\n@hookimpl\ndef ood_on_progress(stage, doen): ...\n"
    install("ood-typo", source)
    assert mistake() == (
        f"plugin typo (ood-typo {VERSION}) is not valid: Plugin 'typo' for hook 'ood_on_progress' "
        "hookimpl definition: ood_on_progress(stage, doen) "
        "Argument(s) {'doen'} are declared in the hookimpl but can not be found in the hookspec"
    )


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        ("[dict]", "<class 'dict'>"),
        ("[Written()]", "Written()"),
        ("['odd']", "'odd'"),
        ("[Scorer]", "<class 'ood_core.interfaces.scoring.Scorer'>"),
    ],
)
def test_what_is_no_class_of_the_kind_is_shown(install, returned, shown):
    install("ood-odd", REGISTERS.format(name="odd").replace("[Written]", returned))
    assert mistake() == (
        f"plugin odd (ood-odd {VERSION}) registers as scorer what is none: {shown} (wanted: a named Scorer)"
    )


WRONG = {
    "twins": ("ood-twin", "import nothing_of_this_name\n", "twin"),
    "name of a scorer": ("ood-hot", REGISTERS.format(name="energy"), "hot"),
    "broken import": ("ood-broken", "import nothing_of_this_name\n", "broken"),
    "misspelt hook": ("ood-typo", REGISTERS.format(name="typo").replace("scorers", "scorer"), "typo"),
    "no class": ("ood-odd", REGISTERS.format(name="odd").replace("[Written]", "[dict]"), "odd"),
}


@pytest.mark.parametrize(("distribution", "source", "entry"), WRONG.values(), ids=WRONG)
def test_a_wrong_package_can_be_left_out(install, monkeypatch, plugins, distribution, source, entry):
    install(distribution, source)
    install("twin", "")
    assert mistake()
    monkeypatch.setenv(DISABLE, f" {entry}, twin")
    assert find().packages == plugins.packages


def test_a_shipped_package_can_be_left_out_in_favour_of_another(install, monkeypatch):
    install("ood-hot", REGISTERS.format(name="energy"))
    monkeypatch.setenv(DISABLE, "logits")
    found = find()
    assert found.get("scorer", "energy").__module__ == "ood_hot.hooks"
    assert "softmax" not in found.classes("scorer")
