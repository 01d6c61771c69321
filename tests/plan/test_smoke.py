"""Smoke runs: all stages of a recipe on few images and for one epoch."""

from ood_core.plan.smoke import IMAGES, SMOKE_NOTE
from ood_core.records.stages import ExtractStage, TrainStage
from ood_core.run import lock

TASKS = (
    "training=[{use: mim, epochs: 9, warmup_epochs: 5, tokenizer: {use: dvae, layers: 1}}, "
    "{use: classification, epochs: 4, warmup_epochs: 0.5}]"
)


def test_every_training_of_a_smoke_run_has_one_epoch_and_its_warm_up_fits(make_plan, tiny):
    made = make_plan(tiny, TASKS, "smoke=true")
    trainings = {str(stage): stage.task for stage in made.stages if isinstance(stage, TrainStage)}
    assert {name: (task.epochs, task.warmup_epochs) for name, task in trainings.items()} == {
        "train tokenizer dvae": (1, 1),
        "train mim": (1, 1),
        "train mim > classification": (1, 0.5),
    }


def test_every_set_of_a_smoke_run_has_few_images_of_each_class_and_some_are_held_out(make_plan, tiny):
    changes = ("data.holdout=0.01", "data.near.0.limit=5", "data.id.expected={train: 400, test: 400}")
    made = make_plan(tiny, *changes, "smoke=true")
    sizes = {str(of.images): len(of.images.opened) for of in made.stages if isinstance(of, ExtractStage)}
    assert sizes == {
        "digits train": 3 * (IMAGES - 2),
        "digits holdout": 3 * 2,
        "digits": 3 * IMAGES,
        "unseen": 2 * 5,
        "noise(size=8, count=30)": IMAGES,
    }
    assert made.notes == (SMOKE_NOTE,)


def test_all_stages_and_rows_of_the_recipe_are_there(make_plan, tiny):
    whole, smoke = make_plan(tiny), make_plan(tiny, "smoke=true")
    assert list(map(str, smoke.stages)) == list(map(str, whole.stages))
    assert [row.key for row in smoke.rows] == [row.key for row in whole.rows]
    assert not {stage.key for stage in smoke.stages} & {stage.key for stage in whole.stages}
    assert make_plan(tiny, "smoke=false") == whole


def test_a_smoke_run_has_its_own_name_and_folder_and_its_lock_repeats_it(ood_run, tiny, tmp_path):
    code, out, err = ood_run(tiny, "--smoke")
    assert code == 0, err
    assert err.startswith("tiny-smoke: 20 stages for 4 rows\nnote this is a smoke run: one epoch of each training")
    assert "report: runs/tiny-smoke/report.html" in out
    folder = tmp_path / "runs/tiny-smoke"
    for report in ("report.md", "report.html"):
        text = (folder / report).read_text()
        assert "tiny-smoke" in text
        assert SMOKE_NOTE in text

    code, out, err = ood_run(folder / lock.LOCK, "--plan")
    assert code == 0, err
    assert f"note: {SMOKE_NOTE}\n4 rows, 20 stages, 20 stored; nothing to do" in out

    code, _, err = ood_run(folder / lock.LOCK, "--smoke")
    without = "a lock is run as it is, without --set, --only and --smoke; change its recipe instead"
    assert (code, err) == (2, f"{lock.LOCK}: {without}\n")
