"""Where minit2i generate writes what it paints."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from minit2i_deploy.cli.support import output_paths
from minit2i_deploy.cli.support.image_plan import Picture
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import remove_if_empty
from minit2i_deploy.io.images import check_animation


def check_places(options: argparse.Namespace) -> None:
    """Refuse places that cannot be written, before anything is read.

    Raises:
        UsageError: the first of them, or two things for one file.
    """
    if options.output is not None and options.output.suffix.lower() == ".png":
        output_paths.output_file(options.output, ".png")
    if options.save_state is not None:
        output_paths.output_file(options.save_state, ".npy")
    if options.grid is not None:
        output_paths.output_file(options.grid, ".png")
        if options.grid == options.output:
            raise UsageError(f"{options.grid}: came for -o and for --grid; name two files")
    if options.animate is not None:
        check_animation(options.animate)
        output_paths.output_file(options.animate, options.animate.suffix.lower())


def check_numbers(options: argparse.Namespace, count: int) -> None:
    """Refuse --batch, --animate and --every where they do not fit so many pictures.

    Raises:
        UsageError: the first that does not.
    """
    if options.batch < 1:
        raise UsageError(f"--batch is {options.batch}, but at least 1 is needed")
    if options.animate is not None and count > 1:
        raise UsageError(f"--animate shows one picture, but {count} are painted; paint one")
    if options.every is None:
        return
    if options.every < 1:
        raise UsageError(f"--every is {options.every}, but at least 1 is needed")
    if options.preview is None and options.animate is None:
        raise UsageError("--every came without --preview and --animate; add one of them")


def picture_files(options: argparse.Namespace, pictures: Sequence[Picture]) -> list[Path]:
    """The file of each picture; nothing is made yet.

    Raises:
        UsageError: the place does not fit, or cannot be written.
    """
    words = ["noise" if item.noise is not None else str(item.seed) for item in pictures]
    numbered = [f"{index:04d}-{word}" for index, word in enumerate(words)]
    if options.output is not None and len(pictures) == 1:
        return [output_paths.output_file(options.output, ".png")]
    if options.output is not None:
        if options.output.suffix.lower() == ".png":
            raise UsageError(
                f"{options.output}: is one file, but {len(pictures)} pictures are painted; name a "
                "folder"
            )
        return [options.output / f"{stem}.png" for stem in numbered]
    several = len({item.prompt for item in pictures}) > 1
    output_paths.check_writable(Path())
    files: list[Path] = []
    for stem in numbered if several else words:
        files.append(output_paths.free_name(f"minit2i-{stem}", ".png", files))
    return files


@contextlib.contextmanager
def made_folders(options: argparse.Namespace, count: int) -> Iterator[None]:
    """Make the folders that so many pictures need; those that stay empty go again.

    Raises:
        UsageError: one is not empty or cannot be made.
    """
    several = options.output is not None and count > 1
    with contextlib.ExitStack() as stack:
        for folder in (options.output if several else None, options.preview):
            if folder is not None:
                stack.enter_context(remove_if_empty(folder))
                output_paths.new_folder(folder)
        yield
