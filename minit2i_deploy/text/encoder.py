"""Token ids to the text encoder's rows: batches of like length, each distinct text encoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.compatibility import require_same_bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.tokenizer import Encoded

BATCH_SIZE: Final = 32
# A hundred prompts of 20 tokens at T5-Large's width; much more would show in embed's peak memory.
CACHE_BYTES: Final = 8 * 2**20


class SequenceCache:
    """The rows used last, by token ids, up to a number of bytes. Threads may share it."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._lock = threading.Lock()
        self._rows: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def get(self, key: bytes) -> np.ndarray | None:
        """The row, float32 [tokens, width], which is now the last used; None if it is not kept."""
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
            return row

    def put(self, key: bytes, row: np.ndarray) -> None:
        """Keep a copy of a new row, and drop those used longest ago until all fit.

        Args:
            key: bytes of its token ids.
            row: float32 [tokens, width].
        """
        with self._lock:
            # Another thread may have kept the same row meanwhile.
            replaced = self._rows.pop(key, None)
            self.num_bytes -= 0 if replaced is None else replaced.nbytes
            # A view would hold the whole batch that it was cut from.
            self._rows[key] = row.copy()
            self.num_bytes += row.nbytes
            while self.num_bytes > self.max_bytes:
                _, dropped = self._rows.popitem(last=False)
                self.num_bytes -= dropped.nbytes


# What a runtime has encoded, kept as long as the runtime is: painting again with the same prompt
# does not run the encoder again.
_caches: WeakKeyDictionary[Runtime, SequenceCache] = WeakKeyDictionary()


class SequenceEncoder:
    """The one way from token ids to the text encoder's rows, for painting and for embedding.

    Args:
        bundle: gives the tokenizer.
        runtime: an open runtime of that bundle.
        batch_size: most texts the encoder sees at once.
        cache_bytes: most bytes of rows to keep for texts that come again, 0 keeps none; None
            shares the runtime's own cache of CACHE_BYTES with every other caller.

    Raises:
        UsageError: a batch size below 1, or a runtime of another bundle.
        RuntimeFailure: the runtime is closed.
        BundleError: the tokenizer is damaged.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        *,
        batch_size: int = BATCH_SIZE,
        cache_bytes: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size} came; at least 1 is needed")
        require_same_bundle(bundle, runtime)
        self.batch_size = batch_size
        self.tokenizer = bundle.tokenizer()
        self._runtime = runtime
        if cache_bytes is None:
            self._cache = _caches.setdefault(runtime, SequenceCache())
        else:
            self._cache = SequenceCache(cache_bytes)

    def rows(
        self, encoded: Sequence[Encoded]
    ) -> Iterator[tuple[int, Float32[np.ndarray, "tokens width"]]]:
        """Encode texts, each distinct one once, in batches of like length.

        Args:
            encoded: tokenised texts.

        Yields:
            position in ``encoded`` and its row: float32 [tokens, width], real tokens only, not to
            be written to. Every position comes once, in the order of the batches.

        Raises:
            RuntimeFailure: the engine failed.
        """
        places: dict[bytes, list[int]] = {}
        for position, item in enumerate(encoded):
            places.setdefault(item.ids.tobytes(), []).append(position)
        missing = []
        for key, positions in places.items():
            row = self._cache.get(key)
            if row is None:
                missing.append((key, encoded[positions[0]].ids))
            else:
                yield from ((position, row) for position in positions)
        missing.sort(key=lambda item: len(item[1]))
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            values = self._encode([ids for _, ids in batch])
            for (key, ids), row in zip(batch, values, strict=True):
                real = row[: len(ids)]
                self._cache.put(key, real)
                yield from ((position, real) for position in places[key])

    def padded(
        self, encoded: Sequence[Encoded], length: int
    ) -> tuple[Float32[np.ndarray, "n length width"], Int64[np.ndarray, "n length"]]:
        """All rows as one array, in the order of the texts.

        Args:
            encoded: tokenised texts, at least one.
            length: places for each, as many as the longest has tokens or more.

        Returns:
            values: float32 [n, length, width], zero at padding; mask: int64 [n, length], 1 at real
            tokens.

        Raises:
            RuntimeFailure: the engine failed.
        """
        mask = np.zeros((len(encoded), length), dtype=np.int64)
        values = np.zeros((0, length, 0), dtype=np.float32)
        for position, row in self.rows(encoded):
            if not values.size:
                values = np.zeros((*mask.shape, row.shape[1]), dtype=np.float32)
            values[position, : len(row)], mask[position, : len(row)] = row, 1
        return values, mask

    def _encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """One batch, padded to its longest text and no further: float32 [n, tokens, width]."""
        longest = max(len(ids) for ids in batch)
        ids = np.full((len(batch), longest), self.tokenizer.pad_id, dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        for row, item in enumerate(batch):
            ids[row, : len(item)] = item
            mask[row, : len(item)] = 1
        return self._runtime.encode(ids, mask)


def encode_ahead(bundle: Bundle, runtime: Runtime, texts: Sequence[str]) -> None:
    """Encode texts, each alone, into the runtime's cache, for what is painted later.

    Args:
        bundle: gives the tokenizer.
        runtime: an open runtime of that bundle.
        texts: any number; those that the cache has no room for are encoded again when they are
            painted.

    Raises:
        UsageError: a text with a NUL character or broken Unicode.
        RuntimeFailure: the engine failed.
    """
    # One by one, so that the last bits of a row do not depend on the texts beside it.
    encoder = SequenceEncoder(bundle, runtime, batch_size=1)
    for _ in encoder.rows(encoder.tokenizer.encode(texts)):
        pass
