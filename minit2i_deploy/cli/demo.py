"""minit2i demo: the shipped model from checkpoint to scored images."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import sys
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.bundle.names import FILE_NAME
from minit2i_deploy.bundle.presets import FAST, REFERENCE
from minit2i_deploy.cli.support.limits import check_per_kind
from minit2i_deploy.cli.support.options.shared_arguments import (
    add_json,
    cache_folder,
    integer,
    ready_path,
)
from minit2i_deploy.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.demo.edits import EditedImage
    from minit2i_deploy.demo.report import Run
    from minit2i_deploy.demo.shipped import Shipped

REPORT: Final = "report.json"
PAGE: Final = "report.html"
# Captions and noise of every demo, so that two machines generate the same images.
_SEED: Final = 0
_RUNTIME: Final = "onnxruntime"
_DISPLAYS: Final = ("DISPLAY", "WAYLAND_DISPLAY")

_EPILOG: Final = """\
The folder receives
  bundle/      the model: minit2i generate DIR/bundle "a red circle"
  student/     its few-step student: four evaluations per image
  pictures/    a PNG per image
  report.html  verdicts, times and parity; one file, for any browser
  report.json  the same numbers

--web writes no report. It serves a page on this machine in which both models run in the browser,
and opens it; Ctrl+C ends it. The first time, npm fetches the WebAssembly of ONNX Runtime.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoOptions:
    """Options of minit2i demo."""

    output: Path
    per_kind: int
    export: bool
    web: bool
    port: int
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Verify the ready bundles of the shipped model and its few-step student, generate images "
        "of captions they were not trained on, score each with an exact detector, and write a "
        "report."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("minit2i-demo"),
        help="new folder, or that of an earlier demo, which is replaced (default minit2i-demo)",
    )
    parser.add_argument(
        "--per-kind",
        metavar="N",
        type=integer,
        default=1,
        help="captions of each of the six kinds (default 1)",
    )
    parser.add_argument(
        "--export",
        action="store_true",
        help="export the shipped checkpoints in place of the ready bundles; needs the [export] "
        "extra",
    )
    parser.add_argument(
        "--web", action="store_true", help="run the models in the browser, and open the page"
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=integer,
        default=0,
        help="of the page under --web (default: a free one)",
    )
    add_json(parser)


def run(options: DemoOptions) -> None:
    """Do everything in a folder that is renamed into place at the end."""
    from minit2i_deploy.demo.shipped import shipped_model
    from minit2i_deploy.io.files import atomic_directory

    check_per_kind("--per-kind", options.per_kind)
    if options.web:
        if options.export or options.json:
            raise UsageError("--web opens a page and nothing else; omit --export and --json")
        _serve_page(options.port)
        return
    if options.port:
        raise UsageError("--port is the page's; add --web, or omit it")
    shipped = shipped_model()
    seconds: dict[str, float] = {}
    with atomic_directory(options.output, overwrite=_is_demo(options.output)) as folder:
        if options.export:
            bundle = _export("export", shipped.checkpoint, shipped, folder / "bundle", seconds)
            student = _export(
                "export student", shipped.student, shipped, folder / "student", seconds
            )
        else:
            bundle, student = _copy_ready(folder, seconds)
        _verify([bundle, student], seconds)
        runs = _generate(bundle, [REFERENCE, FAST], options.per_kind, seconds)
        runs += _generate(student, [REFERENCE], options.per_kind, seconds, prefix="student-")
        edits = _edit(bundle)
        values = _write(folder, bundle, runs, edits, seconds, options.output)
    _print(options, values, runs)


def _serve_page(port: int) -> None:
    from minit2i_deploy.demo.web_server import address, site_server
    from minit2i_deploy.demo.web_site import cached_site

    with site_server(cached_site(cache_folder()), port) as server:
        place = address(server)
        print(f"{place} runs both models in the browser; Ctrl+C ends it", flush=True)
        # Without a screen, Python would start a browser of text in this terminal.
        if sys.platform in ("win32", "darwin") or any(map(os.environ.get, _DISPLAYS)):
            webbrowser.open(place)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _is_demo(folder: Path) -> bool:
    """Whether an earlier demo wrote the folder, so that nothing else is lost with it."""
    from minit2i_deploy.demo.report import KIND

    try:
        values = json.loads((folder / REPORT).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("kind") == KIND


def _export(
    title: str, checkpoint: Path, shipped: Shipped, folder: Path, seconds: dict[str, float]
) -> Bundle:
    from minit2i_deploy.export import ExportOptions, export_bundle
    from minit2i_deploy.progress import ProgressLine

    began = time.perf_counter()
    with ProgressLine(title) as progress:
        bundle = export_bundle(
            checkpoint, folder, ExportOptions(text_encoder=shipped.text_encoder), progress=progress
        )
    seconds[title] = time.perf_counter() - began
    return bundle


def _copy_ready(folder: Path, seconds: dict[str, float]) -> list[Bundle]:
    from minit2i_deploy.bundle.bundle import Bundle

    began = time.perf_counter()
    bundles = []
    for name, place in (("demo", "bundle"), ("demo-student", "student")):
        source = Bundle.open(ready_path(name))
        for file in (FILE_NAME, *source.manifest.files):
            target = folder / place / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / file, target)
        bundles.append(Bundle.open(folder / place))
    seconds["copy the ready bundles"] = time.perf_counter() - began
    return bundles


