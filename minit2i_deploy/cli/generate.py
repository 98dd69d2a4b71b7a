"""minit2i generate: prompts to pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.counts import check_repeats
from minit2i_deploy.cli.support.options import (
    add_adjustments,
    add_bundle,
    add_engine,
    add_json,
    add_painting,
    adjusted_table,
    chosen_painting,
    opened_runtime,
    whole_numbers,
)
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.image_batches import Job, Spent
    from minit2i_deploy.io.image_record import Record
    from minit2i_deploy.solvers.table import Table

_LEAST_REPEATS: Final = 2
_EPILOG: Final = """\
One prompt is painted once for each seed. Several prompts share one seed, or
have as many seeds as there are prompts, or --num-images paints each of them
with each seed.

files it writes:
  minit2i-SEED.png, or what -o names   each picture, with what made it
  --grid FILE.png                      all pictures side by side
  --animate FILE.webp or .gif          one picture as it comes about
  --preview DIR                        one PNG a row of the table
  --save-state FILE.npy                the pictures before rounding

examples:
  minit2i generate my-bundle "a red circle" -o circle.png
  minit2i generate my-bundle "a red circle" --seed 7 --steps 20 --guidance 3
  minit2i generate my-bundle "a red circle" --also "a blue square:0.5"
  minit2i generate my-bundle "a red circle" --num-images 9 --grid nine.png
  minit2i generate my-bundle --prompts prompts.txt --batch 8 -o pictures
  minit2i generate my-bundle "a red circle" --animate circle.webp --every 2
  minit2i generate my-bundle --from circle.png -o again.png
  minit2i generate my-bundle "a red circle" --runtime tensorrt --repeat 50
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Paint pictures from prompts and write them as PNG, with what made them in text fields."
    )
    parser.epilog = _EPILOG
    add_bundle(parser)
    # A list, because a single optional word would be taken for missing after an option.
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="*",
        # Without a default of its own argparse calls it required.
        default=[],
        help="what to paint, in quotes; may be empty",
    )
    parser.set_defaults(gather="prompt")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        type=Path,
        help="one picture: PNG file, replaced if it is there; several: new folder for "
        "INDEX-SEED.png. Default: minit2i-SEED.png (several prompts: minit2i-INDEX-SEED.png) in "
        "this folder, or minit2i-SEED-2.png and so on, which replaces nothing",
    )
    _add_prompts(parser)
    add_painting(parser)
    add_adjustments(parser)
    _add_seeds(parser)
    _add_outputs(parser)
    add_engine(parser)
    # Whether a runtime was named matters: --from names one too.
    parser.set_defaults(usual_runtime=parser.get_default("runtime"), runtime=None)
    add_json(parser)


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts")
    group.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="UTF-8 .txt file in place of PROMPT, one a line",
    )
    group.add_argument(
        "--also",
        metavar="TEXT:WEIGHT",
        type=_weighted,
        action="append",
        default=[],
        help="mix another text into each prompt, whose own weight is 1; weights are divided by "
        "their sum; may be given several times",
    )
    group.add_argument(
        "--negative", metavar="TEXT", help="prompt to move away from, in place of no prompt"
    )
    group.add_argument(
        "--from",
        dest="made_from",
        metavar="FILE",
        type=Path,
        help="make a picture of this bundle again from its PNG file; other options given take the "
        "place of what the file says",
    )


