"""A folder of pictures, or drawn shapes, to shards."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.io.files import atomic_directory
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.training.data.image import read_picture
from minit2i_deploy.training.data.sample import (
    PICTURE_SUFFIXES,
    BadSample,
    BadSampleError,
    caption_of,
)
from minit2i_deploy.training.data.shapes import ShapesSource
from minit2i_deploy.training.data.shard_writer import write_shards
from minit2i_deploy.training.data.tar import RawSample

METADATA: Final = "metadata.jsonl"
_NAME, _TEXTS = "file_name", ("text", "caption", "prompt")


@dataclass(kw_only=True, slots=True)
class Packed:
    """What was packed.

    Args:
        num_samples, num_shards: that were written.
        bad: pictures that were left out, and why.
    """

    num_samples: int = 0
    num_shards: int = 0
    bad: list[BadSample] = field(default_factory=list)


def pack_folder(
    folder: Path,
    out: Path,
    *,
    per_shard: int,
    bad_limit: int,
    progress: Progress = no_progress,
) -> Packed:
    """Pack the pictures of a folder and the folders in it.

    A caption is the file of the same name that ends in .txt, or, where the folder holds
    metadata.jsonl, the line there with the picture's "file_name". Pictures stay the bytes they
    are; each is decoded once to know that it can be.

    Args:
        folder: with .jpg, .jpeg, .png or .webp files.
        out: a new folder; receives 000000.tar and so on with their indexes.
        per_shard: samples of each shard but the last.
        bad_limit: pictures that may be left out.
        progress: called with the share of images that are done.

    Raises:
        UsageError: no pictures, or ``out`` exists.
        TrainingError: more bad pictures than the limit, or metadata.jsonl is damaged; nothing is
            written then.
    """
    names = _pictures(folder)
    captions = _metadata(folder)
    packed = Packed()

    def samples() -> Iterator[dict[str, bytes]]:
        for done, path in enumerate(names, 1):
            try:
                yield _sample(folder, path, captions)
            except BadSampleError as error:
                shown = path.relative_to(folder).as_posix()
                packed.bad.append(BadSample(shard=str(folder), key=shown, reason=str(error)))
                _check_limit(packed, bad_limit)
            progress(done / len(names), f"{done} of {len(names)} images")

    _write(out, samples(), per_shard, packed)
    return packed


def pack_shapes(
    out: Path,
    *,
    num_samples: int,
    seed: int,
    size: int,
    per_shard: int,
    progress: Progress = no_progress,
) -> Packed:
    """Draw shapes and pack them as .png and .txt files.

    Args:
        out: a new folder.
        num_samples: pictures to draw.
        seed: the same one draws the same pictures.
        size: their side in pixels.
        per_shard: samples of each shard but the last.
        progress: called with the share of images that are done.

    Raises:
        UsageError: a number out of range, or ``out`` exists.
    """
    if min(num_samples, size, per_shard) < 1 or seed < 0:
        raise UsageError(
            f"{num_samples} pictures of {size} pixels with seed {seed} were asked for; give at "
            "least 1 of each and a seed of 0 or more"
        )
    source = ShapesSource(seed=seed, page=1, image_size=size, kind_weights={})
    packed = Packed()

    def samples() -> Iterator[dict[str, bytes]]:
        for number in range(num_samples):
            drawn = source.sample(number)
            buffer = io.BytesIO()
            Image.fromarray(drawn.image).save(buffer, format="PNG")
            yield {"png": buffer.getvalue(), "txt": drawn.caption.encode()}
            progress((number + 1) / num_samples, f"{number + 1} of {num_samples} images")

    _write(out, samples(), per_shard, packed)
    return packed


def _write(out: Path, samples: Iterator[dict[str, bytes]], per_shard: int, packed: Packed) -> None:
    with atomic_directory(out) as partial:
        for count in write_shards(partial, samples, per_shard):
            packed.num_samples = count
            packed.num_shards += 1
        if not packed.num_samples:
            raise TrainingError(f"{packed.bad[-1]}; no picture is left to pack")


def _check_limit(packed: Packed, bad_limit: int) -> None:
    if len(packed.bad) > bad_limit:
        allowed = f"at most {bad_limit} are left out" if bad_limit else "none is left out"
        raise TrainingError(f"{packed.bad[-1]}; {allowed} unless --bad-limit says more")


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: is no folder; name one with pictures")
    found = [path for path in folder.rglob("*") if _is_picture(path)]
    if not found:
        wanted = ", ".join(f".{suffix}" for suffix in PICTURE_SUFFIXES)
        raise UsageError(f"{folder}: holds no picture ({wanted}); name a folder with pictures")
    return sorted(found)


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return not hidden and path.suffix.lower()[1:] in PICTURE_SUFFIXES and path.is_file()


def _sample(folder: Path, path: Path, captions: dict[str, str] | None) -> dict[str, bytes]:
    if captions is None:
        members = _caption_beside(path)
    else:
        members = _from_metadata(captions, path.relative_to(folder).as_posix())
    text = caption_of(RawSample(key=path.name, members=members), "txt")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadSampleError("picture cannot be read", str(error.strerror)) from error
    read_picture(data)
    return {path.suffix.lower()[1:]: data, "txt": text.encode()}


def _caption_beside(path: Path) -> dict[str, bytes]:
    try:
        return {"txt": path.with_suffix(".txt").read_bytes()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadSampleError("caption cannot be read", str(error.strerror)) from error


def _from_metadata(captions: dict[str, str], name: str) -> dict[str, bytes]:
    text = captions.get(name)
    if text is None:
        raise BadSampleError("no caption", f"no line of {METADATA} names it")
    try:
        return {"txt": text.encode()}
    except UnicodeEncodeError as error:
        raise BadSampleError("caption is not valid Unicode") from error


def _metadata(folder: Path) -> dict[str, str] | None:
    path = folder / METADATA
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    captions = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            name, text = _metadata_line(path, number, line)
            captions[name] = text
    return captions


def _metadata_line(path: Path, number: int, line: bytes) -> tuple[str, str]:
    try:
        values = json.loads(line.decode("utf-8"))
        text = next((values[key] for key in _TEXTS if key in values), None)
        name = values.get(_NAME)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: line {number} is no JSON object in UTF-8; mend it") from error
    if not isinstance(text, str) or not isinstance(name, str):
        raise TrainingError(
            f"{path}: line {number} has no {_NAME} or no text under {', '.join(_TEXTS)}; add them"
        )
    return name, text
