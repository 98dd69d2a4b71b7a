"""Write parts to a Parquet file: one record a text, one row group a part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minit2i_deploy.errors import Minit2iError, require
from minit2i_deploy.text.embedding_parts import Part


def write_parquet(
    path: Path, parts: Iterator[Part], width: int, with_tokens: bool, with_pooled: bool
) -> None:
    """Write columns line and text, and optionally values, mask and pooled.

    Nothing is padded: values has as many tokens as the text, and mask is all ones.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        OSError: the disk failed or is full.
    """
    arrow = require("pyarrow", "parquet")
    parquet = require("pyarrow.parquet", "parquet")
    vector = arrow.list_(arrow.float32(), width)
    columns = [("line", arrow.int64()), ("text", arrow.string())]
    if with_tokens:
        columns += [("values", arrow.list_(vector)), ("mask", arrow.list_(arrow.int8()))]
    if with_pooled:
        columns += [("pooled", vector)]
    schema = arrow.schema(columns)
    with parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            values = _columns(arrow, part, width, with_tokens, with_pooled)
            writer.write_table(arrow.table(values, schema=schema))


def read_parquet(path: Path) -> Part:
    """Read a file of one part that ``write_parquet`` wrote.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        Minit2iError: the file is missing or corrupt.
    """
    parquet = require("pyarrow.parquet", "parquet")
    arrow = require("pyarrow", "parquet")
    try:
        table = parquet.read_table(path).combine_chunks()
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        num_texts = len(table)
        pooled = None
        tokens, lengths = np.zeros((0, 0), np.float32), np.zeros(num_texts, np.int64)
        if "pooled" in columns:
            pooled = _matrix(columns["pooled"])
            tokens = np.zeros((0, pooled.shape[1]), np.float32)
        if "values" in columns:
            tokens = _matrix(columns["values"].flatten())
            lengths = np.diff(columns["values"].offsets.to_numpy()).astype(np.int64)
        return Part(
            tokens=tokens,
            lengths=lengths,
            lines=columns["line"].to_numpy(),
            pooled=pooled,
            texts=columns["text"].to_pylist(),
        )
    except (OSError, KeyError, ValueError, arrow.ArrowException) as error:
        raise Minit2iError(f"{path}: cannot be read ({error}); make it again") from error


def _matrix(column: Any) -> np.ndarray:
    """A column of vectors: float32 [n, width]."""
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _columns(
    arrow: Any, part: Part, width: int, with_tokens: bool, with_pooled: bool
) -> dict[str, Any]:
    columns = {"line": arrow.array(part.lines), "text": arrow.array(part.texts, arrow.string())}
    if with_tokens:
        # A list column has 32-bit offsets; a part is far below that.
        ends = np.concatenate([[0], np.cumsum(part.lengths)]).astype(np.int32)
        ones = arrow.array(np.ones(ends[-1], np.int8))
        columns["values"] = arrow.ListArray.from_arrays(ends, _vectors(arrow, part.tokens, width))
        columns["mask"] = arrow.ListArray.from_arrays(ends, ones)
    if with_pooled:
        assert part.pooled is not None
        columns["pooled"] = _vectors(arrow, part.pooled, width)
    return columns


def _vectors(arrow: Any, values: np.ndarray, width: int) -> Any:
    return arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), width)
