"""Saved detectors: whole, verified, refused by name."""

import io
import json
import os
import pickle
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save

from ood_core.data.files import content_digest
from ood_core.detector import Detector, bundle, manifest
from ood_core.errors import OODError
from ood_core.plugins import find
from ood_core.store.files import load_notes, save_tensors

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


@pytest.mark.parametrize("nested", [False, True])
def test_a_scorer_of_a_notebook_scores_and_is_refused_by_save_with_what_to_do(tiny_detector, plugins, tmp_path, nested):
    energy = plugins.get("scorer", "energy")
    scorer = type("Mine", (energy,), {"__module__": "__main__"})()
    scorer = plugins.get("scorer", "react")(score=scorer) if nested else scorer
    first = replace(tiny_detector.state.scorers[0], scorer=scorer)
    detector = Detector.from_state(replace(tiny_detector.state, scorers=(first,)))
    with pytest.raises(OODError) as caught:
        detector.save(tmp_path / "mine")
    assert str(caught.value) == (
        f"{tmp_path / 'mine'}: the detector scores, but cannot be saved: no installed package registers the scorer "
        "Mine of __main__; put the class into a package that returns it from the hook ood_register_scorers "
        "(plugins/README.md)"
    )
    assert not list(tmp_path.iterdir())


def test_so_is_a_backbone_of_a_notebook(tiny_detector, plugins, tmp_path):
    backbone = tiny_detector.state.backbone
    mine = type("Mine", (type(backbone),), {"__module__": "__main__"})(**vars(backbone))
    detector = Detector.from_state(replace(tiny_detector.state, backbone=mine))
    with pytest.raises(OODError, match=r"registers the backbone Mine of __main__; .* ood_register_backbones"):
        detector.save(tmp_path / "mine")


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


# ------------------------------------------------------------------------------------------- folders of unknown authors

installed = cache(find)


def forged(folder, name=None, content=None, **changes):
    """Replace a file or entries of the manifest, and let all digests fit, as an attacker does."""
    if name is not None:
        (folder / name).write_bytes(content)
    files = {file.name: content_digest(file) for file in folder.glob("*.safetensors")}
    rewritten(folder, **{"files": files} | changes)


def with_tensors(folder, name, **changes):
    """Return the content of a file with other tensors in it."""
    return save(load_file(folder / name) | changes)


def refuse(folder, message):
    with pytest.raises(OODError) as caught:
        bundle.load_detector(folder, installed())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder))
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "score-0.safetensors"])
def test_what_is_no_regular_file_is_not_read(copy, tmp_path, name):
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    os.mkfifo(copy / name)
    refuse(copy, f"{name}: is not a regular file$")
    for target, message in (("/dev/zero", "is not a regular file$"), (tmp_path / "outside", "links out of the folder")):
        (copy / name).unlink()
        (tmp_path / "outside").write_bytes(content)
        (copy / name).symlink_to(target)
        refuse(copy, f"{name}: {message}")
    (copy / name).unlink()
    (copy / "inside").write_bytes(content)
    (copy / name).symlink_to("inside")
    Detector.load(copy)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "", ".", "score-0.safetensors/../x", "a.pkl"]
)
def test_a_file_outside_the_folder_is_refused(copy, name):
    entries = json.loads((copy / "manifest.json").read_text())
    rewritten(copy, files=entries["files"] | {name: "0" * 64})
    refuse(copy, rf"manifest.json: files: {re.escape(repr(name))} is not the name of a file of a detector$")
    first = entries["scorers"][0] | {"file": name}
    rewritten(copy, files=entries["files"], scorers=[first, *entries["scorers"][1:]])
    refuse(copy, rf"manifest.json: scorers.0.file: there is no {re.escape(repr(name))} among 'files'$")


@pytest.mark.parametrize("name", ["weights.safetensors", "calibration.safetensors", "witness.safetensors"])
def test_a_file_without_a_digest_is_not_read(copy, name):
    files = json.loads((copy / "manifest.json").read_text())["files"]
    for left in ({}, {other: digest for other, digest in files.items() if other != name}):
        rewritten(copy, files=left)
        refuse(copy, "manifest.json: files: there is no '[a-z]+.safetensors' among 'files'$")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-0.1", "1.5", '"0.95"', "null", "[]"])
