"""Embed and generate on a cluster of two nodes, one of which is removed in the middle."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.evaluation.benchmarks.generate_suite import SuiteRun
from minit2i_deploy.evaluation.benchmarks.items import read_items
from minit2i_deploy.evaluation.benchmarks.official_settings import official_settings
from minit2i_deploy.evaluation.benchmarks.suites import find_suite
from minit2i_deploy.runtimes.ray_data import (
    EmbedBlocks,
    EmbedTask,
    EmbedTexts,
    PaintBlocks,
    PaintPrompts,
    WorkerRuntime,
)
from minit2i_deploy.shards.check import job_status
from minit2i_deploy.shards.job import job_folder
from minit2i_deploy.text.embedding_files import Contents

DEADLINE_S = 300
ATTEMPTS = 4
# Tasks besides the actors need logical CPUs as well, or nothing moves.
NODE = {"num_cpus": 4, "object_store_memory": 120_000_000}


def remove_after(cluster: Cluster, node: object, folder: Path, blocks: int) -> threading.Thread:
    """Remove a node once so many blocks are done."""

    def watch() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if len(list((folder / "_blocks").glob("*.done"))) >= blocks:
                cluster.remove_node(node, allow_graceful=False)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def start_cluster() -> tuple[Cluster, object]:
    """A head and a second node; Ray gives up after 30 s, which a busy machine may need twice."""
    for attempt in range(ATTEMPTS):
        cluster = Cluster()
        try:
            cluster.add_node(**NODE, include_dashboard=False)
            return cluster, cluster.add_node(**NODE)
        except Exception:
            cluster.shutdown()
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt raises")


def main(bundle: str, texts: str, prompts: str, out: str) -> None:
    """Write out/vectors.parquet.shards, out/images, out/rows and out/tars; print the counts."""
    cluster, node = start_cluster()
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    actors = {"compute": ray.data.ActorPoolStrategy(size=2), "num_cpus": 3, "batch_size": 1}
    worker = WorkerRuntime(bundle=bundle, options={"threads": 1})

    contents = Contents(tokens=False, pooled=True, lines=True)
    task = EmbedTask(
        worker=worker, texts=texts, output=f"{out}/vectors.parquet", contents=contents,
        block_lines=256,
    )  # fmt: skip
    job, _ = task.plan()
    removal = remove_after(cluster, node, task.folder, blocks=3)
    blocks = ray.data.range(job.num_blocks, override_num_blocks=job.num_blocks)
    done = blocks.map_batches(EmbedBlocks, fn_constructor_args=(task,), **actors).take_all()
    removal.join(DEADLINE_S)
    status = job_status(task.folder, hashes=True)
    num_nodes = sum(each["Alive"] for each in ray.nodes())

    actors["compute"] = ray.data.ActorPoolStrategy(size=1)
    opened, suite = Bundle.open(bundle), find_suite("folder")
    table, guidance = opened.preset("fast")
    run = SuiteRun(
        bundle=opened, suite=suite, items=read_items(suite, Path(prompts)), table=table,
        guidance=guidance, official=official_settings(opened, "folder"), num_samples=1,
        block_items=2, engine={"engine": "onnxruntime", "tf32": False},
    )  # fmt: skip
    images = ray.data.range(run.job().num_blocks)
    images.map_batches(
        PaintBlocks, fn_constructor_args=(worker, run, f"{out}/images"), **actors
    ).materialize()

    lines = Path(texts).read_text().splitlines()[:300]
    actors["batch_size"] = 64
    rows = ray.data.from_items([{"text": line} for line in lines])
    rows.map_batches(EmbedTexts, fn_constructor_args=(worker,), **actors).write_parquet(
        f"{out}/rows"
    )
    numbered = [
        {"__key__": f"{n:04d}", "prompt": line, "seed": n} for n, line in enumerate(lines[:3])
    ]
    pairs = ray.data.from_items(numbered)
    pairs.map_batches(PaintPrompts, fn_constructor_args=(worker,), **actors).write_webdataset(
        f"{out}/tars", encoder=None
    )
    report = {
        "blocks": len({row["id"] for row in done}), "rows": len(done),
        "texts": status.counts["texts"], "complete": status.is_complete, "nodes": num_nodes,
        "images": job_status(job_folder(Path(f"{out}/images")), hashes=True).counts["images"],
    }  # fmt: skip
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
