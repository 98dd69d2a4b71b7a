"""A server on a thread, and the ways to ask it."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.serving.engine.engine import EngineLimits
from minit2i_deploy.serving.http.access import ApiKeys, access_of
from minit2i_deploy.serving.http.body import BodyLimits
from minit2i_deploy.serving.http.server import Server, ServerOptions
from minit2i_deploy.serving.scheduling.scheduler import SchedulerLimits
from minit2i_deploy.serving.service import ServiceOptions
from tests.helpers.serving_runs import fake_runtime, served_bundles


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response: status, headers by lower-case name, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A server that runs."""

    def __init__(self, server: Server, address: str) -> None:
        self.server, self.address = server, address
        self.host, _, port = address.removeprefix("http://").rpartition(":")
        self.port = int(port)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, dict(headers or {}))
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=fields, body=response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: object, **headers: str) -> Answer:
        """POST JSON."""
        return self.ask("POST", path, body, headers)

    def connect(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection((self.host, self.port), timeout=30)

    def metric(self, line: str) -> float:
        """A value of /metrics."""
        lines = self.get("/metrics").body.decode().splitlines()
        return next((float(each.rpartition(" ")[2]) for each in lines if each.startswith(line)), 0)


@contextmanager
def running_server(
    runtime: Callable[[Bundle], Runtime] = fake_runtime,
    *,
    keys: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    public_url: str | None = None,
    max_queue: int = 64,
    max_texts: int = 4096,
    service: ServiceOptions | None = None,
    body: BodyLimits | None = None,
    header_s: float = 10.0,
    drain_s: float = 5.0,
    port: int = 0,
    on_error: Callable[[BaseException], None] | None = None,
    bundles: Mapping[str, Bundle] | None = None,
) -> Iterator[Running]:
    """A server on a free port of this machine, of the ready bundles or of others."""
    access = access_of("127.0.0.1", ApiKeys(keys), origins, public_url)
    service = dataclasses.replace(service or ServiceOptions(), public_url=public_url)
    options = ServerOptions(
        port=port,
        access=access,
        engine=EngineLimits(images=SchedulerLimits(max_queue=max_queue), max_texts=max_texts),
        service=service,
        body=body or BodyLimits(),
        header_s=header_s,
        drain_s=drain_s,
    )
    server = Server(bundles or served_bundles(), runtime, options)
    ready, addresses = threading.Event(), list[str]()

    def on_ready(address: str) -> None:
        addresses.append(address)
        ready.set()

    def run() -> None:
        try:
            server.run(on_ready)
        except Exception as error:
            if on_error is None:
                raise
            on_error(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(60), "the server did not start"
    try:
        yield Running(server, addresses[0])
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


def pixels(data: str | bytes) -> np.ndarray:
    """uint8 [H, W, 3] of an image file, base64 or bytes."""
    content = base64.b64decode(data) if isinstance(data, str) else data
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
