"""HTML pages in a single file: document, tables, embedded images."""

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
    """A complete page.

    Args:
        title: plain text, also the heading.
        style: CSS in addition to that of headings, tables and verdicts.
        parts: HTML fragments, in order.
    """
    lines = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}{style}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *parts,
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Plain text as HTML, safe between quotes too."""
    return html.escape(text)


def table(head: Sequence[str], lines: Sequence[Sequence[str]], *, numbers: Sequence[int]) -> str:
    """A table of plain text.

    Args:
        head: titles of the columns.
        lines: one text for each column.
        numbers: indices of the columns that are aligned to the right.
    """
    parts = ["<table><tr>" + "".join(f"<th>{escape(title)}</th>" for title in head) + "</tr>"]
    for line in lines:
        tags = ('<td class="n">' if index in numbers else "<td>" for index in range(len(line)))
        cells = (f"{tag}{escape(text)}</td>" for tag, text in zip(tags, line, strict=True))
        parts.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*parts, "</table>"])


def image(png: bytes, text: str) -> str:
    """An embedded image with its alternative text."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(text)}">'


def verdict(correct: bool) -> str:
    """Right or wrong, in bold and colored."""
    word, style = ("right", "yes") if correct else ("wrong", "no")
    return f'<b class="{style}">{word}</b>'


def shorten(text: str, max_chars: int) -> str:
    """A text cut to so many characters, with dots at its end if it was longer."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."
