"""The text encoder's folder, opened by the libraries that it is for."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from optimum.onnxruntime import ORTModelForFeatureExtraction

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import PromptTruncatedWarning, UsageError
from minit2i_deploy.interchange.embed_folder import MODULE_FILE, write_embed_folder
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.text.embed import embed
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import tiny_bundle

TEXTS = ["a red circle", "", "two blue squares to the left of a small green triangle " * 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embed_folder(Bundle.open(tiny_bundle()), tmp_path_factory.mktemp("x") / "encoder")


@pytest.fixture(scope="module")
def pooled() -> np.ndarray:
    bundle = Bundle.open(tiny_bundle())
    with (
        open_runtime(bundle, "onnxruntime") as runtime,
        pytest.warns(PromptTruncatedWarning),
    ):
        return embed(bundle, runtime, TEXTS).pooled()


@pytest.fixture
def in_fastembed(folder: Path) -> Iterator[TextEmbedding]:
    TextEmbedding.add_custom_model(
        model="minit2i/tiny",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="minit2i/tiny"),
        dim=32,
        model_file="model.onnx",
        additional_files=["model.onnx_data"],
    )
    yield TextEmbedding("minit2i/tiny", specific_model_path=str(folder))


def test_fastembed_has_the_same_vectors(in_fastembed: TextEmbedding, pooled: np.ndarray) -> None:
    vectors = np.stack(list(in_fastembed.embed(TEXTS)))
    # Measured 0.0 with the shipped model; it sums in float32 where we sum in float64.
    assert np.abs(vectors - pooled).max() <= 1e-6


def test_optimum_opens_the_folder(folder: Path) -> None:
    model = ORTModelForFeatureExtraction.from_pretrained(folder)
    ids = np.array([[3, 4, 1]])
    values = model(input_ids=ids, attention_mask=np.ones_like(ids)).last_hidden_state
    assert values.shape == (1, 3, 32)


def test_weights_are_not_stored_again(folder: Path) -> None:
    source = tiny_bundle() / "text_encoder"
    for name in ("model.onnx", "model.onnx_data"):
        assert (folder / name).samefile(source / name)
    # The files that differ from the bundle's are its own.
    assert not (folder / "config.json").samefile(source / "config.json")


def test_fields_that_libraries_require(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["hidden_size"] == config["d_model"] == 32
    assert config["num_hidden_layers"] == config["num_layers"]
    assert config["num_attention_heads"] == config["num_heads"]
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 12 and tokenizer["pad_token"] == "<pad>"
    module = ast.parse((folder / MODULE_FILE).read_text())
    names = {node.name for node in module.body if isinstance(node, ast.ClassDef)}
    first = json.loads((folder / "modules.json").read_text())[0]
    assert first["type"] == f"{MODULE_FILE.removesuffix('.py')}.{names.pop()}"


# Of text-embeddings-inference at 0d124dc: fields of the files that it reads, with their types.
# Those without a default must be there, and its reader fails on any other type.
# Source: router/src/lib.rs, ModelConfig, PoolConfig, STConfig and NewSTConfig; backends/ort/src/
# lib.rs, Config and TokenizerConfig.
USIZE = "an integer of 0 and more"
REQUIRED = {
    "config.json": {
        "architectures": [str], "model_type": str, "max_position_embeddings": USIZE,
        "hidden_size": USIZE, "num_hidden_layers": USIZE,
    },
    "1_Pooling/config.json": {"pooling_mode_cls_token": bool, "pooling_mode_mean_tokens": bool},
    "sentence_bert_config.json": {"max_seq_length": USIZE},
    "config_sentence_transformers.json": {},
    "tokenizer_config.json": {},
}  # fmt: skip
OPTIONAL = {
    "config.json": {
        "max_trained_positions": USIZE, "pad_token_id": USIZE, "eos_token_id": USIZE,
        "num_key_value_heads": USIZE, "id2label": {str: str}, "label2id": {str: USIZE},
        "auto_map": {str: str},
    },
    "1_Pooling/config.json": {"pooling_mode_lasttoken": bool},
    "config_sentence_transformers.json": {"prompts": {str: str}},
    "tokenizer_config.json": {"padding_side": ("left", "right")},
}  # fmt: skip
# The fields of one struct, of which serde takes one name only.
ALIASES = ({"hidden_size", "n_embd"}, {"num_hidden_layers", "n_layer"})


def fits(value: object, kind: object) -> bool:
    """Whether serde reads a JSON value as this type."""
    if kind is USIZE:
        return type(value) is int and value >= 0
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(item, kind[0]) for item in value)
    if isinstance(kind, dict):
        ((_, item_kind),) = kind.items()
        return isinstance(value, dict) and all(fits(item, item_kind) for item in value.values())
    if isinstance(kind, tuple):
        return value in kind
    return type(value) is kind


def test_what_text_embeddings_inference_reads(folder: Path) -> None:
    for file, fields in REQUIRED.items():
        values = json.loads((folder / file).read_text())
        for name, kind in fields.items():
            assert fits(values.get(name), kind), (file, name, values.get(name))
        for name, kind in OPTIONAL.get(file, {}).items():
            assert values.get(name) is None or fits(values[name], kind), (file, name)
        assert all(len(names & values.keys()) <= 1 for names in ALIASES)
    config = json.loads((folder / "config.json").read_text())
    # It takes a classifier for one by this name, and left padding or a token type for what it says.
    assert not any(name.endswith("Classification") for name in config["architectures"])
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    assert [item.name for item in graph.input] == ["input_ids", "attention_mask"]
    assert {item.type.tensor_type.elem_type for item in graph.input} == {onnx.TensorProto.INT64}
    (output,) = graph.output
    assert output.name == "last_hidden_state"
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] and not pooling["pooling_mode_cls_token"]


def test_what_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle())
    with pytest.raises(UsageError, match="exists"):
        write_embed_folder(bundle, folder)
    assert write_embed_folder(bundle, folder, overwrite=True) == folder
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="was not written by minit2i embed-folder"):
        write_embed_folder(bundle, tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="is inside the bundle"):
        write_embed_folder(bundle, bundle.path / "encoder")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "embed-folder", str(tiny_bundle()), str(tmp_path / "encoder"))
    assert done.code == 0 and "files" in done.out
    done = run(capsys, "embed-folder", str(tiny_bundle()), str(tmp_path / "encoder"))
    assert done.code == 2 and "exists" in done.error
