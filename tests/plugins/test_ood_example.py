"""The example of a third-party package, imported from its source; tests/packaging installs it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cosine_similarity

from ood_core.errors import OODError
from ood_core.interfaces import Outputs


@pytest.fixture(autouse=True)
def example_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "example_plugin" / "ood-example")


@pytest.fixture
def weights(tmp_path):
    from ood_example.resnet import ResNet20

    torch.manual_seed(0)
    save_file(ResNet20(10).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def backbone(weights):
    from ood_example.backbone import CifarResNet20

    return CifarResNet20(weights=weights)


def outputs(embeddings, labels, classes):
    return Outputs(embeddings, torch.zeros(len(labels), 0), torch.as_tensor(labels), classes)


def test_score_is_the_angle_to_the_nearest_mean_direction():
    from ood_example.scorer import ClassMeanCosine

    torch.manual_seed(0)
    train = outputs(torch.randn(30, 5), [i % 3 for i in range(30)], classes=4)
    test = outputs(torch.randn(7, 5), [-1] * 7, classes=4)
    score = ClassMeanCosine().fit(train)(test)
    assert score.dtype == torch.float64
    for row, embedding in enumerate(test.embeddings.double()):
        cosines = []
        for label in range(3):
            of_class = train.embeddings[train.labels == label].double()
            mean = torch.stack([vector / vector.norm() for vector in of_class]).mean(dim=0)
            cosines.append(float(cosine_similarity(embedding, mean, dim=0)))
        assert float(score[row]) == pytest.approx(1 - max(cosines), abs=1e-12)


def test_embedding_far_from_all_classes_scores_higher():
    from ood_example.scorer import ClassMeanCosine

    train = outputs(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [0, 1], classes=2)
    score = ClassMeanCosine().fit(train)(outputs(torch.tensor([[-1.0, -1.0], [9.0, 0.1]]), [-1, -1], classes=2))
    assert score[0] > score[1]


def test_network_has_twenty_layers_and_embeddings_of_64(weights):
    network = backbone(weights).build(32, None).eval()
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == 20
    images = torch.rand(2, 3, 32, 32)
    embeddings = network.forward_head(network.forward_features(images), pre_logits=True)
    assert embeddings.shape == (2, network.num_features) == (2, 64)
    assert torch.equal(network.get_classifier()(embeddings), network(images))


def test_network_is_loaded_from_the_file(weights):
    first, second = backbone(weights).build(32, None), backbone(weights).build(32, None)
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert first.get_classifier().out_features == 10


def test_other_classes_get_a_fresh_head(weights):
    assert backbone(weights).build(32, 3)(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_missing_weights_are_refused_before_the_run(tmp_path):
    with pytest.raises(OODError, match=r"^backbone 'resnet20-cifar': no file .*nowhere\.safetensors$"):
        backbone(tmp_path / "nowhere.safetensors").check()


def test_weights_of_another_network_are_refused_in_one_line(tmp_path):
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(OODError, match=r"other\.safetensors: Error.*Missing key.*size mismatch for conv1") as caught:
        backbone(tmp_path / "other.safetensors").build(32, None)
    assert "\n" not in str(caught.value)
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")
    with pytest.raises(OODError, match=r"^backbone 'resnet20-cifar': .*other\.safetensors: "):
        backbone(tmp_path / "other.safetensors").build(32, None)


def test_other_image_sizes_are_refused(weights):
    with pytest.raises(OODError, match=r"^backbone 'resnet20-cifar' takes images of 32 pixels, not 64$"):
        backbone(weights).build(64, None)
