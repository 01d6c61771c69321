"""A published network through the whole path: the example package's ResNet-20, CIFAR-10 against CIFAR-100."""

from pathlib import Path

import pytest

from ood_core import plan, recipe
from ood_core.plugins import find
from ood_core.run import run
from ood_core.store import Store

EXAMPLE = Path(__file__).parents[1] / "example_plugin" / "ood-example"
SHARED = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "resnet20-12fca82f.safetensors"
needs_data = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason="the CIFAR parquet files and weights are not beside this repository"
)


@pytest.fixture
def example_plugins(tmp_path, monkeypatch):
    """The installed plugins and the example package, found as if it were installed."""
    information = tmp_path / "ood_example-2.3.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ood-example\nVersion: 2.3.1\n")
    (information / "entry_points.txt").write_text("[ood]\nexample = ood_example.hooks\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE)
    return find()


@pytest.mark.slow
@needs_data
def test_resnet20_has_its_published_accuracy_and_all_five_scorers_tell_cifar100_apart(tmp_path, example_plugins):
    overrides = [
        f"backbone.weights={WEIGHTS}",
        f"data.id.path={SHARED / 'cifar10'}",
        f"data.near.0.path={SHARED / 'cifar100'}",
    ]
    made = plan.make(recipe.read(EXAMPLE / "pretrained.yaml", overrides), example_plugins)
    results = run(made, Store(tmp_path / "store"))
    found = {row.scorer: row for row in results.rows}
    assert list(found) == ["softmax", "entropy", "energy", "gradnorm", "mahalanobis"]
    # one image in ten thousand may fall to the other side when the order of additions differs
    assert all(row.id_accuracy == pytest.approx(0.9173, abs=2e-4) for row in results.rows)
    assert all(found[scorer].auroc > 0.8 for scorer in ("softmax", "entropy", "energy"))
    assert all(row.auroc > 0.5 for row in results.rows)
