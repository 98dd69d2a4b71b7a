"""Writes docs/reference/cli.md from the command line's own parsers.

    python scripts/cli_reference.py           # write the page
    python scripts/cli_reference.py --check   # exit 1 if the page differs

``make docs`` runs it, and a test compares the page with the parsers.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "cli.md"
INTRODUCTION = """\
# Command line

<!-- Written by scripts/cli_reference.py from the parsers. Do not edit. -->

`minit2i COMMAND --help` prints the same text. `minit2i --debug COMMAND` shows a traceback with an
error, and every warning. [Errors and exit codes](errors.md) lists what a command can exit with.

"""


def main() -> int:
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{PAGE.name} differs from the parsers; run: python {sys.argv[0]}\n")
    return 1


def page() -> str:
    """The whole page, as Markdown."""
    from minit2i_deploy.cli.commands import COMMANDS
    from minit2i_deploy.cli.support.parser import build_parser

    lines = ["| command | what it does |", "|---|---|"]
    lines += [
        f"| [`minit2i {command.name}`](#minit2i-{command.name}) | {escape(command.help)} |"
        for command in COMMANDS
    ]
    for command in COMMANDS:
        lines += ["", *section(subparsers(build_parser(command.name))[command.name], level=2)]
    return INTRODUCTION + "\n".join(lines) + "\n"


def section(parser: argparse.ArgumentParser, *, level: int) -> Iterator[str]:
    """One command: description, usage, a table for each group of options, notes, subcommands."""
    yield f"{'#' * level} {parser.prog}"
    yield ""
    if parser.description:
        yield from (*wrapped(parser.description), "")
    yield from ("```", usage(parser), "```")
    for group in parser._action_groups:
        yield from table(group)
    if parser.epilog:
        yield from ("", "```text", parser.epilog.strip("\n"), "```")
    for child in subparsers(parser).values():
        yield ""
        yield from section(child, level=level + 1)


def usage(parser: argparse.ArgumentParser) -> str:
    """One line; Python's own form of it differs between its versions."""
    parts = [parser.prog]
    if any(visible(action) and action.option_strings for action in parser._actions):
        parts.append("[options]")
    parts += [positional(action) for action in parser._actions if not action.option_strings]
    return " ".join(parts)


def positional(action: argparse.Action) -> str:
    name = metavar(action)
    return {"*": f"[{name} ...]", "?": f"[{name}]", "+": f"{name} [{name} ...]"}.get(
        str(action.nargs), name
    )


def table(group: argparse._ArgumentGroup) -> Iterator[str]:
    actions = [action for action in group._group_actions if visible(action)]
    if not actions:
        return
    title = {"positional arguments": "argument", "options": "option"}.get(
        str(group.title), str(group.title)
    )
    yield from ("", f"| {title} | |", "|---|---|")
    for action in actions:
        yield f"| {signature(action)} | {escape(action.help or '')} |"


def visible(action: argparse.Action) -> bool:
    kinds = (argparse._HelpAction, argparse._SubParsersAction)
    return action.help != argparse.SUPPRESS and not isinstance(action, kinds)


def signature(action: argparse.Action) -> str:
    if not action.option_strings:
        return code(metavar(action))
    *short, last = action.option_strings
    value = "" if action.nargs == 0 else f" {metavar(action)}"
    return ", ".join(code(name) for name in [*short, f"{last}{value}"])


def code(text: str) -> str:
    """Code in a table cell, where a bar in backticks would end the cell."""
    return f"<code>{text.replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.metavar is not None:
        return action.metavar
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper()


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def wrapped(text: str, width: int = 100) -> list[str]:
    lines = [""]
    for word in escape(text).split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def escape(text: str) -> str:
    """Help text as Markdown: argparse's %% undone, options as code, and nothing read as markup."""
    plain = re.sub(r"([|*]|<(?=[a-zA-Z/]))", r"\\\1", text.replace("%%", "%"))
    return re.sub(r"(?<![\w/-])(--[a-z][a-z-]*)", r"`\1`", plain)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
