"""What lies in a folder, and digests over content."""

import hashlib
import os
from pathlib import Path

import pytest

from ood_core.data import files
from ood_core.errors import OODError
from ood_core.runtime.source_digest import source_digest


def test_a_digest_depends_on_names_and_content_but_not_on_the_folder(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "a").write_text("a")
        (tmp_path / folder / "sub" / "b").write_text("b")
    listed = [[tmp_path / folder / "a", tmp_path / folder / "sub" / "b"] for folder in ("one", "two")]
    assert files.digest_files(listed[0]) == files.digest_files(reversed(listed[1]))
    (tmp_path / "two" / "sub" / "b").write_text("c")
    assert files.digest_files(listed[0]) != files.digest_files(listed[1])


def slow_digest(paths):
    """The names in the order of paths, below the folder that all lie in, each with the hash of its content."""
    ordered = sorted(paths)
    root = Path(os.path.commonpath([path.parent for path in ordered])) if ordered else Path()
    lines = [f"{p.relative_to(root).as_posix()}\0{hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in ordered]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["one"],
        ["deep/one"],
        ["deep/one", "deep/two", "deep/er/three"],
        ["a/b/x", "a/c/x", "a/c!/x", "a/x"],
        ["a-b/x", "a/b", "a b/x", "A/x"],
        ["b", "b.d/x", "b.c"],
    ],
)
def test_the_digest_is_that_of_names_below_the_common_folder(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    for folder in (tmp_path, Path()):
        paths = [folder / name for name in names]
        assert files.digest_files(paths) == slow_digest(paths)


def test_the_digest_of_a_package_depends_on_its_own_files_and_their_names(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "digested").mkdir()
    (tmp_path / "digested" / "__init__.py").write_text("")
    (tmp_path / "digested" / "report.py").write_text("K = 1\n")
    (tmp_path / "digested_alone.py").write_text("K = 1\n")
    before = {name: source_digest(name) for name in ("digested", "digested_alone")}
    part = source_digest("digested", ("__init__.py",))
    (tmp_path / "beside.py").write_text("")
    assert {name: source_digest(name) for name in before} == before
    (tmp_path / "digested" / "report.py").write_text("K = 2\n")
    (tmp_path / "digested_alone.py").write_text("K = 2\n")
    for name, digest in before.items():
        assert source_digest(name) != digest
    assert source_digest("digested", ("__init__.py",)) == part


def test_a_name_that_is_no_text_has_a_digest_which_is_kept(tmp_path, monkeypatch):
    path = tmp_path / os.fsdecode(b"\xff.png")
    path.write_bytes(b"x")
    os.utime(path, (1, 1))
    monkeypatch.setattr(files.cache, "RACY_SECONDS", -1.0)
    first = files.digest_files([path])
    monkeypatch.setattr(files, "content_digest", lambda path: pytest.fail("is read again"))
    assert files.digest_files([path]) == first


@pytest.mark.parametrize("error", [TypeError("no\nway"), RecursionError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x")])
def test_whatever_a_library_raises_for_a_file_is_one_line_with_its_name(error):
    with pytest.raises(OODError) as caught, files.reading(Path("a.bin"), "no table"):
        raise error
    assert str(caught.value).startswith("a.bin: no table: ") and "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), OODError("mine")])
def test_what_says_nothing_about_a_file_is_raised_as_it_is(error):
    with pytest.raises(type(error)) as caught, files.reading(Path("a.bin")):
        raise error
    assert caught.value is error
