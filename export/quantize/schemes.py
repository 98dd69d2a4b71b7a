"""The schemes: what becomes of the weights and of the inputs of linear layers, graph by graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.formats import FP8, INT4, INT8, Format

# Inputs with so wide a range that eight bits of them cost more than all other layers together.
WIDE_INPUTS: Final = ("*.img_mlp.w2",)
# Layers that stay as they are unless asked for: the first and the last ones, which see pixels.
ALWAYS_EXCLUDED: Final = ("img_embedder.*", "final_layer.*")


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphScheme:
    """What one graph's linear layers become.

    Args:
        weights: format of the weights.
        activations: format of the layers' inputs; None leaves them alone (weight-only).
        dynamic: whether the inputs' scales are measured in each run, on unsigned values with a
            zero point, instead of once by calibration.
        block: input channels that share a weight scale; 0 is one scale an output channel.
        attention: format of queries, keys and values; None leaves them alone.
        weights_only: patterns of layers whose inputs are left alone.
        exclude: patterns of layers that stay as they are.
    """

    weights: Format
    activations: Format | None = None
    dynamic: bool = False
    block: int = 0
    attention: Format | None = None
    weights_only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ALWAYS_EXCLUDED

    @property
    def needs_scales(self) -> bool:
        """Whether the inputs' scales come from calibration."""
        return self.activations is not None and not self.dynamic

    @property
    def gains_by_smoothing(self) -> bool:
        """Whether channels that differ in size cost precision: integer inputs.

        A floating-point format rounds every size alike, and weights have a scale a channel.
        """
        return self.activations is not None and not self.activations.is_float

    @property
    def words(self) -> str:
        """For people and for the manifest: weights, inputs."""
        weights = self.weights.name + (f" in blocks of {self.block}" if self.block else "")
        if self.activations is None:
            return f"{weights} weights"
        inputs = f"{self.activations.name}{' dynamic' if self.dynamic else ''} inputs"
        more = f", {self.attention.name} attention" if self.attention else ""
        but = f" but of {', '.join(self.weights_only)}" if self.weights_only else ""
        return f"{weights} weights, {inputs}{but}{more}"


_TURING: Final = ("sm75", "sm80", "sm86", "sm87")
_ADA: Final = ("sm89", "sm90", "sm100", "sm120", "sm121")
TARGETS: Final = ("cpu", *_TURING, *_ADA)
_INT8_WEIGHTS: Final = GraphScheme(weights=INT8)
_INT4_WEIGHTS: Final = GraphScheme(weights=INT4, block=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """A named scheme.

    Args:
        name: on the command line and in the manifest.
        transformer: of the step graph.
        text_adapter: of the text adapter, which runs once a picture; weights alone.
        text_encoder: of the text encoder, once a prompt; weights alone.
        precision: of the step graph's matrix products; "" where they stay as they were.
        words: what it is for.
        bases: precisions of a source bundle that it can stand on.
        bounds: largest relative L2 error of a single step's guided estimate, and root mean
            square error of the final state as a share of its range; over them there is no bundle.
        targets: what it runs on at a gain: "cpu", or compute capabilities of NVIDIA.
    """

    name: str
    transformer: GraphScheme
    words: str
    precision: str = ""
    text_adapter: GraphScheme = field(default=_INT8_WEIGHTS)
    text_encoder: GraphScheme = field(default=_INT8_WEIGHTS)
    bases: tuple[str, ...] = ("fp32", "bf16", "fp16")
    bounds: tuple[float, float] = (0.15, 0.1)
    targets: tuple[str, ...] = ("cpu", *_TURING, *_ADA)

    def of_graph(self, graph: str) -> GraphScheme:
        """What becomes of a graph of the bundle, by its name there."""
        scheme: GraphScheme = getattr(self, graph)
        return scheme


SCHEMES: Final = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="int8",
            transformer=GraphScheme(weights=INT8, activations=INT8, weights_only=WIDE_INPUTS),
            precision="int8",
            words="INT8 weights and inputs: NVIDIA from Turing on, OpenVINO, ONNX Runtime",
        ),
        Scheme(
            name="fp8",
            transformer=GraphScheme(weights=FP8, activations=FP8),
            precision="fp8",
            targets=_ADA,
            words="FP8 E4M3 weights and inputs: NVIDIA from Ada on",
        ),
        Scheme(
            name="fp8-attention",
            transformer=GraphScheme(weights=FP8, activations=FP8, attention=FP8),
            precision="fp8",
            targets=_ADA,
            bounds=(0.25, 0.15),
            words="as fp8, and queries, keys and values in FP8 too",
        ),
        Scheme(
            name="int8-weights",
            transformer=_INT8_WEIGHTS,
            words="INT8 weights, arithmetic as in the source: a quarter of the bytes",
        ),
        Scheme(
            name="int4-weights",
            transformer=_INT4_WEIGHTS,
            bounds=(0.6, 0.4),
            words="INT4 weights in blocks, arithmetic as in the source: a seventh of the bytes",
        ),
        Scheme(
            name="int8-cpu",
            transformer=GraphScheme(
                weights=INT8, activations=INT8, dynamic=True, weights_only=WIDE_INPUTS
            ),
            precision="int8",
            bases=("fp32",),
            targets=("cpu",),
            words="INT8 with input scales measured in each run: ONNX Runtime on CPUs",
        ),
    )
}


def find_scheme(name: str) -> Scheme:
    """A scheme by its name.

    Raises:
        UsageError: no such scheme; those there are are listed.
    """
    if name not in SCHEMES:
        raise UsageError(f"scheme {name!r} is unknown; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def check_fits(scheme: Scheme, base: str, target: str | None) -> None:
    """Refuse a scheme on a source or for a target that it is not for.

    Args:
        scheme: what is wanted.
        base: precision of the source bundle's step graph.
        target: one of TARGETS, or None for no check.

    Raises:
        UsageError: it does not fit; says what does.
    """
    if base not in scheme.bases:
        raise UsageError(
            f"scheme {scheme.name} stands on {' or '.join(scheme.bases)} bundles and this one is"
            f" {base}; export the checkpoint again with --precision {scheme.bases[0]}"
        )
    if target is None:
        return
    if target not in TARGETS:
        raise UsageError(f"target {target!r} is unknown; choose one of {', '.join(TARGETS)}")
    if target not in scheme.targets:
        fitting = [name for name, item in SCHEMES.items() if target in item.targets]
        raise UsageError(
            f"scheme {scheme.name} does not run on {target} at a gain; choose one of"
            f" {', '.join(fitting)}"
        )
