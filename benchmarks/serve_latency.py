"""The server on this machine: latency under load, throughput, overhead and cold start.

    python benchmarks/serve_latency.py --images 200 --rounds 3

The ways of serving are those of serve_simulation.py, here with the ready bundles on ONNX Runtime:
the server's engine, requests one after the other, and static batches, both through ``generate``.
Rounds alternate between them on the same arrivals, so that a busy machine slows all three.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from serve_simulation import KINDS, MAX_BATCH, POLICIES, Arrival, Kind, poisson, summary, table

import minit2i_deploy as m
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.machine import describe_machine, machine_line
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.request import Request
from minit2i_deploy.serving.engine.engine import Engine, EngineLimits
from minit2i_deploy.serving.engine.memory import set_up_heap
from minit2i_deploy.serving.engine.orders import ImageEvent, ImageOrder
from minit2i_deploy.serving.scheduling.scheduler import SchedulerLimits
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.table import Table

NAMES: Final = {"base": "demo", "student": "demo-student"}
PROMPT: Final = "a red circle"
TEXTS: Final = ("a red circle", "two blue squares", "a green star left of a red circle")
_CALIBRATION: Final = 20
_PAIRS: Final = 300
_COLD_STARTS: Final = 5
# "burst" is one round of the throughput.
PARTS: Final = ("all", "latency", "throughput", "server", "burst")


def settings_of(kind: Kind, bundles: dict[str, Bundle]) -> tuple[Table, float]:
    """The table and scale that give a kind's rows: euler, guided where it has two sequences."""
    bundle = bundles[kind.model]
    if kind.model == "student":
        return bundle.preset()
    steps = len(kind.branches)
    euler = bundle.compile_table("euler", steps)
    guided = [index / steps for index, count in enumerate(kind.branches) if count == 2]
    return adjust_guidance(euler, interval=(guided[0], guided[-1])), 2.5


class OneByOne:
    """Requests in the order they come, those alike up to ``most`` at once, through generate."""

    def __init__(self, bundles: dict[str, Bundle], runtimes: dict[str, Runtime], most: int) -> None:
        self._bundles, self._runtimes, self._most = bundles, runtimes, most

    def run(self, arrivals: Sequence[Arrival]) -> list[float]:
        """Latency of each arrival from its intended time, in seconds."""
        settings = {id(kind): settings_of(kind, self._bundles) for kind in KINDS}
        latencies, waiting = [0.0] * len(arrivals), list[int]()
        began, coming = time.perf_counter(), 0
        while coming < len(arrivals) or waiting:
            now = time.perf_counter() - began
            if not waiting:
                time.sleep(max(0.0, arrivals[coming].time_s - now))
                now = time.perf_counter() - began
            while coming < len(arrivals) and arrivals[coming].time_s <= now:
                waiting.append(coming)
                coming += 1
            if not waiting:
                continue
            kind = arrivals[waiting[0]].kind
            batch = [index for index in waiting if arrivals[index].kind is kind][: self._most]
            waiting = [index for index in waiting if index not in batch]
            solver, guidance = settings[id(kind)]
            m.generate(
                self._bundles[kind.model],
                self._runtimes[kind.model],
                [PROMPT] * len(batch),
                seed=batch,
                table=solver,
                guidance=guidance,
            )
            for index in batch:
                latencies[index] = time.perf_counter() - began - arrivals[index].time_s
        return latencies


class InFlight:
    """The server's engine."""

    def __init__(self, bundles: dict[str, Bundle], open_runtime: Callable[[Bundle], Runtime]):
        limits = EngineLimits(images=SchedulerLimits(max_batch=MAX_BATCH, max_queue=10**6))
        self._bundles = bundles
        self.engine = Engine(bundles, open_runtime, limits)
        self.engine.start()

    def run(self, arrivals: Sequence[Arrival]) -> list[float]:
        """Latency of each arrival from its intended time, in seconds."""
        settings = {id(kind): settings_of(kind, self._bundles) for kind in KINDS}
        latencies, done = [0.0] * len(arrivals), threading.Semaphore(0)
        began = time.perf_counter()

        def listener(index: int) -> Callable[[ImageEvent], None]:
            def end(event: ImageEvent) -> None:
                latencies[index] = time.perf_counter() - began - arrivals[index].time_s
                done.release()

            return end

        for index, arrival in enumerate(arrivals):
            time.sleep(max(0.0, arrival.time_s - (time.perf_counter() - began)))
            solver, guidance = settings[id(arrival.kind)]
            bundle = self._bundles[arrival.kind.model]
            request = Request.of(bundle, PROMPT, seed=index, table=solver, guidance=guidance)
            self.engine.submit_images(
                ImageOrder(
                    model=arrival.kind.model,
                    requests=[request],
                    deadline_s=float("inf"),
                    watched_rows=frozenset(),
                    listener=listener(index),
                )
            )
        for _ in arrivals:
            done.acquire()
        return latencies


