"""Scoring with the network: rows and images belong together, also where pictures are broken."""

import pytest
import torch

from ood_core.errors import OODError
from ood_core.pipeline import score
from ood_core.run.schedule import run
from ood_core.store.files import load_array
from ood_core.store.store import Store


@pytest.mark.parametrize("size", [2, 7, 100])
def test_rows_and_images_belong_together_where_pictures_are_skipped(make_plan, tiny, tmp_path, monkeypatch, size):
    plan, store = make_plan(tiny, "scorers=[odin]"), Store(tmp_path / "store")
    broken = {2, 3, 8, 39}  # a whole batch of two among them
    for stage in plan.stages:
        if stage.kind == "extract" and str(stage.images) == "unseen":
            opened, pixels = stage.images.opened, stage.images.opened.pixels

            def some(row, pixels=pixels):
                if row in broken:
                    raise OODError(f"{row}.png: broken picture")
                return pixels(row)

            monkeypatch.setattr(opened, "pixels", some)
            monkeypatch.setattr(opened, "skip_broken", True)
    monkeypatch.setattr(score, "BATCH_SIZE", size)
    run(plan, store)
    (stage,) = (s for s in plan.stages if s.kind == "score" and str(s.images) == "unseen")
    outputs = score.load_outputs(stage.outputs, store)
    chunks = list(score._chunks(stage, store, outputs))
    assert sum(len(chunk) for chunk in chunks) == 36
    assert all(len(chunk) == len(chunk.images) > 0 for chunk in chunks)
    for chunk in chunks:
        torch.testing.assert_close(chunk.network(chunk.images), chunk.logits, rtol=1e-4, atol=1e-4)
    assert len(load_array(store.folder(stage) / score.SCORES)) == 36
