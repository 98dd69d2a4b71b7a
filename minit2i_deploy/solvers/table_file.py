"""The file format of solver tables: canonical JSON, one row a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.strict_json import decode, parse_json

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTable:
    """The fields of a table file."""

    columns: tuple[str, ...]
    format_version: int
    meta: Mapping[str, object]
    name: str
    rows: tuple[tuple[float, ...], ...]


def encode_table(
    name: str,
    columns: tuple[str, ...],
    rows: Float64[np.ndarray, "n columns"],
    meta: Mapping[str, Any],
) -> str:
    """Write a table's fields as JSON that gives every float64 back exactly."""
    # One row a line, which json.dumps alone cannot do. It writes a float64 with the shortest digits
    # that read back as the same value.
    lines = ",\n    ".join(json.dumps(row) for row in rows.tolist())
    return (
        "{\n"
        f'  "columns": {json.dumps(columns)},\n'
        f'  "format_version": {FORMAT_VERSION},\n'
        f'  "meta": {json.dumps(dict(meta), sort_keys=True, allow_nan=False)},\n'
        f'  "name": {json.dumps(name)},\n'
        f'  "rows": [\n    {lines}\n  ]\n'
        "}\n"
    )


def decode_table(text: str | bytes) -> StoredTable:
    """Read the fields that ``encode_table`` wrote, strictly.

    Raises:
        UsageError: not such JSON, an unknown version or field, or rows that differ in length.
    """
    data = text.encode("utf-8") if isinstance(text, str) else text
    try:
        stored: StoredTable = decode(StoredTable, parse_json(data), "table")
    except ValueError as error:
        raise UsageError(f"not a solver table: {error}") from error
    if stored.format_version != FORMAT_VERSION:
        raise UsageError(
            f"table format_version is {stored.format_version}, but this program reads "
            f"{FORMAT_VERSION}; upgrade minit2i-deploy"
        )
    if len({len(row) for row in stored.rows}) != 1:
        raise UsageError(f"table {stored.name!r}: expected at least one row, all of one length")
    return stored
