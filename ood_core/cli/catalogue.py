"""Tables of all installed scorers and data sources, made of what their classes say of themselves."""

from __future__ import annotations

from ood_core.interfaces import NEEDS, Card, DatasetSource, Scorer
from ood_core.plugins import Plugins
from ood_core.recipe.build import options_of

_NEEDS = ("embeddings", "logits", "head", "labels", "held_out", "known_ood", "layers", "network")
assert set(_NEEDS) == NEEDS, "the table knows every need, in this order"

_LEGEND = (
    "z logits, p softmax, f embedding, W and b the head, T temperature; N training images, C classes, D dimensions. "
    "Costs are operations up to a factor, of fitting and of scoring one image."
)


def table(plugins: Plugins) -> str:
    """Return Markdown: a table for each package that registers scorers, by name."""
    blocks = [_LEGEND]
    for package in plugins.packages:
        found = {
            name: registered.cls
            for (kind, name), registered in sorted(plugins.registered.items())
            if kind == "scorer" and registered.package == package
        }
        scorers = {name: cls for name, cls in found.items() if issubclass(cls, Scorer) and cls.card is not None}
        if scorers:
            rows = [_row(name, cls) for name, cls in scorers.items()]
            notes = [f"- `{name}`: {cls.card.notes}" for name, cls in scorers.items() if cls.card and cls.card.notes]
            head = (
                "| scorer | options | formula, higher is more OOD | needs | fit | score | source |\n" + "|---" * 7 + "|"
            )
            blocks.append("\n".join([f"### {package.entry} ({package.distribution})", "", head, *rows]))
            if notes:
                blocks.append("\n".join(notes))
    return "\n\n".join(blocks) + "\n"


def _row(name: str, cls: type[Scorer]) -> str:
    card = cls.card
    assert isinstance(card, Card), "only scorers with a card have a row"
    needs = ", ".join(need.replace("_", "-") for need in _NEEDS if need in cls.needs)
    cells = (f"`{name}`", options_of(cls), card.formula, needs, card.fit, card.score, card.paper)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def datasets_table(plugins: Plugins) -> str:
    """Return Markdown: the sources of images with their options, then the published sets that some know by name."""
    sources = [
        registered.cls
        for (kind, _), registered in sorted(plugins.registered.items())
        if kind == "dataset" and issubclass(registered.cls, DatasetSource)
    ]
    rows = [f"| `{cls.name}` | {options_of(cls)} | {first_line(cls)} |" for cls in sources]
    blocks = ["\n".join(["| source | options | what it reads |", "|---|---|---|", *rows])]
    for cls in sources:
        if known := cls.catalogue():
            head = ["| set | what it is | classes | images | licence | source |", "|---" * 6 + "|"]
            lines = [f"| `{name}` | " + " | ".join(facts) + " |" for name, facts in known.items()]
            blocks.append("\n".join([f"### `{{use: {cls.name}, dataset: ...}}`", "", *head, *lines]))
    return "\n\n".join(blocks) + "\n"


def first_line(cls: type) -> str:
    """Return what a class says of itself in the first line of its docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]
