"""minit2i verify: check the files of a bundle against its manifest, and run its graphs."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.options.checkpoint_options import (
    CheckpointOptions,
    add_checkpoint_options,
)
from minit2i_deploy.cli.support.options.engine_options import EngineOptions, add_engine
from minit2i_deploy.cli.support.options.shared_arguments import add_bundle, add_json, bundle_path
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

# The second step graph, in a bundle that switches to one.
_AFTER_SWITCH: Final = "transformer after the switch"
_EPILOG: Final = """\
It checks sizes, the sha256 of every file, the tokenizer and the tables, then runs
each graph once on noise and expects finite values.

--parity hashes every file and prints a table of errors to PyTorch in float32: a
column per bundle, and a line per graph, per step from a stored state at several
times t (0 noise, 1 data) and for complete images. --checkpoint measures them now;
without it they are those that export stored.

examples:
  minit2i verify b16
  minit2i verify b16 --parity --with b16-fp16 --with b16-bf16
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One check: its name, OK, FAILED or SKIPPED, and a detail."""

    name: str
    state: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyOptions:
    """Options of minit2i verify; None where one was not given."""

    bundle: str
    checkpoint: str | None
    parity: bool
    other_bundles: tuple[str, ...]
    source: CheckpointOptions
    engine: EngineOptions
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Check that a bundle is complete and unchanged, and that it runs."
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="what it was exported from; measures every graph against PyTorch again",
    )
    parser.add_argument(
        "--parity", action="store_true", help="print the parity table in place of the checks"
    )
    parser.add_argument(
        "--with",
        dest="other_bundles",
        metavar="BUNDLE",
        type=bundle_path,
        action="append",
        default=[],
        help="with --parity, a bundle of the same checkpoint in another precision; may be given "
        "several times",
    )
    add_checkpoint_options(parser, only_with="--checkpoint")
    add_engine(parser)
    add_json(parser)


def run(options: VerifyOptions) -> None:
    """Print every check; raise if one failed."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.formatting import columns, json_text

    if options.checkpoint is None:
        options.source.refuse_without("--checkpoint")
    if options.parity:
        _run_parity(options)
        return
    if options.other_bundles:
        raise UsageError("--with requires --parity")
    bundle = Bundle.open(options.bundle)
    outcomes = list(check_bundle(bundle, lambda: open_engine(bundle, options.engine)))
    if options.checkpoint is not None:
        outcomes += _parity_outcomes(options)
    if options.json:
        print(json_text([asdict(outcome) for outcome in outcomes]))
    else:
        print(columns([(item.state, item.name, item.detail) for item in outcomes]))
    failed = [outcome.name for outcome in outcomes if outcome.state == FAILED]
    if failed:
        raise VerificationError(
            f"{bundle.path}: {len(failed)} of {len(outcomes)} checks failed ({', '.join(failed)}); "
            "copy the bundle again or run minit2i export again"
        )


def check_bundle(bundle: Bundle, open_engine: Callable[[], Runtime]) -> Iterator[Outcome]:
    """Every check of an opened bundle, in order; a failed one does not stop the rest.

    Args:
        bundle: opened, so its sizes are right.
        open_engine: opens the runtime that the graphs are run on.
    """
    from minit2i_deploy.cli.support.formatting import size

    manifest = bundle.manifest
    detail = f"{len(manifest.files)} files, {size(manifest.num_bytes)}"
    yield Outcome(name="sizes", state=OK, detail=detail)
    yield _attempt("sha256", lambda: _hashes(bundle))
    yield _attempt("tokenizer", lambda: f"{bundle.tokenizer().rust.get_vocab_size()} tokens")
    for name in manifest.tables:
        yield _attempt(f"table {name}", partial(_table, bundle, name))
    try:
        runtime = open_engine()
    except MissingDependencyError as error:
        yield Outcome(name="graphs", state=SKIPPED, detail=str(error))
        return
    with runtime:
        for name, work in _graph_runs(bundle, runtime).items():
            precision = _precision(bundle, name)
            if not _runs(runtime, precision):
                reason = (
                    f"runtime {runtime.name} does not run {precision} graphs; --runtime torch may"
                )
                yield Outcome(name=f"graph {name}", state=SKIPPED, detail=reason)
            else:
                yield _attempt(f"graph {name}", partial(_finite, work))


