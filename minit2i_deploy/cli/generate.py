"""minit2i generate: prompts to images."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.images.generate_options import GenerateOptions, add_arguments
from minit2i_deploy.cli.support.limits import check_repeats
from minit2i_deploy.cli.support.option_hints import warn_of_single_words
from minit2i_deploy.cli.support.options.sampling_options import adjust_table, choose_table
from minit2i_deploy.cli.support.options.shared_arguments import size_pair
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.images.image_batches import GenerationJob, JobReport
    from minit2i_deploy.io.image_record import Record
    from minit2i_deploy.solvers.table import Table

# The first of each batch is the warm-up.
_LEAST_REPEATS: Final = 2
_EPILOG: Final = """\
One prompt is generated once for each seed. Several prompts share one seed, or
have as many seeds as there are prompts, or --num-images generates each of them
with each seed.

files it writes:
  minit2i-SEED.png, or what -o names   each image, with its record;
                                       minit2i-SEED-with-SEED.png of a variation
  DIR/index.jsonl                      file, prompt, seed, table and guidance of
                                       each image in a folder
  --grid FILE.png                      all images side by side
  --animate FILE.webp or .gif          the estimates of one image
  --preview DIR                        one PNG per row of the table
  --save-state FILE.npy                the images before rounding

examples:
  minit2i generate my-bundle "a red circle" -o circle.png
  minit2i generate my-bundle "a red circle" --seed random --steps 20 --guidance 3
  minit2i generate my-bundle "a red circle" "a blue square" -o images/
  minit2i generate my-bundle "a red circle" --also "a blue square:0.5"
  minit2i generate my-bundle "a red circle" --num-images 9 --grid nine.png
  minit2i generate my-bundle --prompts prompts.txt --batch 8 -o images --format jpg
  head -3 prompts.txt | minit2i generate my-bundle - -o three/
  minit2i generate my-bundle "a red circle" --animate circle.webp --every 2
  minit2i generate my-bundle --from circle.png -o again.png
  minit2i generate my-bundle "a blue circle" --init-image a.png --strength 0.6
  minit2i generate my-bundle "a circle and a square" --inpaint a.png --mask m.png
  minit2i generate my-bundle "two circles" --inpaint a.png --outpaint 0,0,64,0
  minit2i generate my-bundle "a red circle" --variations 4 --amount 0.1 -o like/
  minit2i generate my-bundle "a red circle" --size 768x512
  minit2i generate my-bundle "a red circle" --runtime tensorrt --repeat 50
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Generate images from prompts and write them with a record of how they were made, from "
        "which --from makes them again."
    )
    parser.epilog = _EPILOG
    add_arguments(parser)


def run(options: GenerateOptions) -> None:
    """Generate and write."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.images import image_files, image_requests
    from minit2i_deploy.cli.support.images.edit_inputs import check_start, read_inputs
    from minit2i_deploy.cli.support.images.image_batches import GenerationJob, run_job
    from minit2i_deploy.progress import ProgressLine

    image_files.check_places(options)
    _check_repeat(options)
    record = _read_record(options)
    options = _with_record(options, record)
    mixes = image_requests.read_mixes(options, record)
    opened = Bundle.open(options.bundle)
    recorded = None if record is None else record.size
    bundle = opened.at_size(size_pair(options.size) or recorded)
    inputs = read_inputs(options, bundle, record)
    table, guidance = _choose_table(bundle, options, record)
    check_start(inputs, table)
    requests = image_requests.plan_images(options, mixes, record, table)
    image_files.check_numbers(options, len(requests))
    job = GenerationJob(
        options=options,
        bundle=bundle,
        table=table,
        guidance=guidance,
        requests=requests,
        inputs=inputs,
        files=image_files.plan_files(options, requests),
    )
    job.check_records(options.engine.name)
    with (
        ProgressLine("generate") as progress,
        open_engine(opened, options.engine, lean=True) as runtime,
        image_files.created_folders(options, job.files),
    ):
        warn_of_single_words(options.prompt)
        report = run_job(job, runtime, progress)
    _print(job, report, runtime.name)


def _check_repeat(options: GenerateOptions) -> None:
    if options.repeat is None:
        return
    check_repeats("--repeat", options.repeat, least=_LEAST_REPEATS)
    if options.preview is not None or options.animate is not None:
        raise UsageError("--repeat and --preview or --animate are mutually exclusive")


def _read_record(options: GenerateOptions) -> Record | None:
    from minit2i_deploy.io.image_record import Record

    return None if options.source_image is None else Record.read(options.source_image)


def _with_record(options: GenerateOptions, record: Record | None) -> GenerateOptions:
    """The options, with the record's runtime and negative prompt where none is given."""
    if record is None:
        return options
    engine = options.engine
    if engine.runtime is None and engine.device is None:
        engine = dataclasses.replace(engine, runtime=record.runtime)
    negative = record.negative if options.negative is None else options.negative
    return dataclasses.replace(options, engine=engine, negative=negative)


