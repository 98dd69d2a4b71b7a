"""An option with one value that comes twice is refused, in every command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from minit2i_deploy.cli.commands import COMMANDS
from minit2i_deploy.cli.support.parser import build_parser, parse
from minit2i_deploy.cli.support.store_once import StoreOnce
from minit2i_deploy.errors import UsageError
from tests.helpers.cli_runs import run


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from actions(child)


def test_two_values_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "inspect", "checkpoint", "--image-size", "64", "--image-size", "96")
    assert done.code == 2
    assert done.error == "--image-size is given twice; give it once; see minit2i inspect --help"


def test_both_names_of_an_option_are_one_option() -> None:
    with pytest.raises(UsageError, match="--output is given twice"):
        parse(["generate", "demo", "a red circle", "-o", "a.png", "--output", "b.png"])


def test_every_command_line_may_have_it_once() -> None:
    parser = build_parser("inspect")
    for _ in range(2):
        values = parser.parse_args(["inspect", "checkpoint", "--prompt-length", "9"])
        assert values.prompt_length == 9


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_no_command_overwrites_a_value_silently(name: str) -> None:
    stored = [a for a in actions(build_parser(name)) if isinstance(a, argparse._StoreAction)]
    assert stored and all(isinstance(action, StoreOnce) for action in stored)
