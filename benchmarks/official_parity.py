"""One picture by the official PyTorch pipeline and by the torch runtime: equal, byte for byte?

    python benchmarks/official_parity.py --official CHECKOUT                    # a tiny network
    python benchmarks/official_parity.py --official CHECKOUT --variant b-16 --steps 10

CHECKOUT is a clone of the official PyTorch port (github Hope7Happiness/minit2i-torch); its code
runs from there and needs the diffusers package. Both sides read the same random weights in the
official form, take the same prompt and the same start noise, and compute in float32.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

# Read when torch loads: threads that spin while they wait slow everything beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from random_release import CONFIGS, write_release

from minit2i_deploy.export import export_bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.table import solver_table

PROMPT: Final = "two blue squares to the left of a small green triangle"
# The official pipeline's own constant.
A_MIN: Final = 0.05
MIN_EQUAL_SHARE: Final = 0.999
_T5_LAYERS: Final = 2
_VOCABULARY: Final = 32128


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Differences between two pictures of bytes, official against ours.

    Args:
        share_between: bytes that are neither 0 nor 255; pictures of extremes would prove little.
    """

    variant: str
    runtime: str
    steps: int
    guidance: float
    num_bytes: int
    share_between: float
    share_differing: float
    share_off_by_more_than_one: float
    largest_difference: int
    torch: str

    @property
    def passed(self) -> bool:
        """Within one level on 99.9% of the bytes."""
        return 1 - self.share_off_by_more_than_one >= MIN_EQUAL_SHARE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; exits 1 where the pictures differ."""
    options = _parse(arguments)
    pipeline = _official_module(options.official)
    with tempfile.TemporaryDirectory(prefix="minit2i-parity-") as name, torch.no_grad():
        release = Path(name) / "release"
        write_release(release, CONFIGS[options.variant], _T5_LAYERS, _VOCABULARY)
        wanted = _official_picture(pipeline, release, options)
        found = _our_picture(release, Path(name) / "bundle", options)
    report = _compare(wanted, found, options)
    print(json.dumps(asdict(report), indent=2) if options.json else _text(report))
    return 0 if report.passed else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare one picture with the official pipeline.")
    parser.add_argument("--official", type=Path, required=True, help="clone of the PyTorch port")
    parser.add_argument("--variant", choices=CONFIGS, default="tiny", help="default: tiny")
    parser.add_argument("--runtime", choices=("torch", "onnxruntime"), default="torch")
    parser.add_argument("--steps", type=int, default=20, help="Euler steps; default: 20")
    parser.add_argument("--guidance", type=float, default=2.5, help="default: 2.5")
    parser.add_argument("--seed", type=int, default=7, help="of the start noise; default: 7")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if not (options.official / "diffusers" / "pipeline.py").is_file():
        parser.error(f"{options.official}: no diffusers/pipeline.py; give a clone of the port")
    return options


def _official_module(checkout: Path) -> Any:
    # Its files import one another by bare name.
    sys.path.append(str((checkout / "diffusers").resolve()))
    return importlib.import_module("pipeline")


def _official_picture(module: Any, release: Path, options: argparse.Namespace) -> np.ndarray:
    from transformers import AutoTokenizer, T5EncoderModel

    transformer = module.MiniT2IMMJiTModel.from_pretrained(release / "transformer")
    pipe = module.MiniT2ITextToImagePipeline(
        transformer=transformer.eval(),
        tokenizer=AutoTokenizer.from_pretrained(release / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(release / "text_encoder").eval(),
    )
    images: np.ndarray = pipe(
        PROMPT,
        guidance_scale=options.guidance,
        num_inference_steps=options.steps,
        generator=torch.Generator().manual_seed(options.seed),
        output_type="np",
        progress=False,
    ).images
    return images


def _our_picture(release: Path, folder: Path, options: argparse.Namespace) -> np.ndarray:
    bundle = export_bundle(release / "transformer", folder, text_encoder=release / "text_encoder")
    config = bundle.config
    shape = (1, config.in_channels, config.image_size, config.image_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed)).numpy()
    with open_runtime(bundle, options.runtime) as runtime:
        result = generate(
            bundle,
            runtime,
            PROMPT,
            noise=noise,
            table=solver_table("euler", steps=options.steps, a_min=A_MIN),
            guidance=options.guidance,
        )
    return np.asarray(result.images[0])[None]


def _compare(wanted: np.ndarray, found: np.ndarray, options: argparse.Namespace) -> Report:
    off = np.abs(wanted.astype(np.int16) - found.astype(np.int16))
    return Report(
        variant=options.variant,
        runtime=options.runtime,
        steps=options.steps,
        guidance=options.guidance,
        num_bytes=off.size,
        share_between=float(((wanted > 0) & (wanted < 255)).mean()),
        share_differing=float((off > 0).mean()),
        share_off_by_more_than_one=float((off > 1).mean()),
        largest_difference=int(off.max()),
        torch=torch.__version__,
    )


def _text(report: Report) -> str:
    verdict = "equal" if report.passed else "NOT equal"
    return "\n".join(
        (
            f"{report.variant}, {report.steps} Euler steps at guidance {report.guidance:g}: "
            f"official pipeline and runtime {report.runtime} are {verdict}",
            f"  bytes neither 0 nor 255        {report.share_between:.2f}",
            f"  bytes that differ              {report.share_differing:.2e} of {report.num_bytes}",
            f"  bytes off by more than 1       {report.share_off_by_more_than_one:.2e} "
            f"(at most {1 - MIN_EQUAL_SHARE:.0e})",
            f"  largest difference             {report.largest_difference} of 255",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
