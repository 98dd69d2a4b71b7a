"""Hundreds of requests of other shapes and counts do not let an engine's memory grow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny_bundle import tiny_bundle

# Growth in MiB over 200 requests after 100. Measured: onnxruntime 0.1, openvino 12 with a plateau
# after 400 requests, where it has kernels of all shapes; torch 0.5 over 500 requests.
BOUNDS = {"onnxruntime": 6, "openvino": 32}

REQUESTS = """
import gc, random, sys
from pathlib import Path
import minit2i_deploy as m

def rss():
    (line,) = [l for l in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in l]
    return int(line.split()[1]) / 1024

draw, bundle = random.Random(0), m.Bundle.open(sys.argv[2])
words = ["red", "blue", "cat", "1", "2", "a"]
with m.open_runtime(bundle, sys.argv[1], threads=2) as runtime:
    for number in range(300):
        texts = [" ".join(draw.choices(words, k=draw.randint(1, 4)))[:9]
                 for _ in range(draw.randint(1, 6))]
        if number % 2:
            m.embed(bundle, runtime, texts, batch_size=draw.randint(1, 8))
        else:
            table = m.solver_table(draw.choice(["euler", "heun"]), steps=draw.randint(2, 3))
            m.generate(bundle, runtime, texts, table=table, guidance=draw.choice([1.0, 2.5]))
        if number == 99:
            gc.collect()
            before = rss()
    gc.collect()
    print(rss() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", BOUNDS)
def test_memory_does_not_grow(name: str) -> None:
    pytest.importorskip(name)
    command = [sys.executable, "-W", "ignore", "-c", REQUESTS, name, str(tiny_bundle())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < BOUNDS[name]
