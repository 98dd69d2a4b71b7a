"""One image by the official PyTorch pipeline and by the torch runtime: equal, byte for byte?

    python benchmarks/official_parity.py --official CHECKOUT                    # a tiny network
    python benchmarks/official_parity.py --official CHECKOUT --variant b-16 --steps 10
    python benchmarks/official_parity.py --official CHECKOUT --variant b-16 --precision bf16

CHECKOUT is a clone of the official PyTorch port (github Hope7Happiness/minit2i-torch); its code
runs from there and needs the diffusers package. Both sides read the same random weights in the
official form, take the same prompt and the same start noise, and compute in float32.

With ``--precision bf16`` each side generates in bfloat16 too, the official one with the weights,
the state and the times in that type as its README advises. Both are compared with the official
image in float32: what a bundle in bf16 costs beside what users of the official code accept.
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

from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.export import ExportOptions, export_bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import solver_table

PROMPT: Final = "two blue squares to the left of a small green triangle"
# The official pipeline's own constant.
A_MIN: Final = 0.05
MIN_EQUAL_SHARE: Final = 0.999
_T5_LAYERS: Final = 2
_VOCABULARY: Final = 32128


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Differences between two images of bytes: one and the official one in float32.

    Args:
        generator: "official" or the name of our runtime.
        share_between: bytes that are neither 0 nor 255; images of extremes would prove little.
    """

    variant: str
    generator: str
    precision: str
    steps: int
    guidance: float
    num_bytes: int
    share_between: float
    share_differing: float
    share_off_by_more_than_one: float
    share_off_by_more_than_eight: float
    largest_difference: int
    torch: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; exits 1 where the images differ."""
    options = _parse(arguments)
    pipeline = _official_module(options.official)
    with tempfile.TemporaryDirectory(prefix="minit2i-parity-") as name, torch.no_grad():
        release = Path(name) / "release"
        write_release(release, CONFIGS[options.variant], _T5_LAYERS, _VOCABULARY)
        expected = _official_image(pipeline, release, options, torch.float32)
        actual = {options.runtime: _our_image(release, Path(name) / "bundle", options)}
        if options.precision == "bf16":
            actual["official"] = _official_image(pipeline, release, options, torch.bfloat16)
    reports = {who: _compare(expected, image, who, options) for who, image in actual.items()}
    values = [asdict(report) for report in reports.values()]
    print(json.dumps(values, indent=2) if options.json else _text(list(reports.values())))
    ours = reports[options.runtime]
    if options.precision == "fp32":
        return int(1 - ours.share_off_by_more_than_one < MIN_EQUAL_SHARE)
    limit = reports["official"].share_off_by_more_than_eight
    return int(ours.share_off_by_more_than_eight > limit)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare one image with the official pipeline.")
    parser.add_argument("--official", type=Path, required=True, help="clone of the PyTorch port")
    parser.add_argument("--variant", choices=CONFIGS, default="tiny", help="default: tiny")
    parser.add_argument("--runtime", choices=("torch", "onnxruntime"), default="torch")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of runtime torch; default: fp32",
    )
    parser.add_argument("--steps", type=int, default=20, help="Euler steps; default: 20")
    parser.add_argument("--guidance", type=float, default=2.5, help="default: 2.5")
    parser.add_argument("--seed", type=int, default=7, help="of the start noise; default: 7")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if options.precision == "bf16" and options.runtime != "torch":
        parser.error(f"--runtime {options.runtime} has no bf16 kernels here; take --runtime torch")
    if not (options.official / "diffusers" / "pipeline.py").is_file():
        parser.error(f"{options.official}: no diffusers/pipeline.py; give a clone of the port")
    return options


def _official_module(checkout: Path) -> Any:
    # Its files import one another by bare name.
    sys.path.append(str((checkout / "diffusers").resolve()))
    return importlib.import_module("pipeline")


def _official_image(
    module: Any, release: Path, options: argparse.Namespace, dtype: torch.dtype
) -> np.ndarray:
    from transformers import AutoTokenizer, T5EncoderModel

    folder = release / "transformer"
    transformer = module.MiniT2IMMJiTModel.from_pretrained(folder, torch_dtype=dtype)
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


def _our_image(release: Path, folder: Path, options: argparse.Namespace) -> np.ndarray:
    bundle = export_bundle(
        release / "transformer", folder, ExportOptions(text_encoder=release / "text_encoder")
    )
    config = bundle.config
    shape = (1, config.in_channels, config.image_size, config.image_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed)).numpy()
    precision_option = {"precision": options.precision} if options.runtime == "torch" else {}
    with open_runtime(bundle, options.runtime, **precision_option) as runtime:
        result = generate(
            bundle,
            runtime,
            PROMPT,
            noise=noise,
            table=solver_table("euler", steps=options.steps, a_min=A_MIN),
            guidance=options.guidance,
        )
    return np.asarray(result.images[0])[None]


def _compare(
    expected: np.ndarray, actual: np.ndarray, generator: str, options: argparse.Namespace
) -> Report:
    off = np.abs(expected.astype(np.int16) - actual.astype(np.int16))
    return Report(
        variant=options.variant,
        generator=generator,
        precision=options.precision,
        steps=options.steps,
        guidance=options.guidance,
        num_bytes=off.size,
        share_between=float(((expected > 0) & (expected < 255)).mean()),
        share_differing=float((off > 0).mean()),
        share_off_by_more_than_one=float((off > 1).mean()),
        share_off_by_more_than_eight=float((off > 8).mean()),
        largest_difference=int(off.max()),
        torch=torch.__version__,
    )


def _text(reports: Sequence[Report]) -> str:
    first = reports[0]
    lines = [
        f"{first.variant}, {first.steps} Euler steps at guidance {first.guidance:g}, against the "
        f"official pipeline in fp32 ({first.share_between:.2f} of its {first.num_bytes} bytes are "
        "neither 0 nor 255)"
    ]
    for report in reports:
        lines += [
            f"{report.generator} in {report.precision}",
            f"  bytes that differ           {report.share_differing:.2e}",
            f"  bytes off by more than 1    {report.share_off_by_more_than_one:.2e}",
            f"  bytes off by more than 8    {report.share_off_by_more_than_eight:.2e}",
            f"  largest difference          {report.largest_difference} of 255",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
