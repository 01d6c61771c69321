"""What a run found comes out of its folder as it went in, or with one line that says why not."""

import json
from dataclasses import fields, replace
from math import inf

import numpy as np
import pytest
from safetensors.numpy import load_file

from ood_core.errors import OODError
from ood_core.records.plan import Baseline
from ood_core.records.report_data import (
    AcceptedPair,
    ClassRow,
    EmbeddingMap,
    EmbeddingPoints,
    FailedStage,
    GalleryImage,
    GalleryRow,
    Picture,
    ReportData,
    RowScores,
    StageRecord,
)
from ood_core.report.formats.run_folder import load, save
from ood_core.store.files import signed

from .test_columns import row

WHICH = {"case": "", "draw": 0, "seed": 0, "scorer": "energy", "id_set": "digits", "ood_set": "noise"}
EPOCHS = [{"loss": inf}]
INSIDE = np.linspace(0, 1, 10)


def findings(name="run", variants=("a", "b")):
    """ReportData of one row for each variant, on the same images."""
    rows = tuple(row(0.9 - place / 10, variant=variant, images="same") for place, variant in enumerate(variants))
    points = EmbeddingPoints("digits", True, np.ones((2, 2), np.float32), ("1", ""))
    return ReportData(
        name=name,
        started="2026-01-02T03:04:05Z",
        rows=rows,
        scores=tuple(RowScores(INSIDE, np.linspace(0.5, 2, 20) - place / 4) for place in range(len(rows))),
        coordinates={variant: {"pretext": variant} for variant in variants},
        baseline=Baseline(variant=variants[0]),
        averaged=True,
        notes=("a note",),
        failures=(),
        stages=(
            StageRecord("train", "train mim", "k1", 0, variants, False, {"seconds": 2.0, "steps": 4, "epochs": EPOCHS}),
            StageRecord("extract", "extract digits", "k2", None, variants[:1], True, {"seconds": 1.0, "images": 10}),
        ),
        accepted=tuple(
            AcceptedPair(v, **WHICH, ood_class="x, y", id_class='"1"', accepted=3, images=5) for v in variants
        ),
        classes=tuple(ClassRow(v, **WHICH, ood_class="x", images=5, accepted=3, auroc=1 / 3) for v in variants),
        resolved={f"{variant}, seed 0": {"seed": 0} for variant in variants},
        versions={"python": "3.11"},
        machine={"processor": "one"},
        seconds=3.0,
        pictures=(Picture("mim", "pictures/mim.png"),),
        gallery=(GalleryRow(len(rows) - 1, "most ID-like OOD", (GalleryImage("gallery/1.webp", "x", 0.5),)),),
        maps=(EmbeddingMap(" / ".join(variants), "", 0, (points,)),),
    )


def plain(value):
    """Return arrays as lists, so that findings can be compared."""
    if isinstance(value, np.ndarray):
        return value.tolist(), str(value.dtype)
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


def test_everything_comes_back(tmp_path):
    filed = replace(findings(), failures=(FailedStage("train mim, seed 0", ("c",), "train mim: no memory"),))
    save(filed, tmp_path)
    loaded = load(tmp_path)
    expected = plain(filed)
    expected["stages"][0]["facts"]["epochs"] = [{"loss": "inf"}]
    assert plain(loaded) == expected
    assert loaded.work == "trained 1, extracted 0, reused 1"
    assert loaded.missing == ("c",)


def test_a_field_that_is_newer_than_the_file_has_its_default(tmp_path):
    save(replace(findings(), failures=(FailedStage("train mim", ("c",), "no memory", "failures.txt"),)), tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    del document["failures"][0]["traceback"], document["checksum"]
    (tmp_path / "report.json").write_text(json.dumps(signed(document)))
    assert load(tmp_path).failures == (FailedStage("train mim", ("c",), "no memory", ""),)


def test_saving_again_writes_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    save(findings(), tmp_path / "one")
    save(load(tmp_path / "one"), tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_scores_that_rows_share_are_filed_once(tmp_path):
    save(findings(variants=("a", "b", "c")), tmp_path)
    sizes = sorted(len(array) for array in load_file(tmp_path / "scores.safetensors").values())
    assert sizes == [2, 10, 20, 20, 20]


def damage(text, old, new):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("report.json", lambda text: text[: len(text) // 2], "is damaged (JSONDecodeError: "),
        ("report.json", lambda text: "[]", "is damaged (TypeError: "),
        ("report.json", lambda text: damage(text, '"rows"', '"raws"'), "is damaged (ValueError: it was changed since"),
        ("report.json", lambda text: damage(text, '"auroc": 0.9', '"auroc": 0.8'), "is damaged (ValueError: it was c"),
        ("report.json", lambda text: damage(text, '"checksum"', '"chacksum"'), "is damaged (ValueError: it was chan"),
        ("report.json", lambda text: damage(text, '"format": 4', '"format": 3'), "has format 3, not 4"),
        ("scores.safetensors", None, "is damaged (FileNotFoundError: "),
        ("accepted.csv", lambda text: "variant\nv\n", "is damaged (ValueError: accepted.csv was changed since"),
        ("classes.csv", lambda text: damage(text, ",5,3,", ",5,4,"), "is damaged (ValueError: classes.csv was chang"),
    ],
)
def test_what_is_damaged_is_one_line_that_says_how_to_go_on(tmp_path, file, change, message):
    save(findings(), tmp_path)
    if change is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(change((tmp_path / file).read_text()))
    with pytest.raises(OODError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; run the recipe again")
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_of_a_score_is_noticed(tmp_path):
    save(findings(), tmp_path)
    file = tmp_path / "scores.safetensors"
    whole = file.read_bytes()
    for place in range(0, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(
            OODError, match=r"scores\.safetensors was changed since it was written\); run the recipe again"
        ):
            load(tmp_path)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(
        OODError, match=r"no run lies there: it has no report\.json; `ood-run RECIPE --out .*` makes one"
    ):
        load(tmp_path)


def test_the_document_is_json_for_everybody(tmp_path):
    save(findings(), tmp_path)
    document = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert document["format"] == 4
    assert document["rows"][0]["variant"] == "a"
    assert document["stages"][0]["facts"]["epochs"] == [{"loss": "inf"}]


def test_a_missing_rate_stays_missing(tmp_path):
    filed = findings()
    save(replace(filed, rows=tuple(replace(of, id_accuracy=None) for of in filed.rows)), tmp_path)
    assert [of.id_accuracy for of in load(tmp_path).rows] == [None, None]
