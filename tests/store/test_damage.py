"""One bit that is flipped in a file of the store never gives other numbers: it is named, or costs its stage alone."""

import shutil

import pytest

from ood_core.detector.from_run import build_detector
from ood_core.errors import OODError
from ood_core.plan.make import make_plan
from ood_core.recipe.read import read_recipes
from ood_core.records.stages import KINDS
from ood_core.report.content.collect import collect
from ood_core.run.schedule import jobs, run
from ood_core.store.store import Store

MIM = (
    "training=[{use: mim, epochs: 1, batch_size: 16, min_block: 1, crop_scale: 0.8, flip: false, "
    "tokenizer: {use: kmeans, vocabulary: 8}}, {use: classification, epochs: 1, batch_size: 16, flip: false}]"
)
SCORERS = "scorers=[mahalanobis, mahalanobis-layers]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, plugins, tiny_text):
    """A run of two trainings, a probe and pictures; its plan, its store and what was found."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(tiny_text)
    made = make_plan(read_recipes(folder / "tiny.yaml", [MIM, SCORERS, "data.far=[]", "data.holdout=0.2"]), plugins)
    store = Store(folder / "store")
    return made, store, numbers(made, store, folder)


def numbers(made, store, folder):
    """Return all that comes out of a store: the table, the scores behind it, and what reports and detectors read."""
    results = run(made, store)
    if results.failures:
        raise results.failures[0].error
    found = collect(made, results, store, folder)
    fitted = build_detector(made, store)
    tables = (found.rows, found.accepted, found.classes, found.resolved, found.gallery)
    scores = [(of.id_scores.tolist(), of.ood_scores.tolist()) for of in found.scores]
    maps = [(of.points.tolist(), of.labels) for part in found.maps for of in part.sets]
    weights = [of.double().sum().item() for of in fitted.network.state_dict().values()]
    return tables, scores, maps, weights, fitted.examples.embeddings.sum().item()


def flip(path):
    """Change one bit in the last half of a file, where values lie."""
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


def what_comes(made, store, folder, path):
    """Return the numbers, None where the file is named as damaged instead, with the folder to delete."""
    try:
        return numbers(made, store, folder)
    except OODError as error:
        assert f"{path} is damaged (its checksum is " in str(error)
        assert str(error).endswith(f"; delete the folder {path.parent}, and it is computed again")
        return None


@pytest.mark.parametrize("needed", [True, False])
def test_a_flipped_bit_of_an_artifact_is_named_or_was_not_read(finished, tmp_path, needed):
    made, whole, expected = finished
    not_read = set()
    for file in sorted(path.relative_to(whole.root) for kind in KINDS for path in whole.root.glob(f"{kind}/*/*")):
        if file.name == "stage.json":
            continue
        store = Store(tmp_path / "store")
        shutil.copytree(whole.root, store.root)
        if needed:
            for kind in KINDS[KINDS.index(file.parts[0]) + 1 :]:
                shutil.rmtree(store.root / kind)  # so that the file is needed again
        flip(store.root / file)
        found = what_comes(made, store, tmp_path, store.root / file)
        if found is not None:
            assert found == expected
            not_read.add(file)
        shutil.rmtree(store.root)
    sets = {stage.key: str(stage.images) for stage in made.stages if stage.kind == "extract"}
    names = {(sets.get(file.parts[1], file.parts[0]), file.name) for file in not_read}
    unread = {("digits holdout", "rows.npy"), ("digits holdout", "digests.npy")}
    if not needed:  # what is fitted, scored and measured already needs neither pictures' digests nor layers
        unread |= {(of, name) for of in sets.values() for name in ("digests.npy", "layers.json", "0.npy")}
    assert names == unread


def test_a_flipped_bit_in_stage_json_costs_that_stage_and_gives_the_same_numbers(finished, tmp_path, caplog):
    made, whole, expected = finished
    store = Store(tmp_path / "store")
    shutil.copytree(whole.root, store.root)
    for stage in made.stages:
        path = store.folder(stage) / "stage.json"
        flip(path)
        caplog.clear()
        assert stage in [missing for job in jobs(made, store) for missing in job.stages]
        assert numbers(made, Store(store.root), tmp_path) == expected
        assert [line for line in caplog.messages if line.startswith(f"{path} is damaged (")]
        assert not jobs(made, store)


@pytest.mark.parametrize("kind", ["train", "extract", "fit", "score", "measure"])
def test_a_folder_that_was_deleted_is_computed_again(finished, tmp_path, kind):
    made, whole, expected = finished
    store = Store(tmp_path / "store")
    shutil.copytree(whole.root, store.root)
    shutil.rmtree(store.root / kind)
    assert numbers(made, store, tmp_path) == expected
    assert not jobs(made, store)


def test_what_failed_is_named_where_measurements_are_stored_and_scores_are_not(ood_run, tiny, tmp_path):
    arguments = (tiny, "--store", tmp_path / "store", "--out", tmp_path / "out")
    assert ood_run(*arguments)[0] == 0
    shutil.rmtree(tmp_path / "store" / "score")
    damaged = sorted((tmp_path / "store").glob("fit/*/score.safetensors"))
    for path in damaged:
        flip(path)
    code, _, told = ood_run(*arguments)
    assert code == 2
    assert any(f"{path} is damaged (" in told for path in damaged)
    for path in damaged:
        shutil.rmtree(path.parent)
    assert ood_run(*arguments)[0] == 0
    assert (tmp_path / "store" / "score").is_dir()


def test_the_command_line_names_damage_and_makes_no_detector_of_it(ood_run, tiny, tmp_path, caplog):
    arguments = (tiny, "--store", tmp_path / "store", "--out", tmp_path / "out", "--set", "data.holdout=0.2")
    assert ood_run(*arguments)[0] == 0
    (weights,) = (tmp_path / "store").glob("train/*/weights.safetensors")
    scores = sorted((tmp_path / "store").glob("score/*/scores.npy"))[0]
    for path in (weights, scores):
        whole = path.read_bytes()
        flip(path)
        code, _, told = ood_run(*arguments)
        assert code == 2
        assert f"{path} is damaged (" in told
        assert told.rstrip().endswith(f"delete the folder {path.parent}, and it is computed again")
        assert "Traceback" not in told
        path.write_bytes(whole)
    flip(weights.with_name("stage.json"))
    code, _, told = ood_run(*arguments)
    assert code == 0
    assert f"{weights.with_name('stage.json')} is damaged (" in caplog.text
    assert " train classification  " in told
