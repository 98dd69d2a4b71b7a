"""What peers.py compares: each contender as a call that does the same work and gives its result."""

from __future__ import annotations

import functools
import importlib
import json
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import openvino
import torch

import minit2i_deploy as m
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.runtimes.onnxruntime.runtime import open_session
from minit2i_deploy.runtimes.signal_stack import preserved_signal_stack
from minit2i_deploy.runtimes.torch.network import read_weights
from minit2i_deploy.runtimes.toy_graph import RATE_SIZE, matmul_model, rate_arrays
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.text.encoder import SequenceEncoder

GUIDANCE: Final = 2.5
PROMPT: Final = "two blue squares to the left of a small green triangle on a white ground"
# In the middle of the official 100 steps; the port's own bound on 1 - t.
TABLE: Final = solver_table("euler", steps=100, a_min=0.05)
ROW: Final = 50
# Label -> runtime and its options; what differs is the engine and what it computes in.
OURS: Final[dict[str, tuple[str, dict[str, Any], str]]] = {
    "onnxruntime fp32": ("onnxruntime", {}, "fp32"),
    "onnxruntime openvino bf16": (
        "onnxruntime",
        {"provider": "openvino", "precision": "bf16"},
        "bf16",
    ),
    "openvino fp32": ("openvino", {}, "fp32"),
    "openvino bf16": ("openvino", {"precision": "bf16"}, "bf16"),
    "torch fp32": ("torch", {}, "fp32"),
    "torch bf16": ("torch", {"precision": "bf16"}, "bf16"),
}
OFFICIAL: Final = {"official fp32": torch.float32, "official bf16": torch.bfloat16}
_UNREAD: Final = ("t_embedder.", "pooled_embedder.")
_SHORT, _LONG = 1, 3
_RATE_REPEATS: Final = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way of doing the work.

    Args:
        label: what the report calls it.
        precision: what it computes in.
        call: does it once and gives the result, float32; None for one that times itself.
        timed: for such a one: wall and CPU seconds of one step.
    """

    label: str
    precision: str
    call: Callable[[], np.ndarray] | None = None
    timed: Callable[[], tuple[float, float]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work:
    """What all contenders start from.

    Args:
        x: float32 [1, 3, H, W], the state before the row.
        context: float32 [1, L, width], the encoded prompt, zero at padding.
        mask: int64 [1, L].
        ids: int64 [1, tokens], the prompt.
    """

    x: np.ndarray
    context: np.ndarray
    mask: np.ndarray
    ids: np.ndarray


def prepare(bundle: m.Bundle, threads: int) -> Work:
    """Noise and prompt, encoded once on onnxruntime."""
    encoded = bundle.tokenizer().encode([PROMPT])
    with m.open_runtime(bundle, "onnxruntime", threads=threads) as runtime:
        encoder = SequenceEncoder(bundle, runtime)
        context, mask = encoder.padded(encoded, bundle.config.prompt_length)
    size = bundle.config.image_size
    x = batch_noise([7], (bundle.config.in_channels, size, size))
    return Work(x=x * np.float32(1.2), context=context, mask=mask, ids=encoded[0].ids[None])


def our_step(bundle: m.Bundle, label: str, work: Work, threads: int, stack: ExitStack) -> Contender:
    """One guided row on one of our runtimes: the guided estimate of the clean image."""
    name, options, precision = OURS[label]
    runtime_options = options if name == "torch" else {**options, "threads": threads}
    runtime = stack.enter_context(m.open_runtime(bundle, name, **runtime_options))
    context = np.concatenate([work.context, np.zeros_like(work.context)])
    mask = np.concatenate([work.mask, np.zeros_like(work.mask)])
    tokens = runtime.adapt(context, mask)[:, None]
    row = TABLE.steps(GUIDANCE)[ROW]

    def call() -> np.ndarray:
        state = runtime.start(work.x, tokens)
        state.step(row)
        return state.state()[1]

    return Contender(label=label, precision=precision, call=call)


def official_step(bundle: m.Bundle, label: str, work: Work, checkout: Path) -> Contender:
    """The same row by the official PyTorch port, with its own network and guidance.

    The port runs its text blocks in every step, as it does when it samples.
    """
    dtype = OFFICIAL[label]
    module = _official_module(checkout)
    fields = module.MMJiTConfig.__dataclass_fields__
    values = {k: v for k, v in bundle.config.to_dict().items() if k in fields}
    width = bundle.config.hidden_size
    config = module.MMJiTConfig(**values | {"txt_hidden_size": width, "cond_vec_size": width})
    model = module.DiffusionModel(config).eval()
    weights = read_weights(bundle, "text_adapter") | read_weights(bundle, "transformer")
    keys = model.net.load_state_dict(
        {name: torch.from_numpy(value) for name, value in weights.items()}, strict=False
    )
    strays = [name for name in keys.missing_keys if not name.startswith(_UNREAD)]
    if strays or keys.unexpected_keys:
        raise SystemExit(f"{checkout}: its network has other weights: {strays[:4]}")
    model = model.to(dtype)
    x, context, mask = (
        torch.from_numpy(array).to(dtype) for array in (work.x, work.context, work.mask)
    )
    t = torch.full((1,), float(TABLE.column("t")[ROW]), dtype=dtype)

    @torch.no_grad()
    def call() -> np.ndarray:
        velocity = model.cfg_velocity(x, t, context, mask, GUIDANCE)
        estimate: np.ndarray = (x + velocity * (1 - t)).float().numpy()
        return estimate

    return Contender(label=label, precision=label.split()[-1], call=call)


def command_step(command: str) -> Contender:
    """One step of another program: half of what three steps take longer than one.

    Args:
        command: its command line, with {steps} where the number of steps goes.
    """

    def timed() -> tuple[float, float]:
        short, long = (_run(command, steps) for steps in (_SHORT, _LONG))
        wall, cpu = ((b - a) / (_LONG - _SHORT) for a, b in zip(short, long, strict=True))
        return wall, cpu

    return Contender(label=Path(shlex.split(command)[0]).name, precision="its own", timed=timed)


def our_encoder(
    bundle: m.Bundle, label: str, work: Work, threads: int, stack: ExitStack
) -> Contender:
    """The prompt's real tokens on one of our runtimes."""
    name, options, precision = OURS[label]
    runtime_options = options if name == "torch" else {**options, "threads": threads}
    runtime = stack.enter_context(m.open_runtime(bundle, name, **runtime_options))
    mask = np.ones_like(work.ids)
    return Contender(label=label, precision=precision, call=lambda: runtime.encode(work.ids, mask))


