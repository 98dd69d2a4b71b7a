"""Pieces of a page that needs no other file: style, tables, pictures inside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Final

_STYLE: Final = """\
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.yes { color: #0a6b2d; } .no { color: #a11212; }
"""


def document(title: str, style: str, parts: Sequence[str]) -> str:
    """A whole page.

    Args:
        title: plain words, also its heading.
        style: CSS beside that of headings, tables and verdicts.
        parts: HTML, one after the other.
    """
    lines = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>',
        f"<style>{_STYLE}{style}</style></head><body>",
        f"<h1>{escaped(title)}</h1>",
        *parts,
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def escaped(words: str) -> str:
    """Plain words as HTML, also between quotes."""
    return html.escape(words)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int]) -> str:
    """A table of plain words.

    Args:
        head: over the columns.
        rows: as many words each.
        numbers: columns that are set to the right.
    """
    lines = ["<table><tr>" + "".join(f"<th>{escaped(word)}</th>" for word in head) + "</tr>"]
    for row in rows:
        starts = ('<td class="n">' if index in numbers else "<td>" for index in range(len(row)))
        cells = (f"{start}{escaped(word)}</td>" for start, word in zip(starts, row, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])


def image(png: bytes, words: str) -> str:
    """A picture inside the page; the words stand where it cannot be seen."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escaped(words)}">'


def verdict(correct: bool) -> str:
    """Right or wrong, in bold and in its colour."""
    word, style = ("right", "yes") if correct else ("wrong", "no")
    return f'<b class="{style}">{word}</b>'


def shortened(words: str, longest: int) -> str:
    """The beginning of words, with dots in place of what is over so many characters."""
    # A noisy picture has dozens of regions, each with its words; the JSON beside has them all.
    return words if len(words) <= longest else f"{words[: longest - 3]}..."
