"""Writes the tables of `ood-run --datasets`, and the layouts of published sets, into docs/datasets_published.md."""

from pathlib import Path

from ood_core.cli.catalogue import datasets_table
from ood_core.plugins import find
from ood_published.source import layouts, names

PAGE = Path(__file__).with_name("datasets_published.md")
END = "<!-- end -->"


def written(page: str) -> str:
    """Return the page with the sources and sets of this distribution."""
    table = "\n".join(["| set | layouts in `root` |", "|---|---|", *(f"| `{n}` | {layouts(n)} |" for n in names())])
    filled = _filled(page, "<!-- layouts -->\n", table + "\n")
    return _filled(filled, "<!-- ood-run --datasets -->\n", datasets_table(find()))


def _filled(page: str, begin: str, content: str) -> str:
    head, _, rest = page.partition(begin)
    return head + begin + "\n" + content + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