def under_load(ways: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Latencies at the load, by way; rounds alternate."""
    rng = np.random.default_rng(options.seed)
    arrivals: list[Arrival] = []
    latencies: dict[str, list[float]] = {name: [] for name in POLICIES}
    for _ in range(options.rounds):
        # Anew in each round: other work on the machine comes and goes. The last of arrivals at one
        # time ends when all are done.
        alone = max(ways["first come"].run(poisson(rng, KINDS, 1e9, _CALIBRATION)))
        rate = options.load * _CALIBRATION / alone
        print(f"one by one: {_CALIBRATION / alone:.2f} images/s; arrivals: {rate:.2f} images/s")
        round_arrivals = poisson(rng, KINDS, rate, options.images)
        arrivals += round_arrivals
        for name in POLICIES:
            latencies[name] += ways[name].run(round_arrivals)
    return {name: summary(arrivals, values) for name, values in latencies.items()}


def throughput(options: argparse.Namespace) -> list[dict[str, float]]:
    """Images a second of CPU time where all come at once, by way, in each round.

    CPU time, because other work on the machine hardly changes it. A process for each round, and
    another way first in each: where a process has its arrays in memory makes its calls up to 4%
    faster or slower to its end.
    """
    rounds = []
    for index in range(options.rounds):
        command = [sys.executable, __file__, "--part", "burst", "--first", str(index)]
        command += ["--burst", str(options.burst), "--seed", str(options.seed + index)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    return rounds


def burst(ways: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """One round of ``throughput``."""
    arrivals = poisson(np.random.default_rng(options.seed), KINDS, 1e9, options.burst)
    names, rates = list(POLICIES), {}
    first = options.first % len(names)
    for name in names[first:] + names[:first]:
        began = time.process_time()
        ways[name].run(arrivals)
        rates[name] = len(arrivals) / (time.process_time() - began)
    return rates


def throughput_table(rounds: Sequence[dict[str, float]]) -> str:
    """Medians of the rounds, and of each round's ratio to static batches."""
    rates = {name: statistics.median(each[name] for each in rounds) for name in POLICIES}
    ratios = sorted(each["in-flight"] / each["static"] for each in rounds)
    return "\n".join(
        [
            ", ".join(f"{name} {rate:.2f} images/CPU s" for name, rate in rates.items()),
            f"in-flight to static: {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f} in {len(ratios)} processes)",
        ]
    )


def overhead(bundle: Bundle, runtime: Runtime) -> dict[str, float]:
    """Median milliseconds of an embedding in the library and from the server, in pairs."""
    pairs = []
    with Served() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for index in range(_PAIRS):
            # Not in a cache of either.
            text = f"{TEXTS[index % 3]} {index}"
            began = time.perf_counter()
            m.embed(bundle, runtime, text).pooled()
            between = time.perf_counter()
            ask(connection, text)
            pairs.append((between - began, time.perf_counter() - between))
    library, served = (1e3 * statistics.median(values) for values in zip(*pairs, strict=True))
    extra = 1e3 * statistics.median(there - here for here, there in pairs)
    return {"library_ms": library, "server_ms": served, "overhead_ms": extra}


def cold_starts() -> list[float]:
    """Seconds from a cold ``minit2i serve demo`` to the first embedding."""
    seconds = []
    for _ in range(_COLD_STARTS):
        began = time.perf_counter()
        with Served() as server:
            ask(http.client.HTTPConnection("127.0.0.1", server.port), PROMPT)
            seconds.append(time.perf_counter() - began)
    return seconds


class Served:
    """``minit2i serve demo`` in a process of its own."""

    def __enter__(self) -> Served:
        command = [sys.executable, "-m", "minit2i_deploy", "serve", "demo", "--port", "0"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        address = re.search(r":(\d+)$", self._process.stderr.readline())
        assert address is not None, "the server did not start"
        self.port = int(address[1])
        # Its log must not fill the pipe.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()


def ask(connection: http.client.HTTPConnection, text: str) -> None:
    """One embedding."""
    body = json.dumps({"input": text, "encoding_format": "base64"})
    connection.request("POST", "/v1/embeddings", body)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=200, help="arrivals a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--burst", type=int, default=40, help="images at once, of the throughput")
    parser.add_argument("--load", type=float, default=0.8, help="share of one by one's capacity")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--part", choices=PARTS, default="all")
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(machine_line(describe_machine()))
    # As minit2i serve does.
    set_up_heap()
    bundles = {model: Bundle.open(m.ready_bundle(name)) for model, name in NAMES.items()}
    if options.part in ("all", "latency"):
        with opened_ways(bundles, options.threads) as ways:
            print(table(under_load(ways, options)), flush=True)
    if options.part in ("all", "throughput"):
        print(throughput_table(throughput(options)), flush=True)
    if options.part == "burst":
        # One thread: more would wait for each other, which CPU time counts.
        with opened_ways(bundles, 1) as ways:
            print(json.dumps(burst(ways, options)), flush=True)
    if options.part in ("all", "server"):
        with m.open_runtime(bundles["base"], threads=options.threads) as runtime:
            print(json.dumps(overhead(bundles["base"], runtime)))
        print("cold start, s:", " ".join(f"{seconds:.2f}" for seconds in cold_starts()))
    return 0


@contextlib.contextmanager
def opened_ways(bundles: dict[str, Bundle], threads: int) -> Iterator[dict[str, Any]]:
    """The three ways, each with runtimes of its own."""

    def open_runtime(bundle: Bundle, **options: bool) -> Runtime:
        return m.open_runtime(bundle, threads=threads, **options)

    with contextlib.ExitStack() as stack:
        runtimes = {
            model: stack.enter_context(open_runtime(bundle)) for model, bundle in bundles.items()
        }
        # As minit2i serve opens it.
        in_flight = InFlight(bundles, functools.partial(open_runtime, arena=False))
        stack.callback(in_flight.engine.stop, 0.0)
        yield {
            "in-flight": in_flight,
            "first come": OneByOne(bundles, runtimes, 1),
            "static": OneByOne(bundles, runtimes, MAX_BATCH),
        }


if __name__ == "__main__":
    sys.exit(run_script(main))
