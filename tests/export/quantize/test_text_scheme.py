"""The scheme that quantizes the text encoder alone: its bundle, its values, and refusals."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.errors import UsageError, VerificationError
from minit2i_deploy.export.quantize import DrawSettings, QuantizeOptions, quantize_bundle
from minit2i_deploy.export.quantize import text_quantization as text_module
from minit2i_deploy.export.quantize.schemes import find_scheme
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.text.embed import embed
from tests.helpers.cli_runs import run
from tests.helpers.quantize_runs import source

TEXTS = ["a red circle", "two small", "a"]
ENGINES: list[tuple[str, dict[str, Any]]] = [("onnxruntime", {}), ("openvino", {})]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("text") / "bundle"
    return quantize_bundle(source().path, out, QuantizeOptions(scheme="int8-text"))


def vectors(bundle: Bundle, texts: list[str], name: str, options: dict[str, Any]) -> np.ndarray:
    with open_runtime(bundle, name, **options) as runtime:
        return embed(bundle, runtime, texts).pooled().astype(np.float64)


def test_the_encoder_is_quantized_and_nothing_else(bundle: Bundle) -> None:
    bundle.verify()
    manifest = bundle.manifest
    precisions = {name: graph.precision for name, graph in manifest.graphs.items()}
    assert precisions == {"text_encoder": "int8", "text_adapter": "fp32", "transformer": "fp32"}
    record = manifest.quantization
    assert record is not None and set(record.graphs) == {"text_encoder"}
    graph = record.graphs["text_encoder"]
    assert graph.scheme == "int8 weights, int8 inputs with a range per token"
    assert {name.rpartition(".")[2] for name in graph.excluded} == {"q", "k", "v", "o", "wo"}
    for name, info in source().manifest.files.items():
        if not name.startswith("text_encoder/model"):
            assert manifest.files[name] == info
    (check,) = manifest.checks
    assert (check.name, check.unit) == ("text_encoder", "1 - cosine")
    assert 0 < check.measured < check.bound


def test_the_base_precision_is_the_step_graphs(tmp_path: Path) -> None:
    """The text encoder of an fp16 bundle is in fp32."""
    folder = Path(shutil.copytree(source().path, tmp_path / "fp16"))
    graphs = dict(source().manifest.graphs)
    graphs["transformer"] = dataclasses.replace(graphs["transformer"], precision="fp16")
    write_manifest(folder, dataclasses.replace(source().manifest, graphs=graphs))
    quantized = quantize_bundle(folder, tmp_path / "out", QuantizeOptions(scheme="int8-text"))
    assert quantized.manifest.quantization is not None
    assert quantized.manifest.quantization.base_precision == "fp16"


@pytest.mark.parametrize(("name", "options"), ENGINES)
def test_vectors_are_close_to_the_source_s_and_not_equal(
    bundle: Bundle, name: str, options: dict[str, Any]
) -> None:
    expected = vectors(source(), TEXTS, name, options)
    actual = vectors(bundle, TEXTS, name, options)
    # Measured: 3e-5 at most.
    np.testing.assert_allclose((expected * actual).sum(axis=1), 1, atol=5e-4)
    assert not np.array_equal(expected, actual)


def test_a_text_does_not_depend_on_the_rest_of_its_batch(bundle: Bundle) -> None:
    together = vectors(bundle, TEXTS, "onnxruntime", {})
    for text, vector in zip(TEXTS, together, strict=True):
        # Rounding of the sums alone: a range per batch would differ by 1e-3.
        np.testing.assert_allclose(vectors(bundle, [text], "onnxruntime", {})[0], vector, atol=2e-6)


def test_more_layers_can_be_included(bundle: Bundle, tmp_path: Path) -> None:
    options = QuantizeOptions(scheme="int8-text", include=["*.wo", "*.o"], exclude=["*.block.1.*"])
    more = quantize_bundle(source().path, tmp_path / "more", options).manifest.quantization
    assert more is not None
    excluded = more.graphs["text_encoder"].excluded
    assert not any(name.endswith((".wo", ".o")) and ".block.0." in name for name in excluded)
    assert any(".block.1." in name and name.endswith(".wi_0") for name in excluded)


def test_vectors_beyond_the_bound_leave_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "_BOUND", 1e-9)
    with pytest.raises(VerificationError, match=r"text_encoder: .* 1 - cosine but at most 1e-09"):
        quantize_bundle(source().path, tmp_path / "no", QuantizeOptions(scheme="int8-text"))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rotate": True}, "--rotate is for the step graph"),
        ({"low_rank": 4}, "--low-rank is for the step graph"),
        ({"switch_at": 0.5}, "--switch-at is for the step graph"),
        ({"graphs": ("transformer",)}, "--keep is for the step graph"),
        ({"rounding": "gptq"}, "--rounding is for the step graph"),
        ({"draw": DrawSettings(samples=4)}, "--samples is for the step graph"),
        ({"draw": DrawSettings(seed=1)}, "--seed is for the step graph"),
    ],
)
def test_options_of_the_step_graph_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        QuantizeOptions(scheme="int8-text", **options)


def test_the_command_refuses_them_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    done = run(capsys, "quantize", source().path, out, "--scheme", "int8-text", "--seed", 3)
    assert done.code == 2 and not out.exists()
    assert done.error == (
        "--seed is for the step graph, but scheme int8-text quantizes the text encoder alone; "
        "omit --seed, or choose another scheme"
    )


def test_patterns_that_fit_nothing_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    for patterns, reason in ((["*"], "every linear layer"), (["*.img_mlp.w1"], "matches no")):
        with pytest.raises(UsageError, match=reason):
            options = QuantizeOptions(scheme="int8-text", exclude=patterns)
            quantize_bundle(source().path, tmp_path / "no", options)
    with pytest.raises(UsageError, match="quantized already"):
        quantize_bundle(bundle.path, tmp_path / "no", QuantizeOptions(scheme="int8-text"))


def test_its_weights_use_all_of_their_range() -> None:
    form = find_scheme("int8-text").text_encoder
    assert not form.pair_safe and "pair-safe" not in form.description
    assert dataclasses.replace(form, full_range=False).pair_safe
