"""Formats, scales and weights against ml_dtypes and against the definitions, value by value."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from minit2i_deploy.export.quantize import formats
from minit2i_deploy.export.quantize.formats import FP8, INT4, INT8, LEAST_SCALE, round_scale
from minit2i_deploy.export.quantize.weights import block_for, quantize_weight

RNG = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def test_int8_is_round_half_even_and_saturates() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, 126.6, 127.4, 300, -300], np.float32)
    rounded = INT8.quantize(x, np.float32(1)[None])
    assert rounded.tolist() == [0, 2, 2, 0, 127, 127, 127, -128]
    assert rounded.dtype == np.int8


def test_fp8_is_the_nearest_e4m3_value_and_saturates() -> None:
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    values = np.sort(every[np.isfinite(every)])
    x = np.concatenate([RNG.uniform(-460, 460, 500), RNG.normal(0, 0.02, 500)]).astype(np.float32)
    nearest = values[np.abs(values[None] - np.clip(x, -448, 448)[:, None]).argmin(1)]
    rounded = FP8.round_trip(x, np.float32(1)[None])
    # A tie has two nearest values; the distance is what counts.
    clipped = np.clip(x, -448, 448)
    assert np.array_equal(np.abs(rounded - clipped), np.abs(nearest - clipped))
    assert FP8.round_trip(np.array([1e9], np.float32), np.float32(1)[None]).tolist() == [448.0]


@pytest.mark.parametrize("form", [INT8, INT4], ids=lambda form: form.name)
def test_an_integer_loses_half_a_step_at_most(form: formats.Format) -> None:
    x = normal(1000)
    scale = form.scale_of(np.abs(x).max()[None])
    assert np.abs(form.round_trip(x, scale) - x).max() <= scale[0] / 2 * (1 + 1e-6)


def test_scales_are_rounded_up_to_eight_bits_that_every_base_type_holds() -> None:
    scale = np.exp(RNG.uniform(-10, 10, 2000)).astype(np.float32)
    rounded = round_scale(scale)
    assert (rounded >= scale).all()
    assert (rounded <= scale * (1 + 2**-7)).all()
    assert np.array_equal(rounded.astype(ml_dtypes.bfloat16).astype(np.float32), rounded)
    small = rounded[rounded < 60000]
    assert np.array_equal(small.astype(np.float16).astype(np.float32), small)
    assert np.array_equal(round_scale(rounded), rounded)


def test_a_dead_channel_has_the_least_scale() -> None:
    assert round_scale(np.zeros(2, np.float32)).tolist() == [LEAST_SCALE] * 2
    assert float(np.float16(LEAST_SCALE)) == LEAST_SCALE


def test_every_output_channel_has_a_scale() -> None:
    weight = normal(24, 6) * np.float32([1e-3, 1, 10, 0.1, 5, 0])
    values, scale = quantize_weight(weight, INT8)
    assert values.shape == weight.shape and scale.shape == (6,)
    for column in range(6):
        alone = INT8.scale_of(np.abs(weight[:, column]).max()[None])
        assert scale[column] == alone[0]
        expected = np.clip(np.rint(weight[:, column] / alone[0]), -127, 127)
        assert values[:, column].tolist() == expected.tolist()


def test_blocks_are_what_each_would_be_alone() -> None:
    weight = normal(64, 3)
    values, scale = quantize_weight(weight, INT4, 16)
    assert scale.shape == (4, 3) and values.astype(np.int8).min() >= -8
    for number in range(4):
        part = slice(16 * number, 16 * number + 16)
        alone, its_scale = quantize_weight(weight[part], INT4, 16)
        assert np.array_equal(values[part], alone)
        assert np.array_equal(scale[number], its_scale[0])


def test_clipping_a_block_never_costs_more_than_leaving_it() -> None:
    weight = normal(64, 40)
    full = INT4.scale_of(np.abs(weight).max(axis=0))
    plain = np.square(INT4.round_trip(weight, full) - weight).sum()
    clipped = np.square(INT4.dequantize(*quantize_weight(weight, INT4)) - weight).sum()
    # Measured: 0.85 of it.
    assert clipped < 0.95 * plain


def pair_sums(values: np.ndarray) -> np.ndarray:
    """Most that 255 times each of two neighbouring inputs' weights add up to."""
    wide = np.pad(values.astype(np.int64), ((0, len(values) % 2), (0, 0)))
    first, second = wide[0::2], wide[1::2]
    positive = np.maximum(first, 0) + np.maximum(second, 0)
    negative = np.minimum(first, 0) + np.minimum(second, 0)
    return 255 * np.stack([positive, negative])


@pytest.mark.parametrize("num_inputs", [1, 2, 7, 192])
def test_sums_of_pair_safe_weights_fit_in_sixteen_bits(num_inputs: int) -> None:
    weight = normal(num_inputs, 50)
    # Pairs of the largest and of nearly equal weights.
    weight[:2] = np.sign(weight[:1]) * 4
    values, scale = quantize_weight(weight, INT8, pair_safe=True)
    sums = pair_sums(values)
    assert -(2**15) <= sums.min() and sums.max() < 2**15
    plain = pair_sums(quantize_weight(weight, INT8)[0])
    if num_inputs > 1:
        assert plain.max() >= 2**15
    assert (np.abs(values * scale - weight) <= 1.5 * scale).all()


def test_pairs_of_opposite_signs_keep_their_scale() -> None:
    weight = np.float32([[4.0], [-4.0], [1.0], [2.0]])
    values, scale = quantize_weight(weight, INT8, pair_safe=True)
    plain_values, plain_scale = quantize_weight(weight, INT8)
    assert scale.tolist() == plain_scale.tolist()
    assert values.tolist() == plain_values.tolist()


def test_pair_safety_costs_less_than_a_bit() -> None:
    weight = normal(768, 64)
    error = {}
    for safe in (False, True):
        rounded = INT8.dequantize(*quantize_weight(weight, INT8, pair_safe=safe))
        error[safe] = np.square(rounded - weight).mean()
    # Measured: 1.79; seven bits would be 4.
    assert 1 < error[True] / error[False] < 2


@pytest.mark.parametrize(
    ("inputs", "block", "expected"),
    [(768, 64, 64), (1248, 64, 32), (3376, 64, 16), (24, 64, 0), (768, 0, 0), (192, 128, 64)],
)
def test_a_block_divides_the_inputs(inputs: int, block: int, expected: int) -> None:
    assert block_for(inputs, block) == expected
