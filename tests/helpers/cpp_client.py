"""The C++ client for tests: built once a session, called through its C header with ctypes."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys
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
OK, USAGE, BUNDLE, RUNTIME, CANCELLED = range(5)


@functools.cache
def build() -> Path:
    """Build the library and programs; a second call in another session compiles what changed."""
    command = ["sh", str(ROOT / "scripts" / "build_cpp.sh"), str(BUILD), sys.executable]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-4000:]
    return BUILD


def program(name: str, *words: object, folder: Path | None = None, code: int = 0) -> str:
    """Run a program of the client; its standard output, or its standard error if it fails."""
    path = (folder or build()) / name
    made = subprocess.run(
        [path, *(word if isinstance(word, bytes) else str(word) for word in words)],
        capture_output=True,
        check=False,
    )
    out, err = made.stdout.decode(), made.stderr.decode(errors="replace")
    assert made.returncode == code, f"exit {made.returncode}: {out[-2000:]}{err[-2000:]}"
    return out if code == 0 else err


class Text(ctypes.Structure):
    """minit2i_text."""

    _fields_ = (("data", c_char_p), ("size_bytes", c_size_t))


PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int, c_void_p, c_uint64, c_uint64)
WARNING = ctypes.CFUNCTYPE(None, c_void_p, c_char_p)


class OpenParams(ctypes.Structure):
    """minit2i_open_params."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("provider", c_char_p),
        ("num_threads", c_int32),
        ("on_warning", WARNING),
        ("warning_data", c_void_p),
        ("lean", c_int32),
        ("plugin", c_char_p),
        ("precision", c_char_p),
    )


class GenerateParams(ctypes.Structure):
    """minit2i_generate_params."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("prompts", POINTER(Text)),
        ("seeds", POINTER(c_uint64)),
        ("num_pictures", c_size_t),
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
    )


@functools.cache
def library() -> Any:
    """The shared library; what returns a pointer or a number is typed, all else is a status."""
    loaded = ctypes.CDLL(str(build() / "libminit2i.so"))
    for name in ("minit2i_version", "minit2i_last_error", "minit2i_status_name"):
        getattr(loaded, name).restype = c_char_p
    loaded.minit2i_pictures_state.restype = POINTER(c_float)
    loaded.minit2i_pictures_state.argtypes = (c_void_p,)
    loaded.minit2i_embeddings_values.restype = POINTER(c_float)
    for name in ("values", "num_tokens", "width"):
        getattr(loaded, f"minit2i_embeddings_{name}").argtypes = (c_void_p,)
    for name in ("num_tokens", "width"):
        getattr(loaded, f"minit2i_embeddings_{name}").restype = c_size_t
    loaded.minit2i_noise.argtypes = (c_uint64, c_uint32, POINTER(c_float), c_size_t)
    loaded.minit2i_tokenize.argtypes = (
        c_void_p, Text, POINTER(c_int64), c_size_t, POINTER(c_size_t), POINTER(c_int32),
    )  # fmt: skip
    for name in ("close", "embeddings_free", "pictures_free"):
        getattr(loaded, f"minit2i_{name}").argtypes = (c_void_p,)
        getattr(loaded, f"minit2i_{name}").restype = None
    return loaded


def last_error() -> str:
    """The line that this thread's last failure left."""
    return str(library().minit2i_last_error().decode())


def text(data: bytes) -> Text:
    """A text with its size, so that a NUL inside is seen."""
    return Text(data, len(data))


def open_params(**settings: Any) -> OpenParams:
    """Defaults, and what is set beside them."""
    params = OpenParams()
    library().minit2i_open_params_defaults(byref(params), c_size_t(ctypes.sizeof(params)))
    for name, value in settings.items():
        setattr(params, name, value)
    return params


def refused(bundle: Path, params: OpenParams) -> tuple[int, str]:
    """Status and line of an opening that fails."""
    handle = c_void_p()
    status = library().minit2i_open(str(bundle).encode(), byref(params), byref(handle))
    assert status != OK and handle.value is None
    return status, last_error()


class Client:
    """A client, with the few calls that tests make; ``warnings`` collects what it warns of.

    ``settings`` are further fields of OpenParams.
    """

    def __init__(self, bundle: Path, lean: bool = False, **settings: Any) -> None:
        self.warnings: list[str] = []
        # ctypes keeps no reference to a callback that C holds.
        self._warn = WARNING(lambda _, line: self.warnings.append(line.decode()))
        params = open_params(num_threads=2, on_warning=self._warn, lean=lean, **settings)
        self.handle = c_void_p()
        status = library().minit2i_open(str(bundle).encode(), byref(params), byref(self.handle))
        assert status == OK, last_error()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        library().minit2i_close(self.handle)

    def embed(self, data: bytes) -> np.ndarray:
        """Values float32 [tokens, width] of one text."""
        made, calls = c_void_p(), library()
        status = calls.minit2i_embed(self.handle, byref(text(data)), c_size_t(1), byref(made))
        assert status == OK, last_error()
        sizes = (calls.minit2i_embeddings_num_tokens(made), calls.minit2i_embeddings_width(made))
        values = np.ctypeslib.as_array(calls.minit2i_embeddings_values(made), sizes).copy()
        calls.minit2i_embeddings_free(made)
        return values

    def tokenize(self, data: bytes, capacity: int = 65536) -> tuple[int, list[int], bool]:
        """Status, ids, and whether the text was cut."""
        ids, count, was_cut = (c_int64 * max(capacity, 1))(), c_size_t(0), c_int32(0)
        status = library().minit2i_tokenize(
            self.handle, text(data), ids, capacity, byref(count), byref(was_cut)
        )
        return status, list(ids[: count.value]) if status == OK else [], bool(was_cut.value)


def generate_params(prompt: bytes = b"") -> GenerateParams:
    """Defaults for one picture of a prompt."""
    params = GenerateParams()
    library().minit2i_generate_params_defaults(byref(params), c_size_t(ctypes.sizeof(params)))
    params.prompts, params.num_pictures = ctypes.pointer(text(prompt)), 1
    return params


def noise(seed: int, stream: int, count: int) -> np.ndarray:
    """minit2i_noise."""
    values = np.full(count + 1, 77, np.float32)
    pointer = values.ctypes.data_as(POINTER(c_float))
    assert library().minit2i_noise(seed, stream, pointer, count) == OK
    # One more than was asked for, to see that nothing is written behind.
    assert values[count] == 77
    return values[:count]
