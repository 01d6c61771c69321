"""Writes the tables of `ood list scorers` into docs/scorers.md: python docs/scorers.py."""

from pathlib import Path

from ood_core.cli.catalogue import scorers_table as table
from ood_core.plugins import find

PAGE = Path(__file__).with_name("scorers.md")
BEGIN, END = "<!-- ood-run --scorers -->\n", "<!-- end -->"


def written(page: str) -> str:
    """Return the page with the tables of the installed scorers of this distribution."""
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + "\n" + table(find()) + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
