"""The published CIFAR-10 weights reach their published accuracy through the framework's data path."""

from pathlib import Path

import pytest
import torch

from ood_core.data import Selection, evaluation_batches, to_unit
from ood_files.parquet import ParquetFiles

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
WEIGHTS = SHARED / "weights" / "resnet20-12fca82f.safetensors"
IMAGES = SHARED / "cifar10"


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS.is_file() and IMAGES.is_dir()), reason=f"needs {WEIGHTS} and {IMAGES}")
def test_resnet20_gets_91_73_percent_on_cifar10(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "example_plugin" / "ood-example")
    from ood_example.backbone import CifarResNet20

    network = CifarResNet20(weights=WEIGHTS).build(32, None).eval()
    images = Selection(name="cifar10", source=ParquetFiles(path=IMAGES)).open("test")
    right = 0
    with torch.inference_mode():
        for batch in evaluation_batches(images, image_size=32, batch_size=250):
            right += int((network(to_unit(batch.views[0])).argmax(dim=1) == batch.labels).sum())
    # One image in ten thousand may fall to the other side when the order of additions differs.
    assert abs(right - 9173) <= 2
