"""ReportData that no run made: as many variants, cases, scorers and sets as asked for; conftest.py loads it."""

from dataclasses import asdict

import numpy as np
import torch
from PIL import Image

from ood_core.evaluation import metrics
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
from ood_core.records.results import ResultRow

ENDS = ("most ID-like OOD", "most OOD-like ID", "most typical ID", "most typical OOD")


def synthetic(folder, variants=1, scorers=2, sets=2, cases=1, images=300, classes=3, galleries=2, side=32):
    """Return findings whose pictures lie in the folder."""
    made = _Made(folder, images, classes, side)
    names = [f"variant {index}" for index in range(variants)]
    for variant in names:
        for case in [f"case {index}" for index in range(cases)] if cases > 1 else [""]:
            for scorer in range(scorers):
                made.measure(variant, case, f"scorer{scorer}", sets)
            made.map(variant, case, sets)
        made.train(variant)
    for row in range(0, len(made.rows), sets):
        if row < galleries * sets:
            made.strips(row)
    return ReportData(
        name="synthetic",
        started="2026-01-02T03:04:05Z",
        rows=tuple(made.rows),
        scores=tuple(made.scores),
        coordinates={},
        baseline=Baseline(names[0], "" if variants > 1 else "scorer0"),
        averaged=True,
        notes=("A note with <angle> brackets & an ampersand",),
        failures=(FailedStage("train mim", ("variant 9",), "the loss is nan at step 3"),),
        stages=tuple(made.stages),
        accepted=tuple(made.accepted),
        classes=tuple(made.classes),
        resolved={f"{name}, seed 0": {"training": [{"use": "mim", "epochs": 60}]} for name in names},
        versions={"python": "3.11.7", "torch": "2.6.0"},
        machine={"processor": "a processor", "memory": "16 GiB"},
        seconds=12.34,
        pictures=(made.picture("pictures/reconstructions.png"),),
        gallery=tuple(made.gallery),
        maps=tuple(made.maps),
    )


class _Made:
    def __init__(self, folder, images, classes, side):
        self.folder, self.images, self.side = folder, images, side
        self.names = [f"class {index}" for index in range(classes)]
        self.random = np.random.default_rng(0)
        self.rows, self.scores, self.stages, self.accepted, self.classes = [], [], [], [], []
        self.gallery, self.maps = [], []
        for name in ("gallery", "pictures"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def measure(self, variant, case, scorer, sets):
        inside = self.random.normal(size=self.images)
        for index in range(sets):
            outside = self.random.normal(1 + index / 3 + len(self.rows) % 7 / 10, 1 + index / 4, size=self.images)
            found = metrics.measure(torch.from_numpy(inside), torch.from_numpy(outside))
            row = self._row(variant, case, scorer, f"set {index}", found)
            self.rows.append(row)
            self.scores.append(RowScores(inside, outside))
            self._classify(row)
            self._stage("measure", f"measure {scorer} on {row.ood_set}", variant)
        self._stage("fit", f"fit {scorer}", variant, fitted={})

    def _row(self, variant, case, scorer, ood_set, found):
        return ResultRow(
            variant=variant,
            case=case,
            draw=0,
            seed=0,
            scorer=scorer,
            spectrum="standard",
            id_set="known",
            ood_set=ood_set,
            group="near" if ood_set == "set 0" else "far",
            id_images=self.images,
            ood_images=self.images,
            duplicates_test=0,
            duplicates_train=0,
            id_accuracy=0.9,
            ece=0.1,
            images=ood_set,
            **asdict(found),
        )

    def _classify(self, row):
        which = (row.variant, row.case, row.draw, row.seed, row.scorer, row.id_set, row.ood_set)
        of_class = self.images // len(self.names)
        for index, name in enumerate(self.names):
            self.classes.append(ClassRow(*which, name, of_class, of_class // 2, 0.5 + index / 10))
            self.accepted.append(AcceptedPair(*which, name, f"known {index}", of_class // 2, of_class))

    def map(self, variant, case, sets):
        shape = (self.images, 2)
        labels = tuple(self.names[index % len(self.names)] for index in range(self.images))
        found = [EmbeddingPoints("known", True, self.random.normal(size=shape).astype(np.float32), labels)]
        for index in range(sets):
            points = self.random.normal(index + 1, size=shape).astype(np.float32)
            found.append(EmbeddingPoints(f"set {index}", False, points, labels))
        self.maps.append(EmbeddingMap(variant, case, 0, tuple(found)))

    def train(self, variant):
        for task in ("mim", "mim > classification"):
            epochs = [{"loss": 1 / (epoch + 1), "accuracy": epoch / 60} for epoch in range(60)]
            self._stage("train", f"train {task}", variant, epochs=epochs, images_per_second=1000.0, steps=60)
        self._stage("extract", "extract known (mim > classification)", variant, images=self.images)

    def _stage(self, kind, title, variant, **facts):
        facts = {"seconds": 1.5, "peak_memory_mb": 512.0} | facts
        key = f"{len(self.stages):024x}"
        self.stages.append(StageRecord(kind, title, key, 0, (variant,), len(self.stages) % 5 == 4, facts))

    def picture(self, file):
        Image.fromarray(self.random.integers(0, 256, (96, 192, 3), np.uint8)).save(self.folder / file)
        return Picture("reconstructions (train mim, seed 0)", file, "from top to bottom: images; their tokens")

    def strips(self, row):
        for end in ENDS:
            files = [f"gallery/{row}-{ENDS.index(end)}-{index}.webp" for index in range(8)]
            for file in files:
                pixels = self.random.integers(0, 256, (self.side, self.side, 3), np.uint8)
                Image.fromarray(pixels).save(self.folder / file, quality=80)
            self.gallery.append(GalleryRow(row, end, tuple(GalleryImage(file, "class 0", -1.5) for file in files)))
