"""Runs the application on uvicorn: opening, serving, and an end that leaves no client waiting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.serving.engine.engine import Engine, EngineLimits
from minit2i_deploy.serving.engine.served_model import ServedModel
from minit2i_deploy.serving.http.access import Access
from minit2i_deploy.serving.http.api import all_endpoints
from minit2i_deploy.serving.http.app import Rules, create_app
from minit2i_deploy.serving.http.body import BodyLimits
from minit2i_deploy.serving.http.errors import LOG
from minit2i_deploy.serving.http.metrics import Metrics
from minit2i_deploy.serving.service import Service, ServiceOptions

_KEEP_ALIVE_S: Final = 15
_BACKLOG: Final = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """How to serve.

    Args:
        host: address to bind to.
        port: 0 takes a free one.
        access: keys, hosts and origins.
        engine: bounds of the engine.
        service: how requests are taken.
        body: bounds of a request's body.
        drain_s: how long requests that run may go on after a signal to stop.
        header_s: how long a connection may take for a request's headers.
        max_connections: at once; more are answered with 503.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    access: Access
    engine: EngineLimits
    service: ServiceOptions = field(default_factory=ServiceOptions)
    body: BodyLimits = field(default_factory=BodyLimits)
    drain_s: float = 30.0
    header_s: float = 10.0
    max_connections: int = 1000


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which no complete request headers arrive in time."""

    header_s = 10.0

    def connection_made(self, transport: Any) -> None:
        """Start waiting."""
        super().connection_made(transport)
        self._patience = self.loop.call_later(self.header_s, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._patience.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request's headers from its first byte on; idling has its own end."""
        super().on_response_complete()
        self._patience.cancel()

    def data_received(self, data: bytes) -> None:
        """Read, and wait where it is the beginning of headers."""
        if self._patience.cancelled() and self._is_between_requests():
            self._patience = self.loop.call_later(self.header_s, self._give_up)
        super().data_received(data)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        if self._is_between_requests() and not self.transport.is_closing():
            self.transport.close()


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own handling of signals, which ends the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing."""
        yield


class Server:
    """A server of bundles.

    Args:
        bundles: by the name that requests use.
        open_runtime: opens one of them; called on the engine's thread.
        options: how to serve.
    """

    def __init__(
        self,
        bundles: Mapping[str, Bundle],
        open_runtime: Callable[[Bundle], Runtime],
        options: ServerOptions,
    ) -> None:
        self.options = options
        self.metrics = Metrics()
        self.engine = Engine(bundles, open_runtime, options.engine, self.metrics)
        models = {name: ServedModel(name=name, bundle=each) for name, each in bundles.items()}
        self.service = Service(models, self.engine, options.service)
        self._uvicorn: uvicorn.Server | None = None

    def app(self) -> Starlette:
        """The ASGI application, for another server than ours; the engine must have started."""
        self.metrics.watch(self.engine)
        rules = Rules(access=self.options.access, body=self.options.body, metrics=self.metrics)
        return create_app(all_endpoints(self.service, self.metrics), rules)

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until a signal or ``stop``.

        Args:
            on_ready: called with the server's address once requests are taken.

        Raises:
            UsageError: the address cannot be bound.
            Minit2iError: a bundle does not open on the engine.
            RuntimeFailure: the engine's thread ended.
        """
        with contextlib.closing(bind(self.options.host, self.options.port)) as bound:
            self.engine.start()
            try:
                asyncio.run(self._serve(bound, on_ready))
            finally:
                self.engine.stop(0.0)
        if self.engine.failure is not None:
            raise RuntimeFailure(
                f"the engine failed: {self.engine.failure}; start the server again"
            )

    def stop(self) -> None:
        """End ``run``, as a signal does; from any thread. Called again, it does not drain."""
        server = self._uvicorn
        if server is not None:
            server.force_exit = server.should_exit
            server.should_exit = True

    async def _serve(self, bound: socket.socket, on_ready: Callable[[str], None]) -> None:
        protocol = type("Protocol", (ImpatientProtocol,), {"header_s": self.options.header_s})
        config = uvicorn.Config(
            self.app(),
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=self.options.max_connections,
            timeout_keep_alive=_KEEP_ALIVE_S,
            # Requests that outlive the engine are answered by it; this is for those that do not
            # read their answer.
            timeout_graceful_shutdown=max(1, int(self.options.drain_s) + 5),
        )
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        self._uvicorn = server = _Uvicorn(config)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
        async with self._draining(server):
            on_ready(_address(bound))
            await server.serve(sockets=[bound])

    @contextlib.asynccontextmanager
    async def _draining(self, server: uvicorn.Server) -> AsyncIterator[None]:
        """Stop the engine as soon as the server is to end, while its answers still go out."""

        async def drain() -> None:
            while not server.should_exit and self.engine.is_alive:
                await asyncio.sleep(0.1)
            server.should_exit = True
            LOG.info("stopping: requests that run have %g s", self.options.drain_s)
            stopping = asyncio.create_task(
                asyncio.to_thread(self.engine.stop, self.options.drain_s)
            )
            while not stopping.done() and not server.force_exit:
                await asyncio.wait({stopping}, timeout=0.1)
            if server.force_exit:
                await asyncio.to_thread(self.engine.stop, 0.0)
            await stopping

        task = asyncio.ensure_future(drain())
        try:
            yield
        finally:
            server.should_exit = True
            await task


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: the address cannot be bound.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as stack:
            bound = stack.enter_context(socket.socket(family, kind, proto))
            # A server that starts again must not wait for connections of the one before.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(_BACKLOG)
            stack.pop_all()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"{host}:{port}: cannot be bound ({reason}); name another --host or --port"
        ) from error
    return bound


def _address(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_news(record: logging.LogRecord) -> bool:
    """Our own log has a line about a request; uvicorn adds those it could not read."""
    return record.levelno >= logging.WARNING
