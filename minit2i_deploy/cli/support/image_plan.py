"""What minit2i generate is to paint: the prompt, seed and noise of each picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_record import Record, noise_digest
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.prompts import Mix
from minit2i_deploy.text.text_lines import read_prompt_lines

# Prompt, seed and file of each are laid out before the first is painted: some hundred MB.
MAX_PICTURES: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """One picture to paint; ``noise`` is float32 [3, H, W] in place of the seed's, or None."""

    prompt: Mix
    seed: int
    noise: np.ndarray | None = None


def wanted_prompts(options: argparse.Namespace, record: Record | None) -> list[Mix]:
    """Every prompt with what is mixed into it.

    Raises:
        UsageError: no prompt, prompts from several places, or a file that cannot be read.
    """
    if len(options.prompt) > 1:
        raise UsageError(
            f"{len(options.prompt)} prompts came; put one in quotes, or several in a file for "
            "--prompts"
        )
    if options.prompt and options.prompts is not None:
        raise UsageError("PROMPT came with --prompts; give one or the other")
    given = options.prompt if options.prompts is None else read_prompts(options.prompts)
    if given:
        return [Mix(parts=((text, 1.0), *options.also)) for text in given]
    if record is None:
        raise UsageError("no prompt came; give PROMPT, --prompts FILE or --from FILE")
    if options.also:
        raise UsageError("--also came without a prompt; give PROMPT too, for the whole mix anew")
    return [record.mix()]


def planned_pictures(
    options: argparse.Namespace, prompts: Sequence[Mix], record: Record | None, table: Table
) -> list[Picture]:
    """Every picture in the order of painting: all seeds of the first prompt, then the next.

    Raises:
        UsageError: prompts, seeds and noise that do not fit together, or a noise file that cannot
            be read.
    """
    noise = None if options.noise is None else _read_noise(options, table)
    _check_count(options, len(prompts))
    seeds = _seeds(options, record)
    pictures = _paired(prompts, seeds, crossed=options.num_images is not None)
    if noise is not None:
        pictures = _with_noise(pictures, noise, options.noise)
    if record is not None:
        _check_noise(pictures, record, options)
    return pictures


def read_prompts(path: Path) -> list[str]:
    """The prompts of a .txt file, as ``texts.read_prompt_lines`` reads them.

    Raises:
        UsageError: another suffix, no file, no prompt, or a line that is no text.
    """
    if path.suffix.lower() != ".txt":
        raise UsageError(f"{path}: prompts are read from .txt files, one a line; name one")
    prompts = read_prompt_lines(path)
    if not prompts:
        raise UsageError(f"{path}: holds no prompt; write one a line")
    return prompts


def _check_count(options: argparse.Namespace, num_prompts: int) -> None:
    if options.num_images is None:
        return
    if options.num_images < 1:
        raise UsageError(f"--num-images is {options.num_images}, but at least 1 is needed")
    if num_prompts * options.num_images > MAX_PICTURES:
        raise UsageError(
            f"--num-images {options.num_images} of {num_prompts} prompts are more than "
            f"{MAX_PICTURES} pictures, which are all planned before the first; paint the rest in "
            "another run, from a later --seed"
        )


def _seeds(options: argparse.Namespace, record: Record | None) -> list[int]:
    seeds = list(options.seed or [0 if record is None else record.seed])
    if options.num_images is not None:
        if len(seeds) > 1:
            raise UsageError(
                f"--num-images came with {len(seeds)} seeds; give the first seed, or the list"
            )
        if seeds[0] + options.num_images > 2**64:
            raise UsageError(
                f"--seed {seeds[0]} with --num-images {options.num_images} goes past the last "
                "seed, 2**64 - 1; give a smaller one of the two"
            )
        seeds = [seeds[0] + offset for offset in range(options.num_images)]
    for seed in seeds:
        # Refuses a seed outside its range now, not after the pictures before it.
        standard_noise(seed, (1,))
    return seeds


def _paired(mixes: Sequence[Mix], seeds: Sequence[int], *, crossed: bool) -> list[Picture]:
    if crossed or len(mixes) == 1 or len(seeds) == 1:
        return [Picture(prompt=mix, seed=seed) for mix in mixes for seed in seeds]
    if len(seeds) != len(mixes):
        raise UsageError(
            f"{len(seeds)} seeds came for {len(mixes)} prompts; give one seed, one for each "
            "prompt, or --num-images"
        )
    return [Picture(prompt=mix, seed=seed) for mix, seed in zip(mixes, seeds, strict=True)]


def _read_noise(options: argparse.Namespace, table: Table) -> np.ndarray:
    """The noise file with a batch axis; ``generate`` checks the sizes of a picture."""
    if options.seed is not None and not table.column("n").any():
        raise UsageError("--seed does nothing beside --noise with this table; give one of them")
    try:
        noise = np.load(options.noise, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"{options.noise}: cannot be read ({error.strerror})") from error
    except (ValueError, EOFError) as error:
        raise UsageError(f"{options.noise}: is no .npy file; write one with numpy.save") from error
    if not isinstance(noise, np.ndarray):
        raise UsageError(f"{options.noise}: holds several arrays; one .npy array is needed")
    if noise.dtype != np.float32 or noise.ndim not in (3, 4):
        raise UsageError(
            f"{options.noise}: is {noise.dtype} {list(noise.shape)}, but float32 [3, H, W] or "
            "[pictures, 3, H, W] is needed"
        )
    if not np.isfinite(noise).all():
        raise UsageError(f"{options.noise}: holds NaN or infinity; give finite unit normal values")
    return noise[None] if noise.ndim == 3 else noise


def _with_noise(pictures: Sequence[Picture], noise: np.ndarray, path: Path) -> list[Picture]:
    if len(noise) != len(pictures):
        raise UsageError(
            f"{path}: holds noise for {len(noise)} pictures, but {len(pictures)} are painted; "
            "give as many (--num-images paints several of one prompt)"
        )
    return [replace(picture, noise=own) for picture, own in zip(pictures, noise, strict=True)]


def _check_noise(pictures: Sequence[Picture], record: Record, options: argparse.Namespace) -> None:
    """A picture from a noise file is made again from that noise, unless a seed takes its place."""
    if record.noise is None or options.seed is not None or options.num_images is not None:
        return
    found = [None if item.noise is None else noise_digest(item.noise) for item in pictures]
    if found != [record.noise]:
        what = "no noise" if found == [None] else "other noise"
        raise UsageError(
            f"{options.made_from}: was painted from a noise file (sha256 {record.noise[:8]}..), "
            f"but {what} came; give that file with --noise, or a --seed"
        )
