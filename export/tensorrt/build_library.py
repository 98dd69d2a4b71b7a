"""`BuildLibrary`: builds with TensorRT and TensorRT-RTX, and the differences between them."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from minit2i_deploy.engines.key import PORTABLE, BuildFlags
from minit2i_deploy.engines.library import Library
from minit2i_deploy.errors import Minit2iError, UsageError

_HARDWARE: Final = {"same-capability": "SAME_COMPUTE_CAPABILITY", "ampere-plus": "AMPERE_PLUS"}


class BuildLibrary(Library):
    """A library with the calls of a build; every difference between the two is in this class."""

    def set_targets(self, config: Any, targets: Sequence[str]) -> None:
        """Set the GPUs that an engine is for.

        Raises:
            UsageError: this library cannot build for that target.
        """
        if not self.is_rtx or tuple(targets) == (PORTABLE,):
            return
        capabilities = self.module.ComputeCapability
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            name = "CURRENT" if target.startswith("native:") else target.upper()
            capability = getattr(capabilities, name, None)
            if capability is None:
                raise UsageError(f"{self.name} {self.version} has no target {target}")
            config.set_compute_capability(capability, index)

    def set_flags(self, config: Any, flags: BuildFlags) -> None:
        """Set the flags of a build.

        Raises:
            UsageError: this library has no such flag.
        """
        if self.is_rtx and (flags.version_compatible or flags.hardware_level != "none"):
            raise UsageError(
                "TensorRT-RTX engines are for one version and their --target GPUs; omit"
                " --version-compatible and --hardware-compatible"
            )
        names = {
            "REFIT": flags.refit,
            "STRIP_PLAN": flags.strip_weights,
            "VERSION_COMPATIBLE": flags.version_compatible,
            "TF32": flags.tf32,
        }
        for name, is_set in names.items():
            flag = getattr(self.module.BuilderFlag, name, None)
            if flag is not None:
                (config.set_flag if is_set else config.clear_flag)(flag)
            elif is_set:
                raise UsageError(f"{self.name} {self.version} has no flag {name}")
        if flags.hardware_level != "none":
            levels = self.module.HardwareCompatibilityLevel
            config.hardware_compatibility_level = getattr(levels, _HARDWARE[flags.hardware_level])
        if flags.workspace_bytes is not None:
            pool = self.module.MemoryPoolType.WORKSPACE
            config.set_memory_pool_limit(pool, flags.workspace_bytes)
        if flags.optimization_level is not None:
            config.builder_optimization_level = flags.optimization_level
        # For the audit; it costs no time at run time.
        config.profiling_verbosity = self.module.ProfilingVerbosity.DETAILED

    def count_attention(self, network: Any) -> int:
        """Attentions of a parsed network, as single layers or as softmax between products."""
        fused = getattr(self.module.LayerType, "ATTENTION_INPUT", None)
        kinds = [network.get_layer(i).type for i in range(network.num_layers)]
        num_fused = 0 if fused is None else kinds.count(fused)
        return num_fused + kinds.count(self.module.LayerType.SOFTMAX)

    def allow_unfused(self, network: Any) -> None:
        """Let several kernels compute an attention for which there is no fused one."""
        fused = getattr(self.module.LayerType, "ATTENTION_INPUT", None)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if fused is not None and layer.type == fused:
                # The bindings return every layer as its base class; this is how they are cast.
                layer.__class__ = self.module.IAttentionInputLayer
                layer.attention.decomposable = True

    def serialize(self, builder: Any, network: Any, config: Any, stream: BinaryIO) -> bool:
        """Build and write the plan, as a stream if the library can; False if it failed.

        Raises:
            Minit2iError: the disk failed or is full.
        """
        if not hasattr(builder, "build_serialized_network_to_stream"):
            plan = builder.build_serialized_network(network, config)
            return plan is not None and bool(stream.write(plan))
        writer = _make_writer(self.module, stream)
        done = builder.build_serialized_network_to_stream(network, config, writer)
        if writer.error is not None:
            raise Minit2iError(
                f"{stream.name}: cannot be written: {writer.error.strerror}; free some space"
            ) from writer.error
        return bool(done)

    def inspect(self, plan: Path, logger: Any) -> str:
        """IEngineInspector's JSON of an engine's layers; empty if this machine cannot load it.

        Args:
            plan: file that holds the engine.
            logger: an ILogger of the library.
        """
        runtime = self.module.Runtime(logger)
        with plan.open("rb") as file:
            # Mapped: the library copies what it needs to the GPU.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            return ""
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(self.module.LayerInformationFormat.JSON))


def _make_writer(module: Any, stream: BinaryIO) -> Any:
    class Writer(module.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IStreamWriter.__init__(self)
            self.error: OSError | None = None

        def write(self, data: Any) -> int:
            # An exception would pass through C++ code that does not expect any.
            try:
                return stream.write(data)
            except OSError as error:
                self.error = error
                return 0

    return Writer()
