"""Sizes of functions, files and folders, and private names, counted in Python sources."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

# Participles and the like that say nothing of what a name holds: `expected`, `actual`, `excluded`
# or `conditions` do. Measured over flux, torchtitan, equinox, httpx, tinygrad and nanochat: 0 to
# 10 names of 10,000 lines.
PRIVATE_WORDS = frozenset(
    "told wanted found given kept own words left seen shown chosen asked needed meant taken said "
    "held gone made".split()
)


def private_names(source: str) -> list[str]:
    """Every name bound in a source that has one of PRIVATE_WORDS in it, as often as it is bound."""
    return [name for name in _bound_names(ast.parse(source)) if _words(name) & PRIVATE_WORDS]


def long_functions(source: str, max_lines: int) -> list[str]:
    """Name and number of lines of each function that has more than ``max_lines``."""
    functions = [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [f"{name}: {lines} lines" for name, lines in functions if lines > max_lines]


def folder_sizes(paths: Iterable[str]) -> Counter[str]:
    """Python files in each folder, its ``__init__.py`` not counted."""
    names = (PurePosixPath(path) for path in paths)
    return Counter(str(path.parent) for path in names if path.name != "__init__.py")


def _words(name: str) -> set[str]:
    return set(name.strip("_").lower().split("_"))


def _bound_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