def _verify(bundles: Sequence[Bundle], seconds: dict[str, float]) -> None:
    from minit2i_deploy.cli.verify import FAILED, check_bundle
    from minit2i_deploy.runtimes import open_runtime

    began = time.perf_counter()
    for bundle in bundles:
        for outcome in check_bundle(bundle, functools.partial(open_runtime, bundle, _RUNTIME)):
            if outcome.state == FAILED:
                raise VerificationError(f"{bundle.path}: {outcome.name}: {outcome.detail}")
    seconds["verify"] = time.perf_counter() - began


def _generate(
    bundle: Bundle,
    presets: Sequence[str],
    per_kind: int,
    seconds: dict[str, float],
    prefix: str = "",
) -> list[Run]:
    from minit2i_deploy.demo.report import Run
    from minit2i_deploy.evaluation.shapes import held_out_captions
    from minit2i_deploy.evaluation.shapes.judged_images import generate_judged_images
    from minit2i_deploy.generate import generate
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.runtimes import open_runtime

    captions = held_out_captions(per_kind, _SEED)
    runs = []
    with open_runtime(bundle, _RUNTIME) as runtime:
        began = time.perf_counter()
        # Opens the graphs, which would otherwise count as the time of the first image.
        table, guidance = bundle.preset(presets[-1])
        generate(bundle, runtime, captions[0][1], table=table, guidance=guidance)
        seconds[f"open and warm up {prefix}".strip(" -")] = time.perf_counter() - began
        for name in presets:
            table, guidance = bundle.preset(name)
            with ProgressLine(f"generate {table.name}") as progress:
                images = generate_judged_images(
                    bundle,
                    runtime,
                    captions,
                    table=table,
                    guidance=guidance,
                    seed=_SEED,
                    progress=progress,
                )
                runs.append(
                    Run(name=prefix + name, table=table, guidance=guidance, images=list(images))
                )
    return runs


def _edit(bundle: Bundle) -> list[EditedImage]:
    from minit2i_deploy.demo.edits import generate_edits
    from minit2i_deploy.runtimes import open_runtime

    with open_runtime(bundle, _RUNTIME) as runtime:
        return list(generate_edits(bundle, runtime, _SEED))


def _write(
    folder: Path,
    bundle: Bundle,
    runs: list[Run],
    edits: list[EditedImage],
    seconds: dict[str, float],
    output: Path,
) -> dict[str, Any]:
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.demo.page import to_html
    from minit2i_deploy.demo.report import report_values
    from minit2i_deploy.io.files import atomic_write_text
    from minit2i_deploy.io.images import save_png

    (folder / "pictures").mkdir()
    images = {}
    for run in runs:
        for index, item in enumerate(run.images):
            path = folder / run.file_name(index)
            fields = {"parameters": item.caption, "seed": str(item.seed), "table": run.table.name}
            save_png(item.image, path, fields)
            images[run.file_name(index)] = path.read_bytes()
    for edit in edits:
        first, edited = edit.files
        save_png(edit.first, folder / first, {})
        edit.result.save(folder / edited)
        images |= {name: (folder / name).read_bytes() for name in edit.files}
    values = report_values(bundle, _RUNTIME, runs, edits, seconds)
    output_paths.write_json(folder / REPORT, values)
    atomic_write_text(folder / PAGE, to_html(values, images, _commands(output)))
    return values


def _commands(output: Path) -> list[str]:
    bundle = output / "bundle"
    return [
        f'minit2i generate {bundle} "a red circle and a blue square" --seed 1 -o mine.png',
        f'minit2i generate {output / "student"} "a red circle and a blue square" -o fast.png',
        f'minit2i embed {bundle} "a red circle" "a blue square" -o texts.npz',
        f"minit2i eval shapes {bundle} --per-kind 20",
        f"minit2i inspect {bundle}",
        "minit2i --help",
    ]


def _print(options: DemoOptions, values: dict[str, Any], runs: list[Run]) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text

    page = options.output / PAGE
    if options.json:
        print(json_text(values))
        return
    rows = []
    for index, item in enumerate(runs[0].images):
        verdict = "right" if item.verdict.correct else "wrong"
        kind = item.spec.kind.replace("_", " ")
        rows.append((verdict, kind, item.caption, str(options.output / runs[0].file_name(index))))
    print(columns(rows, head=("verdict", "kind", "caption", "image")))
    print()
    print(columns(_summary(values), head=("table", "right", "s per image", "ms per row")))
    print(f"\n{page}")


def _summary(values: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for run in values["runs"]:
        overall, seconds = run["score"]["overall"], run["seconds_p50"]
        rows.append(
            (
                run["table"],
                f"{overall['correct']}/{overall['total']}",
                f"{seconds['total']:.2f}",
                f"{1000 * seconds['steps'] / run['rows']:.1f}",
            )
        )
    return rows
