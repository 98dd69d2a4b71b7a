"""The exported graphs: their outside, their data files, and the official outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors import safe_open

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.checkpoints import canonical_shapes, load_checkpoint
from minit2i_deploy.export.verification.reference import step_inputs
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.checkpoint_forms import CONFIG, PUBLIC, arrays, hub_folder
from tests.helpers.tiny_bundle import tiny_bundle

IMAGE = ("batch", 3, 32, 32)
# Name -> inputs and outputs as (type, shape).
OUTSIDE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text_encoder": (
        {
            "input_ids": ("int64", ("n", "tokens")),
            "attention_mask": ("int64", ("n", "tokens")),
        },
        {"last_hidden_state": ("float32", ("n", "tokens", 32))},
    ),
    "text_adapter": (
        {"context": ("float32", ("n", 12, 32)), "mask": ("int64", ("n", 12))},
        {"tokens": ("float32", ("n", 12, 64))},
    ),
    "transformer": (
        {
            "x": ("float32", IMAGE),
            "h": ("float32", IMAGE),
            "tokens": ("float32", ("sequences", 12, 64)),
            "image": ("int64", ("sequences",)),
            "sequence": ("int64", ("branches", "batch")),
            "weights": ("float32", ("branches", "batch")),
            "row": ("float32", ("batch", 6)),
            "known": ("float32", IMAGE),
            "known_mask": ("float32", ("batch", 1, 32, 32)),
        },
        {"x_next": ("float32", IMAGE), "h_next": ("float32", IMAGE)},
    ),
}
GRAPHS = sorted(OUTSIDE)


def load(name: str) -> onnx.ModelProto:
    return onnx.load(tiny_bundle() / name / "model.onnx", load_external_data=False)


def data_path(name: str) -> Path:
    return Bundle.open(tiny_bundle()).data_path(name)


def session(name: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = tiny_bundle() / name / "model.onnx"
    return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def nchw(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(images, -1, -3))


@pytest.mark.parametrize("name", GRAPHS)
def test_no_graph_needs_the_convolutions_of_cudnn(name: str) -> None:
    assert not {"Conv", "ConvTranspose"} & {node.op_type for node in load(name).graph.node}


@pytest.mark.parametrize("name", ["text_adapter", "transformer"])
def test_every_weight_is_read_from_the_data_file(name: str) -> None:
    """A copy inside the graph would not see weights that replace those of the file."""
    with safe_open(data_path(name), "numpy") as file:
        stored = set(file.keys())
    unread = stored - {value.name for value in load(name).graph.initializer}
    # Text after the last attention, which nobody reads.
    assert all(weight.startswith("double_blocks.2.txt_") for weight in unread), sorted(unread)


@pytest.mark.parametrize("name", GRAPHS)
def test_outside(name: str) -> None:
    def told(values: Any) -> dict[str, Any]:
        return {
            v.name: (
                onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).name,
                tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim),
            )
            for v in values
        }

    graph = load(name).graph
    assert (told(graph.input), told(graph.output)) == OUTSIDE[name]
    info = Bundle.open(tiny_bundle()).manifest.graphs[name]
    manifest = [{k: (t.dtype, t.shape) for k, t in s.items()} for s in (info.inputs, info.outputs)]
    assert tuple(manifest) == OUTSIDE[name]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_is_valid_and_knows_no_path(name: str) -> None:
    path = tiny_bundle() / name / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    data = path.read_bytes()
    assert b".py" not in data and b"site-packages" not in data
    config = path.with_name("config.json")
    assert not config.exists() or "/" not in config.read_text()


def test_attention_and_norms_are_single_nodes() -> None:
    kinds = [node.op_type for node in load("transformer").graph.node]
    assert kinds.count("Attention") == CONFIG.depth_double
    # Five norms a stream pair and block less the last text one, q and k twice, and the final one.
    assert kinds.count("RMSNormalization") == 8 * CONFIG.depth_double - 2 + 1


def test_data_files_hold_every_weight_under_its_name() -> None:
    source = load_checkpoint(hub_folder())
    actual = {}
    for name in ("text_adapter", "transformer"):
        with safe_open(data_path(name), framework="numpy") as file:
            transposed = set(json.loads(file.metadata()["transposed"]))
            for key in file.keys():
                value = file.get_tensor(key)
                assert key not in actual
                actual[key] = value.T if key in transposed else value
    weights = {k: v for k, v in actual.items() if not k.startswith("_constant.")}
    assert weights.keys() == canonical_shapes(CONFIG).keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(value, source.tensors[key], err_msg=key)
    assert set(actual) - set(weights) == {"_constant.position_table"}


def test_text_encoder_data_is_the_source_under_its_names() -> None:
    expected = safe_open(PUBLIC / "t5" / "text_encoder" / "model.safetensors", framework="numpy")
    with safe_open(data_path("text_encoder"), "numpy") as file, expected:
        transposed = set(json.loads(file.metadata()["transposed"]))
        assert set(file.keys()) == set(expected.keys())
        for key in file.keys():
            value = file.get_tensor(key)
            np.testing.assert_array_equal(
                value.T if key in transposed else value, expected.get_tensor(key), err_msg=key
            )


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_points_into_the_data_file(name: str) -> None:
    path = data_path(name)
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    fields = json.loads(path.read_bytes()[8 : 8 + header_bytes])
    start = 8 + header_bytes
    assert start % 4096 == 0
    external = [t for t in load(name).graph.initializer if t.external_data]
    assert external
    for tensor in external:
        where = {entry.key: entry.value for entry in tensor.external_data}
        field = fields[tensor.name]
        begin, end = field["data_offsets"]
        assert where["location"] == path.name
        assert (int(where["offset"]), int(where["length"])) == (start + begin, end - begin)
        assert list(tensor.dims) == field["shape"]


@pytest.mark.parametrize("name", GRAPHS)
def test_large_tensors_are_aligned(name: str) -> None:
    path = data_path(name)
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    fields = json.loads(path.read_bytes()[8 : 8 + header_bytes])
    del fields["__metadata__"]
    places = sorted(field["data_offsets"] for field in fields.values())
    assert all(begin % int(np.gcd(end - begin, 4096)) == 0 for begin, end in places)
    assert [end for _, end in places[:-1]] == [begin for begin, _ in places[1:]]
    assert 8 + header_bytes + places[-1][1] == path.stat().st_size


@pytest.mark.parametrize("branch", ["out_ema", "out_ema_nullmask"])
def test_official_forward_through_adapter_and_step(branch: str) -> None:
    golden = arrays("forward")
    mask = golden["mask"].astype(np.int64) * (branch == "out_ema")
    tokens = session("text_adapter").run(None, {"context": golden["context"], "mask": mask})[0]
    x = nchw(golden["img"])
    row = Row(values=np.array([0, 1, 0, 0, 0, 0], np.float32), weights=np.ones(1, np.float32))
    inputs = step_inputs(x, np.zeros_like(x), tokens[None], row)
    x_next, h_next = session("transformer").run(None, inputs)
    # Measured 1.9e-6 on outputs up to 3.9.
    assert np.abs(x_next - nchw(golden[branch])).max() <= 1e-5
    np.testing.assert_array_equal(x_next, h_next)


def test_official_euler_trajectory() -> None:
    golden = arrays("sampler_euler")
    context = np.concatenate([golden["context"], golden["context"]])
    mask = np.concatenate([golden["mask"], np.zeros_like(golden["mask"])]).astype(np.int64)
    adapter, step = session("text_adapter"), session("transformer")
    tokens = adapter.run(None, {"context": context, "mask": mask})[0].reshape(2, 2, 12, 64)
    states = nchw(golden["x"])
    x, h = states[0], np.zeros_like(states[0])
    table = solver_table("euler", steps=6, a_min=float(golden["a_min"]))
    for row in table.steps(float(golden["cfg_scale"])):
        x, h = step.run(None, step_inputs(x, h, tokens, row))
        # Measured 6.1e-6 at the worst state, on values up to 10.
        assert np.abs(x - states[row.index + 1]).max() <= 1e-4


def test_optimum_opens_the_text_encoder() -> None:
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    with np.load(PUBLIC / "t5" / "t5_io.npz") as file:
        golden = dict(file)
    model = ORTModelForFeatureExtraction.from_pretrained(tiny_bundle() / "text_encoder")
    ids, mask = golden["input_ids"], golden["attention_mask"]
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    # Measured 7.2e-7 on values up to 3.7.
    assert np.abs(hidden - golden["last_hidden_state"])[mask > 0].max() <= 1e-5


def test_optimum_fetches_all_of_the_text_encoder_from_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimum.onnxruntime import modeling

    def fetch(repository: str, filename: str, **rest: object) -> Path:
        return Path(shutil.copy(tiny_bundle() / "text_encoder" / filename, tmp_path))

    monkeypatch.setattr(modeling, "cached_file", fetch)
    graph = modeling.ORTModel._cached_file("someone/bundle", "model.onnx")
    onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def test_padding_changes_no_real_position() -> None:
    with np.load(PUBLIC / "t5" / "t5_io.npz") as file:
        ids, mask = file["input_ids"], file["attention_mask"]
    encoder = session("text_encoder")
    ids, mask = ids[1:2], mask[1:2]
    length = int(mask.sum())
    assert length < ids.shape[1]
    padded = encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    real = {"input_ids": ids[:, :length], "attention_mask": mask[:, :length]}
    # Measured 0; another machine may sum in another order.
    assert np.abs(padded[:, :length] - encoder.run(None, real)[0]).max() <= 1e-5


def test_files_are_the_ones_of_the_format() -> None:
    files = {p.relative_to(tiny_bundle()).as_posix() for p in _files(tiny_bundle())}
    data = {f"{name}/model.onnx" for name in GRAPHS}
    data |= {"text_encoder/model.onnx_data"}
    data |= {f"{name}/model.onnx.data" for name in ("text_adapter", "transformer")}
    names = ("euler-100", "euler-50", "euler-20", "dpmpp2m-40", "ab2-20")
    names += ("dpmpp2m-8-shift2-r5-0.2-1", "dpmpp2m-8-shift2-r10-0.2-1")
    tables = {f"tables/{name}.json" for name in names}
    configs = {"text_encoder/config.json", "transformer/config.json"}
    assert files == data | tables | configs | {"manifest.json", "tokenizer/tokenizer.json"}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
