"""minit2i pull: a released checkpoint from the Hugging Face hub."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.options.shared_arguments import add_json
from minit2i_deploy.progress import LOG_EVERY_S

if TYPE_CHECKING:
    from minit2i_deploy.checkpoints.pull import PulledModel

_MODELS: Final = ("b16", "l16", "b16-mf")
_EPILOG: Final = """\
pull.json records the commit of each repository. Run again, the command resumes
at the same commits, unless --revision names another.

examples:
  minit2i pull b16 --output release
  minit2i export release/minit2i-b-16/transformer b16-bundle
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PullOptions:
    """Options of minit2i pull."""

    model: str
    output: Path | None
    revision: str | None
    no_text_encoder: bool
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Download the files of a released checkpoint and its text encoder that an export needs."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "model", metavar="MODEL", choices=_MODELS, help=f"one of {', '.join(_MODELS)}"
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="folder to download to; default: minit2i-MODEL"
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of the model's repository"
    )
    parser.add_argument(
        "--no-text-encoder",
        action="store_true",
        help="skip google/flan-t5-large (3.1 GB to download, of which 1.3 GB are used)",
    )
    add_json(parser)


def run(options: PullOptions) -> None:
    """Download, and print the next command."""
    from minit2i_deploy.checkpoints.pull import pull

    folder, is_terminal = options.output or Path(f"minit2i-{options.model}"), sys.stderr.isatty()
    with contextlib.nullcontext() if is_terminal else size_lines(folder):
        pulled = pull(
            options.model,
            folder,
            revision=options.revision,
            text_encoder=not options.no_text_encoder,
            bars=is_terminal,
        )
    _print(options, pulled)


@contextlib.contextmanager
def size_lines(folder: Path, every_s: float = LOG_EVERY_S) -> Iterator[None]:
    """Write how much a folder holds from time to time: the hub's library has bars only."""
    from minit2i_deploy.cli.support.formatting import size

    is_done = threading.Event()

    def report() -> None:
        while not is_done.wait(every_s):
            sys.stderr.write(f"pull {size(_num_bytes(folder))} in {folder}\n")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


def _num_bytes(folder: Path) -> int:
    total = 0
    # A file may be renamed between its listing and the look at its size.
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                total += path.lstat().st_size if path.is_file() else 0
    return total


def _print(options: PullOptions, pulled: PulledModel) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text
    from minit2i_deploy.io.strict_json import encode

    if options.json:
        values = {"folder": str(pulled.folder), "checkpoint": str(pulled.checkpoint)}
        print(json_text(values | {"parts": encode(pulled.downloads)}))
        return
    rows = [
        (one.repository, f"commit {one.commit}", f"{len(one.files)} files")
        for one in pulled.downloads
    ]
    print(columns(rows))
    print(f"{pulled.checkpoint}  next: minit2i export {pulled.checkpoint} BUNDLE")
