"""minit2i plan: how long a large job takes, on how many devices, from a second of measurement."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.eval_tasks.paint_task import SUITE_NAMES
from minit2i_deploy.cli.support.limits import check_least
from minit2i_deploy.cli.support.options.engine_options import EngineOptions, add_engine
from minit2i_deploy.cli.support.options.sampling_options import (
    TableOptions,
    add_sampling,
    choose_table,
)
from minit2i_deploy.cli.support.options.shared_arguments import (
    add_bundle,
    add_json,
    integer,
    number,
)
from minit2i_deploy.cli.support.parser import add_task
from minit2i_deploy.errors import PromptTruncatedWarning, UsageError

if TYPE_CHECKING:
    from minit2i_deploy.evaluation.planning.forecast import Forecast

_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_SAMPLE: Final = 4096
_WORDS: Final = "a red circle to the left of two blue squares on a black background "
_EMBED_EPILOG: Final = """\
The rate depends on the length of the texts: with --input, those of the file are
measured. Blocks are those of minit2i embed --shard.

examples:
  minit2i plan embed my-bundle --texts 100M --input captions.txt --pooled-only
"""
_PAINT_EPILOG: Final = """\
examples:
  minit2i plan paint my-bundle --suite geneval
  minit2i plan paint my-bundle --images 50k --batch 16 --price 2.5
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanEmbedOptions:
    """Options of minit2i plan embed; None where one was not given."""

    bundle: str
    texts: int
    input: Path | None
    pooled_only: bool
    batch: int
    window: int
    seconds: float
    price: float | None
    engine: EngineOptions
    json: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanPaintOptions:
    """Options of minit2i plan paint; None where one was not given."""

    bundle: str
    suite: str | None
    images: int | None
    batch: int
    block: int
    seconds: float
    price: float | None
    sampling: TableOptions
    guidance: float | None
    engine: EngineOptions
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the two tasks."""
    parser.description = "Forecast a large job from a second of measurement."
    tasks = parser.add_subparsers(metavar="TASK", title="tasks", required=True)
    embed = add_task(
        tasks,
        "embed",
        run_embed,
        help="embedding many texts",
        description="Forecast time, device hours, disk, memory and shards of embedding texts.",
        epilog=_EMBED_EPILOG,
    )
    add_bundle(embed)
    embed.add_argument(
        "--texts", metavar="N", type=amount, required=True, help="number of texts, as 2000 or 100M"
    )
    embed.add_argument("-i", "--input", metavar="FILE", type=Path, help="sample, one text a line")
    embed.add_argument("--pooled-only", action="store_true", help="write no tokens")
    embed.add_argument(
        "--batch", metavar="N", type=integer, default=32, help="texts encoded at once (default 32)"
    )
    embed.add_argument(
        "--window",
        metavar="N",
        type=integer,
        default=_SAMPLE,
        help="lines per block (default 4096)",
    )
    _add_common(embed)
    paint = add_task(
        tasks,
        "paint",
        run_paint,
        help="generating many images",
        description="Forecast time, device hours, disk, memory and shards of generating images.",
        epilog=_PAINT_EPILOG,
    )
    add_bundle(paint)
    paint.add_argument(
        "--suite", choices=SUITE_NAMES, help="a benchmark, at its guidance and official size"
    )
    paint.add_argument("--images", metavar="N", type=amount, help="number of images, as 50k")
    paint.add_argument(
        "--batch", metavar="N", type=integer, default=8, help="images generated at once (default 8)"
    )
    paint.add_argument(
        "--block", metavar="N", type=integer, default=4, help="prompts per block (default 4)"
    )
    add_sampling(paint)
    _add_common(paint)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", metavar="S", type=number, default=1.0, help="least time to measure (default 1)"
    )
    parser.add_argument("--price", metavar="P", type=number, help="of one device hour")
    add_engine(parser)
    add_json(parser)


def amount(text: str) -> int:
    """A number of items, such as 2000, 50k or 100M.

    Raises:
        ArgumentTypeError: the text is none.
    """
    digits, unit = (text[:-1], text[-1]) if text[-1:] in ("k", "M", "G") else (text, "")
    if not digits.isascii() or not digits.isdigit() or not 0 < int(digits) < 10**12:
        raise argparse.ArgumentTypeError(f"expected a number such as 2000 or 100M, got {text!r}")
    return int(digits) * _UNITS[unit]


def run_embed(options: PlanEmbedOptions) -> None:
    """Measure, forecast, print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.planning.forecast import Forecast
    from minit2i_deploy.evaluation.planning.measure import measure_embed
    from minit2i_deploy.text.embedding_files import Contents

    _check(options.batch, options.window, options.seconds)
    bundle = Bundle.open(options.bundle)
    measured = measure_embed(
        bundle,
        lambda: open_engine(bundle, options.engine),
        _sample(options.input),
        batch_size=options.batch,
        contents=Contents(tokens=not options.pooled_only, pooled=options.pooled_only, lines=True),
        suffix=".npz",
        seconds=options.seconds,
    )
    blocks = -(-options.texts // options.window)
    _print(
        options.json,
        "texts",
        Forecast(
            measured=measured, num_items=options.texts, num_blocks=blocks, price=options.price
        ),
    )


def run_paint(options: PlanPaintOptions) -> None:
    """Measure, forecast, print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.planning.forecast import Forecast
    from minit2i_deploy.evaluation.planning.measure import measure_images

    _check(options.batch, options.block, options.seconds)
    bundle = Bundle.open(options.bundle)
    num_images, num_prompts, guidance = _size(bundle, options)
    table, scale = choose_table(bundle, _sampling(bundle, options), guidance)
    with warnings.catch_warnings():
        # The made-up prompts, which nobody will see an image of.
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        measured = measure_images(
            bundle,
            lambda: open_engine(bundle, options.engine),
            _sample(None),
            table=table,
            guidance=scale,
            batch=options.batch,
            seconds=options.seconds,
        )
    blocks = -(-num_prompts // options.block)
    _print(
        options.json,
        f"images, table {table.name}, guidance {scale:g}",
        Forecast(measured=measured, num_items=num_images, num_blocks=blocks, price=options.price),
    )


def _check(batch: int, block: int, seconds: float) -> None:
    check_least("--batch", batch, 1)
    check_least("--block or --window", block, 1)
    if not 0 < seconds <= 600:
        raise UsageError(f"--seconds: expected above 0 and at most 600, got {seconds}")


def _sample(path: Path | None) -> list[str]:
    """Texts to measure: the first of a file, or made up ones of several lengths."""
    if path is None:
        return [_WORDS[: 8 + 7 * (n % 16)] for n in range(_SAMPLE)]
    from minit2i_deploy.text.text_lines import TextSource

    texts = []
    try:
        with path.open("rb") as stream:
            for line in TextSource(stream):
                if line.text is not None:
                    texts.append(line.text)
                if len(texts) == _SAMPLE:
                    break
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    return texts


def _size(bundle: Any, options: PlanPaintOptions) -> tuple[int, int, float | None]:
    """Images, prompts, and the guidance that is asked for or official."""
    from minit2i_deploy.evaluation.benchmarks.official_settings import official_settings
    from minit2i_deploy.evaluation.benchmarks.suites import find_suite

    if (options.suite is None) == (options.images is None):
        raise UsageError("expected one of --suite and --images")
    if options.suite is None:
        assert options.images is not None
        return options.images, options.images, options.guidance
    suite = find_suite(options.suite)
    if suite.num_prompts is None:
        raise UsageError(f"--suite {suite.name} has no official size; give --images")
    official = official_settings(bundle, suite.name).guidance
    guidance = official if options.guidance is None else options.guidance
    return suite.num_prompts * suite.num_samples, suite.num_prompts, guidance


def _sampling(bundle: Any, options: PlanPaintOptions) -> TableOptions:
    """A suite is generated with the reference table unless another is named."""
    from minit2i_deploy.bundle.presets import REFERENCE

    is_official = options.suite is not None and not options.sampling.names_a_table
    if is_official and REFERENCE in bundle.manifest.presets:
        return TableOptions(preset=REFERENCE, table=None, solver=None, steps=None)
    return options.sampling


def _print(as_json: bool, what: str, forecast: Forecast) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text, size

    values = forecast.to_dict()
    if as_json:
        print(json_text(values))
        return
    rows = []
    for run in values["runs"]:
        cells = [str(run["shards"]), _duration(run["wall_s"]), f"{run['device_hours']:.3g}"]
        rows.append([*cells, *([] if run["cost"] is None else [f"{run['cost']:.2f}"])])
    head = ["shards", "until the last ends", "device hours"]
    head += [] if forecast.price is None else ["cost"]
    print(f"{values['items']:,} {what}: {values['items_per_s']:.3g} a second on one device")
    print(columns(rows, head=head))
    print(
        f"opening an engine {values['opening_s']:.1f} s, disk {size(values['disk_bytes'])}, memory "
        f"{size(values['memory_bytes'])} each, {values['blocks']:,} blocks; at most "
        f"{values['best_shards']:,} shards spend 95% of their time on the work"
    )


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
