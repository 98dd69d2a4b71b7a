"""A bundle whose text encoder has an adapter merged: graph, manifest, verification and refit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Manifest
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.checkpoints.lora_sources import combined_digest
from minit2i_deploy.errors import BundleError
from minit2i_deploy.export import ExportOptions, SourceOptions, export_bundle, verify_bundle
from minit2i_deploy.export.graphs.text_encoder import open_text_encoder
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.text.embed import embed
from tests.checkpoints.test_lora import write_adapter
from tests.checkpoints.test_lora_text_encoder import peft_adapter
from tests.helpers.checkpoint_forms import CONFIG, hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

TEXTS = ["red", "a blue"]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """One of the text encoder, one of the network."""
    folder = tmp_path_factory.mktemp("adapters")
    peft_adapter(folder / "text", lora_alpha=1)
    write_adapter(folder / "net", targets=["txt_embedder"], lora_alpha=0.05)
    return {str(folder / "text"): 0.5, str(folder / "net"): 1.0}


@pytest.fixture(scope="module")
def exported(adapters: dict[str, float], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(
        hub_folder(),
        tmp_path_factory.mktemp("x") / "bundle",
        ExportOptions(text_encoder=text_folder(), lora=adapters),
    )


def vectors(bundle: Bundle) -> np.ndarray:
    with open_runtime(bundle, "onnxruntime") as runtime:
        return embed(bundle, runtime, TEXTS).values


def test_the_graph_is_pefts_merged_encoder(exported: Bundle, adapters: dict[str, float]) -> None:
    folder = next(iter(adapters))
    encoder = open_text_encoder(text_folder() / "text_encoder", CONFIG.txt_input_size)
    model = peft.PeftModel.from_pretrained(encoder, folder)
    for layer in model.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.scaling["default"] *= adapters[folder]
    merged = model.merge_and_unload()
    actual, plain = vectors(exported), vectors(Bundle.open(tiny_bundle()))
    for index, text in enumerate(TEXTS):
        (item,) = exported.tokenizer().encode([text])
        ids = torch.from_numpy(np.asarray(item.ids, np.int64)[None])
        with torch.no_grad():
            expected = merged(ids, torch.ones_like(ids)).last_hidden_state[0].numpy()
        # Measured 6.0e-7; the adapter changes values by up to 0.14.
        assert np.abs(actual[index, : len(expected)] - expected).max() <= 1e-5
        assert np.abs(plain[index, : len(expected)] - expected).max() > 0.05


def test_the_manifest_says_it(
    exported: Bundle, adapters: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    reports = load_checkpoint(hub_folder(), lora=adapters).report.adapters
    (text,) = (item for item in reports if item.num_text_modules)
    manifest, plain = exported.manifest, Bundle.open(tiny_bundle())
    assert manifest.provenance.lora_sha256 == combined_digest(reports)
    assert manifest.text_encoder_lora_sha256 == combined_digest([text])
    assert plain.manifest.text_encoder_lora_sha256 is None
    assert exported.digest != plain.digest
    data = "text_encoder/model.onnx_data"
    assert manifest.files[data].sha256 != plain.manifest.files[data].sha256
    assert Manifest.from_bytes(manifest.to_bytes(), "here") == manifest
    broken = manifest.to_bytes().replace(combined_digest([text]).encode(), b"0" * 63 + b"x")
    with pytest.raises(BundleError, match="text_encoder_lora_sha256 must be 64 hexadecimal digits"):
        Manifest.from_bytes(broken, "here")
    words = f"adapted, sha256 {manifest.text_encoder_lora_sha256}"
    assert words in run(capsys, "inspect", exported.path).out
    done = run(capsys, "inspect", hub_folder(), "--lora", next(iter(adapters)))
    assert "on 0 matrices and 8 of the text encoder, sha256 " in done.out


def test_it_is_verified_with_the_adapter_alone(
    exported: Bundle, adapters: dict[str, float]
) -> None:
    options = SourceOptions(text_encoder=text_folder(), lora=adapters)
    checks = {check.name: check for check in verify_bundle(exported.path, hub_folder(), options)}
    assert checks["text_encoder"].measured <= checks["text_encoder"].bound
    without = {path: strength for path, strength in adapters.items() if path.endswith("net")}
    options = SourceOptions(text_encoder=text_folder(), lora=without)
    with pytest.raises(BundleError, match="give the adapter it was made with"):
        verify_bundle(exported.path, hub_folder(), options)


def test_a_refit_has_the_same_weights(
    exported: Bundle,
    adapters: dict[str, float],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [
        word for path, strength in adapters.items() for word in ("--lora", f"{path}={strength}")
    ]
    command = ("refit", tiny_bundle(), *options, "-o", tmp_path / "out", "--engine")
    done = run(capsys, *command, "onnxruntime")
    assert done.code == 0 and "text_encoder" in done.out, done.err
    bundle = Bundle.open(tmp_path / "out")
    bundle.verify()
    wheres = {check.name: check.where for check in bundle.manifest.checks}
    assert wheres == {
        "text_encoder": "onnxruntime to torch, a fixed prompt",
        "text_adapter": "onnxruntime to torch, a fixed prompt",
        "transformer": "onnxruntime to torch, one step from a fixed state",
    }
    for graph in ("text_encoder", "text_adapter", "transformer"):
        assert bundle.data_path(graph).read_bytes() == exported.data_path(graph).read_bytes()
    assert np.array_equal(vectors(bundle), vectors(exported))
    expected = exported.manifest
    assert bundle.manifest.text_encoder_lora_sha256 == expected.text_encoder_lora_sha256
    assert bundle.manifest.adapters == expected.adapters
    done = run(capsys, *command[:-2], tmp_path / "other", "--engine", "tensorrt")
    assert done.code == 2 and "whose engine tensorrt does not refit; run minit2i" in done.error
    refit_again = ("refit", bundle.path, *options, "-o", tmp_path / "twice", "--engine")
    done = run(capsys, *refit_again, "onnxruntime")
    assert done.code == 2 and "an adapter is merged into its text encoder" in done.error
