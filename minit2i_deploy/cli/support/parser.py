"""From the arguments of a command line to a command and its options.

Only the module of the command that is named is imported.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from minit2i_deploy._version import __version__
from minit2i_deploy.cli.commands import COMMANDS, Command
from minit2i_deploy.cli.support.store_once import StoreOnce
from minit2i_deploy.errors import UsageError

_DESCRIPTION: Final = "Export, run and quantize MiniT2I text-to-image models."
_EPILOG: Final = """\
minit2i COMMAND --help explains a command, minit2i help engines the names of engines and devices.
Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Invocation:
    """A command line that was understood.

    Args:
        run: the command.
        options: its dataclass, which ``run`` takes.
        extra: extra of the distribution that installs what the command needs.
        debug: whether tracebacks and every warning are shown.
    """

    run: Callable[[Any], None]
    options: Any
    extra: str
    debug: bool


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UsageErrors of one line."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for action in (None, "store"):
            self.register("action", action, StoreOnce)

    def error(self, message: str) -> NoReturn:
        from minit2i_deploy.cli.support.option_hints import with_hint

        hinted = with_hint(message, options=option_names(self), commands=list(subparsers(self)))
        raise UsageError(f"{hinted}; see {self.prog} --help")


class Formatter(argparse.HelpFormatter):
    """Wraps a description, and leaves text that has line ends of its own as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Overview(Formatter):
    """Keeps each command and its line together: argparse forgets that commands are indented."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(len(command.name) for command in COMMANDS) + 4


def parse(arguments: Sequence[str]) -> Invocation:
    """Read a command line.

    Raises:
        UsageError: the arguments are not those of a command.
        SystemExit: help or the version was asked for and is printed.
    """
    name = _command_name(arguments)
    parser = build_parser(name)
    if not arguments:
        parser.print_help()
        raise SystemExit(0)
    _check_option_names(parser, name, arguments)
    values, rest = parser.parse_known_args(arguments)
    # argparse fills a list of arguments only from adjacent ones; see Python issue 58573.
    if rest and (values.gather is None or any(_is_option(word) for word in rest)):
        values.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(values, values.gather).extend(rest)
    return _invocation(values)


def _check_option_names(parser: Parser, name: str | None, arguments: Sequence[str]) -> None:
    """Refuse an unknown option first: argparse would complain of what it was meant to be."""
    command = subparsers(parser).get(name or "", parser)
    for word in arguments:
        if word == "--":
            return
        owner = subparsers(command).get(word)
        command = command if owner is None else owner
        option = word.partition("=")[0]
        if option.startswith("--") and not _has_option(option, parser, command):
            command.error(f"unrecognized arguments: {option}")


def _has_option(name: str, *parsers: argparse.ArgumentParser) -> bool:
    return any(name in action.option_strings for one in parsers for action in one._actions)


def build_parser(name: str | None) -> Parser:
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
    choices = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    for command in COMMANDS:
        child = choices.add_parser(
            command.name,
            help=command.help,
            allow_abbrev=False,
            formatter_class=Formatter,
        )
        if command.name == name:
            _configure(child, command)
    return parser


def add_task(
    tasks: Any, name: str, run: Callable[[Any], None], **settings: Any
) -> argparse.ArgumentParser:
    """Add the parser of a command's task, such as ``data pack``.

    Args:
        tasks: what ``add_subparsers`` gave.
        name: of the task.
        run: called with its options.
        settings: of the parser: help, description, epilog.
    """
    child: argparse.ArgumentParser = tasks.add_parser(
        name, allow_abbrev=False, formatter_class=Formatter, **settings
    )
    _add_debug(child)
    child.set_defaults(run=run, parser=child)
    return child


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands or tasks, by name."""
    return {
        name: child
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, child in action.choices.items()
    }


def subparser_helps(parser: argparse.ArgumentParser) -> dict[str, str]:
    """What each command or task is for, by name."""
    return {
        choice.dest: choice.help or ""
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    }


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Long names of the options that a parser's help shows."""
    return [
        name
        for action in parser._actions
        if action.help is not argparse.SUPPRESS
        for name in action.option_strings
        if name.startswith("--")
    ]


def _configure(parser: argparse.ArgumentParser, command: Command) -> None:
    # Name of the option that stray arguments belong to, where a command has such a list.
    parser.set_defaults(gather=None, extra=command.extra, parser=parser)
    module = importlib.import_module(f"minit2i_deploy.cli.{command.module}")
    module.configure(parser)
    _add_debug(parser)
    # A command of tasks has no run of its own.
    parser.set_defaults(run=getattr(module, "run", None))


def _add_debug(parser: argparse.ArgumentParser) -> None:
    # Without a default of its own, so that it does not undo the one before the command.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def _invocation(values: argparse.Namespace) -> Invocation:
    from minit2i_deploy.cli.support.options.typed_options import options_type, read_options

    return Invocation(
        run=values.run,
        options=read_options(options_type(values.run), vars(values)),
        extra=values.extra,
        debug=values.debug,
    )


def _is_option(word: str) -> bool:
    # A single dash stands for standard input.
    return word.startswith("-") and word != "-"


def _command_name(arguments: Sequence[str]) -> str | None:
    return next((word for word in arguments if not word.startswith("-")), None)
