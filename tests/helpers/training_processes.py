"""Training in several gloo processes, started from a server that has loaded torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PATIENCE_S = 120
# What a run loads in the end; loading it takes far longer than the runs here.
PRELOADED = [
    "minit2i_deploy.training.trainer",
    "torch._dynamo",
    "tests.helpers.training_runs",
    "transformers.models.t5.modeling_t5",
]


def in_processes(count: int, work: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Run ``work(index, *arguments)`` in so many joined processes.

    Returns:
        their exit codes, negative for a signal.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    members = [
        context.Process(target=_joined, args=(index, count, port, work, arguments))
        for index in range(count)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join(PATIENCE_S)
        if member.is_alive():
            member.kill()
            member.join()
    return [member.exitcode for member in members]


def losses_of(folder: Path) -> list[float]:
    """What ``trained`` left of a run, from all its processes that lived."""
    text = (folder / "losses.txt").read_text("utf-8")
    losses = dict(line.split() for line in text.splitlines())
    return [float.fromhex(losses[step]) for step in sorted(losses, key=int)]


def trained(index: int, runs: Sequence[tuple[Path, dict[str, Any]]], num_steps: int) -> None:
    """Train so many steps of each run, one after the other, and save the last state."""
    for folder, changes in runs:
        trainer = _trainer(folder, changes)
        for data in trainer.source.read(num_steps - trainer.step):
            _step(trainer, folder, data)
        trainer.save()


def killed(
    index: int, folder: Path, changes: dict[str, Any], saved: int, done: int, halfway: bool
) -> None:
    """Save after step ``saved`` and be killed, all processes alike, after step ``done``.

    ``halfway`` is in the next step, when its gradients are there and nothing is updated.
    """
    trainer = _trainer(folder, changes)
    for data in trainer.source.read(trainer.recipe.steps):
        _step(trainer, folder, data)
        if trainer.step == saved:
            trainer.save()
        if trainer.step == done and halfway:
            trainer.optimizers.step = _kill
        elif trainer.step == done:
            _kill()


def _kill(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _trainer(folder: Path, changes: dict[str, Any]) -> Any:
    from minit2i_deploy.training.trainer import Trainer
    from tests.helpers.training_runs import tiny_recipe

    return Trainer(tiny_recipe(**changes), folder)


def _step(trainer: Any, folder: Path, data: Any) -> None:
    loss = trainer.train_step(data)
    if trainer.processes.is_first:
        folder.mkdir(exist_ok=True)
        with open(folder / "losses.txt", "a", encoding="utf-8") as stream:
            stream.write(f"{trainer.step} {loss.hex()}\n")


def _joined(
    index: int, count: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    import torch

    os.environ |= {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    work(index, *arguments)
    torch.distributed.destroy_process_group()
