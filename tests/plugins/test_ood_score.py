"""`ood score`: rows, exit codes, what goes on after an interruption, and the page."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ood_core.detector import Detector, forward
from ood_core.detector.predictions import decision_rule
from ood_core.evaluation.calibration import Calibration
from ood_score import predict_files
from ood_score.resumable_file import open_resumable
from ood_score.rows import Columns

OOD = Path(sys.executable).with_name("ood")
COLUMNS = "file,is_ood,score,threshold,p_value,predicted,error"


@pytest.fixture
def score(ood, tiny_run):
    """`score(*arguments)`: exit code, stdout, stderr of `ood score` with the tiny detector."""
    return lambda *arguments: ood("score", tiny_run.detector, *arguments)


@pytest.fixture
def photos(tmp_path):
    """Twelve pictures: six of digits, enlarged, and six of noise."""
    random, digits = np.random.default_rng(0), load_digits()
    (tmp_path / "photos").mkdir()
    for number in range(12):
        digit = Image.fromarray((digits.images[number % 3 + 10 * (number // 3)] * 255 / 16).astype(np.uint8))
        noise = Image.fromarray(random.integers(0, 256, (11, 9, 3), dtype=np.uint8))
        (digit.resize((24, 24)) if number < 6 else noise).save(tmp_path / "photos" / f"{number:02}.png")
    return tmp_path / "photos"


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_rows_say_what_the_detector_says(score, photos, tiny_detector, rounded):
    code, out, err = score("photos", "--all-scores", "--batch-size", 5)
    rows, expected = table(out), tiny_detector.predict(photos)
    assert code == 0
    assert err.startswith(f"12 images, {expected.is_ood.sum()} OOD (")
    assert err.rstrip().endswith("images/s")
    assert [row["file"] for row in rows] == [f"photos/{number:02}.png" for number in range(12)]
    assert [row["is_ood"] == "true" for row in rows] == expected.is_ood.tolist()
    assert 0 < expected.is_ood.sum() < 12
    for column in ("threshold", "p_value"):
        assert [float(row[column]) for row in rows] == getattr(expected, column).tolist()
    assert [row["predicted"] for row in rows] == [expected.class_name(row) for row in range(12)]
    for name, scores in {"score": expected.score, **expected.scores}.items():
        assert [float(row[name]) for row in rows] == rounded(scores.tolist())


def test_what_is_passed_over_is_said_once_on_stderr(score, photos):
    (photos / "03.heic").touch()
    (photos / "._04.png").touch()
    (photos / "00").symlink_to("00")
    (photos / ".ipynb_checkpoints").mkdir()
    code, out, err = score("photos")
    assert (code, len(table(out))) == (0, 12)
    line = "passed over: 1 dead link, 1 hidden file, 1 hidden folder, 1 file of other formats (1 .heic)"
    assert err.splitlines()[1:] == [line]
    assert "passed over" not in score("photos/00.png")[2]


def test_a_folder_of_other_formats_alone_is_refused_with_their_count(score, tmp_path):
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.heic").touch()
    code, _, err = score("phone")
    assert code == 2
    assert err.endswith("phone: the folder holds no pictures; passed over: 1 file of other formats (1 .heic)\n")


def test_another_scorer_and_rate_need_no_fit(score, photos, tiny_detector):
    code, out, _ = score("photos", "--scorer", "energy", "--tpr", 0.5, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    expected = tiny_detector.predict(photos, scorer="energy", tpr=0.5)
    assert code == 0
    assert list(rows[0]) == COLUMNS.split(",")
    for column in ("is_ood", "score", "threshold", "p_value"):
        assert [row[column] for row in rows] == getattr(expected, column).tolist()
    assert expected.threshold[0] != tiny_detector.threshold(scorer="energy")


def test_each_class_has_its_threshold_where_that_is_wanted(photos, tiny_detector):
    calibration = Calibration(np.arange(30.0) * 20, np.minimum(np.arange(30) // 5, 2))
    scorers = tuple(replace(of, calibration=calibration) for of in tiny_detector.state.scorers)
    detector = Detector.from_state(replace(tiny_detector.state, scorers=scorers))
    by = decision_rule(detector.state, tpr=0.5, per_class=True)
    request = predict_files.Request(detector.state, by, Columns(), 5)
    rows = [row for of in predict_files.predict_files(request, map(str, sorted(photos.iterdir()))) for row in of]
    expected = detector.predict(photos, tpr=0.5, per_class=True)
    assert [row.threshold for row in rows] == expected.threshold.tolist()
    assert [row.p_value for row in rows] == expected.p_value.tolist()
    assert [row.is_ood for row in rows] == expected.is_ood.tolist()
    assert set(expected.threshold) != {calibration.threshold(0.5)}


def test_what_cannot_be_scored_is_a_row_and_all_else_goes_on(score, photos):
    (photos / "05.png").write_bytes(b"no picture")
    (photos / "07.png").write_bytes((photos / "07.png").read_bytes()[:60])
    os.mkfifo(photos / "08.gif")
    code, out, err = score("photos/04.png", "photos", "absent.png", "--batch-size", 2)
    rows = {row["file"]: row for row in table(out)}
    wrong = {file: row["error"] for file, row in rows.items() if row["error"]}
    assert code == 3
    assert wrong.pop("photos/07.png").startswith("broken picture: ")
    assert wrong == {
        "photos/05.png": "not a picture in a known format",
        "photos/08.gif": "not a regular file",
        "absent.png": "cannot be read: No such file or directory",
    }
    assert rows["absent.png"] == dict.fromkeys(COLUMNS.split(","), "") | {
        "file": "absent.png",
        "error": "cannot be read: No such file or directory",
    }
    assert err.splitlines()[0].startswith("15 images, ")
    assert err.splitlines()[1] == (
        "4 images could not be scored; the first: photos/05.png: not a picture in a known format"
    )


def test_a_score_that_is_no_number_is_an_error_of_that_image_alone(score, photos, monkeypatch):
    def broken(*arguments):
        found = forward.score_images(*arguments)
        found.scores["mahalanobis"][1] = np.nan
        return found

    monkeypatch.setattr(predict_files, "score_images", broken)
    code, out, _ = score("photos/00.png", "photos/01.png", "photos/02.png")
    assert code == 3
    assert [row["error"] for row in table(out)] == ["", "scorer 'mahalanobis' gave nan", ""]
    assert table(out)[1]["score"] == ""


def test_ood_images_fail_only_where_somebody_wants_it(score, photos, tiny_detector):
    is_ood = tiny_detector.predict(photos).is_ood
    inside, outside = (f"photos/{int(np.flatnonzero(is_ood == wanted)[0]):02}.png" for wanted in (False, True))
    assert score(outside)[0] == 0
    assert score(outside, "absent.png", "--fail-on-ood")[0] == 1
    assert score(inside, "--fail-on-ood")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos/*.tif"], "photos/*.tif: matches no file"),
        (["photos", "--scorer", "enrgy"], "the detector has no scorer 'enrgy'. Did you mean 'energy'?"),
        (["photos", "--tpr", "1.5"], "a TPR must lie between 0 and 1, not 1.5"),
        (
            ["photos", "--out", "x.txt"],
            "--out x.txt: ends in none of .csv, .jsonl, .ndjson; name it so, or add --format",
        ),
        (
            ["photos", "--out", "x.txt", "--format", "table"],
            "--out x.txt: a table is for looking at; --format csv or jsonl",
        ),
        (["photos", "--out", "photos", "--format", "csv"], "--out photos: is not a file"),
        (["photos", "--device", "abacus"], "device 'abacus' cannot be used here: "),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(score, photos, tmp_path, arguments, message):
    code, out, err = score(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_paths_come_from_stdin(score, photos, monkeypatch):
    def given(content, *arguments):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        return score("-", *arguments)

    assert [row["file"] for row in table(given(b"photos/03.png\nphotos/01.png\n")[1])] == [
        "photos/03.png",
        "photos/01.png",
    ]
    assert len(table(given(b"photos/03.png\0photos/01.png\0", "-0")[1])) == 2
    code, _, err = given(b"")
    assert (code, err) == (2, "stdin: lists no images\n")


def test_a_table_is_shown_where_it_is_asked_for(score, photos):
    _, out, _ = score("photos/00.png", "photos/11.png", "--format", "table")
    assert out.splitlines()[0].split() == ["score", "threshold", "p_value", "predicted", "file"]
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["photos/00.png", "photos/11.png"]


# ------------------------------------------------------------------------------------------------------ --out survives


FLOAT = re.compile(rb"-?\d+\.\d+(?:e[+-]?\d+)?")
ODD = ["a,b.png", 'quo"te.png', "new\nline.png", os.fsdecode(b"\xff.png")]


@pytest.fixture
def odd(photos):
    """The pictures, some of them with names that are hard to write."""
    for number, name in enumerate(ODD):
        (photos / f"{number:02}.png").rename(photos / name)
    return photos


def assert_alike(found, whole, rounded):
    """The same rows; scores from other batches may differ by rounding."""
    assert FLOAT.sub(b"#", found) == FLOAT.sub(b"#", whole)
    assert [float(number) for number in FLOAT.findall(found)] == rounded([float(of) for of in FLOAT.findall(whole)])


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_wherever_it_was_cut_off_the_same_command_goes_on(score, odd, tmp_path, monkeypatch, rounded, name):
    score("photos", "--out", name)
    whole, asked = (tmp_path / name).read_bytes(), []
    item = predict_files.file_ref
    monkeypatch.setattr(predict_files, "file_ref", lambda path: asked.append(path) or item(path))
    for cut in (0, 5, len(whole) // 3, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:cut])
        asked.clear()
        code, _, err = score("photos", "--out", name, "--batch-size", 3)
        assert code == 0
        assert_alike((tmp_path / name).read_bytes(), whole, rounded)
        rows = 12 - len(asked)
        assert (f"{rows} of them were there before" in err) is (rows > 0)
        assert 12 * cut // len(whole) - 2 <= rows <= 12 * cut // len(whole) + 1
    asked.clear()
    assert "12 images, " in (err := score("photos", "--out", name)[2])
    assert "all of them were there before" in err
    assert not asked
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", name, f"{name}.about.json"]


def test_exit_codes_count_rows_that_were_there_before(score, photos):
    (photos / "05.png").write_bytes(b"no picture")
    arguments = ("photos", "--out", "rows.csv")
    first = score(*arguments)
    second = score(*arguments)
    assert first[0] == second[0] == 3
    assert first[2].splitlines()[1] == second[2].splitlines()[1]
    assert score(*arguments, "--fail-on-ood")[0] == 1


def test_what_something_else_has_made_is_left_alone(score, photos, tmp_path):
    score("photos", "--out", "rows.csv")
    whole = (tmp_path / "rows.csv").read_bytes()
    for changes, difference in (
        (["--tpr", "0.9"], "tpr was 0.95, now 0.9"),
        (["--scorer", "energy"], "scorer was mahalanobis, now energy"),
        (["--format", "jsonl"], "format was csv, now jsonl"),
    ):
        code, _, err = score("photos", "--out", "rows.csv", *changes)
        assert code == 2
        assert err == f"rows.csv: was begun otherwise: {difference}; name another file, or delete it\n"
    about = tmp_path / "rows.csv.about.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"detector": "other (0123)"}))
    assert "detector was other (0123), now tiny (" in score("photos", "--out", "rows.csv")[2]
    about.unlink()
    assert score("photos", "--out", "rows.csv")[2] == (
        "rows.csv: is there, and no rows.csv.about.json beside it says what made it; name another file\n"
    )
    assert (tmp_path / "rows.csv").read_bytes() == whole


def test_other_images_than_the_rows_are_of_are_told(score, photos, tmp_path):
    score("photos/00.png", "photos/01.png", "--out", "rows.csv")
    whole = (tmp_path / "rows.csv").read_bytes()
    for images, reason in (
        (["photos/00.png", "photos/02.png"], "is of 'photos/01.png', and it would now be of 'photos/02.png'"),
        (["photos/00.png"], "is of 'photos/01.png', and there is no such image now"),
    ):
        code, _, err = score(*images, "--out", "rows.csv")
        assert code == 2
        assert err.startswith(f"rows.csv: its row 2 {reason}; ")
    assert (tmp_path / "rows.csv").read_bytes() == whole
    assert score("photos/00.png", "photos/01.png", "photos/02.png", "--out", "rows.csv")[0] == 0
    assert len(table((tmp_path / "rows.csv").read_text())) == 3


def test_a_damaged_row_is_told(score, photos, tmp_path):
    score("photos", "--out", "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines(keepends=True)
    lines[2] = "photos/01.png,perhaps,1\n"
    (tmp_path / "rows.csv").write_text("".join(lines))
    assert score("photos", "--out", "rows.csv")[2].startswith("rows.csv: its row 2 is damaged; ")


def test_a_file_that_another_process_is_writing_is_refused(score, photos, tmp_path):
    with open_resumable(tmp_path / "rows.csv", None, {}):
        code, _, err = score("photos", "--out", "rows.csv")
    assert code == 2
    assert err == "rows.csv: another process is writing it; name another file\n"


@pytest.mark.parametrize(("size", "rows"), [(0, 0), (400, 5), (50, 0)])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    score, photos, tmp_path, monkeypatch, disk_full, rounded, size, rows
):
    score("photos", "--out", "whole.csv")
    arguments = ("photos", "--out", "rows.csv", "--batch-size", 3)
    (tmp_path / "rows.csv.about.json").write_bytes((tmp_path / "whole.csv.about.json").read_bytes())
    begun = b"".join((tmp_path / "whole.csv").read_bytes().splitlines(keepends=True)[: rows and rows + 1])
    (tmp_path / "rows.csv").write_bytes(begun)
    with disk_full(max(size, 10)):
        code, _, err = score(*arguments)
    assert (code, err.count("\n"), err.endswith("\n")) == (2, 1, True)
    assert "cannot be written" in err
    assert (tmp_path / "rows.csv").read_bytes()[-1:] in (b"", b"\n")  # no row is cut short
    assert score(*arguments)[0] == 0
    assert_alike((tmp_path / "rows.csv").read_bytes(), (tmp_path / "whole.csv").read_bytes(), rounded)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_made_is_one_line(score, photos):
    long = "x" * 300
    for out in (f"{long}/rows.csv", f"{long}.csv"):
        code, _, err = score("photos", "--out", out)
        assert (code, err) == (2, f"--out {out}: cannot be written: File name too long\n")


def test_an_interrupt_is_one_line_and_loses_nothing(score, photos, tmp_path, monkeypatch):
    def interrupted(request, paths):
        found = passed(request, paths)
        yield next(found)
        raise KeyboardInterrupt

    passed = predict_files.predict_files
    monkeypatch.setattr(predict_files, "predict_files", interrupted)
    code, _, err = score("photos", "--out", "rows.csv", "--batch-size", 5)
    assert (code, err) == (130, "interrupted after 5 images; the same command goes on from there\n")
    assert len(table((tmp_path / "rows.csv").read_text())) == 5


def test_a_process_that_was_killed_has_lost_no_whole_batch(score, odd, tmp_path, tiny_run, monkeypatch, rounded):
    paths = [os.fsencode(path) + b"\0" for path in sorted(odd.iterdir())]
    command = [OOD, "score", tiny_run.detector, "-", "-0", "--batch-size", "2", "--out", tmp_path / "rows.csv"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdin.write(b"".join(paths[:10]))
    process.stdin.flush()
    deadline = time.monotonic() + 120
    while not (tmp_path / "rows.csv").is_file() or (tmp_path / "rows.csv").read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdin.close()
    assert 0 < (tmp_path / "rows.csv").read_bytes().count(b".png") < 12
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"".join(paths))))
    assert "of them were there before" in score("-", "-0", "--out", "rows.csv")[2]
    score(odd, "--out", "whole.csv")
    assert_alike((tmp_path / "rows.csv").read_bytes(), (tmp_path / "whole.csv").read_bytes(), rounded)


def test_a_pipe_that_nobody_reads_any_more_ends_it_quietly(photos, tiny_run):
    command = f'{OOD} score {tiny_run.detector} {photos} {photos} {photos} --batch-size 1 | head -1; echo "$PIPESTATUS"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == f"{COLUMNS}\n141\n"
    assert done.stderr == ""


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['ood', 'score', '--help']\n"
        "from ood_core import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_it_takes_the_run_as_well_as_its_detector(score, photos, tiny_run, ood):
    by_run = ood("score", tiny_run.detector.parent, "photos")
    assert by_run[:2] == score("photos")[:2]
    assert isinstance(Detector.load(tiny_run.detector.parent), Detector)
