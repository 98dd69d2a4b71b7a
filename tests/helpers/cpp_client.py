"""The C++ client for tests: built once per session, called through its C header with ctypes."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build" / "cpp"
# Beyond what users build: a compiler's new warnings must not stop them.
TEST_OPTIONS: Final = tuple(
    f"-DMINIT2I_{name}=ON" for name in ("STRICT", "EXAMPLES", "FUZZ", "TEST_PLUGIN")
)
OK, USAGE, BUNDLE, RUNTIME, CANCELLED = range(5)


@functools.cache
def build() -> Path:
    """Build the library and programs; another session compiles only what changed."""
    script = str(ROOT / "scripts" / "build_cpp.sh")
    command = ["sh", script, str(BUILD), sys.executable, *TEST_OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return BUILD


def program(
    name: str,
    *arguments: object,
    folder: Path | None = None,
    code: int = 0,
    stdin: bytes | None = None,
    **environment: object,
) -> str:
    """Run a program of the client; its standard output, or its standard error if it fails."""
    path = (folder or build()) / name
    done = subprocess.run(
        [path, *(item if isinstance(item, bytes) else str(item) for item in arguments)],
        capture_output=True,
        check=False,
        input=stdin,
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
    )
    out, err = done.stdout.decode(), done.stderr.decode(errors="replace")
    assert done.returncode == code, f"exit {done.returncode}: {out[-2000:]}{err[-2000:]}"
    return out if code == 0 else err


class Text(ctypes.Structure):
    """minit2i_text."""

    _fields_ = (("data", c_char_p), ("size_bytes", c_size_t))


PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int, c_void_p, c_uint64, c_uint64)
WARNING = ctypes.CFUNCTYPE(None, c_void_p, c_char_p)


PREVIEW = ctypes.CFUNCTYPE(ctypes.c_int, c_void_p, c_void_p)


class ModelParams(ctypes.Structure):
    """minit2i_model_params."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("provider", c_char_p),
        ("plugin", c_char_p),
        ("precision", c_char_p),
        ("device", c_int32),
        ("num_threads", c_int32),
        ("lean", c_int32),
        ("on_warning", WARNING),
        ("warning_data", c_void_p),
        ("cuda_graph", c_char_p),
        ("cache", c_char_p),
    )


class StateParams(ctypes.Structure):
    """minit2i_state_params."""

    _fields_ = (("struct_size", c_size_t), ("on_warning", WARNING), ("warning_data", c_void_p))


class EmbedParams(ctypes.Structure):
    """minit2i_embed_params."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("texts", POINTER(Text)),
        ("num_texts", c_size_t),
        ("batch_size", c_size_t),
        ("on_progress", PROGRESS),
        ("progress_data", c_void_p),
    )


class Frame(ctypes.Structure):
    """minit2i_frame."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("row", c_uint64),
        ("num_rows", c_uint64),
        ("t", c_double),
        ("num_images", c_size_t),
        ("size", c_size_t),
        ("pixels", POINTER(ctypes.c_uint8)),
        ("estimate", POINTER(c_float)),
        ("width", c_size_t),
        ("height", c_size_t),
    )


class GenerateParams(ctypes.Structure):
    """minit2i_generate_params."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("prompts", POINTER(Text)),
        ("seeds", POINTER(c_uint64)),
        ("num_images", c_size_t),
        ("num_parts", c_size_t),
        ("weights", POINTER(c_double)),
        ("negative", POINTER(Text)),
        ("preset", c_char_p),
        ("table", c_char_p),
        ("guidance", c_double),
        ("interval_start", c_double),
        ("interval_end", c_double),
        ("noise", POINTER(c_float)),
        ("noise_count", c_size_t),
        ("on_progress", PROGRESS),
        ("progress_data", c_void_p),
        ("on_preview", PREVIEW),
        ("preview_data", c_void_p),
        ("init_image", POINTER(c_float)),
        ("init_image_count", c_size_t),
        ("strength", c_double),
        ("known", POINTER(c_float)),
        ("known_count", c_size_t),
        ("known_mask", POINTER(c_float)),
        ("known_mask_count", c_size_t),
        ("width", c_int32),
        ("height", c_int32),
    )


class Preset(ctypes.Structure):
    """minit2i_preset."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("table", c_char_p),
        ("guidance", c_double),
        ("is_default", c_int32),
    )


@functools.cache
def library() -> Any:
    """The shared library; what returns a pointer or a number is typed, all else is a status."""
    loaded = ctypes.CDLL(str(build() / "libminit2i.so"))
    for name in ("minit2i_version", "minit2i_last_error", "minit2i_status_name"):
        getattr(loaded, name).restype = c_char_p
    loaded.minit2i_images_state.restype = POINTER(c_float)
    loaded.minit2i_images_state.argtypes = (c_void_p,)
    loaded.minit2i_embeddings_values.restype = POINTER(c_float)
    for name in ("values", "num_tokens", "width"):
        getattr(loaded, f"minit2i_embeddings_{name}").argtypes = (c_void_p,)
    for name in ("num_tokens", "width"):
        getattr(loaded, f"minit2i_embeddings_{name}").restype = c_size_t
    for name in ("width", "height"):
        getattr(loaded, f"minit2i_images_{name}").argtypes = (c_void_p,)
        getattr(loaded, f"minit2i_images_{name}").restype = c_size_t
    loaded.minit2i_num_presets.argtypes = (c_void_p,)
    loaded.minit2i_num_presets.restype = c_size_t
    loaded.minit2i_noise.argtypes = (c_uint64, c_uint32, POINTER(c_float), c_size_t)
    loaded.minit2i_tokenize.argtypes = (
        c_void_p, Text, POINTER(c_int64), c_size_t, POINTER(c_size_t), POINTER(c_int32),
    )  # fmt: skip
    for name in ("close", "state_free", "cancel", "embeddings_free", "images_free"):
        getattr(loaded, f"minit2i_{name}").argtypes = (c_void_p,)
        getattr(loaded, f"minit2i_{name}").restype = None
    return loaded


