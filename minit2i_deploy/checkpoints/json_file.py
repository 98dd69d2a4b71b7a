"""JSON objects in checkpoint folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minit2i_deploy.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file cannot be read or does not hold a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not readable as JSON ({type(error).__name__}: {error}); copy the folder again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object; copy the folder again")
    return value
