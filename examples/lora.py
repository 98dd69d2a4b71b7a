"""A LoRA from training to an image: an adapter on the shipped model, for a color it never saw.

    python examples/lora.py [FOLDER] [STEPS]

The adapter that ships with the package took the recipe's 2500 steps of 64 images, 14 minutes of
two cores; the default here is a few seconds' worth, which shows the commands and no more.

Needs the extras ``export`` and ``train``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from minit2i_deploy.cli import main as minit2i
from minit2i_deploy.demo.shipped import shipped_model


def run(*arguments: object) -> None:
    """One minit2i command, as on the command line."""
    print("minit2i", *arguments)
    if exit_code := minit2i([str(argument) for argument in arguments]):
        raise SystemExit(exit_code)


def main(folder: Path, steps: int) -> None:
    shipped = shipped_model()
    short: dict[str, object] = {
        "steps": steps,
        "warmup_steps": 1,
        "decay_steps": 0,
        "checkpoint_every": steps,
    }
    # A sample grid of one image, and no compiled blocks: both cost more than so short a run.
    short |= {"batch": 8, "sample_prompts": '["a cyan circle"]', "compile": "false"}
    overrides = [f"{key}={value}" for key, value in short.items()]
    run("train", "demo-lora", "--output", folder / "run", *overrides)
    adapter = folder / "run" / f"step-{steps:06}"
    run(
        *("export", shipped.checkpoint, folder / "bundle", "--lora", adapter),
        *("--text-encoder", shipped.text_encoder),
    )
    run(
        *("generate", folder / "bundle", "a cyan circle and a red square"),
        *("--preset", "fast", "-o", folder / "cyan.png"),
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        Path(arguments[0] if arguments else "minit2i-lora"),
        int(arguments[1]) if len(arguments) > 1 else 4,
    )
