"""The schemes: formats of the weights and of the inputs of linear layers, by graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from minit2i_deploy.bundle.fields import INT8_OPENVINO, PAIR_SAFE
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.formats import FP4, FP8, INT4, INT8, Format

# Inputs of so wide a range that eight bits of them cost more than all other layers together.
WIDE_INPUTS: Final = ("*.img_mlp.w2",)
# Not quantized unless included: the first and the last layer, which see pixels.
ALWAYS_EXCLUDED: Final = ("img_embedder.*", "final_layer.*")
# What a text encoder keeps: with 8 bits in wi_0 and wi_1 alone, pooled vectors of 24 random layers
# have a cosine of 0.9996 to the source's, with all layers 0.998.
_TEXT_EXCLUDED: Final = ("*.q", "*.k", "*.v", "*.o", "*.wo")
# Range of a token of zeros, whose own range of 0 would divide by zero.
LEAST_RANGE: Final = 1e-30


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphScheme:
    """What one graph's linear layers become.

    Args:
        weights: format of the weights.
        activations: format of the layers' inputs; None keeps them (weight-only).
        per_token: whether every token of an input has a range of its own, taken when the graph
            runs; otherwise one scale per input comes from calibration.
        block: input channels that share a weight scale; 0 is one scale per output channel.
        scale_format: of the blocks' scales, "e4m3" or "e8m0", as hardware has them; blocks are then
            of exactly ``block`` channels, and inputs have scales of the same kind, taken when the
            graph runs. "" is a scale of the source's type.
        attention: format of attention's inputs; None keeps them.
        scores_only: whether queries and keys alone have that format, whose products are the scores
            of attention; otherwise values too.
        tokenwise: patterns of layers whose inputs have ranges as with ``per_token``.
        weights_only: patterns of layers whose inputs are not quantized.
        included: names of layers whose inputs are quantized although ``weights_only`` matches.
        exclude: patterns of layers that are not quantized.
        full_range: INT8 weights use all of their range, which is a third finer and needs a
            processor with VNNI.
    """

    weights: Format
    activations: Format | None = None
    per_token: bool = False
    block: int = 0
    scale_format: str = ""
    attention: Format | None = None
    scores_only: bool = False
    tokenwise: tuple[str, ...] = ()
    weights_only: tuple[str, ...] = ()
    included: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ALWAYS_EXCLUDED
    full_range: bool = False

    @property
    def needs_scales(self) -> bool:
        """Whether scales of the inputs come from calibration: of E4M3 the tensor's."""
        dynamic = self.per_token or self.scale_format == "e8m0"
        return self.activations is not None and not dynamic

    @property
    def takes_block_ranges(self) -> bool:
        """Whether the inputs have scales by block, taken when the graph runs."""
        return self.activations is not None and bool(self.scale_format)

    def padding(self, num_inputs: int) -> int:
        """Channels of zeros that a layer's inputs and weights need for complete blocks."""
        return -num_inputs % self.block if self.scale_format else 0

    @property
    def gains_by_smoothing(self) -> bool:
        """Whether channels that differ in size cost precision: integer inputs.

        A floating-point format rounds every size alike, and weights have a scale per channel.
        """
        return self.activations is not None and not self.activations.is_float

    @property
    def pair_safe(self) -> bool:
        """Whether weights are bounded for 8-bit products that are added in 16 bits."""
        return self.weights is INT8 and self.activations is INT8 and not self.full_range

    @property
    def description(self) -> str:
        """For people and for the manifest: weights, inputs."""
        weights = self.weights.name + (f" in blocks of {self.block}" if self.block else "")
        weights += f" with {self.scale_format} scales" if self.scale_format else ""
        if self.activations is None:
            return f"{weights} weights"
        safety = f"{PAIR_SAFE} " if self.pair_safe else ""
        exceptions = f" except of {', '.join(self.weights_only)}" if self.weights_only else ""
        exceptions += f" other than {', '.join(self.included)}" if self.included else ""
        inputs = f"{self.activations.name} inputs{self._ranges}{exceptions}"
        part = "queries and keys" if self.scores_only else "attention"
        attention = f", {self.attention.name} {part}" if self.attention else ""
        return f"{safety}{weights} weights, {inputs}{attention}"

    @property
    def _ranges(self) -> str:
        """Which inputs have ranges that are taken when the graph runs, in words."""
        if self.tokenwise:
            return f" with a range per token of {', '.join(self.tokenwise)}"
        if self.takes_block_ranges:
            return " with a range per block"
        return " with a range per token" if self.per_token else ""

    def of_layer(self, name: str) -> GraphScheme:
        """The scheme of one layer: ``weights_only`` or ``tokenwise`` may match its name."""
        if name not in self.included and _matches(name, self.weights_only):
            return dataclasses.replace(self, activations=None)
        if _matches(name, self.tokenwise):
            return dataclasses.replace(self, per_token=True)
        return self


