"""The tree keeps its shape: plugins are declared where they have to be, and the core names none of them."""

import ast
import re
import tomllib
from pathlib import Path
from typing import get_args

import grimp
import yaml

from ood_core.neighbors.vectors import Metric

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["project"]["entry-points"]
ENTRY_POINTS = GROUPS["ood"] | GROUPS["ood_commands"]
PACKAGES = sorted(folder.name for folder in (ROOT / "plugins").glob("ood_*"))
REPOSITORY = PROJECT["project"]["urls"]["Homepage"]
FOLDERS = ("ood_core", "plugins", "recipes", "tests", "benchmarks", "docs", ".ci")
TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".j2", "")


def tree(path):
    return ast.parse(path.read_text(), path.name)


def test_recipes_are_yaml_alone():
    # a .py file there would make `recipes` an importable name in an editable install
    assert [path.name for path in (ROOT / "recipes").rglob("*") if path.suffix in (".py", ".pyi")] == []


def test_every_plugin_folder_has_an_entry_point_of_its_name_and_every_entry_point_a_folder():
    modules = {f"ood_{entry}": target.partition(":")[0] for entry, target in ENTRY_POINTS.items()}
    assert modules == {package: f"{package}.hooks" for package in PACKAGES}


def test_a_plugin_folder_is_a_typed_package_with_its_registration_in_hooks():
    for package in PACKAGES:
        folder = ROOT / "plugins" / package
        assert (folder / "py.typed").read_text() == "", package
        assert (folder / "hooks.py").is_file(), package
        assert [type(node) for node in tree(folder / "__init__.py").body] == [ast.Expr], f"{package}: a docstring alone"


def test_hooks_register_and_do_nothing_else():
    for package in PACKAGES:
        body = tree(ROOT / "plugins" / package / "hooks.py").body
        functions = [node for node in body if isinstance(node, ast.FunctionDef)]
        classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
        _, _, hook_class = ENTRY_POINTS[package.removeprefix("ood_")].partition(":")
        assert classes == [hook_class] * bool(hook_class), package  # whose methods are the hooks
        assert functions or hook_class, package
        for function in [] if hook_class else functions:
            assert [ast.unparse(decorator) for decorator in function.decorator_list] == ["hookimpl"], package
            *docstring, last = function.body
            assert isinstance(last, ast.Return) and [type(node) for node in docstring] in ([], [ast.Expr]), package


def test_the_core_imports_no_plugin_and_plugins_do_not_import_each_other():
    graph = grimp.build_graph("ood_core", *PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    assert graph.find_illegal_dependencies_for_layers(layers=(set(PACKAGES), "ood_core")) == set()


def test_the_core_compares_with_the_name_of_no_plugin(plugins):
    metrics = set(get_args(Metric))  # "cosine" is also a way to search
    names = {re.escape(name) for _, name in plugins.registered}
    for path in (ROOT / "ood_core").rglob("*.py"):
        here = "|".join(sorted(names - metrics if "neighbors" in path.parts else names))
        found = re.findall(rf"""[=!]= ?["'](?:{here})["']|["'](?:{here})["'] ?[=!]=""", path.read_text())
        assert found == [], path


def texts():
    """Return the text files of the tree; what tools leave behind lies in other folders."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files += [path for path in ROOT.iterdir() if path.suffix in TEXT and not path.name.startswith(".")]
    return [path for path in files if path.suffix in TEXT and path.is_file()]


def test_the_tree_holds_no_path_of_a_machine():
    assert len(texts()) > 50
    machine = re.compile(r"(?<![\w.}])/(home|root|Users|work|mnt|tmp)/\w")
    found = [f"{path.relative_to(ROOT)}: {match}" for path in texts() if (match := machine.search(path.read_text()))]
    assert found == []


def test_links_of_the_readme_work_on_an_index_page():
    # PyPI shows the README without the files beside it
    readme = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)]*)\)|^\[.*\]: (.*)$", readme, flags=re.MULTILINE)
    links = [link or definition for link, definition in targets]
    files = [link.removeprefix(f"{REPOSITORY}/blob/main/") for link in links if link.startswith(REPOSITORY)]
    assert len(files) > 10
    assert [name for name in files if not (ROOT / name).is_file()] == []
    assert [link for link in links if not link.startswith("https://")] == []
    undefined = set(re.findall(r"\[([\w./]+\.(?:md|cff))\](?!:)", readme)) - set(files)
    assert undefined == set()


def test_the_citation_names_the_version_and_the_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PROJECT["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["repository-code"] == REPOSITORY
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
