"""A process on the stand-in: images in one thread while others open runtimes and encode.

    python threads_run.py BUNDLE GATED

Prints what was warned of or failed, as JSON. With ``capture_ms``, calls of the other threads fall
into recordings, unless the gate keeps them out; GATED is True or False.
"""

from __future__ import annotations

import json
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final
from unittest import mock

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.evaluation import reference_outputs
from minit2i_deploy.runtimes.cuda.capture_gate import CAPTURE_GATE
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from tests.helpers.cuda_standin.image_run import run_image

PLAN: Final[dict[str, Any]] = {"rows": 6, "turns": True, "images": 2}
NUM_OTHERS: Final = 2


def main(path: str, gated: bool) -> None:
    """Run them all and print what they warned of."""
    bundle, ended = Bundle.open(path), threading.Event()
    errors: list[BaseException] = []

    def images() -> None:
        with OnnxRuntime(bundle, provider="cuda", threads=1) as runtime:
            for number in range(PLAN["images"]):
                run_image(bundle, runtime, PLAN, number)

    def allocations() -> None:
        while not ended.is_set():
            with OnnxRuntime(bundle, provider="cuda", threads=1) as runtime:
                for length in range(2, 9):
                    ids = np.full((1, length), 3)
                    runtime.encode(ids, np.ones_like(ids))

    def noted(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    open_gate = {} if gated else {"shared": nullcontext, "alone": nullcontext}
    with (
        mock.patch.multiple(CAPTURE_GATE, **open_gate) if open_gate else nullcontext(),
        # Kernels do not run, so no value is what the export recorded.
        mock.patch.object(reference_outputs, "require_reference_output"),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        others = [threading.Thread(target=noted, args=(allocations,)) for _ in range(NUM_OTHERS)]
        for thread in others:
            thread.start()
        noted(images)
        ended.set()
        for thread in others:
            thread.join()
    print(json.dumps([str(item.message) for item in caught] + [str(error) for error in errors]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "True")
