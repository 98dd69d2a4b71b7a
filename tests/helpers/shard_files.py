"""Small shards of tiny pictures, good ones and bad ones."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (20, 16), form: str = "JPEG") -> bytes:
    """A picture of one grey, by which it can be told from others, whatever its size."""
    buffer = io.BytesIO()
    level = 4 + number * 5 % 250
    Image.new("RGB", size, (level, level, level)).save(buffer, format=form)
    return buffer.getvalue()


def good(number: int) -> dict[str, bytes]:
    """The files of a sample whose caption says its number."""
    return {"jpg": picture(number), "txt": f"picture {number}".encode()}


def write_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    """A tar as anyone's tool writes it, without an index."""
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def write_set(folder: Path, counts: list[int], first: int = 0) -> list[Path]:
    """Shards of so many samples each, numbered through."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, number = [], first
    for shard, count in enumerate(counts):
        samples = {f"{n:05d}": good(n) for n in range(number, number + count)}
        paths.append(write_tar(folder / f"{shard:02d}.tar", samples))
        number += count
    return paths


def numbers(captions: list[str]) -> list[int]:
    """The numbers that captions say."""
    return [int(caption.removeprefix("picture ")) for caption in captions]


class _Handler(BaseHTTPRequestHandler):
    """Files of a folder, with or without the Range header; remembers what was asked for."""

    def __init__(self, *args: Any, server_state: dict[str, Any]) -> None:
        self.state = server_state
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, *, send: bool) -> None:
        self.state["asked"].append((self.command, self.path, self.headers.get("Range")))
        path = self.state["folder"] / self.path.lstrip("/")
        if self.state["failures"]:
            self.send_error(self.state["failures"].pop())
            return
        if not path.is_file():
            self.send_error(404)
            return
        data, requested_range = path.read_bytes(), self.headers.get("Range")
        if requested_range is not None and self.state["ranges"]:
            start, stop = map(int, requested_range.removeprefix("bytes=").split("-"))
            data = data[start : stop + 1]
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if send:
            self.wfile.write(data[: self.state["cut"]])

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path, *, ranges: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """A server on this machine: its address, and its state.

    The state holds what was asked, failures to answer with, and where to cut answers short.
    """
    state: dict[str, Any] = {"folder": folder, "ranges": ranges, "asked": [], "failures": []}
    state["cut"] = None
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, server_state=state))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def greys(images: np.ndarray) -> list[int]:
    """The level of each picture, which JPEG keeps to a level or two."""
    return [int(value) for value in np.round(np.asarray(images).mean(axis=(1, 2, 3)))]
