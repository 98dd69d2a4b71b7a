"""A bundle with fake engines on a fake GPU, and the settings that a image is generated with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import GRAPHS
from minit2i_deploy.engines.cache import (
    BuildFlags,
    CachedEngine,
    EngineKey,
    native_target,
    write_engine,
)
from minit2i_deploy.engines.sidecar import NO_AUDIT
from minit2i_deploy.runtimes.tensorrt.runtime import TensorRtRtxRuntime, TensorRtRuntime
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.fakes.fake_cuda import FakeCuda
from tests.helpers.fakes.fake_plan import write_plan
from tests.helpers.fakes.fake_tensorrt import FakeTensorRt
from tests.helpers.tiny_bundle import tiny_bundle

TABLE = solver_table("euler", steps=5)
GUIDANCE = 2.5
SCRATCH_BYTES = 4096
SIZES: Mapping[str, tuple[int, int, int]] = {
    "n": (1, 1, 8),
    "tokens": (1, 8, 12),
    "batch": (1, 1, 4),
    "branches": (1, 2, 3),
    "sequences": (1, 2, 12),
}


@dataclass
class Bench:
    """A fake machine, and a bundle whose engines are for it."""

    cuda: FakeCuda
    library: FakeTensorRt
    bundle: Bundle

    def open(self, **options: Any) -> TensorRtRuntime:
        """A runtime on this machine."""
        opener = TensorRtRtxRuntime if self.library.rtx else TensorRtRuntime
        return opener(self.bundle, **options)


def install(patch: pytest.MonkeyPatch, cuda: FakeCuda, library: FakeTensorRt) -> None:
    """Let the package find the fake modules in place of the real ones."""
    patch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    patch.setitem(sys.modules, library.__name__, library)


def make_bench(
    patch: pytest.MonkeyPatch,
    folder: Path,
    *,
    rtx: bool = True,
    cuda: FakeCuda | None = None,
    **engine: Any,
) -> Bench:
    """Copy the tiny bundle and write an engine of each graph."""
    gpu = cuda or FakeCuda()
    library = FakeTensorRt(gpu, rtx=rtx)
    install(patch, gpu, library)
    shutil.copytree(tiny_bundle(), folder, ignore=shutil.ignore_patterns("engines"))
    bundle = Bundle.open(folder)
    for graph in GRAPHS:
        write_fake_engine(bundle, graph, library, **engine)
    return Bench(cuda=gpu, library=library, bundle=bundle)


def start_arrays(
    bundle: Bundle, *, batch: int = 1, branches: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """A start state and tokens: float32 [batch, 3, H, W] and [branches, batch, L, D]."""
    config = bundle.config
    rng = np.random.default_rng(3)
    image = (batch, config.in_channels, config.image_size, config.image_size)
    tokens = (branches, batch, config.num_text_tokens, config.hidden_size)
    return (
        rng.standard_normal(image, dtype=np.float32) * 2,
        rng.standard_normal(tokens, dtype=np.float32),
    )


def no_noise(row: Row) -> None:
    """The noise of tables that draw none."""


def write_fake_engine(
    bundle: Bundle,
    graph: str,
    library: FakeTensorRt,
    *,
    sizes: Mapping[str, tuple[int, int, int]] = SIZES,
    refit: bool = False,
    strip: bool = False,
    tf32: bool = False,
    gpu: tuple[str, int] | None = None,
    scratch: int = SCRATCH_BYTES,
    plan_version: str | None = None,
    extra_profiles: Sequence[Mapping[str, tuple[int, int, int]]] = (),
) -> CachedEngine:
    """Put an engine of one graph into a bundle's cache, as a build on this GPU would."""
    inputs = bundle.manifest.graphs[graph].inputs
    free = {size for info in inputs.values() for size in info.shape if isinstance(size, str)}
    used = {name: values for name, values in sizes.items() if name in free}
    name, capability = gpu or library.cuda.gpus[0]
    key = EngineKey.of(
        bundle,
        graph,
        sizes=used,
        flags=BuildFlags(refit=refit, strip_weights=strip, tf32=tf32),
        library="tensorrt_rtx" if library.rtx else "tensorrt",
        library_version=library.__version__,
        targets=(native_target(capability, name),),
    )
    plan = write_plan(
        {
            "version": plan_version or library.__version__,
            "onnx": str(bundle.graph_path(graph)),
            "profiles": [*extra_profiles, used],
            "scratch": scratch,
            "refit": refit,
            "weights": {},
        }
    )
    return write_engine(bundle, key, plan, audit=NO_AUDIT, build_s=0.1)
