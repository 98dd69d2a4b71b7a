"""A process on the stand-in: images of the C++ client while other threads open models and embed.

    python cpp_threads_run.py BUNDLE

Prints the warnings as JSON. As ``threads_run``.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from tests.helpers.cpp_client import Client, generate_params, library, run_in_threads

NUM_OTHERS: Final = 2


def main(path: Path) -> None:
    """Run them all and print what they warned of; a failure is raised."""
    library()  # Built here, where no thread can build it as well.
    size, ended = Bundle.open(path).config.image_size, threading.Event()
    warnings: list[str] = []

    def images() -> None:
        try:
            with Client(path, provider=b"cuda", cuda_graph=b"auto") as client:
                for _ in range(2):
                    client.generate(generate_params(b"a red circle", guidance=2.5), size)
                warnings.extend(client.warnings)
        finally:
            ended.set()

    def allocations() -> None:
        while not ended.is_set():
            with Client(path, provider=b"cuda", cuda_graph=b"auto") as client:
                for length in range(1, 8):
                    client.embed(b"red " * length)
                warnings.extend(client.warnings)

    run_in_threads(images, *[allocations] * NUM_OTHERS)
    print(json.dumps(warnings))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
