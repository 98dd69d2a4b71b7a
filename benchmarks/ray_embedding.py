"""CPU time of embedding on two Ray nodes against one process, the same blocks in both.

    python benchmarks/ray_embedding.py BUNDLE --make          # in an environment with export
    python benchmarks/ray_embedding.py BUNDLE --texts 10000   # in one with ray[data]

Both nodes are on this machine. What is compared is processor time, that of all of Ray's processes
with it: the encoders share the cores, so wall time would say nothing. Every process is read from
/proc five times a second, and counts from its start; at most the last fifth of a second of each is
missing. The files must be equal to the byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.evaluation.bench.stages import short_texts
from minit2i_deploy.machine import describe_machine, machine_line

MAX_RATIO: Final = 1.15
# FLAN-T5-Base's encoder: 12 layers of 768.
_BASE: Final = (768, 12, 8192)
_NODE: Final = {"num_cpus": 4, "object_store_memory": 120_000_000}
_EMBEDDER: Final = "EmbedBlocks"
_POLL_S: Final = 0.2
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(kw_only=True, slots=True)
class ProcessTimes:
    """Processor seconds of a process and of all that descend from it.

    Args:
        root: its pid.
        seconds: (pid, start) -> what the process took until it was last seen.
        names: (pid, start) -> its last command line.
    """

    root: int
    seconds: dict[tuple[int, int], float] = field(default_factory=dict)
    names: dict[tuple[int, int], str] = field(default_factory=dict)

    def read(self) -> None:
        """Read all of them once; one that its parent left behind still counts."""
        parents, stats = {}, {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                values = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                command = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:  # it has ended
                continue
            pid, used = int(name), (int(values[11]) + int(values[12])) / _TICK
            parents[pid] = int(values[1])
            stats[pid, int(values[19])] = used, command.decode(errors="replace")
        for key, (used, command) in stats.items():
            if key in self.seconds or self._descends(key[0], parents):
                self.seconds[key], self.names[key] = used, command or self.names.get(key, "")

    def total(self, part: str = "") -> float:
        """Seconds of the processes whose command line has ``part``."""
        return sum(used for key, used in self.seconds.items() if part in self.names[key])

    def _descends(self, pid: int, parents: dict[int, int]) -> bool:
        while pid > 1:
            if pid == self.root:
                return True
            pid = parents.get(pid, 0)
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; exits 1 if Ray takes more than MAX_RATIO times the time."""
    options = _parse(arguments)
    if options.make:
        _make_bundle(options.bundle)
        return 0
    if options.child is not None:
        _embed_on_ray(options.bundle, options.child, options.block)
        return 0
    with tempfile.TemporaryDirectory(prefix="minit2i-ray-") as name:
        folder = Path(name)
        texts = short_texts(2 * options.texts)
        pairs = zip(texts[::2], texts[1::2], strict=True)
        (folder / "texts.txt").write_text("".join(f"{a}, {b}\n" for a, b in pairs))
        one = _one_process(options, folder)
        times, empty_s = _two_nodes(options, folder), _idle_cluster(options)
        equal = _digests(folder / "one.parquet.shards") == _digests(folder / "ray.parquet.shards")
    ratio = times.total() / one
    print(_table(one, times, empty_s))
    print(f"ratio {ratio:.3f}, at most {MAX_RATIO}; files equal: {equal}")
    print(machine_line(describe_machine()))
    return int(ratio > MAX_RATIO or not equal)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CPU time of embedding on Ray.")
    parser.add_argument("bundle", type=Path, help="whose text encoder embeds")
    parser.add_argument("--make", action="store_true", help="write BUNDLE with a random encoder")
    parser.add_argument("--texts", type=int, default=10_000, help="default: 10000")
    parser.add_argument("--block", type=int, default=256, help="texts of a block; default: 256")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _make_bundle(target: Path) -> None:
    import dataclasses

    from random_release import TINY, write_release

    from minit2i_deploy.export import ExportOptions, export_bundle

    width, num_layers, vocabulary = _BASE
    with tempfile.TemporaryDirectory(prefix="minit2i-ray-") as name:
        release = Path(name) / "release"
        config = dataclasses.replace(TINY, txt_input_size=width)
        write_release(release, config, num_layers, vocabulary)
        options = ExportOptions(text_encoder=release / "text_encoder", precision="fp32")
        export_bundle(release / "transformer", target, options)


def _one_process(options: argparse.Namespace, folder: Path) -> float:
    """Seconds of `minit2i embed` in one thread, its start and its end included."""
    words = ("embed", options.bundle, "-i", folder / "texts.txt", "-o", folder / "one.parquet")
    settings = ("--pooled-only", "--window", options.block, "--threads", 1, "--shard", "0/1")
    command = [sys.executable, "-m", "minit2i_deploy", *words, *settings]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _two_nodes(options: argparse.Namespace, folder: Path) -> ProcessTimes:
    return _watched([str(options.bundle), "--child", str(folder), "--block", str(options.block)])


def _idle_cluster(options: argparse.Namespace) -> float:
    """Seconds of the same cluster and actors without a block to make."""
    with tempfile.TemporaryDirectory(prefix="minit2i-ray-") as name:
        Path(name, "texts.txt").write_text("a\n")
        return _watched([str(options.bundle), "--child", name]).total()


def _watched(arguments: Sequence[str]) -> ProcessTimes:
    """Times of this script and of all that it starts, run with the arguments."""
    with subprocess.Popen([sys.executable, __file__, *arguments], stdout=sys.stderr) as process:
        times, over = ProcessTimes(root=process.pid), threading.Event()

        def watch() -> None:
            while not over.wait(_POLL_S):
                times.read()

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        time.sleep(2 * _POLL_S)
        over.set()
        watcher.join()
    if code:
        raise SystemExit(f"the run on Ray failed with exit code {code}")
    return times


def _embed_on_ray(bundle: Path, folder: Path, block_lines: int) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from minit2i_deploy.runtimes.ray_data import EmbedBlocks, EmbedTask, WorkerRuntime
    from minit2i_deploy.text.embedding_files import Contents

    cluster = Cluster()
    cluster.add_node(**_NODE, include_dashboard=False)
    cluster.add_node(**_NODE)
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    task = EmbedTask(
        worker=WorkerRuntime(bundle=str(bundle), options={"threads": 1}),
        texts=str(folder / "texts.txt"),
        output=str(folder / "ray.parquet"),
        contents=Contents(tokens=False, pooled=True, lines=True),
        block_lines=block_lines,
    )
    job, _ = task.plan()
    actors: dict[str, Any] = {"compute": ray.data.ActorPoolStrategy(size=2), "num_cpus": 3}
    blocks = ray.data.range(job.num_blocks, override_num_blocks=job.num_blocks)
    blocks.map_batches(
        EmbedBlocks, fn_constructor_args=(task,), batch_size=1, **actors
    ).materialize()
    print(json.dumps({"alive": sum(node["Alive"] for node in ray.nodes())}))
    ray.shutdown()
    cluster.shutdown()


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _table(one: float, times: ProcessTimes, empty_s: float) -> str:
    rows = [
        ("one process", one),
        ("two nodes", times.total()),
        ("of it the two workers", times.total(_EMBEDDER)),
        ("the same cluster for one text", empty_s),
    ]
    lines = ["| | CPU, s | times one process |", "|---|---|---|"]
    lines += [f"| {name} | {used:.1f} | {used / one:.3f} |" for name, used in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
