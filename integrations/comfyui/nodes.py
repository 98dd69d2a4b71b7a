"""Nodes that load a bundle of minit2i-deploy, encode prompts and sample images with it.

A bundle's runtime stays open between runs of a workflow, so that only the first one loads it, and
its encoder keeps the embeddings of the most recent texts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_api.latest import ComfyAPISync, io

import minit2i_deploy as m
from minit2i_deploy.io.images import to_pil

CATEGORY = "MiniT2I"
RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "torch")
READY = ("demo", "demo-student")
SOLVERS = ("preset", "euler", "ab2", "dpmpp2m", "heun")
MAX_SEED = 2**64 - 1

BundleType = io.Custom("MINIT2I_BUNDLE")
PromptType = io.Custom("MINIT2I_PROMPT")


@dataclass(frozen=True)
class Opened:
    """A bundle and its open runtime."""

    bundle: Any
    runtime: Any


@dataclass(frozen=True)
class Prompts:
    """A prompt, and the negative one or None."""

    text: str
    negative: str | None


# Two bundles may be compared in one workflow; a third closes the one that was used least recently.
@functools.lru_cache(maxsize=2)
def _open(path: str, runtime: str, digest: str) -> Opened:
    bundle = m.Bundle.open(path)
    return Opened(bundle, m.open_runtime(bundle, runtime))


def _folder(text: str) -> str:
    name = text.strip()
    return str(m.ready_bundle(name)) if name in READY else str(Path(name).expanduser())


class LoadBundle(io.ComfyNode):
    """Open a bundle."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="MiniT2ILoadBundle",
            display_name="MiniT2I: load bundle",
            category=CATEGORY,
            description="Open a bundle that minit2i export wrote, or the shipped demo.",
            inputs=[
                io.String.Input(
                    "path", default="demo", tooltip="folder of a bundle, demo or demo-student"
                ),
                io.Combo.Input("runtime", options=list(RUNTIMES), default=RUNTIMES[0]),
            ],
            outputs=[BundleType.Output(display_name="bundle")],
        )

    @classmethod
    def validate_inputs(cls, path: str, runtime: str) -> bool | str:
        """True, or what is wrong with the path."""
        try:
            m.Bundle.open(_folder(path))
        except m.Minit2iError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, path: str, runtime: str) -> str:
        """Changes when the bundle does, so that a new export is loaded."""
        return str(m.Bundle.open(_folder(path)).digest)

    @classmethod
    def execute(cls, path: str, runtime: str) -> io.NodeOutput:
        """Open it, or take the one that is open."""
        folder = _folder(path)
        return io.NodeOutput(_open(folder, runtime, m.Bundle.open(folder).digest))


class EncodePrompt(io.ComfyNode):
    """Run the text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="MiniT2IEncodePrompt",
            display_name="MiniT2I: encode prompt",
            category=CATEGORY,
            description="Run a bundle's text encoder; samplers then take its output.",
            inputs=[
                BundleType.Input("bundle"),
                io.String.Input("prompt", multiline=True, default="a red circle"),
                io.String.Input(
                    "negative", multiline=True, default="", tooltip="empty: no negative prompt"
                ),
            ],
            outputs=[PromptType.Output(display_name="prompt")],
        )

    @classmethod
    def execute(cls, bundle: Opened, prompt: str, negative: str) -> io.NodeOutput:
        """Encode into the runtime's cache, where the sampler finds it."""
        texts = [prompt] + ([negative] if negative else [])
        m.embed(bundle.bundle, bundle.runtime, texts)
        return io.NodeOutput(Prompts(prompt, negative or None))


class Sample(io.ComfyNode):
    """Generate images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its inputs and outputs."""
        return io.Schema(
            node_id="MiniT2ISample",
            display_name="MiniT2I: sample",
            category=CATEGORY,
            description="Generate images along a solver table, from noise or from an image.",
            inputs=[
                BundleType.Input("bundle"),
                PromptType.Input("prompt"),
                io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True),
                io.Combo.Input(
                    "solver",
                    options=list(SOLVERS),
                    default=SOLVERS[0],
                    tooltip="preset: the bundle's own table, for which steps does not count",
                ),
                io.Int.Input("steps", default=40, min=1, max=1000),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="0: the bundle's own",
                ),
                io.Int.Input("images", default=1, min=1, max=64),
                io.Boolean.Input("preview", default=True),
                io.Float.Input(
                    "strength",
                    default=0.7,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="with an image and no mask: 0 gives the image back, 1 a new one",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="of the bundle's size, to begin with"
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="with an image: what is new; the rest stays"
                ),
            ],
            outputs=[io.Image.Output(display_name="images")],
        )

    @classmethod
    def execute(
        cls,
        bundle: Opened,
        prompt: Prompts,
        seed: int,
        solver: str,
        steps: int,
        guidance: float,
        images: int,
        preview: bool,
        strength: float,
        image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Seeds count up from ``seed``, and an image never depends on how many there are."""
        # None takes the bundle's preset, which for an edit with a mask is the one of edits.
        table = None if solver == SOLVERS[0] else bundle.bundle.compile_table(solver, steps)
        result = m.generate(
            bundle.bundle,
            bundle.runtime,
            [prompt.text] * images,
            seed=[(seed + index) % (MAX_SEED + 1) for index in range(images)],
            table=table,
            guidance=guidance or None,
            negative=prompt.negative,
            # Raises where the user has canceled, which ends the run and leaves the runtime open.
            on_frame=functools.partial(_report, preview=preview),
            previews=preview,
            **_edit(strength, image, mask),
        )
        return io.NodeOutput(_as_images(result.x))


def _edit(strength: float, image: torch.Tensor | None, mask: torch.Tensor | None) -> dict[str, Any]:
    """Arguments of ``m.generate`` for ComfyUI's image [1, H, W, 3] of 0 to 1 and mask [1, H, W]."""
    if image is None:
        if mask is not None:
            raise ValueError("a mask needs an image, whose other part stays")
        return {}
    pixels = np.asarray(image, np.float32)[:1].transpose(0, 3, 1, 2) * 2 - 1
    if mask is None:
        return {"init_image": pixels, "strength": strength}
    is_new = np.asarray(mask, np.float32)
    return {"known": pixels, "mask": is_new.reshape(-1, *is_new.shape[-2:])[:1, None]}


def _report(frame: Any, preview: bool) -> None:
    image = to_pil(frame.estimate()[:1])[0] if preview else None
    ComfyAPISync().execution.set_progress(frame.row.index + 1, frame.total, preview_image=image)


def _as_images(x: np.ndarray) -> torch.Tensor:
    """float32 [batch, 3, H, W] of -1 to 1 as ComfyUI's [batch, H, W, 3] of 0 to 1."""
    return torch.from_numpy(np.clip((x.transpose(0, 2, 3, 1) + 1) / 2, 0, 1).copy())


NODES = (LoadBundle, EncodePrompt, Sample)
