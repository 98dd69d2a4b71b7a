"""Embed texts: the text encoder's output for any number of them."""

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
# Texts whose lengths a short form of the result shows.
_MAX_COUNTS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embeddings:
    """Token embeddings of texts.

    Args:
        values: float32 [n, tokens, width], zero at padding; tokens is the longest text's.
        mask: int64 [n, tokens], 1 at real tokens.
    """

    values: Float32[np.ndarray, "n tokens width"]
    mask: Int64[np.ndarray, "n tokens"]

    def __repr__(self) -> str:
        # Arrays of their own would fill the screen.
        counts = ", ".join(map(str, self.mask.sum(axis=1)[:_MAX_COUNTS].tolist()))
        more = ", .." if len(self.mask) > _MAX_COUNTS else ""
        return f"<Embeddings float32 {list(self.values.shape)}, {counts}{more} tokens>"

    def pooled(self) -> Float32[np.ndarray, "n width"]:
        """Mean over each text's real tokens, scaled to length 1: float32 [n, width].

        Summed in float64, each text alone, so that neither padding nor the rest of the batch
        changes a bit.
        """
        pairs = zip(self.values, self.mask, strict=True)
        return np.stack([pool(sequence[mask > 0]) for sequence, mask in pairs])


def embed(
    bundle: Bundle,
    runtime: Runtime,
    texts: str | Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
) -> Embeddings:
    """Embed texts, in batches of similar length, and return them in their order.

    A repeated text is encoded once, and not at all if it is in the runtime's cache. For more
    texts than fit in memory use ``embed_stream``.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        texts: one text or several; long ones are truncated with a PromptTruncatedWarning.
        batch_size: most texts the encoder sees at once.

    Raises:
        UsageError: no text, a batch size below 1, or a runtime of another bundle.
        RuntimeFailure: the engine failed.
    """
    items = [texts] if isinstance(texts, str) else list(texts)
    if not items:
        raise UsageError("expected at least one text (it may be empty), got none")
    return _embedded(SequenceEncoder(bundle, runtime, batch_size=batch_size), items)


def embed_stream(
    bundle: Bundle,
    runtime: Runtime,
    texts: Iterable[str],
    *,
    batch_size: int = BATCH_SIZE,
    window: int = WINDOW,
) -> Iterator[Embeddings]:
    """Embed any number of texts in their order, with memory for one window of them.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        texts: as in ``embed``; read one window at a time.
        batch_size: as in ``embed``.
        window: number of texts that are sorted by length, encoded and yielded together.

    Yields:
        the embeddings of the next ``window`` texts, padded to the longest among them.

    Raises:
        UsageError: a batch size or a window below 1. No text is not an error.
        RuntimeFailure: the engine failed.
    """
    if isinstance(texts, str):
        raise UsageError("embed_stream takes several texts, got one; write [text]")
    if window < 1:
        raise UsageError(f"window must be at least 1, got {window}")
    return _windows(SequenceEncoder(bundle, runtime, batch_size=batch_size), iter(texts), window)


def _windows(encoder: SequenceEncoder, texts: Iterator[str], window: int) -> Iterator[Embeddings]:
    while items := list(itertools.islice(texts, window)):
        yield _embedded(encoder, items)


def _embedded(encoder: SequenceEncoder, texts: Sequence[str]) -> Embeddings:
    encoded = encoder.tokenizer.encode(texts)
    # The line to name called embed or took the next window.
    warn_truncated(encoded, stacklevel=4)
    longest = max(len(item.ids) for item in encoded)
    values, mask = encoder.padded(encoded, longest)
    return Embeddings(values=values, mask=mask)
