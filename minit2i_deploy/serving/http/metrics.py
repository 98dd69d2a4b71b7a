"""Prometheus metrics of the server."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from minit2i_deploy.serving.engine.engine import Engine
from minit2i_deploy.serving.engine.observer import Observer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics(Observer):
    """Counts requests and the engine's work."""

    def __init__(self) -> None:
        # A series of its own for the time each other series began.
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "minit2i_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "minit2i_request_seconds",
            "From request to answer",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rejected = Counter(
            "minit2i_rejected", "Requests refused because the queue was full", registry=registry
        )
        self.disconnected = Counter(
            "minit2i_cancelled", "Requests whose client left first", registry=registry
        )
        self.images = Counter(
            "minit2i_images", "Images that ended", ["model", "state"], registry=registry
        )
        self.image_seconds = Histogram(
            "minit2i_image_seconds",
            "From an image's submission to its end",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rows = Counter("minit2i_rows", "Rows of images", ["model"], registry=registry)
        self.call_seconds = Histogram(
            "minit2i_call_seconds",
            "A call of the network",
            ["model"],
            buckets=_CALL_SECONDS,
            registry=registry,
        )
        self.batch_images = Histogram(
            "minit2i_batch_images",
            "Images in a call of the network",
            ["model"],
            buckets=_SIZES,
            registry=registry,
        )
        self.texts = Counter("minit2i_texts", "Texts embedded", ["model"], registry=registry)
        self.embed_seconds = Histogram(
            "minit2i_embed_call_seconds",
            "A call of the text encoder",
            ["model"],
            buckets=_CALL_SECONDS,
            registry=registry,
        )

    def watch(self, engine: Engine) -> None:
        """Show an engine's queues."""
        read_lengths = engine.queue_lengths
        for name, text, read in (
            (
                "minit2i_queue_images",
                "Images that wait for a row",
                lambda: read_lengths().waiting_images,
            ),
            ("minit2i_live_images", "Images that wait or run", lambda: read_lengths().live_images),
            ("minit2i_queue_texts", "Texts that wait", lambda: read_lengths().texts),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """Everything in Prometheus's text form."""
        return generate_latest(self.registry)

    def request_done(self, path: str, status: int, seconds: float) -> None:
        """A request was answered; ``path`` is the route's and not the client's."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)
        if status == 429:
            self.rejected.inc()

    def call_done(self, model: str, *, num_images: int, num_sequences: int, seconds: float) -> None:
        """As in ``Observer``."""
        self.rows.labels(model).inc(num_images)
        self.call_seconds.labels(model).observe(seconds)
        self.batch_images.labels(model).observe(num_images)

    def texts_done(self, model: str, *, num_texts: int, seconds: float) -> None:
        """As in ``Observer``."""
        self.texts.labels(model).inc(num_texts)
        self.embed_seconds.labels(model).observe(seconds)

    def image_ended(self, model: str, state: str, seconds: float) -> None:
        """As in ``Observer``."""
        self.images.labels(model, state).inc()
        self.image_seconds.labels(model).observe(seconds)
