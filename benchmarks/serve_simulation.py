"""How long images wait under three ways of serving them, on machines by what their calls cost.

    python benchmarks/serve_simulation.py --machine h200 --load 0.8

In-flight batching is the server's own scheduler. First come first served runs one request after
the other. Static batches run the waiting images of one bundle, table and guidance scale together,
to their end. All three get the same arrivals: an open loop, so that a slow server does not slow its
clients, and every latency counts from the intended arrival.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from minit2i_deploy.serving.scheduling.job import Job
from minit2i_deploy.serving.scheduling.scheduler import Scheduler, SchedulerLimits

# Seconds of a call of so many sequences.
Cost = Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Images that are alike, and may therefore share a static batch.

    Args:
        name: of the group that latencies are reported of: short or long.
        model: bundle.
        branches: of each row, its sequences.
        share: of the arrivals.
    """

    name: str
    model: str
    branches: tuple[int, ...]
    share: float


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One image."""

    time_s: float
    kind: Kind


# Half of the images are a few-step student's, the rest the base model's at three settings.
KINDS: Final = (
    Kind(name="short", model="student", branches=(1,) * 4, share=0.5),
    Kind(name="long", model="base", branches=(2,) * 100, share=0.25),
    Kind(name="long", model="base", branches=(1,) * 30 + (2,) * 50 + (1,) * 20, share=0.15),
    Kind(name="long", model="base", branches=(2,) * 40, share=0.1),
)
# The CPU is the demo model on two cores (measurements/serving.md). The H200 is B/16 in bf16 by the
# roofline of the network: 1.8 ms a guided step, and 12% less for each image in a call of four.
MACHINES: Final[Mapping[str, Cost]] = {
    "cpu": lambda count: 0.0004 + 0.0019 * count,
    "h200": lambda count: 0.00029 + 0.00076 * count,
}
MAX_BATCH: Final = 8


def poisson(
    rng: np.random.Generator, kinds: Sequence[Kind], rate: float, count: int
) -> list[Arrival]:
    """So many arrivals at a mean rate a second."""
    times = np.cumsum(rng.exponential(1 / rate, count))
    indices = rng.choice(len(kinds), count, p=[kind.share for kind in kinds])
    return [Arrival(time_s=float(t), kind=kinds[i]) for t, i in zip(times, indices, strict=True)]


def mean_seconds(kinds: Sequence[Kind], cost: Cost) -> float:
    """Of an image that runs alone."""
    return sum(kind.share * sum(map(cost, kind.branches)) for kind in kinds)


def in_flight(arrivals: Sequence[Arrival], cost: Cost) -> list[float]:
    """Latency of each arrival under the server's scheduler."""
    now = 0.0
    scheduler = Scheduler(SchedulerLimits(max_batch=MAX_BATCH, max_queue=10**9), lambda: now)
    coming, latencies = deque(enumerate(arrivals)), [0.0] * len(arrivals)
    while coming or scheduler.num_live:
        if not scheduler.num_live:
            now = max(now, coming[0][1].time_s)
        while coming and coming[0][1].time_s <= now:
            index, arrival = coming.popleft()
            kind = arrival.kind
            scheduler.submit([Job(model=kind.model, branches=kind.branches, payload=index)])
        batch = scheduler.plan()
        assert batch is not None
        seconds = cost(batch.num_sequences)
        now += seconds
        for job in scheduler.finish(batch, seconds):
            latencies[job.payload] = now - arrivals[job.payload].time_s
    return latencies


def static_batches(arrivals: Sequence[Arrival], cost: Cost, most: int = MAX_BATCH) -> list[float]:
    """Latency of each arrival where those alike that wait run together, ``most`` at once."""
    now, waiting = 0.0, deque[int]()
    coming, latencies = deque(enumerate(arrivals)), [0.0] * len(arrivals)
    while coming or waiting:
        if not waiting:
            now = max(now, coming[0][1].time_s)
        while coming and coming[0][1].time_s <= now:
            waiting.append(coming.popleft()[0])
        kind = arrivals[waiting[0]].kind
        batch = [index for index in waiting if arrivals[index].kind is kind][:most]
        waiting = deque(index for index in waiting if index not in batch)
        now += sum(cost(count * len(batch)) for count in kind.branches)
        for index in batch:
            latencies[index] = now - arrivals[index].time_s
    return latencies


def first_come(arrivals: Sequence[Arrival], cost: Cost) -> list[float]:
    """Latency of each arrival where one request runs after the other."""
    return static_batches(arrivals, cost, most=1)


POLICIES: Final = {"in-flight": in_flight, "first come": first_come, "static": static_batches}


def summary(arrivals: Sequence[Arrival], latencies: Sequence[float]) -> dict[str, dict[str, float]]:
    """Mean and 95% quantile of the latencies in seconds, for each name of a kind."""
    values = np.array(latencies)
    result = {}
    for name in sorted({arrival.kind.name for arrival in arrivals}):
        latencies = values[[arrival.kind.name == name for arrival in arrivals]]
        result[name] = {
            "mean_s": float(latencies.mean()),
            "p95_s": float(np.quantile(latencies, 0.95)),
        }
    return result


def simulate(
    machine: str, load: float, count: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Every policy on the same arrivals; load is the share of what one by one can bear."""
    cost = MACHINES[machine]
    rate = load / mean_seconds(KINDS, cost)
    arrivals = poisson(np.random.default_rng(seed), KINDS, rate, count)
    return {name: summary(arrivals, run(arrivals, cost)) for name, run in POLICIES.items()}


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Latencies in milliseconds as Markdown, and their ratio to first come."""
    lines = [
        "| policy | images | mean, ms | p95, ms | p95 to first come |",
        "|---|---|---|---|---|",
    ]
    for policy, groups in results.items():
        for name, values in groups.items():
            ratio = values["p95_s"] / results["first come"][name]["p95_s"]
            mean, p95 = values["mean_s"] * 1e3, values["p95_s"] * 1e3
            lines.append(f"| {policy} | {name} | {mean:.1f} | {p95:.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--machine", choices=sorted(MACHINES), default="h200")
    parser.add_argument("--load", type=float, default=0.8, help="share of one by one's capacity")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    options = parser.parse_args(arguments)
    results = simulate(options.machine, options.load, options.images, options.seed)
    print(json.dumps(results) if options.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
