"""Opset, precision, form of attention and head width, by where a bundle is to run, and why.

One table, because each line of it was found out on that engine and none follows from another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.fields import check_only_for
from minit2i_deploy.errors import UsageError

FUSED: Final = "one Attention node"
DECOMPOSED: Final = "products and softmax"
OWN: Final = "an operator of onnxruntime's own"
_FORMS: Final = {23: FUSED, 18: DECOMPOSED}
# Powers of two that kernels ask of the width of a head; 1 leaves it as it is.
HEAD_MULTIPLES: Final = (1, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How to export for a target.

    Args:
        target: one of TARGETS.
        opset: of the graphs; it decides the form of attention, where that is of the standard.
        precision: of text adapter and denoiser.
        reason: why.
        head_multiple: of text adapter and denoiser: heads are padded with zeros to the next
            multiple of it.
        only_for: the engine whose own operators the graphs hold, which no other runs; or None.
    """

    target: str
    opset: int
    precision: str
    reason: str
    head_multiple: int = 1
    only_for: str | None = None

    @property
    def attention(self) -> str:
        """OWN, FUSED or DECOMPOSED."""
        return _FORMS[self.opset] if self.only_for is None else OWN

    def line(self) -> str:
        """The choice and its reason in one line."""
        chosen = f"opset {self.opset}, {self.precision}, attention as {self.attention}"
        if self.head_multiple > 1:
            chosen += f", heads padded to a multiple of {self.head_multiple}"
        return f"for {self.target}: {chosen} ({self.reason})"


def _choices(target: str, *rows: tuple[str, int, str], head_multiple: int = 1) -> dict[str, Choice]:
    return {
        precision: Choice(
            target=target,
            opset=opset,
            precision=precision,
            reason=reason,
            head_multiple=head_multiple,
        )
        for precision, opset, reason in rows
    }


# Target -> precision -> choice; the first precision is the one to take unasked.
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
            "flash attention needs a 16-bit Attention node with heads a multiple of 8 wide, and "
            "fp16 rounds eight times finer than bf16; export refuses it where numbers overflow",
        ),
        (
            "bf16",
            23,
            "flash attention needs a 16-bit Attention node with heads a multiple of 8 wide; bf16 "
            "cannot overflow",
        ),
        (
            "fp32",
            23,
            "exact; attention runs without the flash kernels, which are 16-bit only, but those "
            "that save memory want heads a multiple of 8 wide as well",
        ),
        head_multiple=8,
    ),
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


def check_form(only_for: str | None, precision: str, opset: int) -> None:
    """Refuse an engine's own operators where it has none.

    Raises:
        UsageError: the engine is unknown, or its operators are not for that precision or opset.
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
            f"only_for {only_for} came with {precision} at opset {opset}, but its operators are for"
            f" {choice.precision} at opset {choice.opset}; leave out one of them"
        )


def check_multiple(multiple: int) -> None:
    """Refuse what no kernel asks for.

    Raises:
        UsageError: the multiple is none of HEAD_MULTIPLES.
    """
    if multiple not in HEAD_MULTIPLES:
        raise UsageError(
            f"head multiple is {multiple!r}; choose one of {', '.join(map(str, HEAD_MULTIPLES))}"
        )
