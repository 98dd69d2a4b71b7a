"""A folder of images with their captions, as `minit2i data pack` and `data check` read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.training.data.sample import IMAGE_SUFFIXES, BadSampleError
from minit2i_deploy.training.data.shards.tar import RawSample

METADATA: Final = "metadata.jsonl"
_NAME_KEY, _CAPTION_KEYS = "file_name", ("text", "caption", "prompt")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder:
    """The images of a folder and of the folders in it.

    A caption is the file of the same name that ends in .txt, or, where the folder has
    metadata.jsonl, the line there with the image's "file_name".

    Args:
        path: of the folder.
        images: .jpg, .jpeg, .png and .webp files, sorted.
        captions: image name relative to the folder to caption, from metadata.jsonl; None without
            that file.
    """

    path: Path
    images: list[Path]
    captions: dict[str, str] | None

    @classmethod
    def open(cls, path: Path) -> ImageFolder:
        """List a folder.

        Raises:
            UsageError: no such folder, or no image in it.
            TrainingError: metadata.jsonl is corrupt.
        """
        return cls(path=path, images=_list_images(path), captions=_read_metadata(path))

    def key(self, image: Path) -> str:
        """An image's name relative to the folder."""
        return image.relative_to(self.path).as_posix()

    def read(self, image: Path) -> RawSample:
        """Image and caption as the members of a sample; the caption may be missing.

        Raises:
            BadSampleError: a file cannot be read, or the caption is not valid Unicode.
        """
        members = self._caption(image)
        try:
            members[image.suffix.lower()[1:]] = image.read_bytes()
        except OSError as error:
            raise BadSampleError("image cannot be read", str(error.strerror)) from error
        return RawSample(key=self.key(image), members=members)

    def unused_captions(self) -> list[str]:
        """Captions without an image: names of .txt files, or image names of metadata.jsonl."""
        if self.captions is not None:
            return sorted(self.captions.keys() - {self.key(image) for image in self.images})
        stems = {image.with_suffix("") for image in self.images}
        texts = (path for path in self.path.rglob("*.txt") if path.with_suffix("") not in stems)
        return sorted(path.relative_to(self.path).as_posix() for path in texts)

    def _caption(self, image: Path) -> dict[str, bytes]:
        if self.captions is None:
            return _caption_beside(image)
        text = self.captions.get(self.key(image))
        if text is None:
            raise BadSampleError("no caption", f"no line of {METADATA} names it")
        try:
            return {"txt": text.encode()}
        except UnicodeEncodeError as error:
            raise BadSampleError("caption is not valid Unicode") from error


def _list_images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder; name a folder of images")
    images = sorted(path for path in folder.rglob("*") if _is_image(path))
    if images:
        return images
    if next(folder.glob("*.tar"), None) is not None:
        raise UsageError(f"{folder}: has shards and no images; name the shards: '{folder}/*.tar'")
    suffixes = ", ".join(f".{suffix}" for suffix in IMAGE_SUFFIXES)
    raise UsageError(f"{folder}: has no image ({suffixes}); name a folder of images")


def _is_image(path: Path) -> bool:
    is_hidden = path.name.startswith(".")
    return not is_hidden and path.suffix.lower()[1:] in IMAGE_SUFFIXES and path.is_file()


def _caption_beside(image: Path) -> dict[str, bytes]:
    try:
        return {"txt": image.with_suffix(".txt").read_bytes()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadSampleError("caption cannot be read", str(error.strerror)) from error


def _read_metadata(folder: Path) -> dict[str, str] | None:
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
            name, text = _parse_metadata_line(path, number, line)
            captions[name] = text
    return captions


def _parse_metadata_line(path: Path, number: int, line: bytes) -> tuple[str, str]:
    try:
        values = json.loads(line.decode("utf-8"))
        text = next((values[key] for key in _CAPTION_KEYS if key in values), None)
        name = values.get(_NAME_KEY)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise TrainingError(
            f"{path}: line {number} is not a JSON object in UTF-8; correct it"
        ) from error
    if not isinstance(text, str) or not isinstance(name, str):
        raise TrainingError(
            f"{path}: line {number} has no {_NAME_KEY} or none of {', '.join(_CAPTION_KEYS)}; "
            "add them"
        )
    return name, text
