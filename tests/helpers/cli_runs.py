"""Run the command in this process and look at what it says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from minit2i_deploy.cli import main


@dataclass(frozen=True, kw_only=True)
class Run:
    """Exit code and both streams of one command line."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error line, without its prefix; fails if there is anything else."""
        (line,) = self.err.splitlines()
        prefix = "minit2i: error: "
        assert line.startswith(prefix)
        return line.removeprefix(prefix)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Run:
    """Run one command line."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return Run(code=code, out=out, err=err)
