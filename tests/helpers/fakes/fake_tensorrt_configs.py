"""The stand-in's configurations: of plans, contexts and compiled kernels."""

from __future__ import annotations

from tests.helpers.fakes.fake_tensorrt_names import (
    DynamicShapesKernelSpecializationStrategy,
    ExecutionContextAllocationStrategy,
    SerializationFlag,
)


class SerializationConfig:
    """Flags of a plan."""

    def __init__(self) -> None:
        self.flags: set[SerializationFlag] = set()

    def set_flag(self, flag: SerializationFlag) -> bool:
        self.flags.add(flag)
        return True


class JitCache:
    """Kernels that were compiled."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = bytes(blob)
        return True

    def serialize(self) -> bytes:
        return self.content


class RuntimeConfig:
    """What a context of TensorRT is made with."""

    def __init__(self) -> None:
        self.strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self.strategy = strategy


class RtxConfig(RuntimeConfig):
    """What a context of TensorRT-RTX is made with."""

    def __init__(self) -> None:
        super().__init__()
        self.dynamic_shapes_kernel_specialization_strategy = (
            DynamicShapesKernelSpecializationStrategy.LAZY
        )
        self.cache: JitCache | None = None

    def create_runtime_cache(self) -> JitCache:
        return JitCache()

    def set_runtime_cache(self, cache: JitCache) -> bool:
        self.cache = cache
        return True
