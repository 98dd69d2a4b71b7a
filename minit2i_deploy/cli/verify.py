"""minit2i verify: a bundle is what its manifest says, and it runs."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.checkpoint_options import (
    add_source,
    refuse_source,
    source_arguments,
)
from minit2i_deploy.cli.support.options import add_bundle, add_engine, add_json, opened_runtime
from minit2i_deploy.errors import (
    Minit2iError,
    MissingDependencyError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    import numpy as np

    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.bundle.manifest import Check
    from minit2i_deploy.bundle.parity import ParityLevel
    from minit2i_deploy.protocol import Runtime

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"

# The second step graph, in a bundle whose late rows have one.
_LATE: Final = "transformer, late rows"
_EPILOG: Final = """\
Checked are sizes, the sha256 of every file, the tokenizer and the tables; then
each graph is run once on noise and must give finite values.

With --ladder, every file is hashed and what was measured is printed as a table:
a column a bundle, a row a graph, a step from a stored state at several times t
(0 noise, 1 data) and the whole picture, each against PyTorch in float32. With
--checkpoint it is measured now, without it what export stored is shown.

example:
  minit2i verify b16 --ladder --rung b16-fp16 --rung b16-bf16
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One check: its name, OK, FAILED or SKIPPED, and what was found."""

    name: str
    state: str
    found: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Check that a bundle is whole, unchanged and runs."
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="what it was exported from: measure every graph against PyTorch again",
    )
    parser.add_argument(
        "--ladder", action="store_true", help="print the parity ladder in place of the checks"
    )
    parser.add_argument(
        "--rung",
        metavar="BUNDLE",
        action="append",
        default=[],
        help="with --ladder, one more bundle of the same checkpoint in another precision",
    )
    add_source(parser, only_with="--checkpoint")
    add_engine(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Print every check; raise if one failed."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.formatting import columns, json_text

    if options.checkpoint is None:
        refuse_source(options, "--checkpoint")
    if options.ladder:
        _climb(options)
        return
    if options.rung:
        raise UsageError("--rung came without --ladder; add it")
    bundle = Bundle.open(options.bundle)
    outcomes = list(check_bundle(bundle, lambda: opened_runtime(bundle, options)))
    if options.checkpoint is not None:
        outcomes += _measured(options)
    if options.json:
        print(json_text([asdict(outcome) for outcome in outcomes]))
    else:
        print(columns([(item.state, item.name, item.found) for item in outcomes]))
    failed = [outcome.name for outcome in outcomes if outcome.state == FAILED]
    if failed:
        raise VerificationError(
            f"{bundle.path}: {len(failed)} of {len(outcomes)} checks failed ({', '.join(failed)}); "
            "copy the bundle again or re-run minit2i export"
        )


def check_bundle(bundle: Bundle, open_engine: Callable[[], Runtime]) -> Iterator[Outcome]:
    """Every check of an opened bundle, in order; a failed one does not stop the rest.

    Args:
        bundle: opened, so its sizes are right.
        open_engine: opens the runtime that the graphs are run on.
    """
    from minit2i_deploy.cli.support.formatting import size

    manifest = bundle.manifest
    found = f"{len(manifest.files)} files, {size(manifest.num_bytes)}"
    yield Outcome(name="sizes", state=OK, found=found)
    yield _attempt("sha256", lambda: _hashes(bundle))
    yield _attempt("tokenizer", lambda: f"{bundle.tokenizer().rust.get_vocab_size()} tokens")
    for name in manifest.tables:
        yield _attempt(f"table {name}", partial(_table, bundle, name))
    try:
        runtime = open_engine()
    except MissingDependencyError as error:
        yield Outcome(name="graphs", state=SKIPPED, found=str(error))
        return
    with runtime:
        for name, work in _graph_runs(bundle, runtime).items():
            precision = _precision(bundle, name)
            if not _runs(runtime, precision):
                reason = (
                    f"runtime {runtime.name} does not run {precision} graphs; --runtime torch may"
                )
                yield Outcome(name=f"graph {name}", state=SKIPPED, found=reason)
            else:
                yield _attempt(f"graph {name}", partial(_finite, work))


def _climb(options: argparse.Namespace) -> None:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.bundle.parity import parity_levels, require_within_bounds
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.io.strict_json import encode

    bundles = [Bundle.open(path) for path in (options.bundle, *options.rung)]
    stored = [bundle.manifest.checks for bundle in bundles]
    rungs = parity_levels(bundles, stored)
    for rung in rungs:
        _hashes(rung.bundle)
    if options.checkpoint is not None:
        rungs = parity_levels(bundles, [_measure(bundle.path, options) for bundle in bundles])
    if options.json:
        values = {rung.precision: encode(rung.checks) for rung in rungs}
        paths = {rung.precision: str(rung.bundle.path) for rung in rungs}
        print(json_text({"bundles": paths, "rungs": values}))
    else:
        print(_ladder_text(rungs))
    require_within_bounds(rungs)


def _ladder_text(rungs: tuple[ParityLevel, ...]) -> str:
    from minit2i_deploy.bundle.parity import parity_lines
    from minit2i_deploy.cli.support.formatting import columns

    head = ["to torch fp32", *(word for rung in rungs for word in (rung.precision, "bound"))]
    lines = [columns(parity_lines(rungs), head=head), ""]
    for rung in rungs:
        units = dict.fromkeys(f"{check.where} ({check.unit})" for check in rung.checks)
        lines += [f"{rung.precision}: {rung.bundle.path}", *(f"  {unit}" for unit in units)]
    return "\n".join(lines)


def _measure(bundle: Path, options: argparse.Namespace) -> tuple[Check, ...]:
    from minit2i_deploy.export import verify_bundle
    from minit2i_deploy.progress import ProgressLine

    with ProgressLine("measure") as progress:
        return verify_bundle(
            bundle,
            options.checkpoint,
            **source_arguments(options),
            progress=progress,
        )


def _measured(options: argparse.Namespace) -> list[Outcome]:
    return [
        Outcome(
            name=f"parity {check.name}",
            state=OK,
            found=f"{check.measured:.3g} {check.unit}, bound {check.bound:.3g}, {check.where}",
        )
        for check in _measure(options.bundle, options)
    ]


def _attempt(name: str, work: Callable[[], str]) -> Outcome:
    try:
        return Outcome(name=name, state=OK, found=work())
    except Minit2iError as error:
        return Outcome(name=name, state=FAILED, found=" ".join(str(error).split()))


def _hashes(bundle: Bundle) -> str:
    from minit2i_deploy.progress import ProgressLine

    with ProgressLine("hashing") as progress:
        bundle.verify(progress)
    return "every file as the manifest says"


def _graph_runs(bundle: Bundle, runtime: Runtime) -> dict[str, Callable[[], np.ndarray]]:
    """A small run of each graph, on inputs that need no other graph."""
    import numpy as np

    from minit2i_deploy.solvers.noise import standard_noise
    from minit2i_deploy.text.conditioning import student_conditions, tokenise

    config = bundle.config
    picture = (1, *config.image_shape)
    tokens = (2, 1, config.num_text_tokens, config.hidden_size)
    context = (1, config.prompt_length, config.txt_input_size)

    table, guidance = bundle.preset()
    told = student_conditions(bundle, table, guidance, None)

    def encode() -> np.ndarray:
        ids = tokenise(bundle, ["a"])[0].ids[None]
        return runtime.encode(ids, np.ones_like(ids))

    def adapt() -> np.ndarray:
        mask = np.ones(context[:2], dtype=np.int64)
        return runtime.adapt(standard_noise(0, context), mask, None if told is None else told[None])

    def step(t: float) -> np.ndarray:
        start = standard_noise(0, picture), standard_noise(1, tokens)
        state = runtime.start(*start)
        state.step(dataclasses.replace(table.steps(guidance)[0], t=t))
        return np.stack(state.state())

    runs: dict[str, Callable[[], np.ndarray]] = {
        "text_encoder": encode,
        "text_adapter": adapt,
        "transformer": partial(step, 0.0),
    }
    if bundle.manifest.switch is not None:
        runs[_LATE] = partial(step, bundle.manifest.switch.t)
    return runs


def _precision(bundle: Bundle, name: str) -> str:
    late = bundle.manifest.switch
    graph = late.graph if late is not None and name == _LATE else bundle.manifest.graphs[name]
    return graph.precision


def _runs(runtime: Runtime, precision: str) -> bool:
    """Whether a runtime has kernels for a precision; one that cannot tell is tried."""
    runs_precision = getattr(runtime, "runs_precision", None)
    return runs_precision is None or bool(runs_precision(precision))


def _table(bundle: Bundle, name: str) -> str:
    return f"{len(bundle.table(name))} rows"


def _finite(work: Callable[[], np.ndarray]) -> str:
    import numpy as np

    values = work()
    if not np.isfinite(values).all():
        raise VerificationError("gives NaN or infinity; export again with --precision fp32")
    return f"runs, values from {values.min():.3g} to {values.max():.3g}"
