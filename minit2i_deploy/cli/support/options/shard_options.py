"""--shard: which part of a job this process does, also as cluster schedulers say it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.shards.shard import Shard

AUTO: Final = "auto"
_HELP: Final = (
    "do part K of N of the work, K from 0; with auto as the variables of torchrun, srun, SLURM "
    "arrays or Kubernetes indexed jobs say, with auto/N as their index of N; N may change between "
    "runs"
)
_ARRAY: Final = "SLURM_ARRAY_TASK"
_COMPLETION: Final = "JOB_COMPLETION_INDEX"


def add_shard(parser: argparse.ArgumentParser) -> None:
    """--shard."""
    parser.add_argument("--shard", metavar="K/N", help=_HELP)


def shard_of_option(text: str) -> Shard:
    """The shard that --shard names; one that the environment names is printed to stderr.

    Raises:
        UsageError: another form, a shard beyond the last, or variables that are missing.
    """
    if text.partition("/")[0] != AUTO:
        return Shard.parse(text)
    shard, names = shard_of_environment(os.environ, _count(text))
    sys.stderr.write(f"minit2i: shard {shard} ({', '.join(names)})\n")
    return shard


def shard_of_environment(
    environment: Mapping[str, str], count: int | None = None
) -> tuple[Shard, list[str]]:
    """The shard of this process, and the variables that it was read from.

    A process of torchrun or srun inside a task of an array is a part of that task's part.

    Args:
        environment: of the process.
        count: of the tasks of the array or job, in place of what the environment says.

    Raises:
        UsageError: no such variable, one that is no number, or an index beyond the count.
    """
    outer, inner = _task(environment, count), _process(environment)
    if outer is None and inner is None:
        raise UsageError(
            "--shard auto: none of RANK, SLURM_STEP_NUM_TASKS, SLURM_ARRAY_TASK_ID and "
            "JOB_COMPLETION_INDEX is set; write --shard K/N"
        )
    if outer is None and count is not None:
        raise UsageError(
            f"--shard auto/{count}: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set; "
            "write --shard auto, or K/N"
        )
    if outer is None or inner is None:
        single = outer or inner
        assert single is not None
        return single
    return inner[0].within(outer[0]), outer[1] + inner[1]


def _count(text: str) -> int | None:
    if text == AUTO:
        return None
    number = text.removeprefix(f"{AUTO}/")
    if not number.isascii() or not number.isdigit() or int(number) < 1:
        raise UsageError(f"--shard {text}: expected {AUTO} or {AUTO}/N with N of 1 or more")
    return int(number)


def _task(environment: Mapping[str, str], count: int | None) -> tuple[Shard, list[str]] | None:
    """Which task of a SLURM array or of a Kubernetes indexed job this is."""
    if f"{_ARRAY}_ID" in environment:
        return _array_task(environment, count)
    if _COMPLETION not in environment:
        return None
    if count is None:
        raise UsageError(
            f"--shard auto: {_COMPLETION} is set, but no variable has the job's number of "
            "completions; write --shard auto/N"
        )
    index = _number(environment, _COMPLETION)
    return Shard(index=index, count=count), [_COMPLETION]


def _array_task(environment: Mapping[str, str], count: int | None) -> tuple[Shard, list[str]]:
    index = _number(environment, f"{_ARRAY}_ID")
    if count is not None:
        return Shard(index=index, count=count), [f"{_ARRAY}_ID"]
    names = [f"{_ARRAY}_{part}" for part in ("ID", "MIN", "STEP", "COUNT")]
    first, step = _number(environment, names[1]), _number(environment, names[2], default=1)
    total = _number(environment, names[3])
    place, rest = divmod(index - first, max(step, 1))
    if rest or not 0 <= place < total:
        raise UsageError(
            f"--shard auto: task {index} of an array that is no range ({total} tasks from {first} "
            f"in steps of {step}); write --shard auto/N with the N of the first submission"
        )
    return Shard(index=place, count=total), [name for name in names if name in environment]


def _process(environment: Mapping[str, str]) -> tuple[Shard, list[str]] | None:
    """Which process of torchrun or of srun this is."""
    # The count of a job is also set where no srun runs; that of a step only under srun.
    for index, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if index in environment and count in environment:
            rank, size = _number(environment, index), _number(environment, count)
            return Shard(index=rank, count=size), [index, count]
    return None


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit():
        problem = "is not set" if text is None else f"is {text!r}, expected a number"
        raise UsageError(f"--shard auto: {name} {problem}; write --shard K/N")
    return int(text)
