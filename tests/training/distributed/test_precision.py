"""Processors with and without bf16 instructions: what is computed in which type."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minit2i_deploy.errors import PrecisionWarning
from minit2i_deploy.training.distributed import precision as module
from minit2i_deploy.training.distributed.precision import (
    has_native_bf16,
    matrix_dtype,
    resolve_precision,
)
from minit2i_deploy.training.learner import Learner
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import assert_same_state, step_data, tiny_recipe

CPU = torch.device("cpu")
PROCESSORS = {
    "AVX2": ("flags : sse2 avx avx2 fma", False, False),
    "AVX-512 without bf16": ("flags : avx2 avx512f avx512_vnni", False, False),
    "AVX-512 with bf16": ("flags : avx2 avx512f avx512_bf16", True, True),
    "ARM": ("Features : fp asimd", False, False),
    "ARM with bf16": ("Features : fp asimd bf16 i8mm", False, True),
    "unknown": ("", False, False),
}


def pretend(monkeypatch: pytest.MonkeyPatch, cpuinfo: str, avx512_bf16: bool) -> None:
    """Make the detector see this processor."""
    monkeypatch.setattr(module, "read_cpuinfo", lambda: cpuinfo)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


class DtypeRecorder(TorchDispatchMode):
    """Records the types of all tensors that operations take."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None
    ) -> Any:
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs or {}))
        self.dtypes |= {value.dtype for value in flat if isinstance(value, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_are_told_apart_by_their_features(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo, avx512_bf16, expected = PROCESSORS[name]
    pretend(monkeypatch, cpuinfo, avx512_bf16)
    assert has_native_bf16(CPU) == expected
    assert matrix_dtype(CPU) == (torch.bfloat16 if expected else torch.float32)
    resolved = resolve_precision(tiny_recipe(precision="auto"), CPU)
    assert resolved.precision == ("bf16" if expected else "fp32")


def test_amx_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "", avx512_bf16=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert has_native_bf16(CPU)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_without_bf16_instructions_a_step_computes_nothing_in_bf16(
    optimizer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, *PROCESSORS["AVX2"][:2])
    trainer = Trainer(tiny_recipe(precision="auto", optimizer=optimizer), tmp_path)
    with DtypeRecorder() as recorder:
        trainer.train_step(step_data(trainer.recipe, 0))
    assert torch.float32 in recorder.dtypes and torch.bfloat16 not in recorder.dtypes


def test_with_bf16_instructions_a_step_uses_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, *PROCESSORS["AVX-512 with bf16"][:2])
    trainer = Trainer(tiny_recipe(precision="auto", optimizer="muon"), tmp_path)
    with DtypeRecorder() as recorder:
        trainer.train_step(step_data(trainer.recipe, 0))
    assert torch.bfloat16 in recorder.dtypes


def test_emulated_bf16_is_used_if_requested_and_warned_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, *PROCESSORS["AVX2"][:2])
    with pytest.warns(PrecisionWarning, match="bf16, which this processor emulates"):
        assert resolve_precision(tiny_recipe(precision="bf16"), CPU).precision == "bf16"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_precision(tiny_recipe(precision="fp32"), CPU).precision == "fp32"
        pretend(monkeypatch, *PROCESSORS["AVX-512 with bf16"][:2])
        resolve_precision(tiny_recipe(precision="bf16"), CPU)


def test_a_run_records_the_precision_it_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, *PROCESSORS["AVX2"][:2])
    Trainer(tiny_recipe(precision="auto", steps=2), tmp_path / "auto").run()
    assert '"precision": "fp32"' in (tmp_path / "auto" / "recipe.json").read_text("utf-8")
    Trainer(tiny_recipe(precision="fp32", steps=2), tmp_path / "fp32").run()
    assert_same_state(tmp_path / "auto" / "step-000002", tmp_path / "fp32" / "step-000002")
    assert Learner(tiny_recipe(precision="auto"), "run").recipe.precision == "fp32"
