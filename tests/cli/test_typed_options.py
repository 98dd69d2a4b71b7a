"""Every command's dataclass of options has exactly the arguments of its parser."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from minit2i_deploy.cli.commands import COMMANDS
from minit2i_deploy.cli.support.options.typed_options import (
    argument_names,
    options_type,
    read_options,
)
from minit2i_deploy.cli.support.parser import build_parser, subparsers

# Every command takes --debug; build's dataclass has it as well.
ANYWHERE = {"help", "debug"}


def parsers() -> Iterator[argparse.ArgumentParser]:
    """The parser of every command, and of every task where a command has such."""
    for command in COMMANDS:
        parser = subparsers(build_parser(command.name))[command.name]
        yield from subparsers(parser).values() or [parser]


@pytest.mark.parametrize("parser", list(parsers()), ids=lambda parser: parser.prog)
def test_a_dataclass_has_the_arguments_of_its_parser(parser: argparse.ArgumentParser) -> None:
    kind = options_type(parser.get_default("run"))
    assert dataclasses.is_dataclass(kind)
    params = kind.__dataclass_params__  # type: ignore[attr-defined]
    assert params.frozen and all(field.kw_only for field in dataclasses.fields(kind))
    names = list(argument_names(kind))
    assert len(names) == len(set(names))
    assert set(names) - ANYWHERE == {action.dest for action in parser._actions} - ANYWHERE


def test_no_command_takes_a_namespace() -> None:
    for command in COMMANDS:
        module = importlib.import_module(f"minit2i_deploy.cli.{command.module}")
        source = module.__spec__ and module.__spec__.origin
        assert source is not None
        with open(source, encoding="utf-8") as stream:
            assert "Namespace" not in stream.read()


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Arguments that several commands share."""

    steps: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options of a command."""

    prompt: tuple[str, ...]
    sampling: Group


def test_groups_are_filled_and_lists_frozen() -> None:
    values = {"prompt": ["a", "b"], "steps": 3, "run": None}
    assert read_options(Options, values) == Options(prompt=("a", "b"), sampling=Group(steps=3))
    assert list(argument_names(Options)) == ["prompt", "steps"]
    with pytest.raises(KeyError, match="steps"):
        read_options(Options, {"prompt": []})
