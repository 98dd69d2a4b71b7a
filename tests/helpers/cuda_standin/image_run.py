"""A process on the stand-in: an image of a bundle on provider cuda, with a mark at each stage.

    python image_run.py BUNDLE OPTIONS

OPTIONS is JSON: keywords of ``OnnxRuntime``, and under "image" ``rows`` (number of rows), ``turns``
(as in ``guided_rows``) and ``images``. Prints where the nodes were placed, or under "error" the
line of what failed.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections import Counter
from typing import Any, Final
from unittest import mock

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import Minit2iError
from minit2i_deploy.evaluation import reference_outputs
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.table import solver_table

# Guidance begins after some rows, which need less memory.
LATE: Final = "late"


def main(path: str, options: dict[str, Any]) -> None:
    """Run the images and print the placement of each graph as JSON."""
    bundle = Bundle.open(path)
    plan = options.pop("image")
    mark("open")
    with (
        # Kernels do not run, so no value is what the export recorded.
        mock.patch.object(reference_outputs, "require_reference_output"),
        OnnxRuntime(bundle, provider="cuda", threads=1, **options) as runtime,
    ):
        try:
            for number in range(plan["images"]):
                run_image(bundle, runtime, plan, number)
        except Minit2iError as error:
            print(json.dumps({"error": str(error)}))
            return
        mark("close")
        print(json.dumps({name: placement(session) for name, session in runtime._sessions.items()}))


def run_image(bundle: Bundle, runtime: OnnxRuntime, plan: dict[str, Any], number: int) -> None:
    """Encode, adapt and some rows; of rows that take turns every third has guidance."""
    config = bundle.config
    mark("encode")
    ids = np.array([[3, 4, 5, 6, 7, 1]])
    encoded = runtime.encode(ids, np.ones_like(ids))
    context = np.zeros((2, config.prompt_length, encoded.shape[2]), np.float32)
    context[0, : ids.shape[1]] = encoded[0]
    mask = np.zeros(context.shape[:2], np.int64)
    mask[0, : ids.shape[1]] = 1
    mark("adapt")
    tokens = runtime.adapt(context, mask)[:, None]
    mark("start")
    shape = (config.in_channels, config.image_size, config.image_size)
    state = runtime.start(batch_noise([number], shape), tokens)
    table = solver_table("euler", steps=plan["rows"])
    rows = [list(table.steps(guidance)) for guidance in (2.5, 1.0)]
    guided = guided_rows(plan["turns"], plan["rows"])
    schedule = [rows[0 if is_guided else 1][i] for i, is_guided in enumerate(guided)]

    def mark_row(index: int) -> None:
        if index < len(schedule):
            mark(f"image {number} row {index} branches {len(schedule[index].weights)}")

    mark_row(0)
    if hasattr(state, "run_rows"):
        state.run_rows(schedule, lambda row: None, mark_row)
    else:
        for index, row in enumerate(schedule, start=1):
            state.step(row)
            mark_row(index)
    mark("read")
    state.state()


def guided_rows(turns: bool | str, count: int) -> list[bool]:
    """Whether each row has guidance: all, every third in turns, or those from the third on."""
    if turns == LATE:
        return [index >= 2 for index in range(count)]
    return [not turns or index % 3 == 0 for index in range(count)]


def mark(text: str) -> None:
    """A line in the stand-in's log."""
    ctypes.CDLL("libcudart.so.13").standin_event(b"mark %s", text.encode())


def placement(session: Any) -> dict[str, dict[str, int]]:
    """Execution provider -> operator -> number of nodes."""
    result: dict[str, Counter[str]] = {}
    for group in session.get_provider_graph_assignment_info():
        operators = result.setdefault(group.ep_name, Counter())
        operators.update(node.op_type for node in group.get_nodes())
    return {name: dict(operators) for name, operators in result.items()}


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
