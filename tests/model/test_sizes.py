"""Every published variant's number of parameters, without allocating one."""

from __future__ import annotations

import pytest
import torch

from minit2i_deploy.checkpoints import canonical_shapes
from minit2i_deploy.config import VARIANTS, ModelConfig
from minit2i_deploy.model import MMJiT

# Millions, with the two embedders that no output depends on and the Hub release still carries.
PUBLISHED = {"b-16": 258.12, "l-16": 911.77}
# What a comment in the official code says, and what its dimensions there come to.
COMMENTED = {"b-32": (260, 260.19), "m-16": (591, 584.28), "xl-16": (1990, 1933.20)}


def count(config: ModelConfig) -> int:
    with torch.device("meta"):
        net = MMJiT(config)
    return sum(value.numel() for value in net.parameters())


def unused(config: ModelConfig) -> int:
    """The time embedder (256 -> D -> D with biases) and the pooled one (no bias)."""
    width = config.hidden_size
    return 256 * width + width + width * width + width + config.txt_input_size * width


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_models_have_their_published_size(name: str) -> None:
    config = VARIANTS[name]
    assert (count(config) + unused(config)) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.005)


@pytest.mark.parametrize("name", COMMENTED)
def test_other_variants_have_the_size_of_the_official_dimensions(name: str) -> None:
    config = VARIANTS[name]
    published, expected = COMMENTED[name]
    actual = (count(config) + unused(config)) / 1e6
    assert actual == pytest.approx(expected, abs=0.005)
    assert actual == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_network_has_exactly_the_canonical_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        parameters = MMJiT(VARIANTS[name]).canonical_parameters()
    actual = {key: tuple(value.shape) for key, value in parameters.items()}
    assert actual == canonical_shapes(VARIANTS[name])


def test_the_student_is_the_base_model_and_its_condition_tokens() -> None:
    base, student = VARIANTS["b-16"], VARIANTS["b-16-mf"]
    width = base.hidden_size
    embedder = 256 * width + width + width * width + width
    assert count(student) - count(base) == 20 * width + 1024 * width + 4 * embedder
