"""Completion scripts for bash, zsh and fish, written from the parsers.

The scripts hold every command and option as text, so that completing starts no Python. Values are
completed where an option has choices, and as file names elsewhere.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.cli.commands import COMMANDS
from minit2i_deploy.cli.help import TOPICS
from minit2i_deploy.cli.support.parser import build_parser, subparser_helps, subparsers

_BASH: Final = """\
_minit2i_complete() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
    local entry= word index options= arguments=
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}}
        [[ $word == -* ]] && continue
        case "$entry $word" in
            {first}) entry=$word ;;
            {second}) entry="$entry $word"; break ;;
            *) break ;;
        esac
    done
    case "$entry $prev" in
{values}
    esac
    if [[ -n $arguments ]]; then
        COMPREPLY=($(compgen -W "$arguments" -- "$cur"))
        return
    fi
    case $entry in
{entries}
    esac
    if [[ $cur == -* ]]; then arguments=$options; fi
    COMPREPLY=($(compgen -W "$arguments" -- "$cur"))
}}
complete -o default -F _minit2i_complete minit2i
"""
_ZSH_HEAD: Final = """\
#compdef minit2i
autoload -U +X bashcompinit && bashcompinit
"""
# The first completion loads this file as a function and expects an answer from it.
_ZSH_TAIL: Final = """\
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _bash_complete -o default -F _minit2i_complete
fi
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Option:
    """An option as help shows it."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """The program, a command or a task: its path, its options, and arguments that may follow."""

    path: tuple[str, ...]
    options: tuple[_Option, ...]
    arguments: Mapping[str, str]

    @property
    def name(self) -> str:
        return " ".join(self.path)

    def option_names(self) -> Iterator[str]:
        for option in self.options:
            yield from option.names


def bash_script() -> str:
    """Registers a function that completes the word at the cursor."""
    entries = list(_entries())
    values = [
        f"        {shlex.quote(f'{entry.name} {name}')}) arguments={_quoted(option.choices)} ;;"
        for entry in entries
        for option in entry.options
        if option.choices
        for name in option.names
    ]
    cases = [
        f"        {shlex.quote(entry.name)}) options={_quoted(entry.option_names())} "
        f"arguments={_quoted(entry.arguments)} ;;"
        for entry in entries
    ]
    return _BASH.format(
        first=_patterns(entry for entry in entries if len(entry.path) == 1),
        second=_patterns(entry for entry in entries if len(entry.path) == 2),
        values="\n".join(values),
        entries="\n".join(cases),
    )


def zsh_script() -> str:
    """Uses bash's function through zsh's own ``bashcompinit``."""
    return f"{_ZSH_HEAD}{bash_script()}{_ZSH_TAIL}"


def fish_script() -> str:
    """A line for each command, task, option and choice."""
    lines = ["complete -c minit2i -f"]
    for entry in _entries():
        conditions = [f"__fish_seen_subcommand_from {word}" for word in entry.path]
        where = _fish_text("; and ".join(conditions) or "__fish_use_subcommand")
        lines += [f"complete -c minit2i -n {where} {end}" for end in _fish_ends(entry)]
    return "\n".join(lines) + "\n"


def _fish_ends(entry: _Entry) -> Iterator[str]:
    if entry.path and not entry.arguments:
        yield "-F"
    for word, text in entry.arguments.items():
        yield f"-a {word}" + (f" -d {_fish_text(text)}" if text else "")
    for option in entry.options:
        flags = [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names]
        end = f"{' '.join(flags)} -d {_fish_text(option.help)}"
        if option.choices:
            end += f" -x -a {_fish_text(' '.join(option.choices))}"
        elif option.takes_value:
            end += " -r -F"
        yield end


def _entries() -> Iterator[_Entry]:
    """The program itself, every command, and after a command of tasks each of those."""
    program = build_parser(None)
    yield _entry((), program, {command.name: command.help for command in COMMANDS})
    for command in COMMANDS:
        parser = subparsers(build_parser(command.name))[command.name]
        tasks = subparsers(parser)
        yield _entry((command.name,), parser, subparser_helps(parser) or _topics(command.name))
        for name, task in tasks.items():
            yield _entry((command.name, name), task, {})


def _topics(command: str) -> dict[str, str]:
    """What ``minit2i help`` takes beside options; nothing of the other commands."""
    if command != "help":
        return {}
    return {item.name: item.help for item in COMMANDS} | dict.fromkeys(TOPICS, "")


def _entry(
    path: tuple[str, ...], parser: argparse.ArgumentParser, arguments: Mapping[str, str]
) -> _Entry:
    options, following = [], dict(arguments)
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        choices = tuple(map(str, action.choices or ()))
        if not action.option_strings:
            following |= dict.fromkeys(choices, "")
            continue
        options.append(
            _Option(
                names=tuple(action.option_strings),
                help=(action.help or "").replace("%%", "%").partition(";")[0],
                takes_value=action.nargs != 0,
                choices=choices,
            )
        )
    return _Entry(path=path, options=tuple(options), arguments=following)


def _quoted(names: Iterable[str]) -> str:
    return shlex.quote(" ".join(names))


def _patterns(entries: Iterable[_Entry]) -> str:
    return "|".join(
        shlex.quote(entry.name if len(entry.path) == 2 else f" {entry.name}") for entry in entries
    )


def _fish_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SCRIPTS: Final[Mapping[str, Callable[[], str]]] = {
    "bash": bash_script,
    "zsh": zsh_script,
    "fish": fish_script,
}