def _choose_table(
    bundle: Bundle, options: GenerateOptions, record: Record | None
) -> tuple[Table, float]:
    from minit2i_deploy.editing.default_preset import edit_preset

    sampling = options.sampling
    if sampling.preset is None and sampling.table is None and sampling.solver is None:
        preset = edit_preset(bundle, inpaints=options.edit.inpaint is not None)
        sampling = dataclasses.replace(sampling, preset=preset)
    table, guidance = choose_table(bundle, sampling, options.guidance)
    if record is not None:
        if record.bundle != bundle.digest:
            raise UsageError(
                f"{options.source_image}: generated by bundle {record.bundle[:12]}.., but "
                f"{options.bundle} is {bundle.digest[:12]}..; name the bundle that generated it"
            )
        if not options.sampling.names_a_table:
            table = record.solver(bundle)
        if options.sampling.preset is None and options.guidance is None:
            guidance = record.guidance
    return adjust_table(table, options.adjustments), guidance


def _print(job: GenerationJob, report: JobReport, runtime_name: str) -> None:
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.cli.support.images.image_files import prompt_and_seed

    if not job.options.json:
        print(_text(job, report))
        return
    images: list[dict[str, Any]] = [
        {"file": str(path), **prompt_and_seed(record)}
        for path, record in zip(job.files.paths, report.records, strict=True)
    ]
    values: dict[str, Any] = {
        **(images[0] if len(images) == 1 else {"images": images}),
        "table": job.table.name,
        "guidance": job.guidance,
        "runtime": runtime_name,
        "seconds": report.timings,
    }
    if report.graphs is not None:
        values["cuda_graphs"] = report.graphs
    if job.options.repeat is not None:
        values["repeat"] = _latency(report)
    print(json_text(values))


def _text(job: GenerationJob, report: JobReport) -> str:
    """One line per image, with the prompts where they differ."""
    prompts = [record.prompt_text for record in report.records]
    ends = [f", {prompt!r}" if len(set(prompts)) > 1 else "" for prompt in prompts]
    lines = [
        f"{path}  {job.table.name}, guidance {job.guidance:g}{end}"
        for path, end in zip(job.files.paths, ends, strict=True)
    ]
    lines[-1] += f", {sum(report.timings.values()):.2f} s"
    if job.options.repeat is not None:
        lines.append(_latency_text(report))
    return "\n".join(lines)


def _latency(report: JobReport) -> dict[str, float]:
    """Latency of a batch in seconds: the first of all, and quantiles of all but each first."""
    import numpy as np

    warm = [seconds for times in report.latencies for seconds in times[1:]]
    p50, p95 = (float(value) for value in np.quantile(warm, (0.5, 0.95)))
    return {"first_s": report.latencies[0][0], "p50_s": p50, "p95_s": p95, "n": len(warm)}


def _latency_text(report: JobReport) -> str:
    latency = _latency(report)
    first, p50, p95 = (1e3 * latency[name] for name in ("first_s", "p50_s", "p95_s"))
    graphs = "" if report.graphs is None else f", CUDA graphs: {report.graphs}"
    return (
        f"a batch: first {first:.1f} ms, then p50 {p50:.2f} ms, p95 {p95:.2f} ms over "
        f"{latency['n']:.0f}{graphs}"
    )