@pytest.mark.parametrize("key", ["tpr", "id_accuracy", "holdout", "crop_fraction"])
def test_a_rate_out_of_range_is_named(copy, key, value):
    if key == "id_accuracy" and value == "null":
        pytest.skip("which is one of a module without a classifier")
    text = (copy / "manifest.json").read_text()
    changed = re.sub(rf'("{key}": )[\d.]+', rf"\g<1>{value}", text)
    assert changed != text
    (copy / "manifest.json").write_text(changed)
    refuse(copy, rf"manifest.json: was changed or cut off since it was written: (\w+\.)?{key}: ")


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"a"'])
def test_a_threshold_that_is_no_number_is_named(copy, value):
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(re.sub(r'("threshold": )[-\d.]+', rf"\g<1>{value}", text, count=1))
    refuse(copy, r"manifest.json: was changed or cut off since it was written: scorers\.0\.threshold\.")


@pytest.mark.parametrize(
    "text", ['"recipe": {"a": NaN}', '"recipe": {"a": 1e999}', r'"recipe": {"a": "\ud800"}', '"seed": ' + "1" * 5000]
)
def test_values_that_cannot_be_written_again_are_one_line(copy, text):
    manifest = (copy / "manifest.json").read_text().replace('"recipe": {', f'{text},\n "recipe": {{', 1)
    (copy / "manifest.json").write_text(manifest)
    refuse(copy, "manifest.json: was changed")


def test_every_entry_that_is_absent_is_named(copy):
    whole = json.loads((copy / "manifest.json").read_text())
    for key in whole.keys() - {"digest"}:
        (copy / "manifest.json").write_text(json.dumps({name: of for name, of in whole.items() if name != key}))
        refuse(copy, "manifest.json: is of format None" if key == "format" else f"manifest.json: was .*: {key}: Field")


def test_a_threshold_that_the_calibration_does_not_give_is_named(copy):
    scorers = json.loads((copy / "manifest.json").read_text())["scorers"]
    for threshold in (0.0, [0.0], []):
        rewritten(copy, scorers=[scorers[0], scorers[1] | {"threshold": threshold}, *scorers[2:]])
        refuse(copy, r"manifest.json: scorers.1.threshold: another one than the calibration scores give at a TPR of 0.")
    rewritten(copy, scorers=scorers, tpr=0.9999)
    refuse(copy, r"manifest.json: scorers.0: .*0.9999")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "calibration",
            {"scores.0": torch.full((24,), torch.nan).double()},
            r"calibration.safetensors: scores.0: not f",
        ),
        ("calibration", {"scores.0": torch.arange(24).double().flip(0)}, r"calibration.safetensors: scores.0: not fin"),
        ("calibration", {"scores.0": torch.zeros(3).double()}, r"scores.0: float64 \[3\], not 24 scores$"),
        ("calibration", {"scores.0": torch.zeros(24)}, r"scores.0: float32 \[24\], not 24 scores$"),
        ("calibration", {"predicted.1": torch.full((24,), 9)}, r"predicted.1: not the classes of 24 images$"),
        ("calibration", {"predicted.1": torch.zeros(2).long()}, r"predicted.1: not the classes of 24 images$"),
        ("witness", {"images": torch.zeros(2, 3, 64, 64).byte()}, r"uint8 \[2, 3, 64, 64\], image_size in manifest.j"),
        ("witness", {"images": torch.zeros(0, 3, 8, 8).byte()}, r"witness.safetensors: 0 images with embeddings"),
        ("witness", {"embeddings": torch.full((2, 16), torch.nan)}, r"the network gives embeddings nan% off"),
        ("examples", {"labels": torch.full((96,), 3)}, r"examples.safetensors: labels: not those of 3 classes$"),
        ("examples", {"sizes": torch.full((96,), -1)}, r"cannot be read by this version: "),
        ("weights", {"unknown": torch.zeros(1)}, r"cannot be read by this version: RuntimeError: .*unknown"),
    ],
)
def test_tensors_that_do_not_fit_are_named(copy, name, changes, message):
    file = f"{name}.safetensors"
    forged(copy, file, with_tensors(copy, file, **changes))
    refuse(copy, message)


