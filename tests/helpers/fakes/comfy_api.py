"""As much of ComfyUI's V3 node API as the nodes use; its names are ComfyUI's."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass
class Socket:
    """An input or output as declared: kind, name, and its options."""

    kind: str
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)


class Kind:
    """``io.Int`` and the like."""

    def __init__(self, name: str) -> None:
        self.name = name

    def Input(self, name: str, **options: Any) -> Socket:
        return Socket(self.name, name, options)

    def Output(self, **options: Any) -> Socket:
        return Socket(self.name, options.get("display_name", ""), options)


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    inputs: list[Socket]
    outputs: list[Socket]
    description: str = ""


class NodeOutput:
    def __init__(self, *values: Any) -> None:
        self.args = values


class ComfyNode:
    """Base of nodes."""


class ComfyExtension:
    """Base of extensions."""


class InterruptProcessingException(Exception):
    """What ComfyUI raises where the user has canceled."""


class ComfyAPISync:
    """Progress reports of all nodes; cancels after ``cancel_after`` of them."""

    reports: ClassVar[list[tuple[float, float, Any]]] = []
    cancel_after: ClassVar[int | None] = None

    def __init__(self) -> None:
        self.execution = self

    def set_progress(self, value: float, max_value: float, preview_image: Any = None) -> None:
        self.reports.append((value, max_value, preview_image))
        if self.cancel_after is not None and len(self.reports) >= self.cancel_after:
            raise InterruptProcessingException


def modules() -> dict[str, types.ModuleType]:
    """``comfy_api`` and ``comfy_api.latest``, for sys.modules."""
    io = types.SimpleNamespace(
        Schema=Schema,
        NodeOutput=NodeOutput,
        ComfyNode=ComfyNode,
        Custom=Kind,
        **{name: Kind(name.upper()) for name in ("String", "Int", "Float", "Combo", "Boolean")},
        Image=Kind("IMAGE"),
        Mask=Kind("MASK"),
    )
    latest = types.ModuleType("comfy_api.latest")
    latest.__dict__.update(io=io, ComfyAPISync=ComfyAPISync, ComfyExtension=ComfyExtension)
    parent = types.ModuleType("comfy_api")
    parent.__dict__["latest"] = latest
    return {"comfy_api": parent, "comfy_api.latest": latest}
