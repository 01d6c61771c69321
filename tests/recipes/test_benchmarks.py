"""Every benchmark is planned over small sets in the layouts it names, and run where real sets are at hand."""

from pathlib import Path

import numpy as np
import pytest

from ood_core.errors import OODErrors
from ood_core.plan.experiments import BENCHMARK_KEYS
from ood_core.plan.make import make_plan
from ood_core.recipe.read import find_recipe, read_recipes
from ood_core.run.schedule import run
from ood_core.store.store import Store

FOLDER = Path(__file__).parents[2] / "recipes" / "benchmarks"
DATA = Path(__file__).parents[3] / "shared" / "data"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

SMALL = (
    "data.image_size=32",
    "backbone={use: timm, model: vit_tiny_patch16_224, options: {patch_size: 8, embed_dim: 8, depth: 1, num_heads: 1}}",
    "training=[{use: classification, epochs: 1, warmup_epochs: 0, batch_size: 16}]",
    "scorers=[softmax, mahalanobis]",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_says_what_it_is_and_where_it_comes_from(name):
    (first, *_) = read_recipes(FOLDER / f"{name}.yaml")
    described = first.root.plain()["benchmark"]
    assert set(described) <= set(BENCHMARK_KEYS)
    assert {"title", "paper", "source", "licence", "splits"} <= set(described)
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.startswith(f"# {name}: ")


def test_there_are_the_eight_benchmarks():
    mood = {f"mood-{name}" for name in ("cifar10", "cifar100", "imagenet30", "imagenet1k")}
    openood = {f"openood-{name}" for name in ("cifar10", "cifar100", "imagenet200", "imagenet1k")}
    assert set(NAMES) == mood | openood


def planned(plugins, name, root, *overrides):
    found = read_recipes(FOLDER / f"{name}.yaml", [f"data.root={root}", *overrides])
    return make_plan(found, plugins)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_planned_over_the_layouts_it_names(plugins, small_sets, name):
    made = planned(plugins, name, small_sets)
    made.check()
    assert len({row.ood_set for row in made.rows}) >= 3
    # every set of these tests is smaller than the real one, and the benchmark knows
    assert sum("numbers do not compare" in note for note in made.notes) >= 4
    shifted = {row.measure.spectrum for row in made.rows}
    assert shifted == ({"standard", "full"} if name.startswith("openood-imagenet") else {"standard"})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_with_a_small_network(plugins, small_sets, tmp_path, name):
    made = planned(plugins, name, small_sets, *SMALL)
    results = run(made, Store(tmp_path / "store"))
    assert {row.scorer for row in results.rows} == {"softmax", "mahalanobis"}
    assert {row.ood_set for row in results.rows} == {row.ood_set for row in made.rows}


@pytest.mark.slow
def test_the_full_spectrum_is_measured_with_images_of_cifar10_c(plugins, small_sets, tmp_path):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("fog", "contrast"):
        np.save(folder / f"{name}.npy", random.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.arange(6) % 3)
    paths = [
        f"data.shifted.{n}.{key}={folder / file}"
        for n, name in enumerate(("fog", "contrast"))
        for key, file in (("path", f"{name}.npy"), ("labels", "labels.npy"))
    ]
    rows = [f"data.shifted.{n}.rows=[2, 6]" for n in (0, 1)]
    found = read_recipes(find_recipe("protocols/full_spectrum"), [f"data.root={small_sets}", *paths, *rows, *SMALL])
    results = run(make_plan(found, plugins), Store(tmp_path / "store"))
    sizes = {(row.spectrum, row.id_images) for row in results.rows}
    assert {spectrum for spectrum, _ in sizes} == {"standard", "full"}
    (standard,), (full,) = ([size for of, size in sizes if of == name] for name in ("standard", "full"))
    assert full == standard + 8


@pytest.mark.parametrize("name", NAMES)
def test_missing_sets_are_told_line_by_line(plugins, tmp_path, name):
    with pytest.raises(OODErrors) as caught:
        planned(plugins, name, tmp_path)
    lines = str(caught.value).splitlines()
    sets = [line for line in lines if not any(f"{kind}.txt" in line for kind in ("_v2", "_c", "_r"))]
    assert all("fetch it from http" in line for line in sets), lines
    assert all(line.startswith(("mood-", "openood-")) for line in lines)


def test_without_openoods_lists_whole_sets_stand_in_and_missing_ones_can_be_left_out(plugins, parquet, tmp_path):
    for name, classes in (("cifar10", ("airplane", "bird")), ("cifar100", ("apple", "baby"))):
        parquet(tmp_path / name, *classes)
    made = planned(plugins, "openood-cifar10", tmp_path, "data.missing_files=leave-out")
    assert {row.ood_set for row in made.rows} == {"CIFAR-100"}
    assert sum(note.startswith("left out: ") for note in made.notes) == 5
    assert "CIFAR-100: 16 images in the test split, the benchmark has 9000; numbers do not compare" in made.notes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mood-cifar10", "openood-cifar10"])
def test_a_benchmark_runs_on_real_images_where_they_are_at_hand(plugins, tmp_path, name):
    if not DATA.is_dir():
        pytest.skip("needs the CIFAR parquet files, which are not beside this repository")
    few = ("data.missing_files=leave-out", "data.id.limit=8", "data.near.0.limit=2")
    made = planned(plugins, name, DATA, *SMALL, *few)
    (softmax, mahalanobis) = run(made, Store(tmp_path / "store")).rows
    assert (softmax.ood_set, softmax.ood_images) == ("CIFAR-100", 200)
    assert 0 < mahalanobis.auroc < 1
