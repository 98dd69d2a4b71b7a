"""Arguments that several commands share, and the types of values that arguments take."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

RANDOM: Final = "random"
# Short enough for file names; seeds may have 64 bits.
_RANDOM_SEED_BITS: Final = 32


# Names of minit2i_deploy.demo.ready, repeated so that --help does not import it; a test compares.
READY_BUNDLES: Final = ("demo", "demo-student")
BUNDLE_HELP: Final = f"folder that minit2i export made, or {' or '.join(READY_BUNDLES)}"
_MANIFEST: Final = "manifest.json"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """BUNDLE."""
    parser.add_argument("bundle", metavar="BUNDLE", type=bundle_path, help=BUNDLE_HELP)


def bundle_path(text: str) -> str:
    """A bundle's folder, which for the name of a ready bundle is written on first use.

    A folder of that name that holds a bundle comes first.

    Raises:
        ArgumentTypeError: the ready bundle cannot be written.
    """
    if text not in READY_BUNDLES or os.path.exists(os.path.join(text, _MANIFEST)):
        return text
    from minit2i_deploy.errors import Minit2iError

    try:
        return str(ready_path(text))
    except Minit2iError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def checkpoint_path(text: str) -> str:
    """A checkpoint's path, which for the name of a ready bundle is the checkpoint it was made of.

    A file or folder of that name comes first.

    Raises:
        ArgumentTypeError: the installation lacks it.
    """
    if text not in READY_BUNDLES or os.path.exists(text):
        return text
    from minit2i_deploy.demo.ready import shipped_checkpoint
    from minit2i_deploy.errors import Minit2iError

    try:
        return str(shipped_checkpoint(text))
    except Minit2iError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def ready_path(name: str) -> Path:
    """Folder of a ready bundle, in the user's folder for caches.

    Raises:
        UsageError: it cannot be written there.
        Minit2iError: the installation lacks a part.
    """
    from minit2i_deploy.demo.ready import ready_bundle

    return ready_bundle(name, cache_folder())


def cache_folder() -> Path:
    """The user's folder for files that a program can make again, and ours in it."""
    from minit2i_deploy.demo.ready import default_cache

    cache_home = os.environ.get("XDG_CACHE_HOME", "")
    # Source: XDG base directory specification; a relative path there is to be ignored.
    return Path(cache_home) / "minit2i-deploy" if os.path.isabs(cache_home) else default_cache()


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def add_adapters(parser: argparse.ArgumentParser | argparse._ArgumentGroup, onto: str = "") -> None:
    """--lora, which may come several times.

    Args:
        parser: gets it.
        onto: what the adapters are merged into, where the help has to say it.
    """
    parser.add_argument(
        "--lora",
        metavar="ADAPTER[=STRENGTH]",
        action="append",
        type=_adapter,
        help=f"merge this LoRA adapter{onto} (folder or safetensors file), times STRENGTH "
        "(default 1); may be repeated",
    )


def read_adapters(values: Sequence[tuple[str, float]] | None) -> dict[str, float] | None:
    """Strength of each adapter; None for none.

    Raises:
        UsageError: one is given twice.
    """
    from minit2i_deploy.errors import UsageError

    adapters = dict(values or ())
    if len(adapters) < len(values or ()):
        raise UsageError("--lora names one adapter twice; give it once, with the sum of both")
    return adapters or None


def _adapter(text: str) -> tuple[str, float]:
    """``style=0.8``; a path that exists is taken as it is."""
    path, _, strength = text.rpartition("=")
    if not path or os.path.exists(text):
        return text, 1.0
    return path, number(strength)


def add_folder_of_bundle(parser: argparse.ArgumentParser) -> None:
    """BUNDLE, OUT, --overwrite and --json, of commands that write a bundle in another form."""
    add_bundle(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder that this command wrote"
    )
    add_json(parser)


def add_scored_images(
    parser: argparse.ArgumentParser, *, seed_of: str, made: str, batch: int
) -> None:
    """--batch, --seed and --output of a test that makes images and scores them."""
    parser.add_argument(
        "--batch",
        metavar="N",
        type=integer,
        default=batch,
        help=f"images {made} at once (default {batch})",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=integer,
        default=0,
        help=f"of the {seed_of}, and of the noise of the first image; the next has N + 1 "
        "(default 0)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help=".json file for the report, replaced if it exists",
    )


def integer(text: str) -> int:
    """An integer.

    Raises:
        ArgumentTypeError: the text is none.
    """
    return _parsed(text, int, "an integer")


def image_size(text: str) -> int | tuple[int, int]:
    """Pixels of a side, or the two sides of ``768x512``: width and height.

    Raises:
        ArgumentTypeError: the text is neither.
    """
    width, cross, height = text.lower().partition("x")
    if width.isdecimal() and (height.isdecimal() or not cross):
        return (int(width), int(height)) if cross else int(width)
    raise argparse.ArgumentTypeError(f"expected 512 or WIDTHxHEIGHT, got {text!r}")


def add_size(parser: argparse.ArgumentParser) -> None:
    """--size, of a bundle whose height and width are free."""
    parser.add_argument(
        "--size",
        metavar="WxH",
        type=image_size,
        help="width and height of the images in pixels, or one number for a square, multiples of "
        "the patch; for bundles of minit2i export --sides (default: the bundle's own)",
    )


def size_pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Width and height of what ``image_size`` read."""
    return (size, size) if isinstance(size, int) else size


def side_bounds(text: str) -> tuple[int, int]:
    """The least and the most pixels of a side, ``256-1024``.

    Raises:
        ArgumentTypeError: the text is not that.
    """
    least, _, most = text.partition("-")
    if least.isdecimal() and most.isdecimal():
        return int(least), int(most)
    raise argparse.ArgumentTypeError(f"expected MIN-MAX in pixels such as 256-1024, got {text!r}")


def number(text: str) -> float:
    """A number.

    Raises:
        ArgumentTypeError: the text is none.
    """
    return _parsed(text, float, "a number")


def integers(text: str) -> tuple[int, ...]:
    """Comma-separated integers.

    Raises:
        ArgumentTypeError: one of them is none.
    """
    return _parsed(text, _list_of(int), "comma-separated integers")


def numbers(text: str) -> tuple[float, ...]:
    """Comma-separated numbers.

    Raises:
        ArgumentTypeError: one of them is none.
    """
    return _parsed(text, _list_of(float), "comma-separated numbers")


def seeds(text: str) -> tuple[int, ...]:
    """Comma-separated seeds; ``random`` draws one.

    Raises:
        ArgumentTypeError: one of them is neither.
    """
    return _parsed(text, _list_of(_seed), f"comma-separated integers or {RANDOM}")


def _seed(text: str) -> int:
    return secrets.randbits(_RANDOM_SEED_BITS) if text == RANDOM else int(text)


def _list_of(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return lambda text: tuple(kind(part) for part in text.split(","))


def _parsed(text: str, kind: Callable[[str], T], expected: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from None
