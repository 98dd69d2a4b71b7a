"""A run's steps take no memory from the system that an earlier step gave back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minit2i_deploy.training import learner
from minit2i_deploy.training.distributed import memory as freed_memory
from minit2i_deploy.training.distributed.memory import retain_freed_memory
from tests.helpers.training_runs import tiny_recipe

# Sixteen blocks of 7 MB, as a step makes gradients: the faults of a later one.
STEPS = """
import resource
from minit2i_deploy.training.distributed.memory import retain_freed_memory
import torch

def step():
    made = [torch.ones(2304, 768) for _ in range(16)]
    while made:
        made.pop(0)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

assert retain_freed_memory()
for _ in range(3):
    step()
before = faults()
step()
print(faults() - before)
"""


def test_a_later_step_takes_no_new_memory() -> None:
    if sys.platform != "linux":  # glibc's malloc has the setting
        assert not retain_freed_memory()
        return
    command = [sys.executable, "-c", STEPS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # Measured 0, and 1728 without the setting: the pages of one block.
    assert int(done.stdout) < 100


def test_a_c_library_without_the_setting_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda _: object())
    assert not retain_freed_memory()
    monkeypatch.setattr(freed_memory.sys, "platform", "win32")
    assert not retain_freed_memory()


def test_a_run_on_a_cpu_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[bool] = []
    monkeypatch.setattr(learner, "retain_freed_memory", lambda: requested.append(True))
    learner.Learner(tiny_recipe(), str(tmp_path))
    assert requested == [True]
