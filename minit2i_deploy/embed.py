"""Text embeddings: the text encoder's output for any number of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle import Bundle
from minit2i_deploy.condition import encode_batch, tokenise
from minit2i_deploy.errors import UsageError
from minit2i_deploy.protocol import Runtime


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
        """Mean over each text's real tokens, scaled to length 1: float32 [n, width]."""
        mean = self.values.sum(axis=1) / self.mask.sum(axis=1, keepdims=True)
        return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


def embed(
    bundle: Bundle, runtime: Runtime, texts: str | Sequence[str], *, batch_size: int = 32
) -> Embeddings:
    """Embed texts, in batches of similar length, returned in the order they came.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        texts: one text or several; too long ones are cut with a PromptTruncatedWarning.
        batch_size: most texts the encoder sees at once.

    Raises:
        UsageError: no text, or a batch size below 1.
        RuntimeFailure: the engine failed.
    """
    items = [texts] if isinstance(texts, str) else list(texts)
    if not items or batch_size < 1:
        raise UsageError(
            f"{len(items)} texts and batch_size {batch_size} came; at least 1 of each is needed"
        )
    encoded = tokenise(bundle, items)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
    longest = len(encoded[order[-1]].ids)
    values, mask = None, np.zeros((len(items), longest), dtype=np.int64)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch, batch_mask = encode_batch(bundle, runtime, [encoded[row] for row in rows])
        if values is None:
            values = np.zeros((len(items), longest, batch.shape[2]), dtype=np.float32)
        values[rows, : batch.shape[1]], mask[rows, : batch.shape[1]] = batch, batch_mask
    assert values is not None
    return Embeddings(values=values, mask=mask)
