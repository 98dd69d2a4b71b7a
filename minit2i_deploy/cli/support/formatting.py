"""Plain text for people: aligned columns, sizes, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minit2i_deploy.bundle.manifest import Check


def columns(rows: Sequence[Sequence[str]], *, head: Sequence[str] | None = None) -> str:
    """Lines of aligned cells, under a head; columns of numbers are aligned to the right."""
    table = list(rows) if head is None else [head, *rows]
    aligned = [_column(column, has_head=head is not None) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*aligned, strict=True))


def _column(cells: Sequence[str], *, has_head: bool) -> list[str]:
    width = max(len(cell) for cell in cells)
    is_numeric = all(_is_number(cell) for cell in cells[has_head:])
    return [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in cells]


def size(num_bytes: int) -> str:
    """A number of bytes in the unit that leaves one to three digits before the point."""
    value, units = float(num_bytes), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def json_text(value: object) -> str:
    """Indented JSON; ASCII, so that any terminal and pipe takes it."""
    return json.dumps(value, indent=2, allow_nan=False)


def check_lines(checks: Sequence[Check]) -> str:
    """Measured differences with their bounds, one a line."""
    rows = [
        (check.name, f"{check.measured:.3g}", f"{check.bound:.3g}", check.unit, check.where)
        for check in checks
    ]
    return columns(rows, head=("check", "measured", "bound", "unit", "compared"))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
