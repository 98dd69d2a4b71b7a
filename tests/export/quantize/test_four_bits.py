"""Bundles of four bits: how they are made, what they say, and who refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import PrecisionWarning, RuntimeFailure, UsageError
from minit2i_deploy.export.quantize import (
    QuantizeOptions,
    bundle_quantization,
    find_scheme,
    options,
    quantize_bundle,
)
from minit2i_deploy.export.quantize.schemes import check_fits, slow_on
from minit2i_deploy.runtimes import open_runtime
from tests.helpers.quantize_runs import PROMPTS, SETTINGS, ranges, source, states


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(text for text in PROMPTS.texts if text))
    return path


@pytest.mark.parametrize("scheme", ["nvfp4", "nvfp4-weights", "mxfp8"])
def test_schemes_of_blackwell_are_for_nothing_else(scheme: str) -> None:
    for target in ("cpu", "sm89", "sm90"):
        with pytest.raises(UsageError, match=f"{target} does not gain by scheme {scheme}; choose"):
            check_fits(find_scheme(scheme), "fp16", target)
    check_fits(find_scheme(scheme), "fp16", "sm120")
    assert "an NVIDIA GPU has no fused attention" in str(slow_on(find_scheme(scheme), "fp32", None))


@pytest.fixture(scope="module")
def fp4(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Bundle:
    out = tmp_path_factory.mktemp("fp4") / "bundle"
    choices = QuantizeOptions(
        scheme="nvfp4", prompts=prompts, draw=SETTINGS, rotate=True, low_rank=4
    )
    with (
        pytest.warns(PrecisionWarning, match="no engine of scheme nvfp4 on a fp32 bundle"),
        pytest.MonkeyPatch.context() as patch,
    ):
        # So narrow a network shows its channels in fewer.
        patch.setattr(options, "GPTQ_ACTIVATIONS", SETTINGS.activations)
        return quantize_bundle(source().path, out, choices)


def test_a_bundle_in_four_bits_says_how_it_was_made(fp4: Bundle) -> None:
    record = fp4.manifest.quantization
    assert record is not None and record.calibration_sha256 is not None
    assert record.graphs["transformer"].scheme == (
        "fp4 in blocks of 16 with e4m3 scales weights, fp4 inputs with a range per block, weights"
        " by gptq, rotated, branches of rank 4"
    )
    assert record.graphs["text_adapter"].scheme == "int8 weights"
    assert fp4.manifest.graphs["transformer"].precision == "fp4"
    fp4.verify()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_engines_without_kernels_refuse_four_bits(fp4: Bundle, runtime: str) -> None:
    with pytest.raises(RuntimeFailure, match=r"graph transformer is fp4, .* fp32, fp16, int8, fp8"):
        with open_runtime(fp4, runtime) as used:
            used.start(states()[0].inputs["x"], states()[0].inputs["tokens"][:, None])


def test_how_weights_are_rounded_is_checked_first() -> None:
    with pytest.raises(UsageError, match="unknown rounding 'best'"):
        QuantizeOptions(scheme="nvfp4", rounding="best")
    with pytest.raises(UsageError, match="rounding search does not bound the sums of pairs"):
        QuantizeOptions(scheme="int8", rounding="search")
    with pytest.raises(UsageError, match="low_rank is -1, but must not be negative"):
        QuantizeOptions(scheme="nvfp4", low_rank=-1)
    assert QuantizeOptions(scheme="int4-weights", rounding="nearest").judges_weights is False


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"scheme": "int4-weights"}, "--rounding nearest"),
        ({"scheme": "int8-cpu", "low_rank": 2}, "--rounding nearest without --low-rank"),
    ],
)
def test_a_calibration_of_too_few_activations_is_refused(
    values: dict[str, Any], remedy: str, tmp_path: Path
) -> None:
    ranges().save(tmp_path / "few.npz")
    text = rf"few.npz: has 96 activations .* by 8192 or more; calibrate again, or pass {remedy}$"
    with pytest.raises(UsageError, match=text):
        choices = QuantizeOptions(calibration=tmp_path / "few.npz", **values)
        quantize_bundle(source().path, tmp_path / "out", choices)


def test_a_rotation_is_refused_before_anything_is_calibrated(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(step: object) -> None:
        raise UsageError("this network cannot be rotated")

    monkeypatch.setattr(bundle_quantization, "check_rotatable", refuse)
    choices = QuantizeOptions(
        scheme="int4-weights", rounding="nearest", rotate=True, prompts=prompts
    )
    stages: list[str] = []
    with pytest.raises(UsageError, match="cannot be rotated"):
        quantize_bundle(
            source().path,
            tmp_path / "out",
            choices,
            progress=lambda share, stage: stages.append(stage),
        )
    assert not stages and not list(tmp_path.iterdir())
