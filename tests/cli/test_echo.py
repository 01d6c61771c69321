"""What commands print is text: a terminal obeys no name in it."""

import logging
import sys

import pytest

from ood_core.cli.echo import LineFormatter, echo


def test_lines_are_lines_and_controls_are_escaped(capsys):
    echo("a\x1b[31m\nb", "c", err=True)
    captured = capsys.readouterr()
    assert captured.err == "a\\x1b[31m\\nb\nc\n"
    assert not captured.out


def test_log_records_have_one_line_and_tracebacks_keep_theirs():
    try:
        raise ValueError("\x1b[31m")
    except ValueError:
        record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "of '%s'", ("a\x1b\nb",), sys.exc_info())
    first, *traceback = LineFormatter().format(record).split("\n")
    assert first == "of 'a\\x1b\\nb'"
    assert len(traceback) > 2
    assert traceback[-1] == "ValueError: \\x1b[31m"


@pytest.mark.parametrize("name", ["a\x1b[31m\nb.yaml", "\u202ea\x9b2J"])
def test_a_mistake_names_a_file_without_its_controls(ood_run, ood, name):
    for call in (ood_run, lambda name: ood("report", name), lambda name: ood("score", name, name)):
        code, out, said = call(name)
        assert code == 2
        assert not out
        assert said.count("\n") == 1
        assert not {"\x1b", "\x9b", "\u202e"} & set(said)


def test_a_hostile_name_in_a_recipe_reaches_no_terminal(ood_run, tiny, tiny_text):
    text = tiny_text.replace("name: unseen", r'name: "un\e[31mseen\nfailed"')
    tiny.write_text(text.replace("- {use: noise", '- {use: noise, name: "\\e]0;x\\a"'))
    code, out, said = ood_run(tiny, "--plan")
    assert code == 0
    assert "un\\x1b[31mseen\\nfailed" in out.replace("\n", "")
    assert "\x1b" not in out + said
