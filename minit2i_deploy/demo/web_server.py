"""A static file server on this machine, with the headers under which browsers allow threads."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from minit2i_deploy.errors import UsageError

HOST: Final = "127.0.0.1"
# Under both, a page is alone in its process and may share memory with its workers.
ISOLATION: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


class SiteHandler(SimpleHTTPRequestHandler):
    """Files of a folder, with the types and headers that the page needs."""

    headers_to_add: Mapping[str, str] = ISOLATION
    # The system's own table may lack these, and browsers refuse scripts of another type.
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".svg": "image/svg+xml",
        ".gz": "application/octet-stream",
    }

    def end_headers(self) -> None:
        for name, value in self.headers_to_add.items():
            self.send_header(name, value)
        # The page's service worker stores what is worth storing.
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a request is no event for the person who opened the page."""


class _PlainHandler(SiteHandler):
    headers_to_add: Mapping[str, str] = MappingProxyType({})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that is closed during a download is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def site_server(
    folder: Path,
    port: int = 0,
    *,
    isolated: bool = True,
    handler: type[SiteHandler] | None = None,
) -> ThreadingHTTPServer:
    """A server of a folder for this machine alone; ``serve_forever`` runs it.

    Args:
        folder: what it serves.
        port: 0 takes a free one.
        isolated: send the headers under which browsers allow threads.
        handler: sends the files, with headers of its own; None: by ``isolated``.

    Raises:
        UsageError: the port is taken or not one that may be used.
    """
    handler = handler or (SiteHandler if isolated else _PlainHandler)
    try:
        return _Server((HOST, port), functools.partial(handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise UsageError(f"port {port} cannot be used ({error}); choose another") from error


def address(server: ThreadingHTTPServer) -> str:
    """Its address; by this name browsers trust it as they trust https."""
    return f"http://localhost:{server.server_address[1]}/"
