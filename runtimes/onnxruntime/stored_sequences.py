"""Encoded prompts in a cache: one that was encoded before needs no text encoder.

What a text's values are, to the last bit, depends on the texts that a call encodes with it. So an
entry is a call: the same ids and mask give the same bits.

A file is the sha256 of its values in 64 hexadecimal digits, then the values, float32 [n, tokens,
width] in little-endian order. The C++ client reads and writes the same files
(``runtimes/cpp/src/engine/stored_sequences.cpp``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.errors import CacheWarning, Minit2iError, UsageError
from minit2i_deploy.io.files import atomic_write_bytes

# A prompt and a negative one. More at once are a list of prompts, which is not soon met again.
MAX_TEXTS: Final = 2
# 40 MB at FLAN-T5-Large's width with prompts of 40 tokens.
MAX_ENTRIES: Final = 256
SUFFIX: Final = ".f32"
_NAME_DIGITS: Final = 40
_DIGEST_BYTES: Final = 64
# Threads of a process name their unfinished files alike.
_writing = threading.Lock()


class StoredSequences:
    """What calls of one text encoder gave, as files.

    Args:
        folder: for this encoder, library, processor and number of threads; made when needed.
        width: of a token's values.
        max_entries: most files; the ones read least recently are removed first.
    """

    def __init__(self, folder: Path, width: int, *, max_entries: int = MAX_ENTRIES) -> None:
        self.folder, self.width, self.max_entries = folder, width, max_entries

    def read(
        self, ids: Int64[np.ndarray, "n tokens"], mask: Int64[np.ndarray, "n tokens"]
    ) -> Float32[np.ndarray, "n tokens width"] | None:
        """What the same call gave, or None; a corrupt file is removed with a CacheWarning."""
        place = self._place(ids, mask)
        try:
            data = place.read_bytes()
        except OSError:
            return None
        values = data[_DIGEST_BYTES:]
        shape = (*ids.shape, self.width)
        if len(values) != 4 * ids.size * self.width or _digest(values) != data[:_DIGEST_BYTES]:
            with contextlib.suppress(OSError):
                place.unlink()
            text = f"{place}: is corrupt; the prompt is encoded anew"
            warnings.warn(text, CacheWarning, stacklevel=2)
            return None
        with contextlib.suppress(OSError):
            os.utime(place)
        return np.frombuffer(values, "<f4").astype(np.float32).reshape(shape)

    def write(
        self,
        ids: Int64[np.ndarray, "n tokens"],
        mask: Int64[np.ndarray, "n tokens"],
        values: Float32[np.ndarray, "n tokens width"],
    ) -> None:
        """Keep what a call gave, if it had few texts; a CacheWarning where it cannot be written."""
        if len(ids) > MAX_TEXTS:
            return
        data = values.astype("<f4").tobytes()
        place = self._place(ids, mask)
        try:
            with _writing:
                _make(self.folder)
                atomic_write_bytes(place, _digest(data) + data)
                self._remove_oldest()
        except Minit2iError as error:
            text = f"{error}; the next start encodes the prompt again"
            warnings.warn(text, CacheWarning, stacklevel=2)

    def _place(self, ids: np.ndarray, mask: np.ndarray) -> Path:
        call = hashlib.sha256(f"{len(ids)} {ids.shape[1]}\n".encode())
        for array in (ids, mask):
            call.update(np.ascontiguousarray(array, "<i8").tobytes())
        return self.folder / (call.hexdigest()[:_NAME_DIGITS] + SUFFIX)

    def _remove_oldest(self) -> None:
        # Another process may remove some of them meanwhile.
        with contextlib.suppress(OSError):
            files = sorted(
                self.folder.glob(f"[0-9a-f]*{SUFFIX}"), key=lambda file: file.stat().st_mtime_ns
            )
            for file in files[: -self.max_entries]:
                file.unlink()


def _digest(values: bytes) -> bytes:
    return hashlib.sha256(values).hexdigest().encode()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made ({error.strerror})") from error
