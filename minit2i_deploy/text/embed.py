"""Text embeddings: the text encoder's output for any number of texts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.text.conditioning import warn_truncated
from minit2i_deploy.text.embedding_parts import pool
from minit2i_deploy.text.encoder import BATCH_SIZE, SequenceEncoder

WINDOW: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embeddings:
    """Token embeddings of texts.

    Args:
        values: float32 [n, tokens, width], zero at padding; tokens is the longest text's.
        mask: int64 [n, tokens], 1 at real tokens.
    """

    values: Float32[np.ndarray, "n tokens width"]
    mask: Int64[np.ndarray, "n tokens"]

    def pooled(self) -> Float32[np.ndarray, "n width"]:
        """Mean over each text's real tokens, scaled to length 1: float32 [n, width].

        Summed in float64, each text for itself, so that neither padding nor what else is in the
        batch changes a bit.
        """
        pairs = zip(self.values, self.mask, strict=True)
        return np.stack([pool(row[mask > 0]) for row, mask in pairs])


def embed(
    bundle: Bundle,
    runtime: Runtime,
    texts: str | Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
) -> Embeddings:
    """Embed texts, in batches of similar length, returned in the order they came.

    A text that comes several times is encoded once, and not at all where the runtime has just
    encoded it for something else. For more texts than fit in memory take ``embed_stream``.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        texts: one text or several; too long ones are cut with a PromptTruncatedWarning.
        batch_size: most texts the encoder sees at once.

    Raises:
        UsageError: no text, a batch size below 1, or a runtime of another bundle.
        RuntimeFailure: the engine failed.
    """
    items = [texts] if isinstance(texts, str) else list(texts)
    if not items:
        raise UsageError("0 texts came; give at least one (it may be empty)")
    return _embedded(SequenceEncoder(bundle, runtime, batch_size=batch_size), items)


def embed_stream(
    bundle: Bundle,
    runtime: Runtime,
    texts: Iterable[str],
    *,
    batch_size: int = BATCH_SIZE,
    window: int = WINDOW,
) -> Iterator[Embeddings]:
    """Embed any number of texts in the order they come, with memory for one window of them.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        texts: as in ``embed``; taken one window at a time.
        batch_size: as in ``embed``.
        window: texts that are sorted by length, encoded and yielded together.

    Yields:
        the embeddings of the next ``window`` texts, padded to the longest among them.

    Raises:
        UsageError: a batch size or a window below 1; none is raised for no text.
        RuntimeFailure: the engine failed.
    """
    if isinstance(texts, str):
        raise UsageError("one text came, but embed_stream takes several; write [text]")
    if window < 1:
        raise UsageError(f"window {window} came; at least 1 is needed")
    return _windows(SequenceEncoder(bundle, runtime, batch_size=batch_size), iter(texts), window)


def _windows(encoder: SequenceEncoder, texts: Iterator[str], window: int) -> Iterator[Embeddings]:
    while items := list(itertools.islice(texts, window)):
        yield _embedded(encoder, items)


def _embedded(encoder: SequenceEncoder, texts: Sequence[str]) -> Embeddings:
    encoded = encoder.tokenizer.encode(texts)
    warn_truncated(encoded, stacklevel=4)
    longest = max(len(item.ids) for item in encoded)
    values, mask = encoder.padded(encoded, longest)
    return Embeddings(values=values, mask=mask)
