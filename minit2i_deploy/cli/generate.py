"""minit2i generate: one prompt, one picture."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy._version import __version__
from minit2i_deploy.cli.options import (
    add_bundle,
    add_engine,
    add_json,
    add_painting,
    chosen_painting,
    opened_runtime,
)
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from minit2i_deploy.bundle import Bundle
    from minit2i_deploy.generate import Frame, Result
    from minit2i_deploy.table import Table

_EPILOG: Final = """\
examples:
  minit2i generate my-bundle "a red circle" -o circle.png
  minit2i generate my-bundle "a red circle" --seed 7 --steps 20 --guidance 3
  minit2i generate my-bundle "a red circle" --preview frames
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Paint a picture from a prompt and write it as PNG, with what made it in text fields."
    )
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument("prompt", metavar="PROMPT", help="what to paint; may be empty")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="PNG file, replaced if it is there; default: minit2i-SEED.png in this folder, or "
        "minit2i-SEED-2.png and so on, which replaces nothing",
    )
    add_painting(parser)
    group = parser.add_argument_group("prompt and noise")
    group.add_argument(
        "--negative", metavar="TEXT", help="prompt to move away from, in place of no prompt"
    )
    group.add_argument(
        "--seed", metavar="N", type=int, help="seed of the noise, from 0 (default) to 2**64 - 1"
    )
    group.add_argument(
        "--noise",
        metavar="FILE",
        type=Path,
        help=".npy file of float32 unit normal noise, [3, H, W] or [1, 3, H, W], in place of the "
        "seed's",
    )
    group = parser.add_argument_group("further output")
    group.add_argument(
        "--save-state",
        metavar="FILE",
        type=Path,
        help=".npy file for the picture before rounding: float32 [1, 3, H, W], -1 to 1",
    )
    group.add_argument(
        "--preview",
        metavar="DIR",
        type=Path,
        help="new folder for the picture as estimated in each row of the table",
    )
    add_engine(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Paint and write."""
    from minit2i_deploy.bundle import Bundle
    from minit2i_deploy.cli import places
    from minit2i_deploy.images import save_png

    stem = f"minit2i-{options.seed or 0}" if options.noise is None else "minit2i-noise"
    output = places.output_file(options.output or places.free_name(stem, ".png"), ".png")
    if options.save_state is not None:
        places.output_file(options.save_state, ".npy")
    bundle = Bundle.open(options.bundle)
    table, guidance = chosen_painting(bundle, options)
    noise = _noise(options, table)
    if options.preview is not None:
        places.new_folder(options.preview)
    result = _paint(bundle, options, table, guidance, noise)
    if options.save_state is not None:
        places.write_npy(options.save_state, result.x)
    save_png(result.images[0], output, _metadata(bundle, options, result))
    _print(options, output, result)


def _noise(options: argparse.Namespace, table: Table) -> np.ndarray | None:
    """The noise file with a batch axis; ``generate`` checks its sizes."""
    import numpy as np

    if options.noise is None:
        return None
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
            "[1, 3, H, W] is needed"
        )
    return noise[None] if noise.ndim == 3 else noise


def _paint(
    bundle: Bundle,
    options: argparse.Namespace,
    table: Table,
    guidance: float,
    noise: np.ndarray | None,
) -> Result:
    from minit2i_deploy.cli.progress import Progress
    from minit2i_deploy.generate import generate
    from minit2i_deploy.images import save_png, to_pil

    def on_frame(frame: Frame) -> None:
        progress.update((frame.index + 1) / frame.total, f"row {frame.index + 1}/{frame.total}")
        if options.preview is not None:
            path = options.preview / f"row-{frame.index:04d}.png"
            save_png(to_pil(frame.estimate())[0], path, {"t": repr(frame.t)})

    with Progress("painting") as progress, opened_runtime(bundle, options) as runtime:
        return generate(
            bundle,
            runtime,
            options.prompt,
            seed=options.seed or 0,
            table=table,
            guidance=guidance,
            negative=options.negative,
            noise=noise,
            on_frame=on_frame,
            previews=options.preview is not None,
        )


def _metadata(bundle: Bundle, options: argparse.Namespace, result: Result) -> dict[str, str]:
    fields = {
        "prompt": options.prompt,
        "negative": options.negative,
        "seed": str(result.seeds[0]) if options.noise is None else None,
        "noise": None if options.noise is None else _digest(options.noise),
        "table": result.table,
        "guidance": repr(result.guidance),
        "bundle": bundle.digest,
        "runtime": options.runtime,
        "version": f"minit2i-deploy {__version__}",
    }
    return {name: value for name, value in fields.items() if value is not None}


def _digest(path: Path) -> str:
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _print(options: argparse.Namespace, output: Path, result: Result) -> None:
    from minit2i_deploy.cli.text import json_text

    if options.json:
        values = {
            "file": str(output),
            "seed": result.seeds[0] if options.noise is None else None,
            "table": result.table,
            "guidance": result.guidance,
            "runtime": options.runtime,
            "seconds": dict(result.timings),
        }
        print(json_text(values))
        return
    spent = sum(result.timings.values())
    print(f"{output}  {result.table}, guidance {result.guidance:g}, {spent:.2f} s")
