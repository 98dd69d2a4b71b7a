"""What holds for every test: no network, and threads that sleep while they wait."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

# Both are read when their libraries load, which is after this file.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--libraries DIR``, where scripts/integration_venvs.sh put interpreters."""
    parser.addoption("--libraries", default="build/libraries", help="for -m integrations")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse any connection that leaves this machine, unless the test is marked ``network``."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        inet = self.family in (socket.AF_INET, socket.AF_INET6)
        if inet and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(
                f"{address[0]}: tests run offline; mark the test with pytest.mark.network"
            )
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
