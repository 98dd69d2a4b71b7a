"""The checksum in a manifest: the sha256 of its own bytes, with the checksum's digits as zeros."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

CHECKSUM_KEY: Final = "manifest_sha256"
BLANK_CHECKSUM: Final = "0" * 64
SHA256: Final = re.compile(r"[0-9a-f]{64}")


def add_checksum(fields: Mapping[str, object]) -> bytes:
    """Write fields as canonical JSON, with the checksum of the file as one more field.

    Raises:
        ValueError: a number that is not finite.
    """
    complete = {**fields, CHECKSUM_KEY: BLANK_CHECKSUM}
    text = json.dumps(complete, sort_keys=True, indent=2, allow_nan=False)
    blank = f"{text}\n".encode()
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(_checksum_line(BLANK_CHECKSUM), _checksum_line(digest))


def verify_checksum(data: bytes, expected: object) -> None:
    """Compare a manifest's bytes with their checksum.

    Args:
        data: the bytes, checksum included.
        expected: the value of CHECKSUM_KEY in them.

    Raises:
        ValueError: no checksum, or one of other bytes.
    """
    if not isinstance(expected, str) or not SHA256.fullmatch(expected):
        raise ValueError(f"{CHECKSUM_KEY} is missing or not 64 hexadecimal digits")
    blank = data.replace(_checksum_line(expected), _checksum_line(BLANK_CHECKSUM))
    actual = hashlib.sha256(blank).hexdigest()
    if actual != expected:
        raise ValueError(
            f"sha256 is {actual[:8]}.. but {CHECKSUM_KEY} is {expected[:8]}..; the file was edited"
        )


def _checksum_line(digest: str) -> bytes:
    # With its key, because the same digits may be in another field.
    return f'"{CHECKSUM_KEY}": "{digest}"'.encode("ascii")
