"""`ood list` and `ood show`: what is installed, from what its classes declare; the tables of docs/."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
import sys
import textwrap
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ood_core.cli.echo import echo
from ood_core.cli.options import complete_recipe
from ood_core.cli.runs import run_rows

if TYPE_CHECKING:
    from ood_core.interfaces import Scorer
    from ood_core.plugins import Plugins, Registered

_LEGEND = (
    "z logits, p softmax, f embedding, W and b the head, T temperature; N training images, C classes, D dimensions. "
    "Costs are operations up to a factor, of fitting and of scoring one image."
)

_SECTIONS = {
    "backbone": "backbone: {}",
    "pretext": "training: [{}]",
    "tokenizer": "training: [{{use: mim, tokenizer: {}}}]",
    "scorer": "scorers: [{}]",
    "dataset": "data: {{far: [{}]}}",
}
"""Where a plugin of a kind stands in a recipe."""

_SYMBOLS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >="}
"""Symbol of a bound, by the attribute of annotated_types that holds it."""


def list_installed(
    what: Annotated[
        Literal["plugins", "scorers", "pretexts", "backbones", "tokenizers", "datasets", "recipes", "runs"],
        typer.Argument(show_default=False),
    ],
) -> None:
    """List what is installed, or the runs below `runs/`, a line for each; `ood show NAME` explains one of them."""
    if what == "plugins":
        list_plugins()
        return
    if what == "runs":
        rows = run_rows()
    elif what == "recipes":
        from ood_core.runtime.shipped import recipe_names, shipped_folder

        texts = {name: (shipped_folder() / f"{name}.yaml").read_text() for name in recipe_names()}
        rows = [(name, text.partition("\n")[0].removeprefix("# ")) for name, text in texts.items()]
    else:
        from ood_core.interfaces import DatasetSource
        from ood_core.plugins import find

        classes = find().classes(what.removesuffix("s"))
        rows = [(name, first_line(cls)) for name, cls in classes.items()]
        for name, cls in classes.items():
            if issubclass(cls, DatasetSource):
                rows += [(f"{name}: {known}", facts[0]) for known, facts in cls.catalogue().items()]
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        echo(_fitted(f"{name:{width}}  {text}"))
    if not rows:
        echo(f"there are no {what}", err=True)


def list_in_full(what: Literal["scorers", "datasets"]) -> None:
    """Print the scorers or data sets: as `ood list` at a terminal, as the Markdown of docs/ in a pipe or file."""
    if at_terminal():
        list_installed(what)
        return
    from ood_core.plugins import find

    typer.echo((scorers_table if what == "scorers" else datasets_table)(find()), nl=False)


def list_plugins() -> None:
    """Print the plugin packages with what each registers."""
    from ood_core.plugins import find
    from ood_core.runtime.plugin_packages import DISABLE

    found = find()
    for package in found.packages:
        typer.echo(str(package))
        for (kind, name), registered in sorted(found.registered.items()):
            if registered.package == package:
                typer.echo(_fitted(f"    {kind:9} {name:20} {first_line(registered.cls)}"))
    if disabled := os.environ.get(DISABLE):
        typer.echo(f"left out by {DISABLE}: {disabled}")


def show(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A plugin or a shipped recipe.", autocompletion=complete_recipe),
    ],
) -> None:
    """Show a plugin: its options with types, defaults and meaning, its source, an example. Or the text of a recipe."""
    from ood_core.errors import OODError, suggest
    from ood_core.plugins import find
    from ood_core.runtime.shipped import recipe_names, shipped_folder

    plugins = find()
    found = [registered for (_, known), registered in sorted(plugins.registered.items()) if known == name]
    if found:
        typer.echo("\n\n".join(describe_plugin(registered) for registered in found))
    elif name in recipe_names():
        path = shipped_folder() / f"{name}.yaml"
        typer.echo(f"# {path}\n{path.read_text()}", nl=False)
    else:
        known = {known for _, known in plugins.registered} | set(recipe_names())
        raise OODError(f"no plugin or recipe '{name}'.{suggest(name, known)}")


def copy_recipe(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="The name of a shipped recipe.", autocompletion=complete_recipe),
    ],
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where to, such as my.yaml; must not exist.")],
) -> None:
    """Copy a shipped recipe into a file of your own, to change it."""
    from ood_core.errors import OODError
    from ood_core.recipe.read import shipped_text
    from ood_core.store.files import replacing

    text = shipped_text(recipe)
    if target.suffix != ".yaml" or target.name.endswith(".lock.yaml"):
        raise OODError(f"{target}: must end in .yaml, and not in .lock.yaml; `ood show {recipe}` prints the recipe")
    if target.exists():
        raise OODError(f"{target}: exists already; name another file")
    try:
        with replacing(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OODError(f"{target}: cannot be written: {error.strerror}") from None
    echo(f"{target}: change it, and run it by `ood run {target}`")


def describe_plugin(registered: Registered) -> str:
    """Return a plugin's documentation: docstring, options, requirements, an example of its use in a recipe."""
    from ood_core.interfaces import Scorer
    from ood_core.recipe.build import default_text

    cls = registered.cls
    about, attributes = _parse_docstring(cls)
    blocks = [f"{registered.kind} {cls.name}  {registered.package}", about]
    if issubclass(cls, Scorer) and cls.info is not None:
        facts = {"score": cls.info.formula, "needs": _needs(cls), "source": cls.info.paper, "notes": cls.info.notes}
        blocks.append("\n".join(_wrapped(f"{key:8}", text) for key, text in facts.items() if text))
    hints = typing.get_type_hints(cls, include_extras=True)
    required, lines = [], []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = default_text(field)
        required += [field.name] if default is None else []
        shown = "required" if default is None else f"default {default}"
        lines.append(f"  {field.name}: {_type_name(hints[field.name])}, {shown}")
        if field.name in attributes:
            lines.append(_wrapped("      ", attributes[field.name]))
    blocks.append("\n".join(["options" if lines else "no options", *lines]))
    example = f"{{use: {cls.name}{''.join(f', {option}: ...' for option in required)}}}"
    blocks.append("example\n  " + _SECTIONS[registered.kind].format(example))
    return "\n\n".join(blocks)


