"""Gram matrices, RankFeat and Mahalanobis distances over layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.linear_model import LogisticRegression

from ood_core.errors import OODError
from ood_core.testing import make_far_image_outputs, make_image_outputs
from ood_core.testing.data import SmallNetwork
from ood_layers.gram import Gram
from ood_layers.mahalanobis import LayerMahalanobis, MahalanobisEnsemble
from ood_layers.maps import GramSums, LayerMeans, flatten_positions
from ood_layers.rankfeat import RankFeat, RankReducedLogits, remove_first_component


def layer_maps(outputs):
    """Return what the layers of the small network put out for these images."""
    network = outputs.network
    first = network.layer1(outputs.images)
    return {"layer1": first, "layer2": network.layer2(first)}


def test_row_sums_are_those_of_the_gram_matrices_of_powers():
    values = torch.randn(4, 6, 9, dtype=torch.float64)
    found = GramSums(powers=5).summarize(values).numpy()
    for image in range(4):
        expected = []
        for power in range(1, 6):
            raised = values[image].numpy() ** power
            rows = (raised @ raised.T).sum(1)
            expected.append(np.sign(rows) * np.abs(rows) ** (1 / power))
        np.testing.assert_allclose(found[image], np.concatenate(expected), rtol=1e-10)


def test_high_powers_of_large_float32_values_stay_finite():
    assert GramSums(powers=10).summarize(torch.full((1, 2, 3), 1e6)).isfinite().all()
    assert torch.equal(GramSums(powers=10).summarize(torch.zeros(1, 2, 3)), torch.zeros(1, 20, dtype=torch.float64))


@torch.no_grad()
def test_gram_is_the_deviation_of_the_papers_loops():
    scorer = Gram(powers=3)
    train, test = make_image_outputs(scorer, rows=40, classes=3), make_image_outputs(scorer, rows=12, classes=3, seed=1)
    test = replace(test, logits=test.logits.roll(1, 0))  # wrong classes, so that something deviates

    def sums(outputs):
        maps = [flatten_positions(name, values) for name, values in layer_maps(outputs).items()]
        return [GramSums(powers=3).summarize(values).float().double().numpy() for values in maps]

    def deviation(values, predicted, bounds):
        total = 0.0
        for value, low, high in zip(values, *bounds[predicted], strict=True):
            if value < low:
                total += (low - value) / abs(low + 1e-6)
            if value > high:
                total += (value - high) / abs(high + 1e-6)
        return total

    classes, held = train.logits.argmax(1).numpy(), train.held_out
    expected = np.zeros(len(test))
    for known, inside, scored in zip(sums(train), sums(held), sums(test), strict=True):
        bounds = {c: (known[classes == c].min(0), known[classes == c].max(0)) for c in range(3)}
        usual = np.mean([deviation(v, int(c), bounds) for v, c in zip(inside, held.logits.argmax(1), strict=True)])
        found = [deviation(v, int(c), bounds) for v, c in zip(scored, test.logits.argmax(1), strict=True)]
        expected += np.array(found) / usual
    np.testing.assert_allclose(scorer.fit(train)(test).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("shape", [(3, 8, 4, 4), (3, 30, 4, 4), (3, 20, 6)])
def test_the_first_component_is_that_of_the_singular_value_decomposition(shape):
    features = torch.randn(shape)
    expected = []
    for image in features.flatten(2).double():
        left, values, right = torch.linalg.svd(image, full_matrices=False)
        expected.append(image - values[0] * torch.outer(left[:, 0], right[0]))
    found = remove_first_component(features)
    torch.testing.assert_close(found, torch.stack(expected).reshape(shape).float(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rankfeat_is_the_energy_of_the_reduced_map():
    test = make_image_outputs(RankFeat(), rows=10)
    maps = remove_first_component(test.network.forward_features(test.images))
    expected = -torch.logsumexp(test.network.forward_head(maps), 1)
    torch.testing.assert_close(RankFeat().fit(test)(test), expected, rtol=1e-6, atol=1e-6)


def test_rankfeat_refuses_features_without_positions():
    with pytest.raises(OODError, match="needs feature maps, and the network's last features are 2-d"):
        remove_first_component(torch.zeros(2, 3))


def distances(train, test, layer):
    """Return the least squared Mahalanobis distance to a class mean over the number of dimensions, by scipy."""
    known = layer_maps(train)[layer].mean((2, 3)).float().double().numpy()
    scored = layer_maps(test)[layer].mean((2, 3)).float().double().numpy()
    labels = train.labels.numpy()
    means = [known[labels == c].mean(0) for c in range(train.classes)]
    within = known - np.stack([means[c] for c in labels])
    precision = np.linalg.inv(within.T @ within / len(known))
    width = known.shape[1]
    return np.array([min(mahalanobis(row, mean, precision) ** 2 for mean in means) / width for row in scored])


@torch.no_grad()
def test_layer_distances_are_summed():
    scorer = LayerMahalanobis()
    train, test = make_image_outputs(scorer), make_image_outputs(scorer, rows=20, seed=1)
    expected = sum(distances(train, test, layer) for layer in ("layer1", "layer2"))
    np.testing.assert_allclose(scorer.fit(train)(test).numpy(), expected, rtol=1e-6)


@torch.no_grad()
def test_named_layers_are_read_instead_of_the_networks_own():
    scorer = LayerMahalanobis(layers=("layer2",))
    train, test = make_image_outputs(scorer), make_image_outputs(scorer, rows=20, seed=1)
    np.testing.assert_allclose(scorer.fit(train)(test).numpy(), distances(train, test, "layer2"), rtol=1e-6)


@torch.no_grad()
def test_the_ensemble_is_weighed_by_a_logistic_regression():
    scorer = MahalanobisEnsemble()
    train, test = make_image_outputs(scorer), make_far_image_outputs(scorer, rows=20, seed=1)

    def columns(outputs):
        return np.stack([np.log1p(distances(train, outputs, layer)) for layer in ("layer1", "layer2")], 1)

    seen = np.concatenate([columns(train.held_out), columns(train.known_ood)])
    is_ood = np.arange(len(seen)) >= len(train.held_out)
    expected = LogisticRegression(class_weight="balanced").fit(seen, is_ood).decision_function(columns(test))
    np.testing.assert_allclose(scorer.fit(train)(test).numpy(), expected, rtol=1e-4)


def test_tokens_and_vectors_are_layers_as_well():
    assert flatten_positions("a", torch.zeros(2, 5, 7)).shape == (2, 7, 5)
    assert flatten_positions("a", torch.zeros(2, 7)).shape == (2, 7, 1)
    assert LayerMeans().summarize(flatten_positions("a", torch.zeros(2, 7, 3, 3))).shape == (2, 7)
    with pytest.raises(OODError, match=r"layer 'a' returns \[2\], neither maps"):
        flatten_positions("a", torch.zeros(2))


def test_a_network_without_a_list_of_layers_is_refused():
    network = SmallNetwork(3)
    network.layer1 = network.layer2 = torch.nn.Identity()
    with pytest.raises(OODError, match="set 'layers' to names of its submodules"):
        LayerMeans().layers(network)


def test_two_probes_never_share_the_name_of_an_array():
    probes = [LayerMeans(), LayerMeans(wanted=("a",)), GramSums(powers=1), GramSums(powers=2)]
    prefixes = [probe.prefix() for probe in probes]
    assert not any(one.startswith(two) for one in prefixes for two in prefixes if one is not two)


def test_rankfeat_refuses_a_network_without_classifier_before_the_extraction():
    network = SmallNetwork(3)
    network.classifier = torch.nn.Identity()
    with pytest.raises(OODError, match="the network has no classifier"):
        RankReducedLogits().layers(network)
