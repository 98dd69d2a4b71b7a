"""The Containerfile: what each of its lines needs is there."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from minit2i_deploy.cli.support.parser import parse
from tests.helpers.serving_http import running_server


def lines(repository: Path) -> list[list[str]]:
    """Instruction and words of each line; continued ones are joined, comments left out."""
    text = (repository / "Containerfile").read_text("utf-8").replace("\\\n", "")
    return [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]


def of(repository: Path, instruction: str) -> list[str]:
    return [rest for name, rest in lines(repository) if name == instruction]


def test_both_stages_have_a_python_that_the_package_runs_on(repository: Path) -> None:
    stages = of(repository, "FROM")
    images = {stage.split()[0] for stage in stages}
    assert len(stages) == 2 and len(images) == 1
    version = re.search(r"/python:3\.(\d+)-slim-", images.pop())
    assert version is not None and 11 <= int(version[1]) <= 13
    copied = [rest for rest in of(repository, "COPY") if rest.startswith("--from")]
    assert copied == ["--from=build /opt/minit2i /opt/minit2i"]
    assert stages[0].endswith(" AS build")


def test_it_installs_an_extra_that_exists_from_files_that_are_copied(repository: Path) -> None:
    install, user = of(repository, "RUN")
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))
    words = shlex.split(install)
    extra = re.fullmatch(r"/source\[(\w+)\]", words[-1])
    assert extra is not None and extra[1] in project["project"]["optional-dependencies"]
    constraints = words[words.index("-c") + 1].removeprefix("/source/")
    assert (repository / constraints).is_file()
    ignored = (repository / ".dockerignore").read_text("utf-8").split()
    assert {".git", ".venv", "build", "**/node_modules"} <= set(ignored)
    assert not {constraints, "pyproject.toml", "minit2i_deploy"} & set(ignored)
    # What runs is not root.
    assert user.split()[0] == "useradd" and of(repository, "USER") == [user.split()[-1]]


def test_its_command_is_one_of_the_program(repository: Path) -> None:
    (program,), command = (json.loads(of(repository, key)[0]) for key in ("ENTRYPOINT", "CMD"))
    assert program == "minit2i"
    options = parse(command).options
    assert (options.host, str(options.port)) == ("0.0.0.0", of(repository, "EXPOSE")[0])


def test_its_health_check_passes_and_fails(repository: Path) -> None:
    (check,) = of(repository, "HEALTHCHECK")
    word, program, option, code = shlex.split(check)
    assert (word, program, option) == ("CMD", "python", "-c")
    with running_server() as server:
        address = server.address
        exec(code.replace("http://127.0.0.1:8000", address), {})
    with pytest.raises(OSError, match="refused"):
        exec(code.replace("http://127.0.0.1:8000", address), {})