def _run_parity(options: VerifyOptions) -> None:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.bundle.parity import parity_levels, require_within_bounds
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.io.strict_json import encode

    bundles = [Bundle.open(path) for path in (options.bundle, *options.other_bundles)]
    stored = [bundle.manifest.checks for bundle in bundles]
    levels = parity_levels(bundles, stored)
    for level in levels:
        _hashes(level.bundle)
    if options.checkpoint is not None:
        levels = parity_levels(bundles, [_measure(bundle.path, options) for bundle in bundles])
    if options.json:
        values = {level.precision: encode(level.checks) for level in levels}
        paths = {level.precision: str(level.bundle.path) for level in levels}
        print(json_text({"bundles": paths, "checks": values}))
    else:
        print(_parity_text(levels))
    require_within_bounds(levels)


def _parity_text(levels: tuple[ParityLevel, ...]) -> str:
    from minit2i_deploy.bundle.parity import parity_lines
    from minit2i_deploy.cli.support.formatting import columns

    head = ["to torch fp32", *(cell for level in levels for cell in (level.precision, "bound"))]
    lines = [columns(parity_lines(levels), head=head), ""]
    for level in levels:
        units = dict.fromkeys(f"{check.where} ({check.unit})" for check in level.checks)
        lines += [f"{level.precision}: {level.bundle.path}", *(f"  {unit}" for unit in units)]
    return "\n".join(lines)


def _measure(bundle: Path, options: VerifyOptions) -> tuple[Check, ...]:
    from minit2i_deploy.export import SourceOptions, verify_bundle
    from minit2i_deploy.progress import ProgressLine

    with ProgressLine("measure") as progress:
        return verify_bundle(
            bundle,
            options.checkpoint,
            SourceOptions(**options.source.arguments()),
            progress=progress,
        )


def _parity_outcomes(options: VerifyOptions) -> list[Outcome]:
    return [
        Outcome(
            name=f"parity {check.name}",
            state=OK,
            detail=f"{check.measured:.3g} {check.unit}, bound {check.bound:.3g}, {check.where}",
        )
        for check in _measure(Path(options.bundle), options)
    ]


def _attempt(name: str, work: Callable[[], str]) -> Outcome:
    try:
        return Outcome(name=name, state=OK, detail=work())
    except Minit2iError as error:
        return Outcome(name=name, state=FAILED, detail=" ".join(str(error).split()))


def _hashes(bundle: Bundle) -> str:
    from minit2i_deploy.progress import ProgressLine

    with ProgressLine("hash files") as progress:
        bundle.verify(progress)
    return "every file matches the manifest"


def _graph_runs(bundle: Bundle, runtime: Runtime) -> dict[str, Callable[[], np.ndarray]]:
    """A small run of each graph, on inputs that need no other graph."""
    import numpy as np

    from minit2i_deploy.solvers.noise import standard_noise
    from minit2i_deploy.text.conditioning import student_conditions, tokenize

    config = bundle.config
    image = (1, *config.image_shape)
    tokens = (2, 1, config.num_text_tokens, config.hidden_size)
    context = (1, config.prompt_length, config.txt_input_size)

    table, guidance = bundle.preset()
    conditions = student_conditions(bundle, table, guidance, None)

    def encode() -> np.ndarray:
        ids = tokenize(bundle, ["a"])[0].ids[None]
        return runtime.encode(ids, np.ones_like(ids))

    def adapt() -> np.ndarray:
        mask = np.ones(context[:2], dtype=np.int64)
        return runtime.adapt(
            standard_noise(0, context), mask, None if conditions is None else conditions[None]
        )

    def step(t: float) -> np.ndarray:
        start = standard_noise(0, image), standard_noise(1, tokens)
        state = runtime.start(*start)
        state.step(dataclasses.replace(table.steps(guidance)[0], t=t))
        return np.stack(state.state())

    runs: dict[str, Callable[[], np.ndarray]] = {
        "text_encoder": encode,
        "text_adapter": adapt,
        "transformer": partial(step, 0.0),
    }
    if bundle.manifest.switch is not None:
        runs[_AFTER_SWITCH] = partial(step, bundle.manifest.switch.t)
    return runs


def _precision(bundle: Bundle, name: str) -> str:
    switch = bundle.manifest.switch
    graph = (
        switch.graph
        if switch is not None and name == _AFTER_SWITCH
        else bundle.manifest.graphs[name]
    )
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
