"""Tests of classifier factories: the predictor gives the sizes, the config all other options."""

import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from d2_seesaw.layers import (
    NormedConv2d,
    NormedLinear,
    linear_classifier,
    normed_linear_classifier,
    normed_mask_predictor,
)

FACTORIES = {
    linear_classifier: nn.Linear,
    normed_linear_classifier: NormedLinear,
    normed_mask_predictor: NormedConv2d,
}
every_factory = pytest.mark.parametrize(
    ("factory", "layer"), FACTORIES.items(), ids=[f.__name__ for f in FACTORIES]
)


@every_factory
def test_factory_makes_its_layer_in_the_requested_size(factory, layer):
    built = factory()(7, 3)
    assert type(built) is layer
    assert built.weight.shape[:2] == (3, 7)


@every_factory
def test_layers_of_one_factory_share_nothing(factory, layer):
    make = factory()
    assert make(7, 3).weight.data_ptr() != make(7, 3).weight.data_ptr()


@every_factory
def test_factory_can_be_pickled(factory, layer):
    # Configs hold factories, and workers receive them.
    assert type(pickle.loads(pickle.dumps(factory()))(7, 3)) is layer


@pytest.mark.parametrize(("options", "std"), [({}, 0.01), ({"std": 0.3}, 0.3)])
def test_linear_classifier_starts_with_its_std_and_bias_0(options, std):
    layer = linear_classifier(**options)(500, 400)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert_close(layer.bias, torch.zeros(400))


@pytest.mark.parametrize("factory", [normed_linear_classifier, normed_mask_predictor])
def test_hyper_parameters_reach_the_layer(factory):
    layer = factory(temperature=5.0, power=0.5, eps=0.1)(7, 3)
    assert (layer.temperature, layer.power, layer.eps) == (5.0, 0.5, 0.1)


@pytest.mark.parametrize("factory", [normed_linear_classifier, normed_mask_predictor])
def test_hyper_parameters_are_the_papers_by_default(factory):
    layer = factory()(7, 3)
    assert (layer.temperature, layer.power, layer.eps) == (20.0, 1.0, 1e-6)


def test_mask_predictor_is_1x1():
    assert normed_mask_predictor()(7, 3)(torch.randn(1, 7, 4, 4)).shape == (1, 3, 4, 4)


@pytest.mark.parametrize("factory", [linear_classifier, normed_linear_classifier])
def test_the_initial_bias_gives_the_prior_probability(factory):
    classifier = factory(prior_probability=0.01)(7, 3)
    assert_close(classifier(torch.zeros(2, 7)).sigmoid(), torch.full((2, 3), 0.01))
    assert not factory()(7, 3).bias.any()
    for wrong in (0, 1, -0.5):
        with pytest.raises(ValueError, match=f"between 0 and 1, got {wrong}"):
            factory(prior_probability=wrong)
