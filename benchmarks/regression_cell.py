"""One figure of one build, measured in a process of its own: what regression.py starts.

    PYTHONPATH=BUILD python regression_cell.py JSON

JSON has ``root`` (the build's folder), ``kind`` (one of KINDS), ``bundle``, ``runtime``,
``options`` of it, ``rows``, ``texts`` and ``repeats``. Prints the value as JSON: seconds of a row,
CPU seconds of a prompt, seconds of a text, or bytes of memory. Only what is frozen in the public
interface is called, so that builds of other versions run it.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

_PROMPT: Final = "two blue squares to the left of a small green triangle"
_COLORS: Final = ("red", "green", "blue", "yellow", "white", "purple", "orange")
_SHAPES: Final = ("circle", "square", "triangle", "star", "ring", "cross")


def main(plan: dict[str, Any]) -> float:
    """The value of a cell."""
    import minit2i_deploy as m

    root, place = Path(plan["root"]).resolve(), Path(str(m.__file__)).resolve()
    if root not in place.parents:
        raise SystemExit(f"minit2i_deploy came from {place}, not from the build {root}")
    return KINDS[plan["kind"]](m, plan)


def step(m: Any, plan: dict[str, Any]) -> float:
    """Seconds of a guided row: the median image of some, after one that is not counted."""
    bundle = m.Bundle.open(plan["bundle"])
    table = m.solver_table("euler", steps=plan["rows"])
    with m.open_runtime(bundle, plan["runtime"], **plan["options"]) as runtime:
        seconds = [
            m.generate(bundle, runtime, _PROMPT, seed=seed, table=table).timings["steps"]
            for seed in range(plan["repeats"] + 1)
        ]
    return statistics.median(seconds[1:]) / plan["rows"]


def prompt(m: Any, plan: dict[str, Any]) -> float:
    """CPU seconds of a prompt of some 25 tokens in the text encoder, the median of several."""
    bundle = m.Bundle.open(plan["bundle"])
    texts = [f"{_PROMPT} and {text}" for text in short_texts(plan["repeats"] + 1)]
    seconds = []
    with m.open_runtime(bundle, plan["runtime"], **plan["options"]) as runtime:
        for text in texts:
            began = time.process_time()
            m.embed(bundle, runtime, [text])
            seconds.append(time.process_time() - began)
    return statistics.median(seconds[1:])


def texts(m: Any, plan: dict[str, Any]) -> float:
    """Seconds of a text among many different short ones."""
    bundle = m.Bundle.open(plan["bundle"])
    many = short_texts(plan["texts"] + 1)
    with m.open_runtime(bundle, plan["runtime"], **plan["options"]) as runtime:
        m.embed(bundle, runtime, many[:1])
        began = time.perf_counter()
        m.embed(bundle, runtime, many[1:])
        return (time.perf_counter() - began) / plan["texts"]


def image_memory(m: Any, plan: dict[str, Any]) -> float:
    """Bytes at the peak of a process that generates one image."""
    bundle = m.Bundle.open(plan["bundle"])
    table = m.solver_table("euler", steps=plan["rows"])
    with m.open_runtime(bundle, plan["runtime"], **plan["options"]) as runtime:
        m.generate(bundle, runtime, _PROMPT, seed=0, table=table)
    return peak_bytes()


def embed_memory(m: Any, plan: dict[str, Any]) -> float:
    """Bytes at the peak of ``minit2i embed``."""
    from minit2i_deploy.cli import main as command

    with tempfile.TemporaryDirectory(prefix="minit2i-regression-") as folder:
        output = str(Path(folder) / "a.npz")
        arguments = ["embed", plan["bundle"], *short_texts(plan["texts"]), "-o", output]
        threads = str(plan["options"]["threads"])
        code = command([*arguments, "--runtime", plan["runtime"], "--threads", threads])
    if code:
        raise SystemExit(f"minit2i embed ended with {code}")
    return peak_bytes()


KINDS: Final[dict[str, Callable[[Any, dict[str, Any]], float]]] = {
    "step": step,
    "prompt": prompt,
    "texts": texts,
    "image-memory": image_memory,
    "embed-memory": embed_memory,
}


def short_texts(count: int) -> list[str]:
    """Different ones, so that no cache answers."""
    return [
        f"{index} {_COLORS[index % len(_COLORS)]} {_SHAPES[index % len(_SHAPES)]}s"
        for index in range(count)
    ]


def peak_bytes() -> float:
    """Most resident memory of this process so far, files that it has mapped among it."""
    status = Path("/proc/self/status").read_text("utf-8")
    kilobytes = re.search(r"VmHWM:\s*(\d+) kB", status)
    if kilobytes is None:
        raise SystemExit("the system does not tell a process's peak of memory")
    return float(kilobytes[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
