"""Writes small plugin packages for tests."""

from __future__ import annotations

from pathlib import Path

VERSION = "7.8.9"


def write_package(folder: Path, name: str, hooks_source: str) -> Path:
    """Write a plugin package whose hooks.py has this source, and return the folder it lies in.

    It can be used in two ways: `pip install` of the returned folder, or, without pip and in no time, the returned
    folder on `sys.path` (or PYTHONPATH), where `importlib.metadata` finds the distribution in the folder beside it.

    Args:
        folder: Where to put it.
        name: Of the distribution, such as "ood-clash"; the module is `ood_clash`, the entry point `clash`.
        hooks_source: Python.
    """
    module, entry = name.replace("-", "_"), name.removeprefix("ood-")
    root = folder / name
    files = {
        "pyproject.toml": _pyproject(name, module, entry),
        f"{module}/__init__.py": f'"""{name}."""\n',
        f"{module}/hooks.py": hooks_source,
        f"{module}-{VERSION}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSION}\n",
        f"{module}-{VERSION}.dist-info/entry_points.txt": f"[ood]\n{entry} = {module}.hooks\n",
    }
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root


def _pyproject(name: str, module: str, entry: str) -> str:
    return f"""\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{VERSION}"

[project.entry-points.ood]
{entry} = "{module}.hooks"

[tool.hatch.build.targets.wheel]
only-include = ["{module}"]
"""
