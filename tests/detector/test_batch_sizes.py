"""The same scores up to rounding, whatever the other images of a batch: networks, and every installed scorer."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from ood_core.detector import Detector
from ood_core.detector.forward import _compute_scores
from ood_core.detector.state import FittedScorer
from ood_core.evaluation.calibration import Calibration
from ood_core.plugins import find
from ood_core.testing import make_image_outputs, make_outputs

from ..contract.required import required

SCORERS = find().classes("scorer")


@pytest.mark.parametrize(
    ("model", "options", "size"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 4, "depth": 2}, 16),
        ("beit_base_patch16_224", {"patch_size": 8, "depth": 1}, 32),
        ("resnet18", {}, 32),
    ],
)
def test_an_image_alone_and_in_batches_scores_the_same_up_to_rounding(plugins, model, options, size):
    """Within 1e-5 of a score, as docs/detector.md says; beyond that no decision changes either."""
    backbone = plugins.get("backbone", "timm")(model=model, options=options)
    images = np.random.default_rng(0).integers(0, 256, (165, size, size, 3), dtype=np.uint8)
    detector = Detector(image_size=size, examples=False).fit(backbone, images[:100], ["euclidean", "cosine"])
    found = {batch: detector.predict(images[100:], batch_size=batch) for batch in (1, 2, 7, 64)}
    whole = found.pop(64)
    for part in found.values():
        for name, expected in whole.scores.items():
            np.testing.assert_allclose(part.scores[name], expected, rtol=1e-5, atol=0)
        near = np.abs(whole.score - whole.threshold) <= 1e-5 * np.abs(whole.threshold)
        assert (part.is_ood == whole.is_ood)[~near].all()


# a scorer of each package
@pytest.mark.parametrize("name", {cls.__module__.partition(".")[0]: name for name, cls in SCORERS.items()}.values())
def test_an_image_has_the_same_score_whatever_others_it_is_scored_with(name):
    scorer = SCORERS[name](**required(SCORERS[name]))
    with_images = bool(scorer.all_needs() & {"layers", "network"})
    made = partial(make_image_outputs, scorer) if with_images else make_outputs
    torch.manual_seed(0)
    score = scorer.fit(made())
    of = FittedScorer(name, scorer, score, Calibration.of(torch.zeros(1).double().numpy()))
    test = made(seed=1).without_labels()
    rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:40]
    network, images = test.network, test.images
    plain = replace(test[rows], network=None, images=None)

    def scored(part):
        shown = torch.zeros(0) if images is None else images[rows][part]
        return _compute_scores(of, network, plain[part], shown).tolist()

    def assert_close(found):
        np.testing.assert_allclose(found, whole, rtol=1e-9, atol=0)

    whole = scored(slice(None))
    assert_close(scored(torch.arange(39, -1, -1))[::-1])
    assert_close([scored(slice(row, row + 1))[0] for row in range(40)])
    assert_close([value for start in range(0, 40, 7) for value in scored(slice(start, start + 7))])
