"""minit2i serve: bundles over HTTP, and a page for people."""

from __future__ import annotations

import argparse
import functools
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.options.engine_options import EngineOptions, add_engine
from minit2i_deploy.cli.support.options.shared_arguments import (
    READY_BUNDLES,
    bundle_path,
    integer,
    number,
)
from minit2i_deploy.errors import UsageError, require

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.protocol import Runtime
    from minit2i_deploy.serving.http.access import Access
    from minit2i_deploy.serving.http.server import ServerOptions

_LIBRARIES: Final = ("starlette", "uvicorn", "prometheus_client")
_EPILOG: Final = """\
Requests name a bundle by the last part of its folder, or by NAME. The first one
answers requests that name none, or another. Images of all requests share calls of
the network row by row, so a short one does not wait for a long one.

addresses:
  /                        a page for people
  /v1/images/generations   OpenAI's images, also streamed
  /v1/images/edits         OpenAI's edits: an image, a mask, a prompt
  /v1/embeddings           OpenAI's embeddings
  /embed, /embed_all       text-embeddings-inference
  /sdapi/v1/txt2img        AUTOMATIC1111's web UI, also img2img
  /v2/models               KServe, version 2
  /metrics, /health, /openapi.json

It is reachable from this machine only, unless --host says otherwise: then give it
--api-keys. SIGINT and SIGTERM let requests that run finish within --drain seconds;
a second signal does not.

examples:
  minit2i serve demo demo-student
  minit2i serve my-bundle small=my-bundle-int8 --port 7860
  minit2i serve my-bundle --host 0.0.0.0 --api-keys keys.txt
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """Options of minit2i serve."""

    bundles: tuple[str, ...]
    host: str
    port: int
    api_keys: Path | None
    cors: tuple[str, ...]
    public_url: str | None
    max_batch: int
    queue: int
    deadline: float
    drain: float
    strict: bool
    engine: EngineOptions


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Serve bundles to other programs, by the APIs that their clients already speak, and to "
        "people, by a page."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "bundles",
        metavar="BUNDLE",
        nargs="+",
        help=f"folder that minit2i export made, or {' or '.join(READY_BUNDLES)}; NAME=FOLDER "
        "serves it under another name",
    )
    parser.set_defaults(gather="bundles")
    _add_network(parser)
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-batch",
        metavar="N",
        type=integer,
        default=8,
        help="most images in one call of the network (default 8); fewer share one where more make "
        "none cheaper, which is measured",
    )
    group.add_argument(
        "--queue",
        metavar="N",
        type=integer,
        default=64,
        help="most images that wait or run; more are refused with 429 (default 64)",
    )
    group.add_argument(
        "--deadline",
        metavar="S",
        type=number,
        default=300.0,
        help="most seconds from a request to its answer (default 300)",
    )
    group.add_argument(
        "--drain",
        metavar="S",
        type=number,
        default=30.0,
        help="seconds for requests that run when the server is to stop (default 30)",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="refuse unknown models, other sizes and settings without effect; by default the "
        "nearest answers and says so",
    )
    add_engine(parser)


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to bind to (default 127.0.0.1); 0.0.0.0 is every one of this machine",
    )
    group.add_argument(
        "--port",
        metavar="N",
        type=integer,
        default=8000,
        help="port (default 8000); 0 takes a free one",
    )
    group.add_argument(
        "--api-keys",
        metavar="FILE",
        type=Path,
        help="file with an API key a line, one of which a request must have",
    )
    group.add_argument(
        "--cors",
        metavar="ORIGIN",
        nargs="+",
        default=(),
        help="other sites whose pages may use the server, for example https://example.org",
    )
    group.add_argument(
        "--public-url",
        metavar="URL",
        help="address of a proxy in front, for example https://images.example.org: its host and "
        "its pages are answered, and links to images begin with it",
    )


def run(options: ServeOptions) -> None:
    """Serve until a signal."""
    from minit2i_deploy.serving.engine.memory import set_up_heap

    set_up_heap()
    for library in _LIBRARIES:
        require(library, "serve")
    from minit2i_deploy.serving.http.server import Server

    _check(options)
    bundles = open_bundles(options.bundles)
    server_options = _server_options(options)
    server = Server(bundles, functools.partial(open_served, engine=options.engine), server_options)
    with _logging_to_stderr():
        _warn_of_openness(options)
        server.run(lambda address: _say(f"serving {', '.join(bundles)} on {address}"))
        _say("stopped")


def open_bundles(places: Sequence[str]) -> dict[str, Bundle]:
    """The bundles by the name that requests use.

    Args:
        places: ``FOLDER`` or ``NAME=FOLDER`` each.

    Raises:
        UsageError: a name is there twice, or a ready bundle cannot be written.
        BundleError: a folder is no bundle.
    """
    from minit2i_deploy.bundle.bundle import Bundle

    bundles: dict[str, Bundle] = {}
    for place in places:
        name, folder = _name_and_folder(place)
        if name in bundles:
            raise UsageError(f"two bundles are called {name}; write NAME={folder} for one of them")
        try:
            bundles[name] = Bundle.open(bundle_path(folder))
        except argparse.ArgumentTypeError as error:
            raise UsageError(str(error)) from error
    return bundles


def _name_and_folder(place: str) -> tuple[str, str]:
    name, equals, folder = place.partition("=")
    if equals and name and "/" not in name:
        return name, folder
    return Path(place).resolve().name if place not in READY_BUNDLES else place, place


def _check(options: ServeOptions) -> None:
    for name, value, low, high in (
        ("--port", options.port, 0, 65535),
        ("--max-batch", options.max_batch, 1, 1024),
        ("--queue", options.queue, 1, 100_000),
        ("--deadline", options.deadline, 0.001, math.inf),
        ("--drain", options.drain, 0, math.inf),
    ):
        # Of NaN neither is true.
        if not low <= value <= high or value == math.inf:
            bounds = f"at least {low}" if high == math.inf else f"{low} to {high}"
            raise UsageError(f"{name} must be {bounds}, got {value}")


def open_served(bundle: Bundle, engine: EngineOptions) -> Runtime:
    """Open a bundle as a server runs it; arguments and errors as for ``open_engine``."""
    # With an arena, the largest call so far decides what the process keeps: 65 MB more for eight
    # images of the demo model than for one.
    return open_engine(bundle, engine, arena=False)


def _server_options(options: ServeOptions) -> ServerOptions:
    from minit2i_deploy.serving.engine.engine import EngineLimits
    from minit2i_deploy.serving.http.server import ServerOptions
    from minit2i_deploy.serving.scheduling.scheduler import SchedulerLimits
    from minit2i_deploy.serving.service import ServiceOptions

    limits = SchedulerLimits(max_batch=options.max_batch, max_queue=options.queue)
    return ServerOptions(
        host=options.host,
        port=options.port,
        access=_access(options),
        engine=EngineLimits(images=limits),
        service=ServiceOptions(
            strict=options.strict,
            deadline_s=options.deadline,
            max_images=min(ServiceOptions().max_images, options.queue),
            public_url=_public_url(options),
        ),
        drain_s=options.drain,
    )


def _access(options: ServeOptions) -> Access:
    from minit2i_deploy.serving.http.access import ApiKeys, access_of

    keys = ApiKeys() if options.api_keys is None else ApiKeys.read(options.api_keys)
    return access_of(options.host, keys, options.cors, _public_url(options))


def _public_url(options: ServeOptions) -> str | None:
    from minit2i_deploy.serving.http.access import read_public_url

    return None if options.public_url is None else read_public_url(options.public_url)


def _warn_of_openness(options: ServeOptions) -> None:
    from minit2i_deploy.serving.http.access import LOOPBACK

    if options.host not in LOOPBACK and options.api_keys is None:
        _say(f"warning: everyone who reaches {options.host} may use it; give it --api-keys FILE")


def _say(text: str) -> None:
    sys.stderr.write(f"minit2i: {text}\n")
    sys.stderr.flush()


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Lines of the server's log and of uvicorn's warnings, with their time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("minit2i.serve", "uvicorn.error")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
