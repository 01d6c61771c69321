"""What lies in a folder, and digests over content."""

from ood_core import files


def test_a_digest_depends_on_names_and_content_but_not_on_the_folder(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "a").write_text("a")
        (tmp_path / folder / "sub" / "b").write_text("b")
    listed = [[tmp_path / folder / "a", tmp_path / folder / "sub" / "b"] for folder in ("one", "two")]
    assert files.digest_files(listed[0]) == files.digest_files(reversed(listed[1]))
    (tmp_path / "two" / "sub" / "b").write_text("c")
    assert files.digest_files(listed[0]) != files.digest_files(listed[1])
