"""The packages that other tests write are found the way an installed one is."""

from importlib import metadata

from .packages import VERSION, write_package


def test_written_package_is_found_on_the_path_with_its_version(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_package(tmp_path, "ood-written", "ANSWER = 42\n"))
    (entry,) = metadata.entry_points(group="ood", name="written")
    assert entry.load().ANSWER == 42
    assert (entry.dist.name, entry.dist.version) == ("ood-written", VERSION)
