"""One bit, flipped anywhere in a finished run or its detector, never gives other numbers."""

import json
import shutil

import numpy as np
import pytest

from ood_core.detector import Detector
from ood_core.errors import OODError

TRIALS = 60
HELD_OUT = "data.holdout=0.2"


@pytest.fixture
def finished(tmp_path, tiny_text, ood_run):
    """A folder with a recipe, its store and its run; the current one."""
    (tmp_path / "tiny.yaml").write_text(tiny_text)
    assert ood_run("tiny.yaml", "--set", HELD_OUT, "--store", "store", "--out", "out")[0] == 0
    return tmp_path


def rows(folder):
    return json.loads((folder / "report.json").read_text())["rows"]


@pytest.mark.slow
def test_a_flipped_bit_is_named_or_changes_no_number(generator, finished, ood_run):
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    expected, scores = rows(finished / "out"), Detector.load(finished / "out" / "detector").score(images)
    folders = [finished / "store", finished / "out" / "detector"]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    for trial in range(TRIALS):
        path = generator.choice(files)
        whole = path.read_bytes()
        content = bytearray(whole)
        content[place := generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        where = f"trial {trial}: byte {place} of {path.relative_to(finished)}"
        if folders[1] in path.parents:
            try:
                found = Detector.load(folders[1]).score(images)
            except OODError as error:
                assert str(folders[1]) in str(error), f"{where}: {error}"
            else:
                assert all((found[name] == scores[name]).all() for name in scores), where
            path.write_bytes(whole)
            continue
        code, _, err = ood_run("tiny.yaml", "--set", HELD_OUT, "--store", "store", "--out", "again")
        assert "Traceback" not in err, where
        if code == 0:
            assert rows(finished / "again") == expected, where
        else:
            assert "is damaged" in err, f"{where}: {err}"
        if path.parent.is_dir():
            path.write_bytes(whole)
        shutil.rmtree(finished / "again", ignore_errors=True)
