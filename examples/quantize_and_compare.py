"""An INT8 bundle: how small it is, and how far its images are from float32.

    python examples/quantize_and_compare.py [BUNDLE] [FOLDER]

Needs the extra ``quantize``. ``minit2i compare`` writes a full report of the same two bundles.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import minit2i_deploy as m
from minit2i_deploy.cli import main as minit2i

PROMPTS = ["a red circle", "two blue squares", "a green triangle left of a red cross"]


def generate(bundle: m.Bundle) -> np.ndarray:
    """Final states, float32 [images, 3, H, W], of the same prompts and noise."""
    with m.open_runtime(bundle) as runtime:
        return m.generate(bundle, runtime, PROMPTS, seed=[1, 2, 3], table=bundle.table("ab2-20")).x


def main(source: Path, target: Path) -> None:
    command = ["quantize", str(source), str(target), "--scheme", "int8", "--samples", "4"]
    if exit_code := minit2i(command):
        raise SystemExit(exit_code)
    bundles = [m.Bundle.open(source), m.Bundle.open(target)]
    expected, actual = (np.clip(generate(bundle), -1, 1) for bundle in bundles)
    errors = np.mean((actual - expected) ** 2, axis=(1, 2, 3))
    for prompt, error in zip(PROMPTS, errors, strict=True):
        print(f"{10 * np.log10(4 / error):5.1f} dB  {prompt}")
    sizes = [bundle.manifest.num_bytes / 1e6 for bundle in bundles]
    print(f"{sizes[0]:.1f} MB in float32, {sizes[1]:.1f} MB in INT8")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        Path(arguments[0]) if arguments else m.ready_bundle("demo"),
        Path(arguments[1] if len(arguments) > 1 else "minit2i-int8"),
    )
