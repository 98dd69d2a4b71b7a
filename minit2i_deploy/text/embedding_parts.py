"""One part of an embedding job: a few hundred texts without padding, in memory and on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.errors import Minit2iError
from minit2i_deploy.io.files import atomic_write_bytes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """Sequences of several texts, concatenated.

    Args:
        tokens: float32 [tokens of all texts, width]; empty for pooled vectors only.
        lengths: int64 [n], tokens of each text.
        lines: int64 [n], number of each text's line in its file, from 1.
        pooled: float32 [n, width], mean over each text's tokens, of length 1; or None.
        texts: the texts.
    """

    tokens: Float32[np.ndarray, "total width"]
    lengths: Int64[np.ndarray, " n"]
    lines: Int64[np.ndarray, " n"]
    pooled: Float32[np.ndarray, "n width"] | None
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.lengths)

    def sequences(self) -> Iterator[Float32[np.ndarray, "tokens width"]]:
        """Each text's tokens: float32 [tokens, width]."""
        end = 0
        for length in self.lengths:
            begin, end = end, end + int(length)
            yield self.tokens[begin:end]

    def save(self, path: Path) -> None:
        """Write the part, complete or not at all.

        Raises:
            UsageError: the folder is not writable.
            Minit2iError: the disk failed or is full.
        """
        buffer = io.BytesIO()
        arrays = {"tokens": self.tokens, "lengths": self.lengths, "lines": self.lines}
        # As bytes: numpy pickles strings of any length, and a pickle runs code when it is loaded.
        arrays["texts"] = np.frombuffer(json.dumps(list(self.texts)).encode(), dtype=np.uint8)
        if self.pooled is not None:
            arrays["pooled"] = self.pooled
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        atomic_write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Part:
        """Read what ``save`` wrote.

        Raises:
            Minit2iError: the file is missing or corrupt.
        """
        try:
            with np.load(path) as stored:
                return cls(
                    tokens=stored["tokens"],
                    lengths=stored["lengths"],
                    lines=stored["lines"],
                    pooled=stored["pooled"] if "pooled" in stored else None,
                    texts=json.loads(stored["texts"].tobytes()),
                )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise Minit2iError(
                f"{path}: cannot be read ({error}); delete its folder and start again"
            ) from error


def pool(sequence: Float32[np.ndarray, "tokens width"]) -> Float32[np.ndarray, " width"]:
    """Mean over a text's tokens, scaled to length 1: float32 [width], summed in float64."""
    mean = sequence.mean(axis=0, dtype=np.float64)
    return (mean / np.linalg.norm(mean)).astype(np.float32)
