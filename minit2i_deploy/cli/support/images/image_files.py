"""Where minit2i generate writes its images, and the index of a folder of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.cli.support import output_paths
from minit2i_deploy.cli.support.images.generate_options import GenerateOptions, OutputPlace
from minit2i_deploy.cli.support.images.variations import ImageRequest
from minit2i_deploy.cli.support.limits import check_least
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import append_line, cleanup_on_sigterm, remove_if_empty
from minit2i_deploy.io.image_formats import SUFFIXES, check_metadata
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.io.images import check_animation
from minit2i_deploy.io.lock import output_lock
from minit2i_deploy.io.strict_json import encode

INDEX_FILE: Final = "index.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFiles:
    """The file of each image, and the folder of them all where there is one."""

    paths: Sequence[Path]
    folder: Path | None = None

    def check_record(self, record: Record) -> None:
        """Refuse a record that the format of the images cannot hold.

        Raises:
            UsageError: it is too long.
        """
        check_metadata(self.paths[0], record.fields())

    def add_to_index(self, path: Path, record: Record) -> None:
        """Append a line for an image that was written, where it is in a folder of images.

        Raises:
            UsageError: the index may not be written.
            Minit2iError: the disk failed or is full.
        """
        if self.folder is None:
            return
        entry = {
            "file": path.name,
            **prompt_and_seed(record),
            "table": record.table_name,
            "guidance": record.guidance,
        }
        append_line(self.folder / INDEX_FILE, json.dumps(entry))


def prompt_and_seed(record: Record) -> dict[str, Any]:
    """The prompt and seed of an image; negative prompt, variation, strength and size if any.

    The seed is None where a noise file takes its place.
    """
    seed = record.seed if record.noise is None else None
    values: dict[str, Any] = {"prompt": record.prompt_text, "seed": seed}
    extra = {
        "negative": record.negative,
        "variation": None if record.variation is None else encode(record.variation),
        "strength": None if record.edit is None else record.edit.strength,
        "size": None if record.size is None else list(record.size),
    }
    return values | {name: value for name, value in extra.items() if value is not None}


def check_places(options: GenerateOptions) -> None:
    """Refuse places that cannot be written, before anything is read.

    Raises:
        UsageError: the first of them, or two outputs in one file.
    """
    if options.output is not None and _names_image(options.output):
        output_paths.output_file(options.output.path, *SUFFIXES)
    if options.save_state is not None:
        output_paths.output_file(options.save_state, ".npy")
    if options.grid is not None:
        output_paths.output_file(options.grid, *SUFFIXES)
        if options.output is not None and options.grid == options.output.path:
            raise UsageError(f"{options.grid}: given for both -o and --grid; name two files")
    if options.animate is not None:
        check_animation(options.animate)
        output_paths.output_file(options.animate, options.animate.suffix.lower())


def check_numbers(options: GenerateOptions, num_images: int) -> None:
    """Refuse --batch, --animate and --every where they do not fit the number of images.

    Raises:
        UsageError: the first that does not.
    """
    check_least("--batch", options.batch, 1)
    if options.animate is not None and num_images > 1:
        raise UsageError(f"--animate shows one image, but {num_images} are generated")
    if options.every is None:
        return
    check_least("--every", options.every, 1)
    if options.preview is None and options.animate is None:
        raise UsageError("--every requires --preview or --animate")


def plan_files(options: GenerateOptions, requests: Sequence[ImageRequest]) -> ImageFiles:
    """The file of each image; nothing is created yet.

    Raises:
        UsageError: the place does not fit, or cannot be written.
    """
    names = [_stem(item) for item in requests]
    numbered = [f"{index:04d}-{name}" for index, name in enumerate(names)]
    suffix, place = f".{options.format}", options.output
    if place is None:
        several = len({item.prompt for item in requests}) > 1
        output_paths.check_writable(Path())
        return ImageFiles(paths=_free_files(Path(), numbered if several else names, suffix))
    if not _is_folder(place, num_images=len(requests)):
        return ImageFiles(paths=[output_paths.output_file(place.path, *SUFFIXES)])
    if len(requests) == 1:
        return ImageFiles(paths=_free_files(place.path, names, suffix), folder=place.path)
    paths = [place.path / f"{stem}{suffix}" for stem in numbered]
    return ImageFiles(paths=paths, folder=place.path)


@contextlib.contextmanager
def created_folders(options: GenerateOptions, files: ImageFiles) -> Iterator[None]:
    """Create the folders that the images need; those that stay empty are removed again.

    Raises:
        UsageError: one is not empty or cannot be created.
        Minit2iError: another process generates several images there.
    """
    with cleanup_on_sigterm(), contextlib.ExitStack() as stack:
        if files.folder is not None:
            if len(files.paths) > 1:
                stack.enter_context(output_lock(files.folder))
            stack.enter_context(remove_if_empty(files.folder))
            # One image may join others; the numbers of several would clash with what is there.
            output_paths.create_folder(files.folder, must_be_empty=len(files.paths) > 1)
        if options.preview is not None:
            stack.enter_context(remove_if_empty(options.preview))
            output_paths.create_folder(options.preview)
        yield


def _stem(request: ImageRequest) -> str:
    if request.noise is not None:
        return "noise"
    variation = request.variation
    return f"{request.seed}" if variation is None else f"{request.seed}-with-{variation.seed}"


def _is_folder(place: OutputPlace, *, num_images: int) -> bool:
    """Whether -o names a folder of images, not the file of one.

    Raises:
        UsageError: it names one file for several images, or for one neither file nor folder.
    """
    if _names_image(place):
        if num_images > 1:
            raise UsageError(f"{place.path}: one file for {num_images} images; name a folder")
        return False
    if num_images == 1 and not place.has_slash and not place.path.is_dir():
        raise UsageError(
            f"{place.path}: expected a {output_paths.listed(SUFFIXES)} file, or a folder with / at "
            "its end"
        )
    return True


def _names_image(place: OutputPlace) -> bool:
    """Whether -o names the file of one image."""
    return not place.has_slash and place.path.suffix.lower() in SUFFIXES


def _free_files(folder: Path, stems: Sequence[str], suffix: str) -> list[Path]:
    files: list[Path] = []
    for stem in stems:
        files.append(output_paths.free_name(folder, f"minit2i-{stem}", suffix, files))
    return files
