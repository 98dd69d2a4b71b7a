"""The seed of each image of a benchmark: a function of the run's seed, prompt and sample alone."""

from __future__ import annotations

import hashlib

from minit2i_deploy.errors import UsageError


def sample_seed(seed: int, index: int, sample: int) -> int:
    """Seed of one image, 0 to 2**64 - 1.

    It does not depend on batches, devices or processes, and no two images of any benchmark share
    it. It is the first eight bytes, big endian, of the SHA-256 of ``SEED:INDEX:SAMPLE`` in ASCII.

    Args:
        seed: of the run, at least 0.
        index: of the prompt, from 0.
        sample: of the prompt, from 0.

    Raises:
        UsageError: one of them is negative.
    """
    if min(seed, index, sample) < 0:
        raise UsageError(f"seed, index and sample must be 0 or more, got {seed}, {index}, {sample}")
    digest = hashlib.sha256(f"{seed}:{index}:{sample}".encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big")