def _add_seeds(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("seeds and noise")
    group.add_argument(
        "--seed",
        metavar="N[,N..]",
        type=whole_numbers,
        help="seeds of the noise, each from 0 (default) to 2**64 - 1",
    )
    group.add_argument(
        "--num-images",
        metavar="N",
        type=int,
        help="pictures of each prompt, with the seeds SEED, SEED + 1 and so on",
    )
    group.add_argument(
        "--batch",
        metavar="N",
        type=int,
        default=1,
        help="pictures painted at once (default 1); changes memory and speed, not the pictures",
    )
    group.add_argument(
        "--noise",
        metavar="FILE",
        type=Path,
        help=".npy file of float32 unit normal noise, [3, H, W] or [pictures, 3, H, W], in place "
        "of the seed's",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("further output")
    group.add_argument(
        "--grid", metavar="FILE", type=Path, help="PNG file with all pictures side by side"
    )
    group.add_argument(
        "--save-state",
        metavar="FILE",
        type=Path,
        help=".npy file for the pictures before rounding: float32 [pictures, 3, H, W], -1 to 1",
    )
    group.add_argument(
        "--preview",
        metavar="DIR",
        type=Path,
        help="new folder for each picture as estimated in each row of the table",
    )
    group.add_argument(
        "--animate",
        metavar="FILE",
        type=Path,
        help=".webp or .gif file that shows one picture's estimates and then the picture",
    )
    group.add_argument(
        "--every",
        metavar="N",
        type=int,
        help="show every Nth row in --preview and --animate, and the last (default 1)",
    )
    group.add_argument(
        "--repeat",
        metavar="N",
        type=int,
        help="paint everything N times and print how long a batch takes once all is warm; the "
        "pictures are written once",
    )


def _weighted(words: str) -> tuple[str, float]:
    text, colon, weight = words.rpartition(":")
    try:
        if colon:
            return text, float(weight)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{words!r} is no TEXT:WEIGHT, for example 'a square:0.5'")


def run(options: argparse.Namespace) -> None:
    """Paint and write."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.image_batches import Job, paint
    from minit2i_deploy.cli.support.image_plan import planned_pictures, wanted_prompts
    from minit2i_deploy.cli.support.outputs import (
        check_numbers,
        check_places,
        made_folders,
        picture_files,
    )
    from minit2i_deploy.progress import ProgressLine

    check_places(options)
    _check_repeat(options)
    record = _record(options)
    prompts = wanted_prompts(options, record)
    bundle = Bundle.open(options.bundle)
    table, guidance = _painting(bundle, options, record)
    pictures = planned_pictures(options, prompts, record, table)
    check_numbers(options, len(pictures))
    files = picture_files(options, pictures)
    job = Job(
        options=options,
        bundle=bundle,
        table=table,
        guidance=guidance,
        pictures=pictures,
        files=files,
    )
    with (
        ProgressLine("painting") as progress,
        opened_runtime(bundle, options, lean=True) as runtime,
        made_folders(options, len(files)),
    ):
        spent = paint(job, runtime, progress)
    _print(job, spent)


def _check_repeat(options: argparse.Namespace) -> None:
    if options.repeat is None:
        return
    if options.repeat < _LEAST_REPEATS:
        raise UsageError(
            f"--repeat is {options.repeat}, but at least {_LEAST_REPEATS} are needed: the first is "
            "the warm-up"
        )
    check_repeats("--repeat", options.repeat, least=_LEAST_REPEATS)
    if options.preview is not None or options.animate is not None:
        raise UsageError("--repeat came with --preview or --animate; give one or the other")


def _record(options: argparse.Namespace) -> Record | None:
    """The record that --from names; it fills in the options that are not given."""
    from minit2i_deploy.io.image_record import Record

    record = None if options.made_from is None else Record.read(options.made_from)
    if record is not None:
        options.runtime = options.runtime or record.runtime
        options.negative = record.negative if options.negative is None else options.negative
    options.runtime = options.runtime or options.usual_runtime
    return record


def _painting(
    bundle: Bundle, options: argparse.Namespace, record: Record | None
) -> tuple[Table, float]:
    table, guidance = chosen_painting(bundle, options)
    if record is not None:
        if record.bundle != bundle.digest:
            raise UsageError(
                f"{options.made_from}: was painted by bundle {record.bundle[:12]}.., but "
                f"{options.bundle} is {bundle.digest[:12]}..; name the bundle that painted it"
            )
        if all(getattr(options, name) is None for name in ("preset", "table", "solver", "steps")):
            table = record.solver(bundle)
        if options.preset is None and options.guidance is None:
            guidance = record.guidance
    return adjusted_table(table, options), guidance


def _print(job: Job, spent: Spent) -> None:
    from minit2i_deploy.cli.support.formatting import json_text

    painting = f"{job.table.name}, guidance {job.guidance:g}"
    if not job.options.json:
        for path in job.files[:-1]:
            print(f"{path}  {painting}")
        print(f"{job.files[-1]}  {painting}, {sum(spent.timings.values()):.2f} s")
        if job.options.repeat is not None:
            print(_steady_text(spent))
        return
    made: list[dict[str, Any]] = [
        {"file": str(path), "seed": picture.seed if picture.noise is None else None}
        for path, picture in zip(job.files, job.pictures, strict=True)
    ]
    values = {
        **(made[0] if len(made) == 1 else {"pictures": made}),
        "table": job.table.name,
        "guidance": job.guidance,
        "runtime": job.options.runtime,
        "seconds": spent.timings,
    }
    if spent.graphs is not None:
        values["cuda_graphs"] = spent.graphs
    if job.options.repeat is not None:
        values["repeat"] = _steady(spent)
    print(json_text(values))


def _steady(spent: Spent) -> dict[str, float]:
    """Latency of a batch in seconds: the first of all, and quantiles of all but each first."""
    import numpy as np

    warm = [seconds for times in spent.latencies for seconds in times[1:]]
    p50, p95 = (float(value) for value in np.quantile(warm, (0.5, 0.95)))
    return {"first_s": spent.latencies[0][0], "p50_s": p50, "p95_s": p95, "n": len(warm)}


def _steady_text(spent: Spent) -> str:
    steady = _steady(spent)
    graphs = "" if spent.graphs is None else f", CUDA graphs: {spent.graphs}"
    return (
        f"a batch: first {steady['first_s'] * 1e3:.1f} ms, then p50 {steady['p50_s'] * 1e3:.2f} ms,"
        f" p95 {steady['p95_s'] * 1e3:.2f} ms over {steady['n']:.0f}{graphs}"
    )
