"""Many clients at once, some of them bad: nothing is lost, memory stays, every image is right.

    python benchmarks/serve_soak.py --clients 64 --embeddings 20000 --images 2000

Every tenth request is broken, slow, or leaves before its answer. The others are checked: embeddings
against the library, images against the file that ``generate`` gives. Exit code 1 means that an
answer was wrong or missing, or that memory grew by more than 5% after the first fifth.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

import minit2i_deploy as m
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.machine import describe_machine, machine_line

PROMPTS: Final = ("a red circle", "a blue square", "two green stars", "a yellow triangle")
SEEDS: Final = range(4)
_BAD_SHARE: Final = 0.1
_MAX_GROWTH: Final = 1.05
_HEAD: Final = "POST /v1/{} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"


class Expected:
    """What the library gives."""

    def __init__(self, steps: int) -> None:
        bundle = m.Bundle.open(m.ready_bundle("demo"))
        table = bundle.compile_table("ab2", steps)
        self.steps = steps
        self.images: dict[tuple[str, int], bytes] = {}
        with m.open_runtime(bundle) as runtime, tempfile.TemporaryDirectory() as folder:
            self.vectors = dict(
                zip(PROMPTS, m.embed(bundle, runtime, PROMPTS).pooled(), strict=True)
            )
            for prompt, seed in itertools.product(PROMPTS, SEEDS):
                path = Path(folder) / "image.png"
                m.generate(bundle, runtime, prompt, seed=seed, table=table).save(path)
                self.images[prompt, seed] = path.read_bytes()

    def check_image(self, port: int, rng: random.Random) -> str:
        """Ask for an image: right, wrong, or the status."""
        prompt, seed = rng.choice(PROMPTS), rng.choice(SEEDS)
        body = self.image_body(prompt, seed)
        status, answer = post(port, "images/generations", body)
        if status != 200:
            return f"images {status}"
        data = base64.b64decode(answer["data"][0]["b64_json"])
        return "image right" if data == self.images[prompt, seed] else "image WRONG"

    def image_body(self, prompt: str, seed: int) -> dict[str, object]:
        """A request for one image."""
        return {"prompt": prompt, "seed": seed, "solver": "ab2", "num_inference_steps": self.steps}

    def check_vector(self, port: int, rng: random.Random) -> str:
        """Ask for an embedding: right, wrong, or the status."""
        prompt = rng.choice(PROMPTS)
        status, answer = post(port, "embeddings", {"input": prompt, "encoding_format": "base64"})
        if status != 200:
            return f"embeddings {status}"
        vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
        close = np.allclose(vector, self.vectors[prompt], rtol=0, atol=1e-6)
        return "embedding right" if close else "embedding WRONG"

    def misbehave(self, port: int, rng: random.Random) -> str:
        """Break a request, send it slowly, or leave."""
        way = rng.choice(("broken", "slow", "left"))
        body = json.dumps(self.image_body(rng.choice(PROMPTS), 0)).encode()
        if way == "broken":
            status, _ = post(port, "images/generations", {"prompt": 7})
            return f"broken {status}"
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(_HEAD.format("images/generations", len(body)).encode())
            if way == "slow":
                connection.sendall(body[:10])
                time.sleep(rng.random() / 2)
            else:
                connection.sendall(body)
                time.sleep(rng.random() / 20)
        return way


def post(port: int, path: str, body: object) -> tuple[int, dict]:
    """Status and JSON of an answer; a full queue is asked again."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        try:
            connection.request("POST", f"/v1/{path}", json.dumps(body))
            answer = connection.getresponse()
            values = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 429:
            return answer.status, values
        time.sleep(0.05)


def clients(port: int, expected: Expected, options: argparse.Namespace) -> Iterator[Counter[str]]:
    """Run all requests; yields what they came to, five times on the way."""
    rng = random.Random(options.seed)
    work = ["image"] * options.images + ["embedding"] * options.embeddings
    rng.shuffle(work)
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def client(number: int, share: Sequence[str]) -> None:
        rng = random.Random(options.seed * 1000 + number)
        for kind in share[number :: options.clients]:
            asked = expected.check_image if kind == "image" else expected.check_vector
            asked = expected.misbehave if rng.random() < _BAD_SHARE else asked
            try:
                result = asked(port, rng)
            except Exception as error:
                result = f"LOST {type(error).__name__}"
            with lock:
                counts[result] += 1

    fifth = -(-len(work) // 5)
    for start in range(0, len(work), fifth):
        share = work[start : start + fifth]
        threads = [
            threading.Thread(target=client, args=(number, share))
            for number in range(options.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        yield counts


def memory_mib(process: int) -> float:
    """Resident memory of a process."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--embeddings", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--steps", type=int, default=5, help="rows of each image")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(machine_line(describe_machine()))
    expected = Expected(options.steps)
    command = [sys.executable, "-m", "minit2i_deploy", "serve", "demo", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = re.search(r":(\d+)$", server.stderr.readline())
    assert address is not None, "the server did not start"
    log: list[str] = []
    threading.Thread(target=lambda: log.extend(server.stderr or ()), daemon=True).start()
    began, memory, counts = time.perf_counter(), [], Counter[str]()
    try:
        for so_far in clients(int(address[1]), expected, options):
            counts = so_far
            # The server gives freed memory back every second.
            time.sleep(3)
            memory.append(memory_mib(server.pid))
            print(f"{time.perf_counter() - began:.0f} s: {memory[-1]:.1f} MiB", flush=True)
    finally:
        server.terminate()
        server.wait()
    for result, count in sorted(counts.items()):
        print(f"{result}: {count}")
    bad = [name for name in counts if re.search(r"WRONG|LOST|(images|embeddings) \d", name)]
    growth = max(memory) / memory[0]
    print(f"most memory to the first fifth's: {growth:.3f}; wrong or lost: {bad or 'none'}")
    print(f"lines of the log that name an error: {sum('Error' in line for line in log)}")
    return int(bool(bad) or growth > _MAX_GROWTH or sum(counts.values()) == 0)


if __name__ == "__main__":
    sys.exit(run_script(main))