def last_error() -> str:
    """The line of this thread's last failure."""
    return str(library().minit2i_last_error().decode())


def text(data: bytes) -> Text:
    """A text with its size, so that a NUL inside is noticed."""
    return Text(data, len(data))


def texts(*data: bytes) -> Any:
    """An array of texts."""
    return (Text * len(data))(*map(text, data))


def _filled(params: Any, name: str, settings: dict[str, Any]) -> Any:
    defaults = getattr(library(), f"minit2i_{name}_params_defaults")
    defaults(byref(params), c_size_t(ctypes.sizeof(params)))
    for field, value in settings.items():
        setattr(params, field, value)
    return params


def model_params(**settings: Any) -> ModelParams:
    """Defaults, and the given fields."""
    params: ModelParams = _filled(ModelParams(), "model", settings)
    return params


def embed_params(*data: bytes, **settings: Any) -> EmbedParams:
    """Defaults for some texts, and the given fields."""
    params: EmbedParams = _filled(EmbedParams(), "embed", settings)
    params.texts, params.num_texts = texts(*data), len(data)
    return params


def generate_params(*parts: bytes, **settings: Any) -> GenerateParams:
    """Defaults for one image of a prompt, or of several parts, and the given fields."""
    params: GenerateParams = _filled(GenerateParams(), "generate", settings)
    params.prompts, params.num_images, params.num_parts = texts(*parts), 1, len(parts)
    return params


def floats(**arrays: np.ndarray) -> dict[str, Any]:
    """Fields of ``GenerateParams`` for float32 arrays: each pointer and its count."""
    fields: dict[str, Any] = {}
    for name, array in arrays.items():
        values = np.ascontiguousarray(array, np.float32)
        # The buffer keeps the values alive as long as the pointer.
        buffer = (c_float * values.size).from_buffer_copy(values.tobytes())
        fields[name] = ctypes.cast(buffer, POINTER(c_float))
        fields[f"{name}_count"] = values.size
    return fields


def refused(bundle: Path, params: ModelParams) -> tuple[int, str]:
    """Status and line of an opening that fails."""
    handle = c_void_p()
    status = library().minit2i_open(str(bundle).encode(), byref(params), byref(handle))
    assert status != OK and handle.value is None
    return status, last_error()


class Client:
    """A model and a state of it; ``warnings`` collects their warnings.

    ``settings`` are further fields of ModelParams.
    """

    def __init__(self, bundle: Path, lean: bool = False, **settings: Any) -> None:
        self.warnings: list[str] = []
        # ctypes keeps no reference to a callback that C holds.
        self._warn = WARNING(lambda _, line: self.warnings.append(line.decode()))
        params = model_params(num_threads=2, on_warning=self._warn, lean=lean, **settings)
        self.model, self.state = c_void_p(), c_void_p()
        calls = library()
        status = calls.minit2i_open(str(bundle).encode(), byref(params), byref(self.model))
        assert status == OK, last_error()
        assert calls.minit2i_state_new(self.model, None, byref(self.state)) == OK, last_error()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        # The state outlives the model's handle.
        library().minit2i_close(self.model)
        library().minit2i_state_free(self.state)

    def embed(self, data: bytes) -> np.ndarray:
        """Values float32 [tokens, width] of one text."""
        result, calls = c_void_p(), library()
        status = calls.minit2i_embed(self.state, byref(embed_params(data)), byref(result))
        assert status == OK, last_error()
        sizes = (
            calls.minit2i_embeddings_num_tokens(result),
            calls.minit2i_embeddings_width(result),
        )
        values = np.ctypeslib.as_array(calls.minit2i_embeddings_values(result), sizes).copy()
        calls.minit2i_embeddings_free(result)
        return values

    def generate(self, params: GenerateParams, width: int, height: int | None = None) -> np.ndarray:
        """The final state float32 [images, 3, height, width]; without a height, a square."""
        images, calls = c_void_p(), library()
        status = calls.minit2i_generate(self.state, byref(params), byref(images))
        assert status == OK, last_error()
        height = height or width
        sizes = [getattr(calls, f"minit2i_images_{name}")(images) for name in ("width", "height")]
        assert sizes == [width, height]
        shape = (params.num_images, 3, height, width)
        state = np.ctypeslib.as_array(calls.minit2i_images_state(images), shape).copy()
        calls.minit2i_images_free(images)
        return state

    def tokenize(self, data: bytes, capacity: int = 65536) -> tuple[int, list[int], bool]:
        """Status, ids, and whether the text was cut."""
        ids, count, was_cut = (c_int64 * max(capacity, 1))(), c_size_t(0), c_int32(0)
        status = library().minit2i_tokenize(
            self.model, text(data), ids, capacity, byref(count), byref(was_cut)
        )
        return status, list(ids[: count.value]) if status == OK else [], bool(was_cut.value)


def noise(seed: int, stream: int, count: int) -> np.ndarray:
    """minit2i_noise."""
    values = np.full(count + 1, 77, np.float32)
    pointer = values.ctypes.data_as(POINTER(c_float))
    assert library().minit2i_noise(seed, stream, pointer, count) == OK
    # One more than was asked for, to notice a value written past the end.
    assert values[count] == 77
    return values[:count]


def run_in_threads(*works: Callable[[], None]) -> None:
    """Run all at once; the first exception of any is raised here."""
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()
