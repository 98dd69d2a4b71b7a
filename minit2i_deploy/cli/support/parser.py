"""From words to options. Only the module of the command that is asked for is imported."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from minit2i_deploy._version import __version__
from minit2i_deploy.cli.commands import COMMANDS, Command
from minit2i_deploy.cli.support.store_once import StoreOnce
from minit2i_deploy.errors import UsageError

_DESCRIPTION: Final = "Export and run MiniT2I text-to-image models."
_EPILOG: Final = (
    "minit2i COMMAND --help explains one command. Exit code: 0 done, 2 wrong use, 1 any other "
    "failure."
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors of one line."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for action in (None, "store"):
            self.register("action", action, StoreOnce)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


class Formatter(argparse.HelpFormatter):
    """Wraps a description, and leaves text that has line ends of its own as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Overview(argparse.HelpFormatter):
    """Keeps each command and its line together: argparse forgets that commands are indented."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(len(command.name) for command in COMMANDS) + 4


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read a command line.

    Returns:
        the options, with ``run`` (what to call with them), ``extra`` and ``debug``.

    Raises:
        UsageError: the words fit no command.
        SystemExit: help or the version was asked for and is printed.
    """
    wanted = _command_word(words)
    parser = build(wanted)
    options, rest = parser.parse_known_args(words)
    # argparse fills a list of words only from those that stand together; see Python issue 58573.
    if rest and (options.gather is None or any(_is_option(word) for word in rest)):
        parser.prog = f"{parser.prog} {wanted}"
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(options, options.gather).extend(rest)
    return options


def build(wanted: str | None) -> Parser:
    """The parser, with the arguments of one command; the others only have their name and help."""
    parser = Parser(
        prog="minit2i",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=Overview,
    )
    parser.add_argument("--version", action="version", version=f"minit2i {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show where an error came from, and every warning"
    )
    # Name of the option that words left over belong to, where a command has such a list.
    parser.set_defaults(gather=None)
    choices = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    for command in COMMANDS:
        child = choices.add_parser(
            command.name,
            help=command.help,
            allow_abbrev=False,
            formatter_class=Formatter,
        )
        if command.name == wanted:
            _configure(child, command)
    return parser


def _configure(parser: argparse.ArgumentParser, command: Command) -> None:
    module = importlib.import_module(f"minit2i_deploy.cli.{command.name}")
    module.configure(parser)
    # Without a default of its own, so that it does not undo the one before the command.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    parser.set_defaults(run=module.run, extra=command.extra)


def _is_option(word: str) -> bool:
    # A single dash stands for standard input.
    return word.startswith("-") and word != "-"


def _command_word(words: Sequence[str]) -> str | None:
    return next((word for word in words if not word.startswith("-")), None)
