"""Saved detectors: whole, verified, refused by name."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from ood_core.detector import Detector, bundle, manifest
from ood_core.errors import OODError

FILES = (
    "calibration.safetensors",
    "examples.safetensors",
    "manifest.json",
    "score-0.safetensors",
    "score-4.safetensors",
    "weights.safetensors",
    "witness.safetensors",
)


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A detector's folder that may be damaged."""
    shutil.copytree(tiny_run.detector, tmp_path / "detector")
    return tmp_path / "detector"


def rewritten(folder, **changes):
    """Write the manifest with other values and a digest that fits."""
    entries = json.loads((folder / "manifest.json").read_text())
    made = bundle.manifests.TypeAdapter(manifest.Manifest).validate_python(entries | changes)
    (folder / "manifest.json").write_text(manifest.text_of(made))


def test_nothing_but_safetensors_and_json_is_written(tiny_run):
    names = {file.name for file in tiny_run.detector.iterdir()}
    assert set(FILES) <= names
    assert {name.rpartition(".")[2] for name in names} == {"json", "safetensors"}
    entries = json.loads((tiny_run.detector / "manifest.json").read_text())
    assert entries["files"].keys() == names - {"manifest.json"}
    assert entries["packages"].keys() == {"ood-framework"}
    assert entries["recipe"]["training"][0]["use"] == "classification"


@pytest.mark.parametrize("size", [0, 300, 3000])
def test_a_full_disk_is_one_line_and_leaves_the_detector_that_was_there(tiny_detector, copy, plugins, disk_full, size):
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    with disk_full(size), pytest.raises(OODError, match=r"detector: cannot be written, the disk is full: [^\n]*$"):
        bundle.save_detector(tiny_detector.state, copy, plugins)
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    assert [path.name for path in copy.parent.iterdir()] == ["detector"]


def test_a_folder_that_cannot_be_made_is_one_line(tiny_detector, tmp_path):
    with pytest.raises(OODError, match=r"x: cannot be written: File name too long$"):
        tiny_detector.save(tmp_path / ("x" * 300))


def test_others_may_read_the_files(tiny_run):
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in tiny_run.detector.iterdir())


@pytest.mark.parametrize("place", [0, 0.5, 0.999])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused_by_the_name_of_its_file(copy, name, place):
    content = bytearray((copy / name).read_bytes())
    content[int(place * len(content))] ^= 0x20
    (copy / name).write_bytes(content)
    with pytest.raises(OODError, match=f"{name}: (was changed|is of format)"):
        Detector.load(copy)


def test_a_manifest_that_only_looks_different_is_refused(copy):
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace("\n ", "\n\t", 1))
    with pytest.raises(OODError, match=r"manifest.json: was changed since it was written: its digest is another one"):
        Detector.load(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(
        OODError, match=r"there is no manifest.json" if name == "manifest.json" else f"{name}: cannot be"
    ):
        Detector.load(copy)


def test_a_package_that_is_not_installed_is_named(copy):
    rewritten(copy, packages={"ood-framework": "0.1.0", "ood-nowhere": "1.2.0"})
    message = r"needs the plugin package 'ood-nowhere' 1.2.0, which is not installed; install it: pip install 'ood-n"
    with pytest.raises(OODError, match=message):
        Detector.load(copy)


def test_so_it_is_where_the_manifest_was_written_by_hand(copy):
    text = (copy / "manifest.json").read_text()
    assert '"ood-framework": "0.1.0"\n },\n "versions"' in text
    (copy / "manifest.json").write_text(
        text.replace('"ood-framework": "0.1.0"\n },\n "versions"', '"ood-nowhere": "1.0"\n },\n "versions"')
    )
    with pytest.raises(OODError, match=r"'ood-nowhere' 1.0, which is not installed; .* the file was also changed"):
        Detector.load(copy)


def test_a_plugin_that_its_package_no_longer_has_is_named(copy):
    entries = json.loads((copy / "manifest.json").read_text())
    entries["scorers"][0]["plugin"] = {"use": "mahalanobs"}
    rewritten(copy, scorers=entries["scorers"])
    with pytest.raises(OODError, match=r"no scorer 'mahalanobs'. Did you mean 'mahalanobis'?"):
        Detector.load(copy)


@pytest.mark.parametrize(("made", "fits"), [("0.1.9", True), ("0.2.0", False), ("1.1.0", False), ("0.1.0.dev3", True)])
def test_versions_fit_as_semantic_versions_do(copy, made, fits):
    rewritten(copy, packages={"ood-framework": made})
    if fits:
        Detector.load(copy)
    else:
        with pytest.raises(OODError, match=f"was made with ood-framework {made}, here is 0.1.0"):
            Detector.load(copy)


def test_another_format_is_refused(copy):
    rewritten(copy, format=1)
    with pytest.raises(OODError, match=r"is of format 1, this version reads 2; make the detector again"):
        Detector.load(copy)


def test_a_network_that_gives_other_embeddings_is_refused(tiny_run, tmp_path, plugins):
    state = Detector.load(tiny_run.detector).state
    bundle.save_detector(
        replace(state, reference_embeddings=state.reference_embeddings + 1), tmp_path / "other", plugins
    )
    with pytest.raises(
        OODError, match=r"the network gives embeddings [\d.]+% off those it had when saved; with the same"
    ):
        Detector.load(tmp_path / "other")


def test_a_saved_detector_is_the_same_detector(tiny_run, tiny_detector, tmp_path):
    tiny_detector.save(tmp_path / "again")
    again = Detector.load(tmp_path / "again")
    images = torch.rand(9, 3, 8, 8)
    first, second = tiny_detector.predict(images), again.predict(images)
    assert first.score.tolist() == second.score.tolist()
    assert first.p_value.tolist() == second.p_value.tolist()
    assert again.classes == tiny_detector.classes
    assert again.state.examples.pictures == tiny_detector.state.examples.pictures
    assert (tmp_path / "again" / "manifest.json").read_text() == (tiny_run.detector / "manifest.json").read_text()


def test_a_detector_is_replaced_whole(tiny_run, tiny_detector, tmp_path, monkeypatch, plugins):
    tiny_detector.save(tmp_path / "one")
    before = (tmp_path / "one" / "manifest.json").read_text()
    tiny_detector.save(tmp_path / "one")
    assert [file.name for file in tmp_path.iterdir()] == ["one"]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "save_score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_detector.save(tmp_path / "one")
    assert [file.name for file in tmp_path.iterdir()] == ["one"]
    assert (tmp_path / "one" / "manifest.json").read_text() == before


def test_nothing_else_is_replaced(tiny_detector, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    with pytest.raises(OODError, match=r"thesis: holds something else than a detector; name another folder"):
        tiny_detector.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").is_file()


def test_what_is_no_manifest_is_told(copy):
    (copy / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(OODError, match=r"manifest.json: was changed or cut off since it was written"):
        Detector.load(copy)


def test_a_folder_without_a_detector_is_told(tmp_path):
    with pytest.raises(OODError, match=r"no detector: there is no manifest.json"):
        Detector.load(tmp_path)
