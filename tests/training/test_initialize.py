"""Initial weights: their law, and that they are a function of the seed."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from minit2i_deploy.config import ModelConfig, StudentConfig
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.initial_weights import initialize_weights

CONFIG = ModelConfig(
    image_size=32, patch_size=8, hidden_size=128, num_heads=2, head_dim=64, depth_double=1
)


@pytest.fixture
def net() -> MMJiT:
    net = MMJiT(CONFIG)
    initialize_weights(net, 0)
    return net


def test_matrices_are_xavier_uniform(net: MMJiT) -> None:
    matrices = {
        name: value.detach().flatten(1)
        for name, value in net.canonical_parameters().items()
        if value.ndim in (2, 4) and not name.startswith("final_layer")
    }
    # Every projection of both kinds of block, the two convolutions and the text embedding.
    assert len(matrices) == 2 * 5 + 10 + 2 + 1
    for name, value in matrices.items():
        num_out, num_in = value.shape
        bound = math.sqrt(6 / (num_in + num_out))
        assert 0.99 * bound < value.abs().max() <= bound, name
        # Standard errors are at most 0.6% of the parallelize.
        assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03), name
        assert abs(value.mean().item()) < 0.03 * bound, name


def test_vectors_and_the_final_layer(net: MMJiT) -> None:
    parameters = net.canonical_parameters()
    for name, value in parameters.items():
        if "norm" in name:
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
    assert not parameters["final_layer.linear.weight"].any()
    token = parameters["mask_token"].detach()
    assert token.shape == (1, 1, 1024)
    assert token.std().item() == pytest.approx(0.02, rel=0.1)  # standard error 2.2%
    assert abs(token.mean().item()) < 0.003


def test_the_untrained_network_predicts_grey(net: MMJiT) -> None:
    x, context = torch.randn(1, 3, 32, 32), torch.randn(1, 256, 1024)
    assert not net(x, context, torch.ones(1, 256)).any()


def test_a_students_own_weights() -> None:
    base, student = MMJiT(CONFIG), MMJiT(dataclasses.replace(CONFIG, student=StudentConfig()))
    for net in (base, student):
        initialize_weights(net, 0)
    online_weights = student.canonical_parameters()
    for name in online_weights.keys() - base.canonical_parameters().keys():
        value = online_weights[name].detach()
        if name.endswith("bias"):
            assert (value == 0).all(), name
        elif name == "aux_pooled_embedder.weight":
            assert value.abs().max() <= math.sqrt(6 / (1024 + 128))
        else:
            # Standard error is 4.4% for the shortest, two tokens of 128.
            assert value.std().item() == pytest.approx(0.02, rel=0.2), name


def test_weights_are_a_function_of_the_seed(net: MMJiT) -> None:
    again, other = MMJiT(CONFIG), MMJiT(CONFIG)
    initialize_weights(again, 0)
    initialize_weights(other, 1)
    for name, value in net.canonical_parameters().items():
        assert torch.equal(value, again.canonical_parameters()[name]), name
    assert not torch.equal(
        net.denoiser.img_embedder.proj1.weight, other.denoiser.img_embedder.proj1.weight
    )
