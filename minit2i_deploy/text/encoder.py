"""Token ids to encoded sequences: batches of similar length, each distinct text encoded once."""

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
    """The most recently used sequences by token ids, up to a number of bytes; thread-safe."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._lock = threading.Lock()
        self._sequences: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def get(self, key: bytes) -> np.ndarray | None:
        """The sequence, float32 [tokens, width], or None; it becomes the most recently used."""
        with self._lock:
            sequence = self._sequences.get(key)
            if sequence is not None:
                self._sequences.move_to_end(key)
            return sequence

    def put(self, key: bytes, sequence: np.ndarray) -> None:
        """Store a copy of a sequence, and drop the least recently used ones until all fit.

        Args:
            key: bytes of its token ids.
            sequence: float32 [tokens, width].
        """
        with self._lock:
            # Another thread may have stored the same sequence meanwhile.
            replaced = self._sequences.pop(key, None)
            self.num_bytes -= 0 if replaced is None else replaced.nbytes
            # A copy, because a view would keep the complete batch in memory.
            self._sequences[key] = sequence.copy()
            self.num_bytes += sequence.nbytes
            while self.num_bytes > self.max_bytes:
                _, dropped = self._sequences.popitem(last=False)
                self.num_bytes -= dropped.nbytes


# The sequences that a runtime has encoded, as long as the runtime lives: generating again with the
# same prompt does not run the encoder again.
_caches: WeakKeyDictionary[Runtime, SequenceCache] = WeakKeyDictionary()


class SequenceEncoder:
    """Token ids to encoded sequences, for generating and for embedding.

    Args:
        bundle: source of the tokenizer.
        runtime: an open runtime of that bundle.
        batch_size: most texts in one call of the encoder.
        cache_bytes: most bytes of sequences to cache for repeated texts, 0 for no cache; None
            shares the runtime's cache of CACHE_BYTES with every other caller.

    Raises:
        UsageError: a batch size below 1, or a runtime of another bundle.
        RuntimeFailure: the runtime is closed.
        BundleError: the tokenizer is corrupt.
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
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        require_same_bundle(bundle, runtime)
        self.batch_size = batch_size
        self.tokenizer = bundle.tokenizer()
        self._runtime = runtime
        if cache_bytes is None:
            self.cache = _caches.setdefault(runtime, SequenceCache())
        else:
            self.cache = SequenceCache(cache_bytes)

    def sequences(
        self, encoded: Sequence[Encoded]
    ) -> Iterator[tuple[int, Float32[np.ndarray, "tokens width"]]]:
        """Encode texts, each distinct one once, in batches of similar length.

        Args:
            encoded: tokenized texts.

        Yields:
            position in ``encoded`` and its sequence: float32 [tokens, width], real tokens only,
            read-only by contract. Every position comes once, in the order of the batches.

        Raises:
            RuntimeFailure: the engine failed.
        """
        positions_of: dict[bytes, list[int]] = {}
        for position, item in enumerate(encoded):
            positions_of.setdefault(item.ids.tobytes(), []).append(position)
        missing = []
        for key, positions in positions_of.items():
            cached = self.cache.get(key)
            if cached is None:
                missing.append((key, encoded[positions[0]].ids))
            else:
                yield from ((position, cached) for position in positions)
        # A batch is padded to its longest text.
        missing.sort(key=lambda item: len(item[1]))
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            values = self._encode([ids for _, ids in batch])
            for (key, ids), padded in zip(batch, values, strict=True):
                sequence = padded[: len(ids)]
                self.cache.put(key, sequence)
                yield from ((position, sequence) for position in positions_of[key])

    def padded(
        self, encoded: Sequence[Encoded], length: int
    ) -> tuple[Float32[np.ndarray, "n length width"], Int64[np.ndarray, "n length"]]:
        """All sequences as one array, in the order of the texts.

        Args:
            encoded: tokenized texts, at least one.
            length: tokens of each sequence with its padding, at least the longest one's.

        Returns:
            values: float32 [n, length, width], zero at padding; mask: int64 [n, length], 1 at real
            tokens.

        Raises:
            RuntimeFailure: the engine failed.
        """
        mask = np.zeros((len(encoded), length), dtype=np.int64)
        values = np.zeros((0, length, 0), dtype=np.float32)
        for position, sequence in self.sequences(encoded):
            if not values.size:
                values = np.zeros((*mask.shape, sequence.shape[1]), dtype=np.float32)
            values[position, : len(sequence)] = sequence
            mask[position, : len(sequence)] = 1
        return values, mask

    def _encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """One batch, padded to its longest text and no further: float32 [n, tokens, width]."""
        longest = max(len(ids) for ids in batch)
        ids = np.full((len(batch), longest), self.tokenizer.pad_id, dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        for position, item in enumerate(batch):
            ids[position, : len(item)] = item
            mask[position, : len(item)] = 1
        return self._runtime.encode(ids, mask)


def grow_cache(runtime: Runtime, num_bytes: int) -> None:
    """Let a runtime's cache hold at least so many bytes."""
    cache = _caches.setdefault(runtime, SequenceCache())
    cache.max_bytes = max(cache.max_bytes, num_bytes)


def encode_ahead(bundle: Bundle, runtime: Runtime, texts: Sequence[str]) -> None:
    """Encode texts, each alone, into the runtime's cache, for images generated later.

    Args:
        bundle: source of the tokenizer.
        runtime: an open runtime of that bundle.
        texts: any number; texts that do not fit in the cache are encoded again later.

    Raises:
        UsageError: a text with a NUL character or broken Unicode.
        RuntimeFailure: the engine failed.
    """
    # One by one, so that the last bits of a sequence do not depend on the other texts.
    encoder = SequenceEncoder(bundle, runtime, batch_size=1)
    for _ in encoder.sequences(encoder.tokenizer.encode(texts)):
        pass
