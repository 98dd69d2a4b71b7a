"""minit2i eval paint: the images of a benchmark, in the folders that its scorer reads."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.options.engine_options import EngineOptions, add_engine
from minit2i_deploy.cli.support.options.sampling_options import (
    TableOptions,
    add_sampling,
    choose_table,
)
from minit2i_deploy.cli.support.options.shard_options import add_shard, shard_of_option
from minit2i_deploy.cli.support.options.shared_arguments import add_bundle, add_json, integer
from minit2i_deploy.cli.support.parser import add_task
from minit2i_deploy.cli.support.sharded.embed_shards import engine_identity, report_values
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.benchmarks.generate_suite import SuiteRun
    from minit2i_deploy.evaluation.benchmarks.items import Item
    from minit2i_deploy.evaluation.benchmarks.suites import Suite
    from minit2i_deploy.shards.work import ShardReport
    from minit2i_deploy.solvers.table import Table

# Names of evaluation.benchmarks.suites, repeated so that --help does not import it.
SUITE_NAMES: Final = ("geneval", "dpg", "prism", "fid", "folder", "shapes")
# Of prompts: 139 blocks of GenEval, so that 64 processes have two or three each.
_BLOCK_ITEMS: Final = 4
_PER_KIND: Final = 100
_EPILOG: Final = """\
suite    prompts (--prompts)                       images
geneval  evaluation_metadata.jsonl                 OUT/00000/samples/00000.png, 4 each
dpg      folder of ITEM.txt, or .csv or .jsonl     OUT/ITEM.png, a grid of 4
prism    folder of TRACK.jsonl                     OUT/TRACK/TRACK-000/00000.png
fid      .json of captions, or .txt                OUT/00000.png
folder   .txt, or .jsonl with prompt               OUT/00000-00000.png
shapes   none: held-out captions of the shapes     as geneval, 1 each

Table and guidance are those of the official evaluation of the bundle's flavour, where
there is one; sampling options replace them. Both are printed, and written to
OUT.shards/_job.json. An image's seed is a function of --seed, prompt and sample alone.
The same command resumes. With --shard, any number of processes share the work.

examples:
  minit2i eval paint geneval my-bundle --prompts evaluation_metadata.jsonl -o images
  minit2i eval paint dpg my-bundle --prompts dpg_bench/prompts -o images --shard 0/8
  minit2i eval paint shapes demo -o shapes
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaintOptions:
    """Options of minit2i eval paint; None where one was not given."""

    suite: str
    bundle: str
    prompts: Path | None
    output: Path
    samples: int | None
    seed: int
    batch: int
    block: int
    arrays: bool
    shard: str | None
    sampling: TableOptions
    guidance: float | None
    engine: EngineOptions
    json: bool


def add_paint(tests: Any) -> None:
    """Add the task to those of ``minit2i eval``."""
    parser = add_task(
        tests,
        "paint",
        run_paint,
        help="generate the images of a benchmark for its own scorer",
        description="Generate the images of a benchmark, in the folders that its scorer reads.",
        epilog=_EPILOG,
    )
    parser.add_argument("suite", metavar="SUITE", choices=SUITE_NAMES, help=", ".join(SUITE_NAMES))
    add_bundle(parser)
    parser.add_argument(
        "--prompts", metavar="PATH", type=Path, help="the benchmark's prompts, as listed below"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=Path, required=True, help="folder of the images"
    )
    parser.add_argument(
        "--samples", metavar="N", type=integer, help="images per prompt (default: the official)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=integer, default=0, help="of the run (default 0)"
    )
    parser.add_argument(
        "--batch", metavar="N", type=integer, default=8, help="images generated at once (default 8)"
    )
    parser.add_argument(
        "--block",
        metavar="N",
        type=integer,
        default=_BLOCK_ITEMS,
        help=f"prompts that are generated, or generated again, together (default {_BLOCK_ITEMS})",
    )
    parser.add_argument(
        "--arrays",
        action="store_true",
        help="fid: uint8 [N, 3, H, W] .npy files for feature extractors in place of images",
    )
    add_shard(parser)
    add_sampling(parser)
    add_engine(parser)
    add_json(parser)


