"""One training step against the official PyTorch trainer's: images a second, and memory.

    python benchmarks/training_step.py --official CHECKOUT --variant b-32 --batch 2 \
        --text none loop cached

Each contender runs in its own process, one after the other in turns, on random images. The
official one calls the checkout's network, loss and averaging in the order of its train.py, whose
own loop runs on CUDA alone. Reading and decoding images is excluded from all.

``--text`` names what of the captions is measured; several give one table.
    none    the network alone: embeddings are there in both
    loop    a frozen random encoder of FLAN-T5-Large's shape is part of both steps: the official
            one in bf16 over padded captions, ours in float32 over their real tokens
    cached  that of the official step, and in ours embeddings read from shards
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.cli.support.script import run_script

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SIDES: Final = ("official", "ours")
TEXTS: Final = ("none", "loop", "cached")
# What stands against what: (text of the official step, text of ours, name of the comparison).
PAIRS: Final = (
    ("none", "none", "the network alone"),
    ("loop", "loop", "text encoder in both"),
    ("loop", "cached", "text encoder in the official one, cached embeddings in ours"),
)
_TINY: Final = {"image_size": 64, "hidden_size": 64, "num_heads": 4, "head_dim": 16}
_T5: Final = {"d_ff": 2816, "d_kv": 64, "num_heads": 16, "num_layers": 24, "vocab_size": 32128}
_TINY_T5: Final = {"d_ff": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2, "vocab_size": 320}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = parse_options(arguments)
    if options.side:
        print(json.dumps(measure(options)))
        return 0
    contenders = list_contenders(options.text)
    runs: dict[str, list[dict[str, Any]]] = {" ".join(pair): [] for pair in contenders}
    for _ in range(options.rounds):
        for side, text in contenders:
            runs[f"{side} {text}"].append(run_in_process(options, side, text))
    print(_table(options, runs))
    if options.json is not None:
        values = {"options": {k: str(v) for k, v in vars(options).items()}, "runs": runs}
        options.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description="Time one training step, ours and the official.")
    parser.add_argument("--official", type=Path, required=True, help="checkout of the PyTorch port")
    parser.add_argument("--variant", default="tiny", help="tiny, b-32, b-16 or l-16; default: tiny")
    parser.add_argument("--depth", type=int, help="double-stream blocks, in place of the variant's")
    parser.add_argument("--batch", type=int, default=2, help="images a step; default: 2")
    parser.add_argument("--text", nargs="+", default=["none"], choices=TEXTS, help="default: none")
    parser.add_argument("--tokens", type=int, default=40, help="of a caption; default: 40")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each; default: 2")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each; default: 3")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU; default: 2")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")
    parser.add_argument(
        "--attention", default="sdpa", choices=("sdpa", "einsum"),
        help="the official network's; its pretraining configuration has sdpa, its default einsum",
    )  # fmt: skip
    parser.add_argument("--eager", action="store_true", help="do not compile ours")
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "muon"), help="of ours")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    # Relative to where the command was given, not to where a process of it runs.
    options.official = options.official.resolve()
    return options


def list_contenders(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Sides with their text, each once, in the order they take turns."""
    pairs: dict[tuple[str, str], None] = {}
    for theirs, ours, _ in PAIRS:
        if ours in texts:
            pairs |= {("official", theirs): None, ("ours", ours): None}
    return list(pairs)


def run_in_process(options: argparse.Namespace, side: str, text: str) -> dict[str, Any]:
    """The report of one side, measured in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--text", text]
    for name in ("official", "variant", "batch", "tokens", "steps", "threads", "device"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--attention", options.attention, "--optimizer", options.optimizer]
    command += ["--eager"] * options.eager
    if options.depth:
        command += ["--depth", str(options.depth)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times and memory of the steps of one side in this process."""
    import torch

    torch.set_num_threads(options.threads)
    step = {"official": _official, "ours": _ours}[options.side](options)
    losses, seconds, cpu_seconds = [step()], [], []
    for _ in range(options.steps):
        wall, cpu = time.perf_counter(), time.process_time()
        losses.append(step())
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "losses": losses,
        "peak_bytes": _peak(options.device),
    }


def _peak(device: str) -> int:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    kilobytes = next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]
    return int(kilobytes) * 1024


def _config(options: argparse.Namespace) -> Any:
    import dataclasses

    from minit2i_deploy.config import VARIANTS

    if options.variant == "tiny":
        config = dataclasses.replace(VARIANTS["b-16"], **_TINY, depth_double=2)
    else:
        config = VARIANTS[options.variant]
    return dataclasses.replace(config, depth_double=options.depth or config.depth_double)


def _images(options: argparse.Namespace) -> Any:
    """uint8 [B, H, W, 3]."""
    import torch

    shape = (options.batch, *[_config(options).image_size] * 2, 3)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def _captions(options: argparse.Namespace) -> Iterator[Any]:
    """New token ids for every step, int64 [B, tokens], so that none can be remembered."""
    import torch

    generator = torch.Generator().manual_seed(1)
    size = _TINY_T5 if options.variant == "tiny" else _T5
    while True:
        yield torch.randint(
            3, size["vocab_size"], (options.batch, options.tokens), generator=generator
        )


def open_encoder(options: argparse.Namespace) -> Any:
    """A frozen random T5 encoder as wide as the network expects it."""
    import torch
    import transformers

    torch.manual_seed(0)
    size = _TINY_T5 if options.variant == "tiny" else _T5
    config = transformers.T5Config(
        d_model=_config(options).txt_input_size, feed_forward_proj="gated-gelu", **size
    )
    return transformers.T5EncoderModel(config).eval().requires_grad_(False)


