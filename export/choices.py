"""Export settings by engine: opset, precision, form of attention, head width, with reasons.

Each line of the table was measured on that engine; none can be derived from another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.fields import check_only_for
from minit2i_deploy.errors import UsageError

PRECISIONS: Final = ("fp32", "bf16", "fp16")
# 23 has one Attention and one RMSNormalization node each, which GPU engines fuse best. 18
# decomposes both, for engines that refuse a float32 Attention node (TensorRT-RTX), and for
# older ones (OpenVINO's plugin).
OPSETS: Final = (18, 23)
DEFAULT_OPSET: Final = 23
# T5 has no operator that came later, so that older engines run it beside any network.
TEXT_ENCODER_OPSET: Final = 18
FUSED: Final = "one Attention node"
DECOMPOSED: Final = "products and softmax"
ONNXRUNTIME_OPERATOR: Final = "an operator of onnxruntime"
_FORMS: Final = {23: FUSED, 18: DECOMPOSED}
# Head widths that fused kernels require are multiples of these; 1 adds no padding.
HEAD_MULTIPLES: Final = (1, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How to export for a target.

    Args:
        target: one of TARGETS.
        opset: of the graphs; it decides the form of attention unless ``only_for`` does.
        precision: of text adapter and denoiser.
        reason: one sentence for the user.
        head_multiple: heads of text adapter and denoiser are padded with zeros to the next
            multiple of it.
        only_for: engine whose private operators the graphs use, so that no other runs them.
    """

    target: str
    opset: int
    precision: str
    reason: str
    head_multiple: int = 1
    only_for: str | None = None

    @property
    def attention(self) -> str:
        """FUSED, DECOMPOSED or ONNXRUNTIME_OPERATOR."""
        return _FORMS[self.opset] if self.only_for is None else ONNXRUNTIME_OPERATOR

    def line(self) -> str:
        """The choice and its reason in one line."""
        settings = f"opset {self.opset}, {self.precision}, attention as {self.attention}"
        if self.head_multiple > 1:
            settings += f", heads padded to a multiple of {self.head_multiple}"
        return f"for {self.target}: {settings} ({self.reason})"


def _choices(
    target: str, *settings: tuple[str, int, str], head_multiple: int = 1
) -> dict[str, Choice]:
    return {
        precision: Choice(
            target=target,
            opset=opset,
            precision=precision,
            reason=reason,
            head_multiple=head_multiple,
        )
        for precision, opset, reason in settings
    }


# Target -> precision -> choice; the first precision is the default.
CHOICES: Final[Mapping[str, Mapping[str, Choice]]] = {
    "cpu": {
        # A B/16 step takes 0.95 of its time with an Attention node
        # (docs/measurements/performance.md).
        "fp32": Choice(
            target="cpu",
            opset=23,
            precision="fp32",
            reason="onnxruntime's CPU kernels multiply in fp32, and its own operators for "
            "attention and rotation take less time and memory than those of the standard",
            only_for="cpu",
        ),
        # Its own attention has no fp16 kernel. Attention as one node took 1.94 s and 0.95 GB, its
        # parts 2.09 s and 1.08 GB, over three B/16 blocks, onnxruntime 1.32.
        **_choices(
            "cpu", ("fp16", 23, "halves the file; onnxruntime's CPU kernels gain no time from it")
        ),
    },
    # Tried with onnxruntime-web 1.30: WebAssembly runs both forms. WebGPU leaves each Attention
    # node to the CPU, with copies of its inputs, and runs these operators itself.
    "web": {
        "fp32": Choice(
            target="web",
            opset=23,
            precision="fp32",
            reason="WebGPU has kernels for onnxruntime's own attention and rotation and none for "
            "an Attention node; WebAssembly runs both, and fp16 is computed in fp32 there",
            only_for="cpu",
        ),
    },
    "openvino": _choices(
        "openvino",
        (
            "fp32",
            18,
            "attention in parts opens in older versions and in onnxruntime's plugin; OpenVINO "
            "turns fp32 into bf16 itself where --precision bf16 asks for it, so one bundle serves "
            "both",
        ),
        (
            "fp16",
            18,
            "halves the file; OpenVINO computes in fp32 or bf16 all the same",
        ),
    ),
    "cuda": {
        # Flash kernels: 16 bit, compute capability 8.0, head width a multiple of 8 (L/16 has 52).
        "fp16": Choice(
            target="cuda",
            opset=23,
            precision="fp16",
            reason="onnxruntime's own operators take flash attention and half the kernels, and "
            "fp16 rounds eight times finer than bf16; export refuses it where numbers overflow",
            head_multiple=8,
            only_for="cuda",
        ),
        # Its own attention has no flash kernel for bf16, nor for fp32.
        **_choices(
            "cuda",
            (
                "bf16",
                23,
                "flash attention needs a 16-bit Attention node with heads a multiple of 8 wide; "
                "bf16 cannot overflow",
            ),
            (
                "fp32",
                23,
                "exact; attention runs without the flash kernels, which are 16-bit only, but those "
                "that save memory want heads a multiple of 8 wide as well",
            ),
            head_multiple=8,
        ),
    },
    "tensorrt": _choices(
        "tensorrt",
        # Its parser reads Attention from 10.14 and RMSNormalization from 10.15; from 10.14 on it
        # pads heads itself, as TensorRT-RTX does.
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
        precision: one of the target's; None takes its default.

    Raises:
        UsageError: an unknown target, or a precision that it has no kernels for.
    """
    if target not in CHOICES:
        raise UsageError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    by_precision = CHOICES[target]
    if precision is None:
        return next(iter(by_precision.values()))
    if precision not in by_precision:
        raise UsageError(
            f"{target} has no kernels for {precision}; choose one of {', '.join(by_precision)}"
        )
    return by_precision[precision]


def check_precision(precision: str) -> None:
    """Refuse a precision that export does not write.

    Raises:
        UsageError: the precision is not one of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")


def check_opset(opset: int) -> None:
    """Refuse an opset that the graphs are not tested at.

    Raises:
        UsageError: the opset is not one of OPSETS.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset is {opset!r}; choose one of {', '.join(map(str, OPSETS))}")


def check_multiple(multiple: int) -> None:
    """Refuse a multiple that no kernel requires.

    Raises:
        UsageError: the multiple is not one of HEAD_MULTIPLES.
    """
    if multiple not in HEAD_MULTIPLES:
        raise UsageError(
            f"head multiple is {multiple!r}; choose one of {', '.join(map(str, HEAD_MULTIPLES))}"
        )


def check_private_operators(only_for: str | None, precision: str, opset: int) -> None:
    """Refuse an engine's private operators where it has none.

    Raises:
        UsageError: the engine is unknown, or has no such operators at that precision or opset.
    """
    try:
        check_only_for(only_for)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if only_for is None:
        return
    choice = next(item for item in CHOICES[only_for].values() if item.only_for is not None)
    if (precision, opset) != (choice.precision, choice.opset):
        raise UsageError(
            f"only_for={only_for!r} requires {choice.precision} at opset {choice.opset}, got"
            f" {precision} at opset {opset}; drop only_for or change the others"
        )
