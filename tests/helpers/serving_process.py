"""minit2i serve in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.helpers.serving_http import Running


@contextmanager
def server_process(
    *arguments: str, port: int = 0
) -> Iterator[tuple[subprocess.Popen[str], Running]]:
    """The process and the server; killed at the end.

    Args:
        arguments: of the command.
        port: 0 takes a free one.
    """
    line = [sys.executable, "-m", "minit2i_deploy", "serve", *arguments, "--port", str(port)]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        address = re.search(r"http://\S+", first)
        assert address is not None, first
        yield process, Running(None, address[0])  # type: ignore[arg-type]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
