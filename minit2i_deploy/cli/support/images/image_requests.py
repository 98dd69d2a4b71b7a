"""What minit2i generate is to generate: the prompt, seed and noise of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from minit2i_deploy.cli.support.images.generate_options import GenerateOptions
from minit2i_deploy.cli.support.images.variations import (
    MAX_IMAGES,
    ImageRequest,
    vary_images,
)
from minit2i_deploy.cli.support.limits import check_least
from minit2i_deploy.cli.support.option_hints import bundle_hint
from minit2i_deploy.cli.support.standard_input import STDIN, read_standard_input
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_record import Record, noise_digest
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.prompts import Mix
from minit2i_deploy.text.text_lines import read_prompt_lines


def read_mixes(options: GenerateOptions, record: Record | None) -> list[Mix]:
    """Every prompt with what is mixed into it.

    Raises:
        UsageError: no prompt, prompts from several places, or a file that cannot be read.
    """
    if options.prompt and options.prompts is not None:
        raise UsageError("PROMPT and --prompts are mutually exclusive")
    if options.prompts is not None:
        texts = read_prompts(options.prompts)
    elif options.prompt == (STDIN,):
        texts = read_prompts(Path(STDIN))
    else:
        texts = list(options.prompt)
    if texts:
        return [Mix(parts=((text, 1.0), *options.also)) for text in texts]
    if record is None:
        hint = bundle_hint("generate", options.bundle)
        raise UsageError(f"no prompt given; expected PROMPT, --prompts FILE or --from IMAGE{hint}")
    if options.also:
        raise UsageError("--also requires PROMPT, which together replace the mix of the record")
    return [record.mix()]


def plan_images(
    options: GenerateOptions, mixes: Sequence[Mix], record: Record | None, table: Table
) -> list[ImageRequest]:
    """Every image in the order of generation: all seeds of the first prompt, then the next.

    Raises:
        UsageError: prompts, seeds and noise that do not fit together, or a noise file that cannot
            be read.
    """
    noise = None if options.noise is None else _read_noise(options, options.noise, table)
    _check_num_images(options, len(mixes))
    requests = _pair(mixes, _seeds(options, record), crossed=options.num_images is not None)
    if noise is not None:
        requests = _with_noise(requests, noise, options.noise)
    requests = vary_images(options, requests, record)
    if record is not None:
        _check_noise(requests, record, options)
    return requests


def read_prompts(path: Path) -> list[str]:
    """The prompts of a .txt file, or of standard input for ``-``, one per line.

    Raises:
        UsageError: another suffix, no file, no prompt, or a line that is no text.
    """
    if str(path) == STDIN:
        prompts = read_standard_input()
    elif path.suffix.lower() != ".txt":
        raise UsageError(f"{path}: expected a .txt file with one prompt per line")
    else:
        prompts = read_prompt_lines(path)
    if not prompts:
        raise UsageError(f"{path}: no prompt in it; write one per line")
    return prompts


def _check_num_images(options: GenerateOptions, num_prompts: int) -> None:
    if options.num_images is None:
        return
    check_least("--num-images", options.num_images, 1)
    if num_prompts * options.num_images > MAX_IMAGES:
        raise UsageError(
            f"--num-images {options.num_images} for {num_prompts} prompts exceeds {MAX_IMAGES} "
            "images, which are all planned before the first; generate the rest in another run from "
            "a later --seed"
        )


def _seeds(options: GenerateOptions, record: Record | None) -> list[int]:
    seeds = list(options.seed or [0 if record is None else record.seed])
    if options.num_images is not None:
        if len(seeds) > 1:
            raise UsageError(f"--num-images expects one --seed to count from, got {len(seeds)}")
        if seeds[0] + options.num_images > 2**64:
            raise UsageError(
                f"--seed {seeds[0]} with --num-images {options.num_images} goes past the last "
                "seed, 2**64 - 1"
            )
        seeds = [seeds[0] + offset for offset in range(options.num_images)]
    for seed in seeds:
        # Refuses a seed outside its range now, not after the images before it.
        standard_noise(seed, (1,))
    return seeds


def _pair(mixes: Sequence[Mix], seeds: Sequence[int], *, crossed: bool) -> list[ImageRequest]:
    if crossed or len(mixes) == 1 or len(seeds) == 1:
        return [ImageRequest(prompt=mix, seed=seed) for mix in mixes for seed in seeds]
    if len(seeds) != len(mixes):
        raise UsageError(
            f"expected one seed, one per prompt, or --num-images; got {len(seeds)} seeds for "
            f"{len(mixes)} prompts"
        )
    return [ImageRequest(prompt=mix, seed=seed) for mix, seed in zip(mixes, seeds, strict=True)]


def _read_noise(options: GenerateOptions, path: Path, table: Table) -> np.ndarray:
    """The noise file with a batch axis; ``generate`` checks the size of the images."""
    if options.seed is not None and not table.column("n").any():
        raise UsageError("--seed and --noise are mutually exclusive with a table that draws none")
    try:
        noise = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path}: not a .npy file; write one with numpy.save") from error
    if not isinstance(noise, np.ndarray):
        raise UsageError(f"{path}: expected one .npy array, got an archive of several")
    if noise.dtype != np.float32 or noise.ndim not in (3, 4):
        raise UsageError(
            f"{path}: expected float32 [3, H, W] or [images, 3, H, W], got {noise.dtype} "
            f"{list(noise.shape)}"
        )
    if not np.isfinite(noise).all():
        raise UsageError(f"{path}: expected finite unit normal values, got NaN or infinity")
    return noise[None] if noise.ndim == 3 else noise


def _with_noise(
    requests: Sequence[ImageRequest], noise: np.ndarray, path: Path | None
) -> list[ImageRequest]:
    if len(noise) != len(requests):
        raise UsageError(
            f"{path}: noise for {len(noise)} images, but {len(requests)} are generated "
            "(--num-images makes several of one prompt)"
        )
    return [replace(request, noise=array) for request, array in zip(requests, noise, strict=True)]


def _check_noise(
    requests: Sequence[ImageRequest], record: Record, options: GenerateOptions
) -> None:
    """An image from a noise file is generated from that noise again, unless a seed replaces it."""
    if record.noise is None or options.seed is not None or options.num_images is not None:
        return
    digests = [None if item.noise is None else noise_digest(item.noise) for item in requests]
    if digests != [record.noise]:
        what = "no noise" if digests == [None] else "other noise"
        raise UsageError(
            f"{options.source_image}: generated from a noise file (sha256 {record.noise[:8]}..), "
            f"but {what} is given; add --noise with that file, or --seed"
        )
