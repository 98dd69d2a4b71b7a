"""`Subject`: the stages of generation on one runtime as repeatable calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.bench.estimates import Estimate, make_estimate
from minit2i_deploy.flops import adapter_flops, denoiser_flops, text_encoder_flops
from minit2i_deploy.io.images import to_pil
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.request import Request
from minit2i_deploy.text.encoder import SequenceEncoder

STAGES: Final = ("tokenise", "encode", "adapt", "step", "image", "embed")
# Vocabulary of the texts for the embed stage: common words of prompts.
_VOCABULARY: Final = (
    "a red blue green circle square triangle left of two three above the small".split()
)


@runtime_checkable
class Rated(Protocol):
    """A runtime that can measure the rate of its matrix products."""

    def matrix_rate(self) -> float:
        """FLOP a second of large matrix products, measured by this call."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """One bundle on one runtime, ready to be timed.

    Args:
        label: unique among the subjects.
        stages: stage to a call that runs it once.
        flops: stage to the arithmetic of one call, for stages with a formula.
        steps_per_image: step calls for one image; a row with fewer branches counts for its
            share.
        num_texts: texts in one call of embed.
        noise: start of a trajectory, float32 [1, 3, H, W], the same for every subject of a size.
        estimate: the guided estimate of the clean image for the prompt.
        matrix_rate: FLOP a second of large matrix products.
    """

    label: str
    stages: Mapping[str, Callable[[], object]]
    flops: Mapping[str, int]
    steps_per_image: float
    num_texts: int
    noise: Float32[np.ndarray, "1 3 height width"]
    estimate: Estimate
    matrix_rate: float


def prepare_subject(
    label: str,
    bundle: Bundle,
    runtime: Runtime,
    *,
    prompt: str,
    preset: str | None = None,
    num_texts: int = 64,
    batch_size: int = 32,
) -> Subject:
    """Run every stage once and store the inputs of the next one.

    Args:
        label: unique among the subjects.
        bundle: what to run.
        runtime: an open runtime of that bundle.
        prompt: what to generate.
        preset: table and guidance; None for the bundle's default.
        num_texts: different short texts that one call of embed encodes.
        batch_size: of the texts.

    Raises:
        UsageError: an unknown preset, or no texts.
        RuntimeFailure: the engine failed.
    """
    if num_texts < 1:
        raise UsageError(f"expected at least 1 text to embed, got {num_texts}")
    table, guidance = bundle.preset(preset)
    request = Request.of(bundle, prompt, table=table, guidance=guidance)
    costliest = max(request.rows, key=lambda row: len(row.weights))
    branches = len(costliest.weights)
    tokenizer = bundle.tokenizer()
    (encoded,) = tokenizer.encode([prompt])
    ids, mask = encoded.ids[None], np.ones((1, len(encoded.ids)), np.int64)
    inputs = _adapter_inputs(request, bundle, runtime.encode(ids, mask), branches)
    tokens, noise = runtime.adapt(*inputs)[:, None], request.start(bundle)
    state = runtime.start(noise, tokens)
    state.step(costliest)
    first = state.state()[0]
    encoder = SequenceEncoder(bundle, runtime, batch_size=batch_size, cache_bytes=0)
    texts = tokenizer.encode(short_texts(num_texts))
    return Subject(
        label=label,
        stages={
            "tokenise": lambda: tokenizer.encode([prompt]),
            "encode": lambda: runtime.encode(ids, mask),
            "adapt": lambda: runtime.adapt(*inputs),
            "step": lambda: state.step(costliest),
            "image": lambda: to_pil(first),
            "embed": lambda: list(encoder.sequences(texts)),
        },
        flops=_flops(bundle, ids.size, branches),
        steps_per_image=sum(len(row.weights) for row in request.rows) / branches,
        num_texts=num_texts,
        noise=noise,
        estimate=make_estimate(runtime, tokens, costliest),
        matrix_rate=runtime.matrix_rate() if isinstance(runtime, Rated) else numpy_rate(),
    )


def short_texts(count: int) -> list[str]:
    """So many different texts of 2 to 9 words, the same in every call."""
    rng = np.random.default_rng(0)
    texts: dict[str, None] = {}
    while len(texts) < count:
        length = int(rng.integers(2, 10))
        texts[" ".join(rng.choice(_VOCABULARY, length))] = None
    return list(texts)


def numpy_rate(size: int = 2048, repeats: int = 5) -> float:
    """FLOP a second of the best of several float32 matrix products in numpy."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(seconds)


def _adapter_inputs(
    request: Request, bundle: Bundle, values: np.ndarray, branches: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Padded prompt, its mask and a student's conditions; a second branch is unconditional."""
    length = bundle.config.prompt_length
    context = np.zeros((branches, length, values.shape[2]), np.float32)
    mask = np.zeros((branches, length), np.int64)
    context[0, : values.shape[1]], mask[0, : values.shape[1]] = values[0], 1
    conditions = request.conditions
    return context, mask, None if conditions is None else np.tile(conditions, (branches, 1))


def _flops(bundle: Bundle, num_tokens: int, branches: int) -> dict[str, int]:
    config = bundle.config
    flops = {"adapt": branches * adapter_flops(config), "step": branches * denoiser_flops(config)}
    path = Path(bundle.graph_path("text_encoder")).parent / "config.json"
    try:
        encoder = json.loads(path.read_text(encoding="utf-8"))
        flops["encode"] = text_encoder_flops(encoder, num_tokens)
    except (OSError, ValueError, KeyError):
        # There is a formula for T5 only; other encoders are timed without one.
        pass
    return flops
