"""What minit2i quantize refuses and what it warns of: options, sources, targets, calibrations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.errors import PrecisionWarning, SettingIgnoredWarning, UsageError
from minit2i_deploy.export.quantize import DrawSettings, QuantizeOptions, quantize_bundle
from minit2i_deploy.export.quantize.schemes import SCHEMES, check_fits, find_scheme, slow_on
from tests.helpers.cli_runs import run
from tests.helpers.quantize_runs import ranges, source

SMALL = DrawSettings(samples=2, strata=2, activations=32)


@pytest.fixture
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a red circle\na star\nblue\ntwo dots\nred\n", encoding="utf-8")
    return path


BAD: dict[str, tuple[list[str], str]] = {
    "no scheme": ([], "expected BUNDLE, OUT and --scheme"),
    "unknown scheme": (["--scheme", "int3"], "unknown scheme 'int3'; choose one of int8, fp8"),
    "target": (["--scheme", "fp8", "--target", "sm86"], "sm86 does not gain by scheme fp8"),
    "unknown target": (["--scheme", "int8", "--target", "sm1"], "unknown target 'sm1'"),
    "web": (["--scheme", "int8", "--target", "web"], "a browser's images would differ"),
    "pattern": (["--scheme", "int8-weights", "--exclude", "w9"], "'w9' matches no linear layer"),
    "all": (["--scheme", "int8-weights", "--exclude", "*"], "every linear layer is excluded"),
    "calibration": (["--scheme", "int8", "--calibration", "none.npz"], "cannot be read"),
    "both": (
        ["--scheme", "int8", "--calibration", "a", "--seed", "1"],
        "--calibration and --seed are mutually exclusive",
    ),
    "samples": (["--scheme", "int8", "--samples", "0"], "samples is 0"),
    "no ranges": (
        ["--scheme", "int8-weights", "--calibration", "none.npz"],
        "--calibration none.npz: scheme int8-weights with rounding nearest takes no ranges",
    ),
    "no ranges to save": (
        ["--scheme", "mxfp8", "--save-calibration", "r.npz"],
        "--save-calibration r.npz: scheme mxfp8 with rounding nearest takes no ranges",
    ),
    "diff": (["--diff", "a.npz"], "--diff requires --calibration FILE"),
}


@pytest.mark.parametrize(("arguments", "text"), BAD.values(), ids=BAD.keys())
def test_wrong_use_exits_2_and_writes_nothing(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "quantize", source().path, tmp_path / "out", *arguments)
    assert done.code == 2 and text in done.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"scheme": "int8-weights", "draw": SMALL}, ["samples"]),
        ({"scheme": "mxfp8", "draw": DrawSettings(seed=1), "clip": True}, ["seed", "clip"]),
        ({"scheme": "int4-weights", "draw": SMALL, "smoothing": False}, ["no-smoothing"]),
        ({"scheme": "nvfp4", "clip": True}, ["clip"]),
        ({"scheme": "int8", "draw": SMALL, "clip": True, "smoothing": False}, []),
        ({"scheme": "int8-cpu", "draw": SMALL}, []),
    ],
)
def test_options_without_effect_are_known(values: dict[str, Any], names: list[str]) -> None:
    assert list(QuantizeOptions(**values).ignored()) == names


def test_an_option_without_effect_brings_a_warning(tmp_path: Path, prompts: Path) -> None:
    options = QuantizeOptions(
        scheme="int8-weights", prompts=prompts, smoothing=False, exclude=["*"]
    )
    text = "--no-smoothing has no effect: scheme int8-weights with rounding nearest is not smoothed"
    with (
        pytest.warns(SettingIgnoredWarning, match=text),
        pytest.raises(UsageError, match="every linear layer is excluded"),
    ):
        quantize_bundle(source().path, tmp_path / "out", options)


def test_a_calibration_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(ranges(), meta={**ranges().meta, "checkpoint_sha256": "ef" * 32})
    other.save(tmp_path / "other.npz")
    with pytest.raises(
        UsageError, match=r"other\.npz: the calibration is of checkpoint efefefef\.\., but"
    ):
        quantize_bundle(
            source().path,
            tmp_path / "out",
            QuantizeOptions(scheme="int8", calibration=tmp_path / "other.npz"),
        )


# Of the slow precision of this bundle.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("more", [[], ["--rotate"]])
def test_a_calibration_without_attention_is_refused_before_the_work(
    more: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one of the same checkpoint that was exported --for cpu."""

    def never(*args: object, **options: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr("minit2i_deploy.export.quantize.smoothing_search._Search", never)
    sites = [site for site in ranges().sites if ".attention." not in site]
    part = dataclasses.replace(
        ranges(),
        absmax={site: ranges().absmax[site] for site in sites},
        activations={site: ranges().activations[site] for site in sites},
    )
    part.save(tmp_path / "part.npz")
    arguments = ["--scheme", "fp8-attention", "--calibration", tmp_path / "part.npz", *more]
    done = run(capsys, "quantize", source().path, tmp_path / "out", *arguments)
    assert done.code == 2, done.err
    line = done.err.splitlines()[-1]
    assert line.startswith(
        "minit2i: error: the calibration has nothing of double_blocks.0.attention.q"
    )


def test_schemes_know_their_sources() -> None:
    assert list(SCHEMES) == [
        "int8", "fp8", "fp8-attention", "int8-weights", "int4-weights", "nvfp4", "nvfp4-weights",
        "mxfp8", "int8-cpu", "int8-openvino", "int8-text",
    ]  # fmt: skip
    check_fits(find_scheme("fp8"), "bf16", "sm89")
    with pytest.raises(UsageError, match="int8-cpu requires a fp32 bundle, got fp16"):
        check_fits(find_scheme("int8-cpu"), "fp16", None)
    with pytest.raises(UsageError, match="sm89 does not gain by scheme int8-openvino"):
        check_fits(find_scheme("int8-openvino"), "fp32", "sm89")
    with pytest.raises(UsageError, match="graphs are text_encoder; choose among"):
        quantize_bundle(
            source().path, "never", QuantizeOptions(scheme="int8", graphs=["text_encoder"])
        )


def test_a_browser_gets_weights_alone_so_that_its_images_are_those_of_python() -> None:
    for scheme in ("int8", "int8-cpu"):
        with pytest.raises(UsageError, match=r"would differ .*; choose one of int8-weights, int4"):
            check_fits(find_scheme(scheme), "fp32", "web")
    with pytest.raises(UsageError, match=r"web requires an fp32 bundle, got fp16; .* --for web"):
        check_fits(find_scheme("int8-weights"), "fp16", "web")
    check_fits(find_scheme("int8-weights"), "fp32", "web")
    assert slow_on(find_scheme("int8-weights"), "fp32", "web") is None


@pytest.mark.parametrize("scheme", ["int8", "fp8", "fp8-attention"])
def test_a_gpu_gets_no_quantized_layers_around_attention_in_float32(scheme: str) -> None:
    """TensorRT-RTX 1.7.1 builds no engine of such a graph."""
    with pytest.raises(UsageError, match=r"sm89 has no fused attention in fp32; quantize a bundle"):
        check_fits(find_scheme(scheme), "fp32", "sm89")
    check_fits(find_scheme(scheme), "fp16", "sm89")
    assert slow_on(find_scheme(scheme), "fp16", None) is None


def test_a_cpu_gets_no_bf16_and_a_warning_for_fp16() -> None:
    scheme = find_scheme("int8")
    with pytest.raises(UsageError, match=r"cpu has no engine for bf16 graphs; export .* fp32"):
        check_fits(scheme, "bf16", "cpu")
    check_fits(scheme, "bf16", None)
    check_fits(scheme, "fp16", "cpu")
    assert "leaves in fp16 is computed in fp32 on a cpu" in str(slow_on(scheme, "fp16", "cpu"))
    assert slow_on(scheme, "fp16", None) is None and slow_on(scheme, "fp32", "cpu") is None


def test_what_will_be_slow_is_said(tmp_path: Path, prompts: Path) -> None:
    assert "sm89 has no fused" in str(slow_on(find_scheme("int8-weights"), "fp32", "sm89"))
    assert slow_on(find_scheme("int8-weights"), "fp32", "cpu") is None
    assert slow_on(find_scheme("int8"), "fp32", None) is None
    options = QuantizeOptions(scheme="int8-weights", prompts=prompts, target="sm89")
    with pytest.warns(PrecisionWarning, match="int8-weights on a fp32 bundle computes in fp32"):
        quantize_bundle(source().path, tmp_path / "out", options)
