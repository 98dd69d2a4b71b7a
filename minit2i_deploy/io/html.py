"""HTML pages in a single file: document, tables, embedded images."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Final

# Colors of a page by day and by night; series-N are lines and bars of charts.
_STYLE: Final = """\
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --soft: #666; --line: #ddd;
        --box: #f1f1f1; --yes: #0a6b2d; --no: #a11212;
        --series-1: #1f5fa8; --series-2: #b3541e; --series-3: #2f7d4f; --series-4: #7a3f93; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #16181b; --soft: #a0a0a0; --line: #3c3f44; --box: #24272b;
          --yes: #62cf8b; --no: #ff8a80;
          --series-1: #6aa9f0; --series-2: #e8935c; --series-3: #69c08d; --series-4: #c58fdf; }
}
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; overflow-wrap: normal; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; }
td.n, th.n { text-align: right; } td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
@media (max-width: 40rem) { td.n { white-space: normal; } th, td { padding-right: .6rem; } }
.small { color: var(--soft); font-size: .85rem; }
.yes { color: var(--yes); } .no { color: var(--no); }
svg { max-width: 100%; height: auto; }
svg .text { fill: var(--ink); } svg .grid { stroke: var(--line); fill: none; }
svg .reference-line { stroke: var(--soft); stroke-dasharray: 4 3; }
svg .whisker { stroke: var(--ink); stroke-width: 1.2; }
svg .s1 { fill: var(--series-1); }
svg .l1 { stroke: var(--series-1); } svg .l2 { stroke: var(--series-2); }
svg .l3 { stroke: var(--series-3); } svg .l4 { stroke: var(--series-4); }
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
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
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
    """A table of plain text, which scrolls by itself where the page is narrower.

    Args:
        head: titles of the columns.
        lines: one text for each column.
        numbers: indices of the columns that are aligned to the right.
    """
    titles = (
        f'<th class="n">{escape(title)}</th>' if index in numbers else f"<th>{escape(title)}</th>"
        for index, title in enumerate(head)
    )
    parts = [f'<div class="scroll"><table><tr>{"".join(titles)}</tr>']
    for line in lines:
        tags = ('<td class="n">' if index in numbers else "<td>" for index in range(len(line)))
        cells = (f"{tag}{escape(text)}</td>" for tag, text in zip(tags, line, strict=True))
        parts.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*parts, "</table></div>"])


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