def run_paint(options: PaintOptions) -> None:
    """Generate the missing images."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.benchmarks.generate_suite import generate_shard
    from minit2i_deploy.evaluation.benchmarks.suites import find_suite
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.shards.job import job_folder
    from minit2i_deploy.shards.shard import Shard

    suite = find_suite(options.suite)
    shard = Shard() if options.shard is None else shard_of_option(options.shard)
    items = _items(suite, options)
    run = suite_run(Bundle.open(options.bundle), suite, items, options)
    sys.stderr.write(f"minit2i: {settings_text(run)}\n")
    # Before an engine is opened, which may take minutes.
    run.job().check(job_folder(options.output))
    title = f"{suite.name} {shard}" if shard.count > 1 else suite.name
    with (
        ProgressLine(title) as progress,
        open_engine(run.bundle, options.engine) as runtime,
    ):
        report = generate_shard(run, runtime, options.output, shard, progress=progress)
    _print(options, run, report)


def suite_run(bundle: Bundle, suite: Suite, items: list[Item], options: PaintOptions) -> SuiteRun:
    """What the options ask for, with the official settings where they name none."""
    from minit2i_deploy.evaluation.benchmarks.generate_suite import SuiteRun
    from minit2i_deploy.evaluation.benchmarks.official_settings import official_settings

    official = official_settings(bundle, suite.name)
    table, guidance = _table(bundle, options, official.guidance)
    return SuiteRun(
        bundle=bundle,
        suite=suite,
        items=items,
        table=table,
        guidance=guidance,
        official=official,
        num_samples=suite.num_samples if options.samples is None else options.samples,
        seed=options.seed,
        batch=options.batch,
        block_items=options.block,
        arrays=options.arrays,
        engine=engine_identity(options.engine),
    )


def _table(
    bundle: Bundle, options: PaintOptions, official_guidance: float | None
) -> tuple[Table, float]:
    from minit2i_deploy.bundle.presets import REFERENCE

    if options.sampling.names_a_table:
        guidance = options.guidance if options.guidance is not None else official_guidance
        table, scale = choose_table(bundle, options.sampling, guidance)
        # A student's table has its guidance in it.
        return table, scale if table.student_guidance is None else table.student_guidance
    name = REFERENCE if REFERENCE in bundle.manifest.presets else None
    table, scale = bundle.preset(name)
    if table.student_guidance is not None:
        if options.guidance is not None:
            raise UsageError(
                "--guidance: a few-step student's is in its table; compile one with minit2i table "
                "--omega and name it with --table"
            )
        return table, table.student_guidance
    guidance = official_guidance if options.guidance is None else options.guidance
    return table, scale if guidance is None else guidance


def _items(suite: Suite, options: PaintOptions) -> list[Item]:
    from minit2i_deploy.evaluation.benchmarks.items import read_items
    from minit2i_deploy.evaluation.benchmarks.shapes_items import shapes_items
    from minit2i_deploy.evaluation.benchmarks.suites import SHAPES

    if options.prompts is not None:
        return read_items(suite, options.prompts)
    if suite.name != SHAPES:
        raise UsageError(f"{suite.name} requires --prompts: {suite.prompts}")
    return shapes_items(_PER_KIND, options.seed)


def settings_text(run: SuiteRun) -> str:
    """Which official settings are followed, or what differs from them, in one line."""
    official, suite = run.official, run.suite
    text = (
        f"{suite.name}: {len(run.items)} prompts x {run.num_samples}, table {run.table.name}, "
        f"guidance {run.guidance:g}"
    )
    if official.guidance is None:
        text += f"; flavour {official.flavour} has no official evaluation of it"
    elif official.guidance == run.guidance:
        text += f", as flavour {official.flavour} ({official.source})"
    else:
        text += (
            f"; officially {official.guidance:g} in flavour {official.flavour} ({official.source})"
        )
    if suite.num_prompts is not None and suite.num_prompts != len(run.items):
        text += f"; the official set has {suite.num_prompts} prompts"
    return text


def _print(options: PaintOptions, run: SuiteRun, report: ShardReport) -> None:
    from minit2i_deploy.shards.job import job_folder

    values = report_values(report, job_folder(options.output))
    num_images = report.num_items * run.num_samples
    if options.json:
        settings: Any = run.job().settings
        print(json.dumps({**values, "images": num_images, "settings": settings}, indent=2))
        return
    blocks = report.num_blocks - report.num_before
    text = f"{options.output}  {num_images} images in {blocks} blocks"
    if report.num_before:
        text += f"; {report.num_before} blocks were done before"
    print(text)
