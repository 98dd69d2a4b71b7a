"""Largest magnitude of every 16-bit value that a network computes in torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from minit2i_deploy.bundle.manifest import Check

_HALF: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}


class ActivationRange(TorchDispatchMode):
    """While active, the result of every operator is measured: also those inside a module.

    A module's forward hooks alone would miss silu(w1 x) * w3 x, where MM-JiT's values are largest.

    Args:
        modules: their results are named after the submodule that computes them.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0.0
        self.place = "none"
        self._modules = modules
        self._stack: list[str] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> ActivationRange:
        for root in self._modules:
            for name, module in root.named_modules():
                self._hooks += self._track(name, module)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        while self._hooks:
            self._hooks.pop().remove()

    def check(self, precision: str) -> Check:
        """The largest magnitude beside the largest number of the precision."""
        limit = torch.finfo(_HALF[precision]).max
        return Check(
            name="activations",
            measured=self.largest,
            bound=limit,
            unit="largest magnitude",
            where=f"{self.place} in torch {precision}, whose range ends at {limit:g}",
        )

    def _track(self, name: str, module: nn.Module) -> Iterator[Any]:
        # The root's own part of the name is that of the wrapper around the network.
        label = name.partition(".")[2] or name

        def enter(*_: Any) -> None:
            self._stack.append(label)

        def leave(*_: Any) -> None:
            self._stack.pop()

        yield module.register_forward_pre_hook(enter)
        yield module.register_forward_hook(leave)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # A view holds what was measured when it was computed.
        if not func.is_view:
            for value in result if isinstance(result, tuple | list) else (result,):
                self._measure(func, value)
        return result

    def _measure(self, func: Any, value: Any) -> None:
        if not isinstance(value, Tensor) or value.dtype not in _HALF.values() or not value.numel():
            return
        magnitude = float(value.abs().max())
        # NaN follows from an overflow; the first value that is not finite names the place.
        magnitude = math.inf if math.isnan(magnitude) else magnitude
        if magnitude > self.largest:
            module = self._stack[-1] if self._stack else ""
            self.largest, self.place = magnitude, f"{func.__name__.split('.')[0]} of {module}"
