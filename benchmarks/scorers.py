"""Cost of scorers: each beside one softmax, the five of a recipe beside its extraction, and three families in detail.

python benchmarks/scorers.py             everything; the families need an idle machine
python benchmarks/scorers.py table       only fitting and scoring of each scorer
python benchmarks/scorers.py recipe      only the recipe

The comparison with pytorch-ood needs it installed: pip install '.[bench]', as `make bench` does.
"""

import sys
import tempfile
import time
from pathlib import Path

import logits
import mahalanobis
import neighbors
import torch

from ood_core.errors import OODError
from ood_core.plan.make import make_plan
from ood_core.plugins import find
from ood_core.recipe.read import read_recipes
from ood_core.run.schedule import run
from ood_core.store.store import Store
from ood_core.testing import make_outputs

FIT, SCORE, CLASSES, DIMENSIONS, REPETITIONS = 20_000, 10_000, 100, 256, 3

RECIPE = """\
seed: 0
data:
  image_size: 32
  id: {use: photo-patches, count: 3000}
  far: [{use: noise, count: 3000}]
backbone: {use: timm, model: vit_tiny_patch16_224, options: {patch_size: 4, depth: 6}}
training: [{use: classification, epochs: 1, batch_size: 512, learning_rate: 1e-4}]
scorers: SCORERS
"""
FIVE = ["softmax", "entropy", "energy", "gradnorm", "mahalanobis"]


def best(action):
    times = []
    for _ in range(REPETITIONS):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return min(times)


def table():
    """Every scorer that works on the stored outputs alone."""
    train = make_outputs(rows=FIT, classes=CLASSES, dimension=DIMENSIONS, seed=0)
    test = make_outputs(rows=SCORE, classes=CLASSES, dimension=DIMENSIONS, seed=1)
    softmax = best(lambda: torch.softmax(test.logits, 1))
    print(f"fit {FIT} rows, score {SCORE} rows, {CLASSES} classes, {DIMENSIONS} dimensions, defaults")
    print(f"{'one float32 softmax':22} {'':>13} {1e3 * softmax:10.2f} ms")
    for name, cls in sorted(find().classes("scorer").items()):
        if cls.needs & {"layers", "network"}:
            continue
        try:
            scorer = cls()
        except TypeError:
            continue  # fusion, whose cost is that of its scorers
        try:
            begun = time.perf_counter()
            score = scorer.fit(train)
            fit = time.perf_counter() - begun
        except OODError as error:
            print(f"{name:22} {error}")
            continue
        scoring = best(lambda: [score(chunk) for chunk in test.chunks()])  # noqa: B023 - called at once
        print(f"{name:22} {1e3 * fit:9.1f} fit {1e3 * scoring:10.2f} ms score {scoring / softmax:9.1f} x softmax")


def five():
    """The five scorers of ablations/scorers.yaml, with all that the store does, beside one."""
    plugins = find()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(RECIPE.replace("SCORERS", f"[{', '.join(FIVE)}]"))
        results = run(make_plan(read_recipes(path), plugins), Store(Path(folder) / "store"))
    spent = {"extract": 0.0}
    for record in results.records:
        stage = record.stage
        name = getattr(stage, "name", None) or (stage.fit.name if stage.kind == "score" else stage.kind)
        spent[name] = spent.get(name, 0.0) + record.facts["seconds"]
    extraction, scorers = spent["extract"], sum(spent[name] for name in FIVE)
    print(f"extraction {extraction:.2f} s, the five scorers {scorers:.2f} s (fits and scores, store included)")
    print(f"five scorers and extraction over extraction: {(extraction + scorers) / extraction:.3f}")


PARTS = {"table": table, "recipe": five}
FAMILIES = {"logits": logits.main, "mahalanobis": mahalanobis.main, "neighbors": neighbors.main}

if __name__ == "__main__":
    wanted, sys.argv[1:] = sys.argv[1:] or [*PARTS, *FAMILIES], []  # the families read options of their own
    for name in wanted:
        print(f"--- {name}", flush=True)
        (PARTS | FAMILIES)[name]()
