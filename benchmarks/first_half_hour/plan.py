"""Which parts run, in which order, and how long each may take: cheapest truth first."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.first_half_hour.figures import Context

# Part -> module and function. Modules are imported in a part's own process: they need packages
# that only it finds, and a library that crashes then ends that part alone.
PARTS: Final = {
    "machine": ("device_parts", "machine"),
    "products": ("device_parts", "products"),
    "attention": ("device_parts", "attention"),
    "bandwidth": ("device_parts", "bandwidth"),
    "fill": ("torch_parts", "fill_bundle"),
    "reference": ("torch_parts", "reference"),
    "eager": ("torch_parts", "eager"),
    "compiled": ("torch_parts", "compiled"),
    "compile-modes": ("torch_parts", "compile_modes"),
    "one-graph": ("torch_parts", "one_graph"),
    "profile": ("torch_parts", "profile"),
    "proof": ("onnxruntime_parts", "proof"),
    "plain": ("onnxruntime_parts", "plain"),
    "recorded": ("onnxruntime_parts", "recorded"),
    "turns": ("onnxruntime_parts", "turns"),
    "encoder": ("onnxruntime_parts", "encoder"),
    "gpu-tests": ("onnxruntime_parts", "gpu_tests"),
}


def find_part(name: str) -> Callable[[Context], None]:
    """The function of one of PARTS."""
    module, function = PARTS[name]
    part: Callable[[Context], None] = getattr(
        importlib.import_module(f"benchmarks.first_half_hour.{module}"), function
    )
    return part


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One part on one bundle.

    Args:
        part: of PARTS.
        limit_s: it is ended after so many seconds.
        bundle: name of the bundle, or None for parts without one.
    """

    part: str
    limit_s: float
    bundle: str | None = None

    @property
    def name(self) -> str:
        """Unique in a plan."""
        return self.part if self.bundle is None else f"{self.part} {self.bundle}"


_DEVICE: Final = (("machine", 60), ("products", 60), ("attention", 60), ("bandwidth", 30))
# The first bundle in depth; the others where precision or size makes a difference.
_FIRST: Final = (
    ("fill", 60), ("reference", 90), ("eager", 60), ("proof", 60), ("plain", 90),
    ("recorded", 120), ("turns", 90), ("encoder", 60), ("one-graph", 240),
)  # fmt: skip
_OTHERS: Final = (
    ("fill", 120), ("reference", 90), ("eager", 60), ("recorded", 120),
)  # fmt: skip
_LAST: Final = (("compiled", 240), ("profile", 60), ("gpu-tests", 240), ("compile-modes", 420))


def make_plan(bundles: Sequence[str]) -> list[Task]:
    """Tasks in their order.

    Args:
        bundles: names; the first one is measured in every way.
    """
    tasks = [Task(part=part, limit_s=limit) for part, limit in _DEVICE]
    for index, bundle in enumerate(bundles):
        parts = _OTHERS if index else _FIRST
        tasks += [Task(part=part, limit_s=limit, bundle=bundle) for part, limit in parts]
    if bundles:
        tasks += [Task(part=part, limit_s=limit, bundle=bundles[0]) for part, limit in _LAST]
    return tasks
