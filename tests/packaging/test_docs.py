"""The Python in the documentation does what it says, and its numbers are those of the code and of each other."""

import inspect
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ood_core.data import cache, decoding, selection
from ood_core.detector import bundle, from_run
from ood_core.evaluation import TPR, drift_tests, metrics, significance
from ood_core.interfaces import checks
from ood_core.interfaces.training import PretextTask, Training
from ood_core.neighbors import index
from ood_core.pipeline import extract, score, train
from ood_core.plan import image_sets
from ood_core.recipe import read, variants, yaml
from ood_core.report.formats import run_folder
from ood_density.mixture import Mixture
from ood_drift import command as drift
from ood_export import command as export
from ood_export import exporting
from ood_score import command as score_images
from ood_score import predict_files, rows
from ood_serve import command as serve
from ood_serve import limits, server, service

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("*/README.md"))
    if path.name != "CHANGELOG.md"
}


def blocks(page: str) -> str:
    """Return all Python of a page as one program, at the lines where it stands."""
    text = (DOCS / page).read_text(encoding="utf-8")
    program = [""] * len(text.splitlines())
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first = text[: block.start(1)].count("\n")
        for place, line in enumerate(block[1].splitlines()):
            program[first + place] = line
    return "\n".join(program)


@pytest.fixture
def photos(tmp_path, monkeypatch, tiny_run):
    """A folder with a detector and photos where the pages say."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run.detector, tmp_path / "runs" / "mood" / "detector")
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for row in range(3):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"photos/{row}.jpg")


@pytest.mark.slow
def test_the_tutorial_of_detectors_runs(photos):
    names: dict[str, object] = {}
    exec(compile(blocks("detector.md"), "detector.md", "exec"), names)
    assert names["accepted"] > 0.9  # 0.95 was asked for, of 287 images
    assert names["noticed"] > 0.4  # of images that are as ID would be: 0.05
    assert names["again"].score(names["images"][:5])["energy"].tolist() == (
        names["detector"].score(names["images"][:5])["energy"].tolist()
    )


# ------------------------------------------------------------------------------------------------- numbers of the code


def default(function, name):
    return inspect.signature(function).parameters[name].default


CALIBRATION = 76
"""Calibration images of the detector of `mood`; the pages have to agree on them, the decisions follow."""

NUMBERS = {
    r"(\d{3} \d{3} \d{3})\b": decoding.MOST_PIXELS,
    r"(\d+) (?:(?:held-out|calibration) (?:ID )?(?:images|digits)(?: of `mood`|, at a|\)| \(KS))": CALIBRATION,
    r"(0\.\d+) (?:is the highest rate|at most with the)": math.floor(CALIBRATION / (CALIBRATION + 1) * 1000) / 1000,
    r"0\.99`? (?:needs|needs no refit, and\s+at least) (\d+)": math.ceil(0.99 / (1 - 0.99) - 1e-9),
    r"With fewer than (\d+) held-out images": math.ceil(TPR / (1 - TPR) - 1e-9),
    r"accepts (\d+) % of new ID images": 100 * TPR,
    r"(\S+) % of the area": 100 * selection.MUCH,
    r"hold(?:-)?out[^|\n]*default:? (0\.\d+)": image_sets.HOLDOUT,
    r"recipe's data, default (\d+) %": 100 * image_sets.HOLDOUT,
    r"up to (\d+) GiB a set": cache.LARGEST / 2**30,
    r"(\d+) GiB in all": cache.CAPACITY / 2**30,
    r"up to (\d+) ID training images as thumbnails": from_run.EXAMPLES,
    r"images are more than (\S+) % off": 100 * bundle.TOLERANCE,
    r"change by more\s+than (\S+) % of the largest": 100 * checks.REPEATED,
    r"or by more than (\S+) %, of modules": 100 * checks.BESIDE_OTHERS,
    r"weights of 16 bits\s+(\d+) %": 100 * checks.HALF_BESIDE_OTHERS,
    r"a relative difference above (\S+?)\)": checks.REPEATED,
    r"other images of the batch \(above (\S+?)\)": checks.BESIDE_OTHERS,
    r"outputs for the embeddings, within (\d\S+?)\.": checks.EXPLAINED,
    r"`precision: (\w+)` is (?:the default|float32 on)": Training.precision,
    r"batches of (\d+), 64 and 64 images": extract.BATCH_SIZE,
    r"batches of 128, (\d+) and 64 images": score.BATCH_SIZE,
    r"batches of 128, 64 and (\d+) images": default(score_images.command, "batch_size"),
    r"written every (\w+) seconds": {10.0: "ten"}[train.CHECKPOINT_SECONDS],
    r"`?-?-?queue`? times `--max-bytes`[^.]*?(\d+) GiB": limits.Limits().queue * limits.Limits().max_bytes / 2**30,
    r"larger than (\d+) KiB": server.MOST_HEAD / 1024,
    r"more slowly than (\d+) KiB": limits.BODY_RATE / 1024,
    r"KiB a second after (\d+) seconds": limits.BODY_SECONDS,
    r"of (\d+) stored in the detector": service.MAPPED,
    r"below which (\d+) % of the patches": 100 * service.BELOW,
    r"of the last (\d+) scores": default(drift_tests.Window, "size"),
    r"Window\(held_out, size=(\d+)\)": default(drift_tests.Window, "size"),
    r"(?:--alpha |scores, alpha |held_out, alpha=)(0\.\d+)": drift_tests.ALPHA,
    r"(?:since it reached|evidence of) (\d+)\b(?! /)": 1 / drift_tests.ALPHA,
    r"shows at most (\d+) images": rows.MOST,
    r"the (\w+) nearest of the ID training images": {5: "five"}[predict_files.NEAREST],
    r"up to (\d+) of its examples": exporting.EXAMPLES,
    r"its examples, and (\d+)\s+images of noise": exporting.NOISE,
    r"must be within (\S+) of the detector's": exporting.TOLERANCE,
    r"see below; default: (\S+) ": exporting.TOLERANCE,
    r"missing files, with a note; default: `(\S+)`": image_sets.Settings.missing_files,
    r"skip broken pictures and count them; default: `(\S+)`": image_sets.Settings.unreadable,
    r"also ID images, pixel for pixel; default: `(\S+)`": image_sets.Settings.overlap,
    r"number of ID classes that it needs; default: (\d+)": PretextTask.least_classes,
    r"classifier of the network is trained; default: (\w+)": PretextTask.trains_head,
    r"reads the labels of the images; default: (\w+)": PretextTask.uses_labels,
    r"report\.json, format (\d+)": run_folder.FORMAT,
    r"`format` \| (\d+);": run_folder.FORMAT,
    r"\((\d+) resamples": default(significance.bootstrap, "resamples"),
    r"calibration error \((\d+) bins\)": default(metrics.expected_calibration_error, "bins"),
    r"by default (\d+ \d+) images, and log it": next(f.default for f in fields(Mixture) if f.name == "sample"),
    r"warn below (\d+) %": 100 * index.RECALL,
    r"(\d+ \d+) values that aliases": yaml.MOST_UNFOLDED,
    r"(\d+) levels of nesting": yaml.DEEPEST,
    r"(\d+) recipes above each other": read.LONGEST_CHAIN,
    r"below 2\^(\d+)": math.log2(yaml._LARGEST + 1),
    r"(\d \d+) experiments": variants.MOST_EXPERIMENTS,
}
"""Texts of the pages with a number in them, and what it has to be wherever such a text stands."""


@pytest.mark.parametrize("pattern", NUMBERS)
def test_a_number_of_the_pages_is_that_of_the_code_on_every_page(pattern):
    found = {name: re.findall(pattern, text) for name, text in PAGES.items()}
    values = {name: set(map(number, texts)) for name, texts in found.items() if texts}
    assert values, "no page has it any more"
    assert values == {name: {number(str(NUMBERS[pattern]))} for name in values}


def number(text):
    """Return "10 000", "1e-4" or "0.15" as a number, to nine digits; a word as it is."""
    return text if text[0].isalpha() else float(f"{float(text.replace(' ', '')):.9g}")


def test_the_options_of_trainings_have_the_defaults_of_the_table():
    table = PAGES["docs/training.md"].partition("## Common options")[2].partition("\n## ")[0]
    cells = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    shown = {}
    for names, defaults in cells:
        shown |= dict(zip(re.findall(r"`(\w+)`", names), defaults.strip().split(", "), strict=True))
    shown["warmup_epochs"] = re.search(r"`warmup_epochs` \((\S+)\)", table)[1]
    options = {field.name: field.default for field in fields(Training)}
    assert shown.pop("epochs") == "-"
    assert {name: text if text == "auto" else json.loads(text) for name, text in shown.items()} == {
        name: value for name, value in options.items() if name != "epochs"
    }


def test_options_of_commands_default_to_what_the_functions_they_call_do():
    for field in fields(limits.Limits):
        assert default(serve.command, field.name) == field.default, field.name
    assert default(drift.command, "alpha") == drift_tests.ALPHA
    assert default(export.command, "tolerance") == exporting.TOLERANCE


# ------------------------------------------------------------------------------------------------- results, sections


def test_measured_rates_and_times_stand_on_the_page_of_results_alone():
    measured = r"images/s|\d ms\b|\d [MG]B/s|times as (?:fast|much)|\b\d\d\.\d\d\b"
    for name, text in PAGES.items():
        if name not in ("README.md", "docs/results.md"):
            lines = [line for line in text.splitlines() if re.search(measured, line)]
            assert not lines, name


def test_the_table_of_the_readme_is_that_of_the_results():
    section = PAGES["docs/results.md"].partition("## Digits: the main recipe")[2].partition("\n## ")[0]
    results = {re.sub(r" \(.*", "", cells[2].strip()): cells[3:8] for cells in cells_of(section)}
    shown = PAGES["README.md"].partition("──\n")[2].partition("```")[0]
    for name, values in results.items():
        (line,) = (line for line in shown.splitlines() if f" {name} " in line)
        assert line.split()[-5:] == [value.strip() for value in values]


def cells_of(text):
    return [line.split("|") for line in text.splitlines() if line.startswith("| mahalanobis")]


def test_no_page_says_anything_twice():
    for name, text in PAGES.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        sentences = [" ".join(part.split()) for part in re.split(r"(?<=[.:])\s|\n\n", prose) if len(part) > 60]
        headings = [line.lower() for line in prose.splitlines() if line.startswith("#")]
        twice = [part for part, count in Counter(sentences + headings).items() if count > 1]
        assert not twice, name


def test_every_link_between_pages_has_its_page_and_section():
    for name, text in PAGES.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^):\s]*)\)", prose):
            file, _, section = target.partition("#")
            path = (ROOT / name).parent / file if file else ROOT / name
            assert path.exists(), f"{name}: {target}"
            if section:
                assert section in sections(path.read_text(encoding="utf-8")), f"{name}: {target}"


def sections(text):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
