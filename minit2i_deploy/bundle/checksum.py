"""The manifest's seal: the sha256 of its own bytes, with the seal's digits as zeros."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

SEAL: Final = "manifest_sha256"
BLANK_SEAL: Final = "0" * 64
SHA256: Final = re.compile(r"[0-9a-f]{64}")


def seal(fields: Mapping[str, object]) -> bytes:
    """Write fields as canonical JSON whose SEAL is the sha256 of the bytes with SEAL zeroed.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps({**fields, SEAL: BLANK_SEAL}, sort_keys=True, indent=2, allow_nan=False)
    blank = f"{text}\n".encode()
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(_seal_line(BLANK_SEAL), _seal_line(digest))


def check_seal(data: bytes, promised: object) -> None:
    """Compare a manifest's bytes with its seal.

    Args:
        data: the bytes, seal included.
        promised: the value of SEAL in them.

    Raises:
        ValueError: no seal, or other bytes than those sealed.
    """
    if not isinstance(promised, str) or not SHA256.fullmatch(promised):
        raise ValueError(f"{SEAL} is missing or not 64 hexadecimal digits")
    blank = data.replace(_seal_line(promised), _seal_line(BLANK_SEAL))
    found = hashlib.sha256(blank).hexdigest()
    if found != promised:
        raise ValueError(f"sha256 {found[:8]}.. but sealed as {promised[:8]}.., so it was edited")


def _seal_line(digest: str) -> bytes:
    return f'"{SEAL}": "{digest}"'.encode("ascii")
