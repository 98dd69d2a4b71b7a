"""One training step against the official PyTorch trainer's: pictures a second, and memory.

    python benchmarks/training_step.py --official CHECKOUT --variant b-32 --batch 2

Each side runs in a process of its own, one after the other in turns (A B A B), on random pictures
and text embeddings; the text encoder is left out of both. The official side calls the checkout's
network, loss and averaging in the order of its train.py, whose own loop runs on CUDA alone.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SIDES: Final = ("official", "ours")
_TINY: Final = {"image_size": 64, "hidden_size": 64, "num_heads": 4, "head_dim": 16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    if options.side:
        print(json.dumps(_measured(options)))
        return 0
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            found[side].append(_in_process(options, side))
    print(_table(options, found))
    if options.json is not None:
        values = {"options": {k: str(v) for k, v in vars(options).items()}, "sides": found}
        options.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time one training step, ours and the official.")
    parser.add_argument("--official", type=Path, required=True, help="checkout of the PyTorch port")
    parser.add_argument("--variant", default="tiny", help="tiny, b-32, b-16 or l-16; default: tiny")
    parser.add_argument("--depth", type=int, help="double-stream blocks, in place of the variant's")
    parser.add_argument("--batch", type=int, default=2, help="pictures a step; default: 2")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side; default: 2")
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


def _in_process(options: argparse.Namespace, side: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side]
    for name in ("official", "variant", "batch", "steps", "threads", "device", "attention"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--optimizer", options.optimizer] + ["--eager"] * options.eager
    if options.depth:
        command += ["--depth", str(options.depth)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    step = {"official": _official, "ours": _ours}[options.side](options, *_data(options))
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


def _data(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    import torch

    config = _config(options)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(options.batch, 3, *[config.image_size] * 2, generator=generator) * 2 - 1
    shape = (options.batch, config.prompt_length)
    context = torch.randn(*shape, config.txt_input_size, generator=generator)
    mask = (torch.arange(config.prompt_length) < 40).float().expand(shape)
    return images, context, mask


def _official(options: argparse.Namespace, *data: Any) -> Callable[[], float]:
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
    images, context, mask = (value.to(device) for value in data)

    def step() -> float:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, metrics, _ = training_loss(model, images, context.to(torch.bfloat16), mask)
        loss.backward()
        parameters = [p for p in model.parameters() if p.grad is not None]
        norms = [torch.linalg.vector_norm(p.grad.detach(), 2) for p in parameters]
        torch.linalg.vector_norm(torch.stack(norms), 2)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_ema(average, model, 0.99995)
        return float(metrics["loss"])

    return step


def _ours(options: argparse.Namespace, *data: Any) -> Callable[[], float]:
    """The learner of a run, which draws its noise too."""
    from minit2i_deploy.training.learner import Learner
    from minit2i_deploy.training.objective import Batch
    from minit2i_deploy.training.recipe import Recipe

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
    images, context, mask = data
    batch = Batch(images=images, context=context, mask=mask, rows=range(options.batch))
    return lambda: learner.learn([batch])


def _table(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        f"{options.variant}, depth {_config(options).depth_double}, batch {options.batch}, bf16, "
        f"{options.device}, ours {'eager' if options.eager else 'compiled'}, official "
        f"{options.attention}",
        "",
        "| side | step, s: median (min) | processor time, s: median (min) | peak memory, GB |",
        "|---|---|---|---|",
    ]
    medians = {}
    for side, runs in found.items():
        wall = [value for run in runs for value in run["seconds"]]
        cpu = [value for run in runs for value in run["cpu_seconds"]]
        peak = max(run["peak_bytes"] for run in runs)
        medians[side] = (statistics.median(wall), statistics.median(cpu), peak)
        lines.append(
            f"| {side} | {medians[side][0]:.3g} ({min(wall):.3g}) | {medians[side][1]:.3g} "
            f"({min(cpu):.3g}) | {peak / 1e9:.2f} |"
        )
    ratios = [a / b for a, b in zip(medians["official"], medians["ours"], strict=True)]
    lines += ["", f"official over ours: step {ratios[0]:.2f}, processor time {ratios[1]:.2f}, "
              f"memory {ratios[2]:.2f}"]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