_TURING: Final = ("sm75", "sm80", "sm86", "sm87")
_BLACKWELL: Final = ("sm100", "sm120", "sm121")
_ADA: Final = ("sm89", "sm90", *_BLACKWELL)
CPU: Final = "cpu"
# A browser: WebAssembly or WebGPU.
WEB: Final = "web"
TARGETS: Final = (CPU, WEB, *_TURING, *_ADA)
_INT8_WEIGHTS: Final = GraphScheme(weights=INT8)
_INT4_WEIGHTS: Final = GraphScheme(weights=INT4, block=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """A named scheme.

    Args:
        name: on the command line and in the manifest.
        transformer: of the step graph.
        purpose: what it is for, in one line.
        text_adapter: of the text adapter, which runs once per image; weights only.
        text_encoder: of the text encoder, which runs once per prompt; weights only.
        precision: of the step graph's matrix products; "" if it is the source's.
        bases: precisions of a source bundle that it applies to.
        bounds: largest relative L2 error of a single step's guided estimate, and root mean
            square error of the final state as a share of its range; nothing is written if a
            check exceeds its bound.
        targets: what gains by it: "cpu", "web", or compute capabilities of NVIDIA GPUs.
        rounding: of the step graph's weights, one of ``rounding.layers.ROUNDINGS``, unless
            another is asked for.
        text_only: whether it quantizes the text encoder alone; the other graphs are copied, and
            their forms here are not read.
    """

    name: str
    transformer: GraphScheme
    purpose: str
    precision: str = ""
    text_adapter: GraphScheme = field(default=_INT8_WEIGHTS)
    text_encoder: GraphScheme = field(default=_INT8_WEIGHTS)
    bases: tuple[str, ...] = ("fp32", "bf16", "fp16")
    bounds: tuple[float, float] = (0.15, 0.1)
    targets: tuple[str, ...] = (CPU, *_TURING, *_ADA)
    rounding: str = "nearest"
    text_only: bool = False

    def of_graph(self, graph: str) -> GraphScheme:
        """The scheme of a graph of the bundle, by its name in the manifest."""
        scheme: GraphScheme = getattr(self, graph)
        return scheme

    def including(self, names: Collection[str], layers: Collection[str]) -> Scheme:
        """The scheme that quantizes the inputs of layers although ``weights_only`` matches.

        Args:
            names: of those layers.
            layers: names of all layers of the step graph.
        """
        step = self.transformer
        light = {name for name in layers if _matches(name, step.weights_only)}
        included = tuple(sorted(light & set(names)))
        if len(included) == len(light):
            step = dataclasses.replace(step, weights_only=(), included=())
        else:
            step = dataclasses.replace(step, included=included)
        return dataclasses.replace(self, transformer=step)


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


SCHEMES: Final = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="int8",
            transformer=GraphScheme(weights=INT8, activations=INT8, weights_only=WIDE_INPUTS),
            precision="int8",
            purpose="INT8 weights and inputs: NVIDIA from Turing on, OpenVINO, ONNX Runtime",
        ),
        Scheme(
            name="fp8",
            transformer=GraphScheme(weights=FP8, activations=FP8),
            precision="fp8",
            targets=_ADA,
            purpose="FP8 E4M3 weights and inputs: NVIDIA from Ada on",
        ),
        Scheme(
            name="fp8-attention",
            transformer=GraphScheme(weights=FP8, activations=FP8, attention=FP8),
            precision="fp8",
            targets=_ADA,
            bounds=(0.25, 0.15),
            purpose="as fp8, with queries, keys and values in FP8 as well",
        ),
        Scheme(
            name="int8-weights",
            transformer=_INT8_WEIGHTS,
            targets=TARGETS,
            purpose="INT8 weights, arithmetic of the source: a quarter of the bytes",
        ),
        Scheme(
            name="int4-weights",
            transformer=_INT4_WEIGHTS,
            targets=TARGETS,
            bounds=(0.6, 0.4),
            rounding="gptq",
            purpose="INT4 weights in blocks, arithmetic of the source: a seventh of the bytes",
        ),
        Scheme(
            name="nvfp4",
            transformer=GraphScheme(weights=FP4, activations=FP4, block=16, scale_format="e4m3"),
            precision="fp4",
            targets=_BLACKWELL,
            bounds=(0.6, 0.4),
            rounding="gptq",
            purpose="NVFP4 weights and inputs, a range per block of 16: NVIDIA from Blackwell on",
        ),
        Scheme(
            name="nvfp4-weights",
            transformer=GraphScheme(weights=FP4, block=16, scale_format="e4m3"),
            precision="fp4",
            targets=_BLACKWELL,
            bounds=(0.6, 0.4),
            rounding="gptq",
            purpose="NVFP4 weights, arithmetic of the source: NVIDIA from Blackwell on",
        ),
        Scheme(
            name="mxfp8",
            transformer=GraphScheme(weights=FP8, activations=FP8, block=32, scale_format="e8m0"),
            precision="mxfp8",
            targets=_BLACKWELL,
            purpose="MXFP8 weights and inputs, a range per block of 32: NVIDIA from Blackwell on",
        ),
        Scheme(
            name="int8-cpu",
            transformer=GraphScheme(
                weights=INT8, activations=INT8, per_token=True, weights_only=WIDE_INPUTS
            ),
            precision="int8",
            bases=("fp32",),
            targets=(CPU,),
            purpose="INT8 with a range per token, taken in each run: ONNX Runtime on CPUs",
        ),
        Scheme(
            name=INT8_OPENVINO,
            # A range per token costs a percent of the step for w2 alone, and three for all.
            transformer=GraphScheme(
                weights=INT8,
                activations=INT8,
                attention=INT8,
                scores_only=True,
                tokenwise=WIDE_INPUTS,
            ),
            precision="int8",
            bases=("fp32",),
            targets=(CPU,),
            purpose="INT8 products and scores of attention: OpenVINO in bf16 on CPUs with VNNI",
        ),
        Scheme(
            name="int8-text",
            text_only=True,
            text_encoder=GraphScheme(
                weights=INT8,
                activations=INT8,
                per_token=True,
                exclude=_TEXT_EXCLUDED,
                full_range=True,
            ),
            transformer=_INT8_WEIGHTS,
            targets=(CPU,),
            purpose="the text encoder alone, INT8 with a range per token, for embedding on CPUs",
        ),
    )
}


