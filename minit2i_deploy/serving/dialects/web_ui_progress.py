"""Progress of the web UI's jobs: its clients ask for "the" progress and interrupt "the" job.

The web UI has one user. Here a client sees and ends the jobs of its address and key alone.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Hashable, Iterator
from typing import Any

from minit2i_deploy.io.images import encode_png, to_pil
from minit2i_deploy.serving.engine.orders import RowDone


class JobProgress:
    """One request.

    Args:
        client: that sent it.
        num_images: in it.
    """

    def __init__(self, client: Hashable, num_images: int) -> None:
        self.client = client
        self._rows: dict[int, int] = {}
        self._num_images, self._num_rows = num_images, 0
        self._began = time.monotonic()
        self._latest: RowDone | None = None
        self.is_interrupted = False

    def row_done(self, event: RowDone) -> None:
        """Count a row."""
        self._rows[event.image], self._num_rows, self._latest = event.row, event.num_rows, event

    def read(self, *, with_image: bool) -> dict[str, Any]:
        """The web UI's answer."""
        total = self._num_images * self._num_rows
        done = sum(self._rows.values()) / total if total else 0.0
        seconds = time.monotonic() - self._began
        return {
            "progress": done,
            "eta_relative": seconds * (1 - done) / done if done else 0.0,
            "state": {
                "job": "txt2img",
                "job_count": self._num_images,
                "job_no": sum(row == self._num_rows for row in self._rows.values()),
                "sampling_step": max(self._rows.values(), default=0),
                "sampling_steps": self._num_rows,
                "interrupted": self.is_interrupted,
                "skipped": False,
            },
            "current_image": self._image() if with_image else None,
            "textinfo": None,
        }

    def _image(self) -> str | None:
        if self._latest is None:
            return None
        image = to_pil(self._latest.estimate[None])[0]
        return base64.b64encode(encode_png(image, {})).decode("ascii")


class Progress:
    """Every job that runs."""

    def __init__(self) -> None:
        self._jobs: list[JobProgress] = []

    @contextlib.contextmanager
    def job(self, client: Hashable, num_images: int) -> Iterator[JobProgress]:
        """A job that runs inside the block."""
        job = JobProgress(client, num_images)
        self._jobs.append(job)
        try:
            yield job
        finally:
            self._jobs.remove(job)

    def read(self, client: Hashable, *, with_image: bool) -> dict[str, Any]:
        """Of the client's latest job; zeros where none runs."""
        jobs = self._of(client)
        job = jobs[-1] if jobs else JobProgress(client, 0)
        return job.read(with_image=with_image)

    def interrupt(self, client: Hashable) -> None:
        """End the client's oldest job at its next row: those behind it only wait."""
        for job in [job for job in self._of(client) if not job.is_interrupted][:1]:
            job.is_interrupted = True

    def _of(self, client: Hashable) -> list[JobProgress]:
        return [job for job in self._jobs if job.client == client]
