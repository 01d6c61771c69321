"""The tree keeps its shape: plugins are declared where they have to be, and the core names none of them."""

import ast
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from ood_core.neighbors.coordinates import Metric

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRY_POINTS = PROJECT["project"]["entry-points"]["ood"]
PACKAGES = sorted(folder.name for folder in (ROOT / "plugins").glob("ood_*"))
CORE = sorted((ROOT / "ood_core").rglob("*.py"))
FOLDERS = ("ood_core", "plugins", "recipes", "tests", "benchmarks", "docs", ".ci")
TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".j2", "")


def tree(path):
    return ast.parse(path.read_text(), path.name)


def imported(path):
    """Return the top-level names of all modules that a file imports, wherever the import stands."""
    nodes = list(ast.walk(tree(path)))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return {name.partition(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


def test_recipes_are_yaml_alone():
    # a .py file there would make `recipes` an importable name in an editable install
    assert [path.name for path in (ROOT / "recipes").rglob("*") if path.suffix in (".py", ".pyi")] == []


def test_every_plugin_folder_has_an_entry_point_of_its_name_and_every_entry_point_a_folder():
    modules = {f"ood_{entry}": target.partition(":")[0] for entry, target in ENTRY_POINTS.items()}
    assert modules == {package: f"{package}.hooks" for package in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_plugin_folder_is_a_typed_package_with_its_registration_in_hooks(package):
    folder = ROOT / "plugins" / package
    assert (folder / "py.typed").read_text() == ""
    assert (folder / "hooks.py").is_file()
    (docstring,) = tree(folder / "__init__.py").body
    assert "\n" not in docstring.value.value


@pytest.mark.parametrize("package", PACKAGES)
def test_a_plugin_stands_in_the_contracts_of_import_linter(package):
    linter = PROJECT["tool"]["importlinter"]
    contracts = {contract["type"]: contract for contract in linter["contracts"]}
    assert package in linter["root_packages"]
    assert package in contracts["forbidden"]["forbidden_modules"]
    assert package in contracts["independence"]["modules"]


@pytest.mark.parametrize("package", PACKAGES)
def test_hooks_register_and_do_nothing_else(package):
    body = tree(ROOT / "plugins" / package / "hooks.py").body
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    if ":" in ENTRY_POINTS[package.removeprefix("ood_")]:  # the entry point is a class, whose methods are the hooks
        assert [cls.name for cls in classes] == [ENTRY_POINTS[package.removeprefix("ood_")].partition(":")[2]]
        return
    assert classes == []
    assert functions
    for function in functions:
        assert [ast.unparse(decorator) for decorator in function.decorator_list] == ["hookimpl"]
        assert [type(node) for node in function.body] == [ast.Expr, ast.Return]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_core_mentions_no_plugin(path, plugins):
    assert imported(path) & set(PACKAGES) == set()
    metrics = set(get_args(Metric)) if path.parent.name == "neighbors" else set()  # "cosine" is also a way to search
    names = "|".join(sorted({re.escape(name) for _, name in plugins.registered} - metrics))
    assert re.findall(rf"""[=!]= ?["'](?:{names})["']|["'](?:{names})["'] ?[=!]=""", path.read_text()) == []


def texts():
    """Return the text files of the tree; what tools leave behind lies in other folders."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files += [ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "constraints.txt")]
    return [path for path in files if path.suffix in TEXT and path.is_file()]


def test_the_tree_holds_no_path_of_a_machine():
    assert len(texts()) > 50
    machine = re.compile(r"(?<![\w.}])/(home|root|Users|work|mnt|tmp)/\w")
    found = [f"{path.relative_to(ROOT)}: {match}" for path in texts() if (match := machine.search(path.read_text()))]
    assert found == []