def find_scheme(name: str) -> Scheme:
    """A scheme by its name.

    Raises:
        UsageError: unknown; the text lists the known ones.
    """
    if name not in SCHEMES:
        raise UsageError(f"unknown scheme {name!r}; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def check_fits(scheme: Scheme, base: str, target: str | None) -> None:
    """Refuse a scheme on a source, or for a target, that it is not for.

    Args:
        scheme: that is to be applied.
        base: precision of the source bundle's step graph.
        target: one of TARGETS, or None for no check.

    Raises:
        UsageError: it does not fit; the text says what does.
    """
    if base not in scheme.bases:
        raise UsageError(
            f"scheme {scheme.name} requires a {' or '.join(scheme.bases)} bundle, got {base};"
            f" export the checkpoint again with --precision {scheme.bases[0]}"
        )
    if target is None:
        return
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    if target not in scheme.targets:
        others = [name for name, item in SCHEMES.items() if target in item.targets]
        reason = f"{target} does not gain by scheme {scheme.name}"
        if target == WEB and scheme.transformer.activations is not None:
            reason = _UNLIKE.format(scheme=scheme.name)
        raise UsageError(f"{reason}; choose one of {', '.join(others)}")
    if target == WEB and base != "fp32":
        raise UsageError(
            f"{target} requires an fp32 bundle, got {base}; export the checkpoint with --for web"
        )
    if target == CPU and base == "bf16":
        raise UsageError(
            f"{target} has no engine for bf16 graphs; export the checkpoint again with --precision"
            " fp32, or omit --target"
        )
    if base == "fp32" and target != CPU and scheme.transformer.activations is not None:
        raise UsageError(f"{_UNFUSED.format(scheme=scheme.name, target=target)}; {_HALF}")


def slow_on(scheme: Scheme, base: str, target: str | None) -> str | None:
    """Why a quantized bundle will be slower than it could be where it is to run, or None.

    Args:
        scheme: that is to be applied.
        base: precision of the source bundle's step graph.
        target: one of TARGETS, or None where it is not known.
    """
    if base == "fp16" and target == CPU:
        return (
            f"what scheme {scheme.name} leaves in fp16 is computed in fp32 on a {target}, with a"
            " conversion before and after; quantize a bundle exported with --precision fp32"
        )
    if base != "fp32" or target in (CPU, WEB):
        return None
    of_weights = scheme.transformer.activations is None
    if target is None and of_weights and CPU not in scheme.targets:
        target = "an NVIDIA GPU"
    if target is not None:
        return (
            f"scheme {scheme.name} on a fp32 bundle computes in fp32, and {target} has no fused"
            f" attention in fp32; {_HALF}"
        )
    if CPU not in scheme.targets:
        target = "an NVIDIA GPU"
        return f"{_UNFUSED.format(scheme=scheme.name, target=target)}; {_HALF}"
    return None


# WebAssembly's integer products are Python's to the last bit, but the float32 sums before them are
# not, and there the last bit decides how a value is rounded (tests/runtimes/web/test_images.py).
_UNLIKE: Final = (
    "scheme {scheme} rounds inputs of layers to 8 bits, so a browser's images would differ from"
    " those of other runtimes"
)
# Measured with TensorRT-RTX 1.7.1: it refuses the fp32 attention between quantized layers.
_UNFUSED: Final = (
    "TensorRT builds no engine of scheme {scheme} on a fp32 bundle, because {target} has no fused"
    " attention in fp32"
)
_HALF: Final = "quantize a bundle exported with --precision fp16 or bf16"