def _official(options: argparse.Namespace) -> Callable[[], float]:
    """The body of the checkout's train(), with its own functions."""
    sys.path.insert(0, str(options.official))
    import torch
    from mini_t2i.diffusion import training_loss  # type: ignore[import-not-found]
    from mini_t2i.model import MMJiTB32Text2  # type: ignore[import-not-found]
    from mini_t2i.utils import update_ema  # type: ignore[import-not-found]

    config, device = _config(options), torch.device(options.device)
    names = ("image_size", "patch_size", "hidden_size", "depth_double", "num_heads", "head_dim")
    shape = {name: getattr(config, name) for name in (*names, "mlp_ratio", "pca_channels")}
    torch.manual_seed(0)
    model = MMJiTB32Text2(
        **shape, t5_hidden_size=config.txt_input_size, attention_impl=options.attention
    ).to(device)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=4e-4, betas=(0.9, 0.95),
        weight_decay=0.0,
    )  # fmt: skip
    raw_images = _images(options).permute(0, 3, 1, 2).contiguous()
    encode = official_text(options, device)

    def step() -> float:
        images = raw_images.to(device).to(torch.float32).mul_(1.0 / 127.5).add_(-1.0)
        context, mask = encode()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, metrics, _ = training_loss(model, images, context, mask)
        loss.backward()
        parameters = [p for p in model.parameters() if p.grad is not None]
        norms = [torch.linalg.vector_norm(p.grad.detach(), 2) for p in parameters]
        torch.linalg.vector_norm(torch.stack(norms), 2)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_ema(average, model, 0.99995)
        return float(metrics["loss"])

    return step


def official_text(options: argparse.Namespace, device: Any) -> Callable[[], Any]:
    """What gives the official step its context and mask.

    Written after encode_text of the checkout's train.py, which imports every data set's reader.
    """
    import torch
    import torch.nn.functional as F

    length, captions = _config(options).prompt_length, _captions(options)
    mask = (torch.arange(length) < options.tokens).long().expand(options.batch, -1).to(device)
    if options.text == ["none"]:
        values = torch.randn(options.batch, length, _config(options).txt_input_size)
        embedded = values.to(device, torch.bfloat16)
        return lambda: (embedded, mask)
    encoder = open_encoder(options).to(device)

    def encode() -> tuple[Any, Any]:
        ids = F.pad(next(captions), (0, length - options.tokens)).to(device)
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
            hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden.to(torch.bfloat16), mask

    return encode


def _ours(options: argparse.Namespace) -> Callable[[], float]:
    """The learner of a run with the data that its loop hands it; it draws its noise too."""
    from minit2i_deploy.training.data import to_network_range
    from minit2i_deploy.training.learner import Learner
    from minit2i_deploy.training.objectives.objective import Batch
    from minit2i_deploy.training.recipe.recipe import Recipe

    recipe = Recipe(
        name="step",
        model=_config(options),
        text_encoder="none",
        tokenizer="none",
        batch=options.batch,
        lr=4e-4,
        optimizer=options.optimizer,
        warmup_steps=0,
        ema_decay=0.99995,
        grad_clip=0.0,
        device=options.device,
        compile=not options.eager,
    )
    learner = Learner(recipe, "step")
    raw_images, encode = _images(options), our_text(options)

    def step() -> float:
        context, mask = encode()
        batch = Batch(
            images=to_network_range(raw_images),
            context=context,
            mask=mask,
            captions=[""] * options.batch,
            positions=range(options.batch),
        )
        return learner.update([batch])

    return step


def our_text(options: argparse.Namespace) -> Callable[[], Any]:
    """What gives our step its context and mask, as a run's loop makes them."""
    import torch

    from minit2i_deploy.training.caption_encoder import encode_tokens
    from minit2i_deploy.training.data import DataBatch

    length, captions = _config(options).prompt_length, _captions(options)
    width, lengths = _config(options).txt_input_size, (options.tokens,) * options.batch
    # A run with cached embeddings holds its encoder too, for the captions of sample grids.
    encoder = None if options.text == ["none"] else open_encoder(options)
    stored = torch.randn(options.batch * options.tokens, width)

    def encode() -> tuple[Any, Any]:
        values = stored
        if options.text == ["loop"]:
            values = torch.cat([encode_tokens(encoder, ids) for ids in next(captions)])
        data = DataBatch(images=values, captions=[], values=values, lengths=lengths)
        return data.context_and_mask(length)

    return encode


def _table(options: argparse.Namespace, runs_of: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        f"{options.variant}, depth {_config(options).depth_double}, batch {options.batch}, "
        f"captions of {options.tokens} tokens, bf16, {options.device}, ours "
        f"{'eager' if options.eager else 'compiled'}, official {options.attention}",
        "",
        "| side, text | step, s: median (min) | processor time, s: median (min) | memory, GB |",
        "|---|---|---|---|",
    ]
    medians = {}
    for name, runs in runs_of.items():
        wall = [value for run in runs for value in run["seconds"]]
        cpu = [value for run in runs for value in run["cpu_seconds"]]
        peak = max(run["peak_bytes"] for run in runs)
        medians[name] = (statistics.median(wall), statistics.median(cpu), peak)
        lines.append(
            f"| {name.replace(' ', ', ')} | {medians[name][0]:.3g} ({min(wall):.3g}) | "
            f"{medians[name][1]:.3g} ({min(cpu):.3g}) | {peak / 1e9:.2f} |"
        )
    lines += ["", "| official over ours | step | processor time | memory |", "|---|---|---|---|"]
    for theirs, ours, name in PAIRS:
        if ours in options.text:
            pair = medians[f"official {theirs}"], medians[f"ours {ours}"]
            ratios = [a / b for a, b in zip(*pair, strict=True)]
            lines.append(f"| {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