@pytest.mark.parametrize(
    "means", ["x", None, 1e300, [1, 2], {"tensor": "absent"}, {"class": "os.system", "fields": {}}]
)
def test_a_score_that_cannot_score_is_named(copy, means):
    notes = load_notes(copy / "score-0.safetensors")
    notes["fields"]["means"] = means
    save_tensors(copy / "score-0.safetensors", load_file(copy / "score-0.safetensors"), notes)
    forged(copy)
    refuse(copy, "score-0.safetensors: (cannot score the reference images: |holds a os.system)|KeyError: 'absent'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 99_998}, "manifest.json: backbone: its options make a network far larger than its weights$"),
        ({"depth": 900}, "manifest.json: backbone: its options make a network far larger than its weights$"),
        ({"depth": 10**10}, "'depth' is 10000000000, more than 1000 layers$"),
        ({"checkpoint_path": "/etc/passwd"}, "leave 'checkpoint_path' out"),
    ],
)
def test_a_network_larger_than_its_weights_is_not_built(copy, monkeypatch, options, message):
    monkeypatch.setattr("ood_core.detector.loading_checks.SPARE_TENSORS", 50)  # a layer of timm's takes 10 ms
    backbone = json.loads((copy / "manifest.json").read_text())["backbone"]
    rewritten(copy, backbone=backbone | {"options": backbone["options"] | options})
    refuse(copy, message)


def test_a_classifier_of_another_size_is_named(copy):
    rewritten(copy, outputs=10**12)
    refuse(copy, "manifest.json: backbone: 1000000000000 outputs are more than its weights have values$")
    rewritten(copy, outputs=3, classes=["a"])
    refuse(copy, r"manifest.json: classes: 1, the network has 3 outputs$")


@pytest.mark.parametrize(
    "name", ["x; rm -rf ~", "x' 'y", "-r evil", "--index-url=http://evil", "x y", "", "git+https://e"]
)
def test_a_name_that_a_shell_would_obey_is_not_put_into_a_command(copy, name):
    for packages in ({name: "1.0"}, {"ood-nowhere": f"1.0{name or ' '}"}):
        rewritten(copy, packages=packages)
        refuse(copy, "manifest.json: packages: .* is not the name and version of a package$")  # and no command


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def attacks(entries, trap):
    """Yield changes of a manifest that would run code, if anything in it named a function, a module or an object."""
    for name in (
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "ood_core.recipe.read",
        f"!!python/object/apply:{trap}",
    ):
        yield {"backbone": {"use": name}}
        yield {"backbone": entries["backbone"] | {"model": name}}
        yield {"backbone": entries["backbone"] | {"model": f"hf_hub:{name}"}}
        yield {"backbone": entries["backbone"] | {"options": {"norm_layer": name}}}
        yield {"backbone": entries["backbone"] | {"weights": str(trap)}}
        yield {"pretext": {"use": name}}
        yield {"scorers": [entries["scorers"][0] | {"plugin": {"use": name}}]}
        yield {"scorers": [entries["scorers"][0] | {"plugin": {"use": "energy", name: name}}]}
        yield {"module": {"embeddings": {"kind": "method", "name": name}}, "backbone": None}
        yield {"files": entries["files"] | {name: "0" * 64}}
        yield {"recipe": {"use": name}, "name": name, "packages": {name: "1"}}


def test_no_code_of_a_folder_runs(copy, tmp_path):
    trap = tmp_path / "ran"
    before, modules = {file.name: file.read_bytes() for file in copy.iterdir()}, set(sys.modules)
    entries = json.loads(before["manifest.json"])
    for changes in attacks(entries, trap):
        rewritten(copy, **changes)
        with suppress(OODError):  # some entries are descriptions alone
            bundle.load_detector(copy, installed())
    for name in FILES:
        for content in (pickle.dumps(Trap(trap)), zipped_pickle(Trap(trap))):
            for file, old in before.items():
                (copy / file).write_bytes(old)
            (copy / name).write_bytes(content)
            if name != "manifest.json":
                forged(copy)
            refuse(copy, "detector")
    for name in ("os.system", "subprocess.Popen", "pathlib.Path", "torch.nn.modules.linear.Linear"):
        notes = {"class": name, "fields": {"args": ["touch", str(trap)]}}
        save_tensors(copy / "score-0.safetensors", {}, notes)
        forged(copy)
        refuse(copy, "detector")
    assert not trap.exists()
    assert not {name for name in set(sys.modules) - modules if name.startswith(("os.", "antigravity", "this"))}


def zipped_pickle(value):
    """Return a file of `torch.save`."""
    target = io.BytesIO()
    torch.save(value, target)
    return target.getvalue()