def _parse_docstring(cls: type) -> tuple[str, dict[str, str]]:
    """Return a class's description, and that of each attribute, inherited ones included."""
    attributes: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, listed = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, flags=re.MULTILINE)
        attributes |= {name: " ".join(text.split()) for name, text in entries}
    return inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[0].strip(), attributes


def _type_name(hint: Any) -> str:
    """Return an option's type in words: "float, > 0", "flat | ivf", "list of scorer"."""
    from ood_core.interfaces import PLUGIN_KINDS

    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        held = [(bound, name) for bound in parts[1:] for name in _SYMBOLS if hasattr(bound, name)]
        bounds = ", ".join(f"{_SYMBOLS[name]} {getattr(bound, name)}" for bound, name in held)
        return f"{_type_name(parts[0])} {bounds}".strip()
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(part) for part in parts)
    if origin is tuple:
        return f"list of {_type_name(parts[0])}"
    if hint is types.NoneType:
        return "null"
    kinds = [kind for kind, base in PLUGIN_KINDS.items() if isinstance(hint, type) and issubclass(hint, base)]
    return kinds[0] if kinds else getattr(hint, "__name__", str(hint)).replace("Path", "path")


def scorers_table(plugins: Plugins) -> str:
    """Return Markdown: a table for each package that registers scorers, by name."""
    from ood_core.interfaces import Scorer

    blocks = [_LEGEND]
    for package in plugins.packages:
        scorers = [
            registered.cls
            for (kind, _), registered in sorted(plugins.registered.items())
            if kind == "scorer" and registered.package == package
        ]
        described = [cls for cls in scorers if issubclass(cls, Scorer) and cls.info is not None]
        if described:
            head = [
                "| scorer | options | formula, higher is more OOD | needs | fit | score | source |",
                "|---" * 7 + "|",
            ]
            title = f"### {package.entry} ({package.distribution})"
            blocks.append("\n".join([title, "", *head, *map(_row, described)]))
            if notes := [f"- `{cls.name}`: {cls.info.notes}" for cls in described if cls.info and cls.info.notes]:
                blocks.append("\n".join(notes))
    return "\n\n".join(blocks) + "\n"


def _row(cls: type[Scorer]) -> str:
    from ood_core.recipe.build import options_of

    info = cls.info
    assert info is not None, "only described scorers have a row"
    cells = (f"`{cls.name}`", options_of(cls), info.formula, _needs(cls), info.fit, info.score, info.paper)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _needs(cls: type[Scorer]) -> str:
    from ood_core.interfaces import NEEDS

    return ", ".join(need.replace("_", "-") for need in NEEDS if need in cls.needs)


def datasets_table(plugins: Plugins) -> str:
    """Return Markdown: the sources of images with their options, then the published sets that some know by name."""
    from ood_core.interfaces import DatasetSource
    from ood_core.recipe.build import options_of

    sources = [cls for cls in plugins.classes("dataset").values() if issubclass(cls, DatasetSource)]
    rows = [f"| `{cls.name}` | {options_of(cls)} | {first_line(cls)} |" for cls in sources]
    blocks = ["\n".join(["| source | options | what it reads |", "|---|---|---|", *rows])]
    for cls in sources:
        if known := cls.catalogue():
            head = ["| set | what it is | classes | images | licence | source |", "|---" * 6 + "|"]
            lines = [f"| `{name}` | " + " | ".join(facts) + " |" for name, facts in known.items()]
            blocks.append("\n".join([f"### `{{use: {cls.name}, dataset: ...}}`", "", *head, *lines]))
    return "\n\n".join(blocks) + "\n"


def first_line(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


def at_terminal() -> bool:
    """Return whether lines are printed at a terminal, not into a pipe or file."""
    return sys.stdout.isatty()


def _fitted(line: str) -> str:
    """Cut a line to the terminal's width; in a pipe it stays whole."""
    width = shutil.get_terminal_size().columns
    return line if not at_terminal() or len(line) <= width else f"{line[: width - 1]}…"


def _wrapped(label: str, text: str) -> str:
    width = min(100, shutil.get_terminal_size().columns)
    return textwrap.fill(text, width, initial_indent=label, subsequent_indent=" " * len(label))
