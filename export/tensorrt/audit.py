"""Counts of an engine's kernels, from the library's description of its layers.

Two forms are read: the listing at the end of a build's log, which needs no GPU, and the JSON of
IEngineInspector, which needs one. Both list layers with a name, the types of their tensors and,
mostly, the name of the kernel; only the names are common to both and to all versions.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from minit2i_deploy.engines.sidecar import NO_AUDIT, Audit

_FUSED_ATTENTION: Final = re.compile(r"_gemm_mha|fmha|flash_attention|fused_attention", re.I)
# Generated kernels are named after their operations, ``MaxrSubExpSumDiv`` is a softmax.
_SOFTMAX: Final = re.compile(r"Max\w*?Sub\w*?Exp\w*?Sum|softmax", re.I)
_NORM: Final = re.compile(r"Mul\w*?Mean\w*?Sqrt|rms_?norm", re.I)
_GEMM_KINDS: Final = ("gemm", "fully_connected", "matrixmultiply", "matrix_multiply")
_GEMM_FUSION: Final = re.compile(r"__myl_\w*Fc[A-Z_]")
_GENERATED: Final = ("kgen",)
_SYNCHRONIZATION: Final = ("signal", "wait", "shape_call", "noop")
_TYPES: Final = (
    ("fp4", re.compile(r"fp4|e2m1", re.I)),
    ("fp8", re.compile(r"fp8|e4m3|float8", re.I)),
    ("int8", re.compile(r"int8", re.I)),
    ("bf16", re.compile(r"bf16|bfloat16", re.I)),
    ("fp16", re.compile(r"half|fp16|float16", re.I)),
    ("fp32", re.compile(r"float|fp32", re.I)),
)
_LINE: Final = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), (?P<rest>.*)$", re.M)
_TACTIC: Final = re.compile(r"TacticName: ([^,\n]*)")
_TENSOR: Final = re.compile(r"Dimensions: \[([^\]]*)\].*?Datatype: (\w+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One layer of an engine.

    Args:
        name: as listed.
        kind: as the library calls it.
        tactic: name of its kernel, or empty.
        types: of its inputs and constants that have two axes or more, in order.
    """

    name: str
    kind: str
    tactic: str
    types: tuple[str, ...]


def audit_layers(text: str, source: str, attention: int) -> Audit:
    """Count the kernels.

    Args:
        text: the listing of a build's log, or the inspector's JSON for the engine.
        source: of the text: ``log`` or ``inspector``.
        attention: number of attentions of the graph.

    Returns:
        the counts, or NO_AUDIT if the text names no layer.
    """
    layers = [
        layer
        for layer in (_from_json(text) if text.lstrip().startswith("{") else _from_log(text))
        if layer.kind not in _SYNCHRONIZATION
    ]
    if not layers:
        return NO_AUDIT
    fused = [layer for layer in layers if _is(layer, _FUSED_ATTENTION)]
    rest = [layer for layer in layers if not _is(layer, _FUSED_ATTENTION)]
    return Audit(
        source=source,
        attention=attention,
        attention_fused=len(fused),
        # Long names of generated kernels are cut, so that not every softmax shows.
        softmax_unfused=max(sum(_is(layer, _SOFTMAX) for layer in rest), attention - len(fused), 0),
        gemms=dict(sorted(Counter(map(_type, filter(_is_gemm, rest))).items())),
        norms=sum(bool(_NORM.search(layer.name)) for layer in rest),
        kernels=len(layers),
    )


def shortfall(audit: Audit, floor: float) -> str | None:
    """Why an engine has too little fused attention, or None if it has enough.

    Args:
        audit: of the engine.
        floor: a number of attentions; at most 1, a share of them.
    """
    if audit.source == NO_AUDIT.source:
        return "the library does not list its kernels, so fused attention cannot be counted"
    required = floor * audit.attention if floor <= 1 else floor
    if audit.attention_fused >= required:
        return None
    return (
        f"{audit.attention_fused} of {audit.attention} attentions are fused, but"
        f" {required:g} are required"
    )


def describe_audit(audit: Audit) -> str:
    """The counts in a few words."""
    if audit.source == NO_AUDIT.source:
        return "kernels unknown"
    gemms = ", ".join(f"{count} {name}" for name, count in audit.gemms.items())
    parts = [
        f"attention fused {audit.attention_fused}/{audit.attention}",
        f"GEMMs {gemms or 'none'}",
        f"{audit.kernels} kernels",
    ]
    if audit.softmax_unfused:
        parts.insert(1, f"{audit.softmax_unfused} unfused softmax")
    return ", ".join(parts)


def _is(layer: Layer, pattern: re.Pattern[str]) -> bool:
    return bool(pattern.search(layer.name) or pattern.search(layer.tactic))


def _is_gemm(layer: Layer) -> bool:
    kind = layer.kind.lower()
    if kind in _GEMM_KINDS or _GEMM_FUSION.match(layer.name):
        return True
    return kind not in _GENERATED and "gemm" in layer.tactic.lower()


def _type(layer: Layer) -> str:
    first = layer.types[0] if layer.types else layer.tactic
    return next((name for name, pattern in _TYPES if pattern.search(first)), "other")


def _from_log(text: str) -> Iterator[Layer]:
    for match in _LINE.finditer(text):
        rest = match["rest"]
        tactic = _TACTIC.search(rest)
        read = rest.split("Outputs:")[0]
        yield Layer(
            name=match["name"],
            kind=match["kind"].strip(),
            tactic="" if tactic is None else tactic[1].strip(),
            types=tuple(kind for axes, kind in _TENSOR.findall(read) if "," in axes),
        )


def _from_json(text: str) -> Iterator[Layer]:
    try:
        values = json.loads(text)
    except ValueError:
        return
    layers = values.get("Layers", []) if isinstance(values, dict) else []
    for item in layers if isinstance(layers, list) else []:
        # Without detailed verbosity a layer is a name and no more.
        fields = item if isinstance(item, dict) else {"Name": item}
        yield Layer(
            name=str(fields.get("Name", "")),
            kind=str(fields.get("LayerType", "")),
            tactic=str(fields.get("TacticName", "")),
            types=tuple(_json_types([*_tensors(fields, "Inputs"), *_tensors(fields, "Constants")])),
        )


def _tensors(fields: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    items = fields.get(name, [])
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _json_types(tensors: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for tensor in tensors:
        axes = tensor.get("Dimensions", [])
        if isinstance(axes, list) and len(axes) >= 2:
            # ``Format/Datatype`` until TensorRT 10, ``Datatype`` since.
            yield str(tensor.get("Datatype", tensor.get("Format/Datatype", "")))
