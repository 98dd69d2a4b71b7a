"""The golden checkpoints by form, and small writers of broken and rare ones."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from minit2i_deploy.config import ModelConfig, StudentConfig

PUBLIC = Path(__file__).parent.parent / "golden" / "public"
SIZES: dict[str, Any] = {"image_size": 32, "prompt_length": 12}
CONFIG = ModelConfig(**json.loads((PUBLIC / "config.json").read_text())["model"])
STUDENT_CONFIG = ModelConfig(
    **json.loads((PUBLIC / "config.json").read_text())["model"], student=StudentConfig()
)


@functools.cache
def unpacked() -> Path:
    """The folder that weights.tar.xz was unpacked to, once a test process."""
    folder = Path(tempfile.mkdtemp(prefix="minit2i-golden-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(PUBLIC / "weights.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def hub_folder() -> Path:
    return unpacked() / "hf" / "transformer"


# Form -> path and the arguments that its reader needs here.
def base_forms() -> dict[str, tuple[Path, dict[str, Any]]]:
    root = unpacked()
    return {
        "huggingface": (hub_folder(), {}),
        "payload": (root / "payload_pt" / "minit2i_payload.pt", {}),
        "torch-training": (root / "train_pt" / "checkpoint_001000.pt", {}),
        "flax-msgpack": (root / "jax_msgpack" / "checkpoint_1000", SIZES),
        "flax-orbax": (PUBLIC / "jax_orbax" / "checkpoint_1000", SIZES),
    }


def student_forms() -> dict[str, tuple[Path, dict[str, Any]]]:
    return {
        "flax-msgpack": (unpacked() / "mf_jax_msgpack" / "checkpoint_1000", SIZES),
        "flax-orbax": (PUBLIC / "mf_jax_orbax" / "checkpoint", SIZES),
    }


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(PUBLIC / "arrays" / f"{name}.npz") as file:
        return dict(file)


def pack(value: Any) -> bytes:
    """A tree of dicts, arrays and plain values in Flax's msgpack form."""

    def encode(item: Any) -> Any:
        code = 3 if isinstance(item, np.generic) else 1
        item = np.asarray(item)
        body = (item.shape, item.dtype.name, item.tobytes("C"))
        return msgpack.ExtType(code, msgpack.packb(body, use_bin_type=True))

    return bytes(msgpack.packb(value, default=encode, strict_types=True))


def flax_tree(name: str = "flax-msgpack", student: bool = False) -> dict[str, Any]:
    """A golden Flax msgpack file as nested dicts of arrays."""
    path = (student_forms() if student else base_forms())[name][0]

    def decode(code: int, data: bytes) -> np.ndarray:
        shape, dtype, body = msgpack.unpackb(data)
        return np.frombuffer(body, dtype).reshape(shape)

    tree: dict[str, Any] = msgpack.unpackb(path.read_bytes(), ext_hook=decode)
    return tree


def flatten(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    leaves: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flatten(value, (*prefix, key))
        else:
            leaves[*prefix, key] = value
    return leaves