def peer_encoders(bundle: m.Bundle, work: Work, threads: int) -> list[Contender]:
    """The same graph in optimum, and the same weights in transformers, alone and padded."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import T5Config, T5EncoderModel

    folder = bundle.graph_path("text_encoder").parent
    model = T5EncoderModel(T5Config.from_pretrained(folder)).eval()
    weights = {k: torch.from_numpy(v) for k, v in read_weights(bundle, "text_encoder").items()}
    # One table under two names.
    weights.setdefault("encoder.embed_tokens.weight", weights["shared.weight"])
    model.load_state_dict(weights)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    peer = ORTModelForFeatureExtraction.from_pretrained(folder, session_options=settings)
    num_tokens, length = work.ids.shape[1], bundle.config.prompt_length
    mask = np.ones_like(work.ids)
    padded = np.pad(work.ids, ((0, 0), (0, length - num_tokens)))
    padded_mask = np.pad(mask, ((0, 0), (0, length - num_tokens)))

    @torch.no_grad()
    def in_torch(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        hidden = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        values: np.ndarray = hidden.last_hidden_state.numpy()
        return values[:, :num_tokens]

    def in_optimum() -> np.ndarray:
        values: np.ndarray = peer(input_ids=work.ids, attention_mask=mask).last_hidden_state
        return values

    return [
        Contender(label="optimum", precision="fp32", call=in_optimum),
        Contender(label="transformers", precision="fp32", call=lambda: in_torch(work.ids, mask)),
        Contender(
            label=f"transformers, padded to {length}",
            precision="fp32",
            call=lambda: in_torch(padded, padded_mask),
        ),
    ]


def matrix_rates(threads: int) -> dict[str, float]:
    """FLOP of large matrix products in a second of CPU time, the best of the libraries at hand.

    Args:
        threads: that share the work.

    Returns:
        by precision, for all threads together.
    """
    a, b = rate_arrays()
    model = matmul_model(RATE_SIZE, RATE_SIZE, RATE_SIZE, b)
    session = open_session(onnxruntime, model, PROVIDERS["cpu"], threads=threads)
    products: list[tuple[str, Callable[[], object]]] = [
        ("fp32", lambda: session.run(None, {"a": a}))
    ]
    for precision, hint in (("fp32", "f32"), ("bf16", "bf16")):
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": str(threads)}
        core = openvino.Core()
        with preserved_signal_stack():
            compiled = core.compile_model(core.read_model(model), "CPU", settings)
        products.append((precision, functools.partial(compiled, {"a": a})))
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        pair = [torch.from_numpy(array).to(dtype) for array in (a, b)]
        products.append((precision, functools.partial(torch.mm, *pair)))
    rates: dict[str, float] = {}
    for precision, product in products:
        rate = 2.0 * RATE_SIZE**3 * threads / _cpu_seconds(product)
        rates[precision] = max(rate, rates.get(precision, 0.0))
    return rates


def text_flops(bundle: m.Bundle, num_tokens: int) -> int:
    """Arithmetic of the text encoder over so many tokens."""
    from minit2i_deploy.flops import text_encoder_flops

    config = bundle.graph_path("text_encoder").parent / "config.json"
    return text_encoder_flops(json.loads(config.read_text(encoding="utf-8")), num_tokens)


def _cpu_seconds(product: Callable[[], object]) -> float:
    """The least of several, after a warm-up."""
    product()
    seconds = []
    for _ in range(_RATE_REPEATS):
        began = time.process_time()
        product()
        seconds.append(time.process_time() - began)
    return min(seconds)


def _official_module(checkout: Path) -> Any:
    # Its files import one another by bare name; this one needs torch alone.
    folder = str((checkout / "diffusers").resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("mmdit")


def _run(command: str, steps: int) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    arguments = shlex.split(command.replace("{steps}", str(steps)))
    subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent
