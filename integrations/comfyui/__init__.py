"""Entry point: ComfyUI calls ``comfy_entrypoint`` once, when it starts."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension

from .nodes import NODES


class MiniT2IExtension(ComfyExtension):
    """The nodes of this package."""

    async def get_node_list(self) -> list[type]:
        """Every node class."""
        return list(NODES)


async def comfy_entrypoint() -> ComfyExtension:
    """The extension, as ComfyUI asks for it."""
    return MiniT2IExtension()
