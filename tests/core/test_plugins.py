"""Discovery: the order, who came from where, and every way in which a foreign package can be wrong."""

import json
import sys
from importlib import metadata

import pytest

from ood_core.errors import OODError
from ood_core.plugins import DISABLE, Package, core_version, find, source_digest

from ..packaging.packages import VERSION, write_package

REGISTERS = """\
from dataclasses import dataclass
from ood_core.hookspecs import hookimpl
from ood_core.interfaces import Scorer

@dataclass(frozen=True, kw_only=True)
class Written(Scorer):
    name = "{name}"
    def fit(self, train): ...

@hookimpl
def ood_register_scorers():
    return [Written]
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(distribution, hooks_source)` puts a package on the path; its modules are forgotten after the test."""
    before = set(sys.modules)

    def write(name, hooks_source):
        root = write_package(tmp_path, name, hooks_source)
        monkeypatch.syspath_prepend(root)
        return root / name.replace("-", "_")

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


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
    assert found.registered["scorer", "written"].package == Package("written", "ood-written", VERSION)
    assert found.version(cls()) == f"ood-written {VERSION}"
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


def test_a_plugin_that_is_not_installed_has_no_version(plugins):
    scorer = type("Foreign", (plugins.get("scorer", "energy"),), {})()
    with pytest.raises(LookupError, match="Foreign"):
        plugins.version(scorer)


# --------------------------------------------------------------------------------------------------- versions


def test_the_version_of_an_editable_package_changes_with_its_source(install):
    folder = install("ood-written", REGISTERS.format(name="written"))
    origin = {"url": "file:///somewhere", "dir_info": {"editable": True}}
    (folder.parent / f"ood_written-{VERSION}.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    before = version_of("written")
    assert before == version_of("written")
    (folder / "scorer.py").write_text("K = 50\n")
    after = version_of("written")
    assert before.startswith(f"{VERSION}+")
    assert after.startswith(f"{VERSION}+")
    assert before != after


def version_of(entry):
    return next(package.version for package in find().packages if package.entry == entry)


def test_the_version_of_a_copied_package_is_its_own(install):
    folder = install("ood-written", "")
    (folder / "scorer.py").write_text("K = 50\n")
    assert version_of("written") == VERSION


def test_a_digest_depends_on_the_package_alone_and_not_on_what_lies_beside_it(install, tmp_path):
    folder = install("ood-written", "")
    (folder.parent / "single.py").write_text("K = 1\n")
    digests = source_digest("ood_written"), source_digest("single")
    (folder.parent / "beside.py").write_text("")
    assert (source_digest("ood_written"), source_digest("single")) == digests
    (folder.parent / "single.py").write_text("K = 2\n")
    assert source_digest("single") != digests[1]


def test_parts_that_no_result_depends_on_can_be_left_out_of_a_digest(install):
    folder = install("ood-written", "")
    before = source_digest("ood_written", without=("report", "cli.py"))
    (folder / "report").mkdir()
    (folder / "report" / "table.py").write_text("WIDTH = 3\n")
    (folder / "cli.py").write_text("")
    assert source_digest("ood_written", without=("report", "cli.py")) == before
    assert source_digest("ood_written") != before


def test_the_core_has_the_version_of_its_distribution():
    assert core_version().partition("+")[0] == metadata.version("ood-framework")


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
        "leave one out with OOD_DISABLE_PLUGINS=logits or OOD_DISABLE_PLUGINS=hot"
    )


def test_a_package_that_cannot_be_imported_is_named(install):
    install("ood-broken", "import nothing_of_this_name\n")
    assert mistake() == (
        f"plugin broken (ood-broken {VERSION}) cannot be loaded: ModuleNotFoundError: "
        "No module named 'nothing_of_this_name'; "
        "mend or uninstall it, or leave it out with OOD_DISABLE_PLUGINS=broken"
    )


def test_an_import_error_of_many_lines_is_told_in_one(install):
    install("ood-broken", 'raise RuntimeError("no\\n  driver")\n')
    assert mistake().startswith(f"plugin broken (ood-broken {VERSION}) cannot be loaded: RuntimeError: no driver; ")


def test_a_registration_that_fails_is_named(install):
    install("ood-late", REGISTERS.format(name="late").replace("return [Written]", "from ood_late import scorer"))
    assert mistake() == (
        f"plugin late (ood-late {VERSION}) cannot be loaded: ImportError: cannot import name 'scorer' from 'ood_late' "
        f"({sys.modules['ood_late'].__file__}); "
        "mend or uninstall it, or leave it out with OOD_DISABLE_PLUGINS=late"
    )


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


def test_a_class_without_its_verb_is_named(install):
    install("ood-lazy", REGISTERS.format(name="lazy").replace("    def fit(self, train): ...\n", ""))
    assert mistake() == f"plugin lazy (ood-lazy {VERSION}) registers scorer 'lazy', which does not define fit"


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
