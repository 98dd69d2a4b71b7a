"""Opset, precision and form of attention of a bundle, by where it is to run, and why.

One table, because each line of it was found out on that engine and none follows from another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.errors import UsageError

FUSED: Final = "one Attention node"
DECOMPOSED: Final = "products and softmax"
_FORMS: Final = {23: FUSED, 18: DECOMPOSED}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How to export for a target.

    Args:
        target: one of TARGETS.
        opset: of the graphs; it decides the form of attention.
        precision: of text adapter and denoiser.
        reason: why.
    """

    target: str
    opset: int
    precision: str
    reason: str

    @property
    def attention(self) -> str:
        """FUSED or DECOMPOSED."""
        return _FORMS[self.opset]

    def line(self) -> str:
        """The choice and its reason in one line."""
        chosen = f"opset {self.opset}, {self.precision}, attention as {self.attention}"
        return f"for {self.target}: {chosen} ({self.reason})"


def _choices(target: str, *rows: tuple[str, int, str]) -> dict[str, Choice]:
    return {
        precision: Choice(target=target, opset=opset, precision=precision, reason=reason)
        for precision, opset, reason in rows
    }


# Target -> precision -> choice; the first precision is the one to take unasked.
CHOICES: Final[Mapping[str, Mapping[str, Choice]]] = {
    "cpu": _choices(
        "cpu",
        # 1.94 against 2.09 s and 0.95 against 1.08 GB over three B/16 blocks, onnxruntime 1.32.
        (
            "fp32",
            23,
            "onnxruntime's CPU kernels multiply in fp32, and fused attention takes less time and "
            "memory than its parts",
        ),
        ("fp16", 23, "halves the file; onnxruntime's CPU kernels gain no time from it"),
    ),
    "openvino": _choices(
        "openvino",
        (
            "fp32",
            23,
            "OpenVINO turns fp32 into bf16 itself where --precision bf16 asks for it, so one "
            "bundle serves both",
        ),
        ("fp16", 23, "halves the file; OpenVINO computes in fp32 or bf16 all the same"),
    ),
    "cuda": _choices(
        "cuda",
        # Flash kernels: 16 bit, compute capability 8.0, head width a multiple of 8 (L/16 has 52).
        (
            "fp16",
            23,
            "flash attention needs a 16-bit Attention node, and fp16 rounds eight times finer "
            "than bf16; export refuses it where numbers overflow",
        ),
        ("bf16", 23, "flash attention needs a 16-bit Attention node; bf16 cannot overflow"),
        ("fp32", 23, "exact; attention runs without the flash kernels, which are 16-bit only"),
    ),
    "tensorrt": _choices(
        "tensorrt",
        # Its parser reads Attention from 10.14 and RMSNormalization from 10.15.
        (
            "fp16",
            23,
            "TensorRT 10.15 and later fuses an Attention node or fails, where its parts may be "
            "left unfused unseen; precision must be in the graph, TensorRT 11 has no flags for it",
        ),
        ("bf16", 23, "as fp16, and cannot overflow"),
        ("fp32", 18, "attention in parts needs no fused kernel, which fp32 may lack"),
    ),
    "tensorrt-rtx": _choices(
        "tensorrt-rtx",
        # 35 against 42 generated kernels over three B/16 blocks, TensorRT-RTX 1.7.1.
        (
            "fp16",
            23,
            "an Attention node becomes one flash kernel, and three blocks need 35 kernels in "
            "place of 42",
        ),
        ("bf16", 23, "as fp16, and cannot overflow"),
        ("fp32", 18, "no kernel takes an Attention node in fp32; its parts need no special build"),
    ),
}
TARGETS: Final = tuple(CHOICES)


def choose(target: str, precision: str | None = None) -> Choice:
    """The choice for a target.

    Args:
        target: one of TARGETS.
        precision: asked for all the same, or None.

    Raises:
        UsageError: an unknown target, or a precision that it has no kernels for.
    """
    if target not in CHOICES:
        raise UsageError(f"target {target!r} is unknown; choose one of {', '.join(TARGETS)}")
    rows = CHOICES[target]
    if precision is None:
        return next(iter(rows.values()))
    if precision not in rows:
        raise UsageError(
            f"precision {precision} is not for {target}, which has no kernels for it; choose one "
            f"of {', '.join(rows)}"
        )
    return rows[precision]
