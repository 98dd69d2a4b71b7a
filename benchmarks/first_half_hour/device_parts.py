"""What the machine is, and what it reaches at the network's own sizes."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks.first_half_hour.figures import Context

_PACKAGES: Final = (
    "torch", "triton", "numpy", "onnxruntime", "onnxruntime-gpu", "cuda-bindings", "jaxtyping",
    "tokenizers", "nvidia-cudnn-cu13", "nvidia-cublas",
)  # fmt: skip
_QUERY: Final = (
    "name,driver_version,clocks.sm,clocks.max.sm,power.limit,memory.total,memory.used,"
    "temperature.gpu"
)
# Rows, inputs and outputs of B/16's products at batch 2: image and text streams.
PRODUCTS: Final = (
    *((rows, inputs, outputs)
      for inputs, outputs in ((768, 2304), (768, 768), (768, 2048), (768, 4096), (2048, 768))
      for rows in (2048, 512)),
    (8192, 8192, 8192),
)  # fmt: skip
# Heads and their width: B/16, L/16 as it is and padded for flash kernels.
HEADS: Final = ((12, 64), (24, 52), (24, 56))
_TOKENS: Final = 1280
_TOY: Final = 16
_REPEATS: Final = 30


def machine(context: Context) -> None:
    """Packages, the GPU as nvidia-smi and torch name it, its clocks."""
    context.measure("packages", _versions)
    if shutil.which("nvidia-smi"):
        context.measure("nvidia-smi", _nvidia_smi)
    context.measure("torch", lambda: _torch_facts(context))


def products(context: Context) -> None:
    """TFLOP/s of the network's matrix products."""
    import torch

    for dtype in (torch.bfloat16, torch.float16):
        for sizes in PRODUCTS:
            rows, inputs, outputs = (size if context.on_gpu else size // _TOY for size in sizes)
            a = torch.randn(rows, inputs, device=context.device, dtype=dtype)
            weight = torch.randn(outputs, inputs, device=context.device, dtype=dtype)
            flop = 2 * rows * inputs * outputs
            name = f"{str(dtype).removeprefix('torch.')} {rows}x{inputs}x{outputs}"
            context.measure(
                name,
                lambda a=a, weight=weight, flop=flop: rate(
                    context, lambda: torch.nn.functional.linear(a, weight), flop
                ),
            )


def attention(context: Context) -> None:
    """TFLOP/s of attention with each of torch's back ends."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    tokens = _TOKENS if context.on_gpu else _TOKENS // _TOY
    backends = (
        None, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
    )  # fmt: skip
    for heads, width in HEADS:
        size = (2, heads, tokens, width)
        qkv = [torch.randn(size, device=context.device, dtype=torch.bfloat16) for _ in range(3)]
        for backend in backends:

            def attend(backend: Any = backend, qkv: Any = qkv) -> Any:
                if backend is None:
                    return torch.nn.functional.scaled_dot_product_attention(*qkv)
                with sdpa_kernel(backend):
                    return torch.nn.functional.scaled_dot_product_attention(*qkv)

            name = "torch's choice" if backend is None else backend.name.lower()
            flop = 2 * 4 * tokens**2 * heads * width
            context.measure(
                f"{heads}x{width} {name}",
                lambda attend=attend, flop=flop: rate(context, attend, flop),
            )


def bandwidth(context: Context) -> None:
    """GB/s of copies on the device and from the host."""
    import torch

    num_bytes = 2**31 if context.on_gpu else 2**20
    source = torch.empty(num_bytes, device=context.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    context.measure("device, read and write", lambda: _gbytes(context, target, source, 2))
    host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=context.on_gpu)
    context.measure("from pinned memory", lambda: _gbytes(context, target, host, 1))


def rate(context: Context, call: Callable[[], object], flop: float) -> dict[str, float]:
    """Microseconds of a call and its TFLOP/s."""
    seconds = _seconds(context, call)
    return {"us": round(seconds * 1e6, 2), "tflops": round(flop / seconds / 1e12, 2)}


def _seconds(context: Context, call: Callable[[], object]) -> float:
    """Of one of many calls that follow one another on the device."""
    import torch

    for _ in range(5):
        call()
    if not context.on_gpu:
        began = time.perf_counter()
        for _ in range(_REPEATS):
            call()
        return (time.perf_counter() - began) / _REPEATS
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(_REPEATS):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / _REPEATS / 1e3


def _gbytes(context: Context, target: Any, source: Any, times: int) -> float:
    seconds = _seconds(context, lambda: target.copy_(source, non_blocking=True))
    return round(times * source.numel() / seconds / 1e9, 1)


def _versions() -> dict[str, str]:
    result = {}
    for name in _PACKAGES:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result


def _nvidia_smi() -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(_QUERY.split(","), map(str.strip, done.stdout.split(",")), strict=False))


def _torch_facts(context: Context) -> dict[str, Any]:
    import torch

    facts = {"version": torch.__version__, "cuda": torch.version.cuda}
    if not context.on_gpu:
        return facts
    device = torch.cuda.get_device_properties(context.device)
    return facts | {
        "device": device.name,
        "capability": f"{device.major}.{device.minor}",
        "processors": device.multi_processor_count,
        "memory_gb": round(device.total_memory / 1e9, 1),
        "cudnn": torch.backends.cudnn.version(),
        "bf16": torch.cuda.is_bf16_supported(),
    }
