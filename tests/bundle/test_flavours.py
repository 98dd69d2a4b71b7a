"""Reference flavours: names, numbers, and which network gets which."""

from __future__ import annotations

import dataclasses

import pytest

from minit2i_deploy.bundle.flavours import FLAVOURS, default_flavour, find_flavour, variant_of
from minit2i_deploy.config import LOOPED_VARIANTS, VARIANTS
from minit2i_deploy.errors import UsageError

NUMBERS = {
    "torch-hub": (0.05, 2.5, 100),
    "jax-b16": (0.05, 2.5, 100),
    "jax-l16": (0.01, 6.0, 100),
    "looped-dit": (0.05, 6.0, 100),
    "mean-flow": (0.05, 12.0, 4),
}


def test_the_numbers_are_those_of_the_official_codes() -> None:
    numbers = {name: (f.a_min, f.guidance, f.steps) for name, f in FLAVOURS.items()}
    assert numbers == NUMBERS
    assert all(flavour.name == name for name, flavour in FLAVOURS.items())


def test_default_by_shape() -> None:
    defaults = {name: default_flavour(config).name for name, config in VARIANTS.items()}
    assert defaults.pop("l-16") == "jax-l16"
    assert defaults.pop("b-16-mf") == "mean-flow"
    assert set(defaults.values()) == {"jax-b16"}
    assert {default_flavour(config).name for config in LOOPED_VARIANTS.values()} == {"looped-dit"}


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="'jax-b32' is unknown; choose one of torch-hub, jax-b16"):
        find_flavour("jax-b32")


def test_variant_is_exact() -> None:
    assert all(variant_of(config) == name for name, config in VARIANTS.items())
    assert all(variant_of(config) == name for name, config in LOOPED_VARIANTS.items())
    assert variant_of(LOOPED_VARIANTS["looped-b-16"].with_loops(2)) == "looped-b-16"
    assert variant_of(dataclasses.replace(VARIANTS["b-16"], image_size=256)) is None
