"""Exit codes, one-line errors, and a help that imports nothing."""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from minit2i_deploy._version import __version__
from minit2i_deploy.cli import main
from minit2i_deploy.cli.commands import COMMANDS
from minit2i_deploy.cli.support import parser
from minit2i_deploy.cli.support.options.recipe_options import RecipeOptions
from minit2i_deploy.cli.table import SolverTableOptions
from minit2i_deploy.errors import BundleError, PromptTruncatedWarning, UsageError
from tests.helpers.cli_runs import run

SOURCE = ["--image-size", "--lora", "--prompt-length", "--raw", "--text-encoder"]
SAMPLING = ["--guidance", "--preset", "--solver", "--steps", "--table"]
ENGINE = [
    "--cache",
    "--compile",
    "--device",
    "--precision",
    "--provider",
    "--runtime",
    "--tf32",
    "--threads",
]
# Changing a flag changes what other programs may rely on: change the CHANGELOG with it.
FLAGS = {
    "demo": ["--export", "--json", "--output", "--per-kind", "--port", "--web"],
    "export": [
        *SOURCE, "--flavour", "--for", "--head-multiple", "--json", "--loops", "--overwrite",
        "--precision", "--sides", "CHECKPOINT", "BUNDLE",
    ],
    "generate": [
        *SAMPLING, *ENGINE, "--also", "--amount", "--animate", "--batch", "--clip", "--every",
        "--feather", "--format", "--from", "--grid", "--init-image", "--inpaint", "--interval",
        "--json", "--mask", "--negative", "--noise", "--num-images", "--outpaint", "--output",
        "--preview", "--prompts", "--repeat", "--rescale", "--save-state", "--seed", "--size",
        "--strength", "--variations", "-o", "BUNDLE", "PROMPT",
    ],
    "refit": [
        "--checkpoint", "--device", "--engine", "--json", "--lora", "--output", "--overwrite", "-o",
        "BUNDLE",
    ],
    "embed": [
        *ENGINE, "--batch", "--field", "--input", "--json", "--output", "--pooled", "--pooled-only",
        "--shard", "--window", "-i", "-o", "BUNDLE", "TEXT",
    ],
    "embed-folder": ["--json", "--overwrite", "BUNDLE", "OUT"],
    "diffusers-folder": ["--json", "--overwrite", "BUNDLE", "OUT"],
    "bench": [
        *ENGINE, "--against", "--batch", "--json", "--output", "--preset", "--prompt", "--repeats",
        "--texts", "--warm-up", "-o", "BUNDLE",
    ],
    "doctor": ["--json", "BUNDLE"],
    "inspect": ["--image-size", "--json", "--lora", "--prompt-length", "PATH"],
    "pull": ["--json", "--no-text-encoder", "--output", "--revision", "MODEL"],
    "verify": [*SOURCE, *ENGINE, "--checkpoint", "--json", "--parity", "--with", "BUNDLE"],
    "serve": [
        *ENGINE, "--api-keys", "--cors", "--deadline", "--drain", "--host", "--max-batch", "--port",
        "--public-url", "--queue", "--strict", "BUNDLE",
    ],
    "table": [
        "--a-min", "--between", "--clip", "--interval", "--json", "--jump", "--list", "--omega",
        "--output", "--repeats", "--rescale", "--shift", "--solver", "--steps", "--t-max",
        "--t-min", "--times", "-o",
    ],
    "eval shapes": [
        *SAMPLING, *ENGINE, "--batch", "--clip", "--interval", "--json", "--kinds", "--output",
        "--per-kind", "--plots", "--reference-per-kind", "--reference-steps", "--rescale", "--seed",
        "--size", "--tables", "-o", "BUNDLE",
    ],
    "eval editing": [
        *SAMPLING, *ENGINE, "--batch", "--clip", "--count", "--interval", "--json", "--output",
        "--plot", "--rescale", "--seed", "--strengths", "--tables", "--tasks", "-o", "BUNDLE",
    ],
    "eval paint": [
        *SAMPLING, *ENGINE, "--arrays", "--batch", "--block", "--json", "--output", "--prompts",
        "--samples", "--seed", "--shard", "-o", "BUNDLE", "SUITE",
    ],
    "eval score": [
        "--json", "--models", "--output", "--python", "--results", "--scorer", "--stats", "-o",
        "OUT", "SUITE",
    ],
    "quantize": [
        "--calibration", "--clip", "--diff", "--exclude", "--exclude-from", "--include", "--json",
        "--keep", "--list", "--low-rank", "--no-smoothing", "--overwrite", "--prompts", "--rotate",
        "--rounding", "--samples", "--save-calibration", "--scheme", "--seed",
        "--switch-at", "--target", "BUNDLE", "OUT",
    ],
    "build": [
        "--allow-unfused", "--batch", "--branches", "--device", "--engine", "--force", "--graph",
        "--hardware-compatible", "--json", "--max-batch", "--optimization-level", "--plan",
        "--refit", "--require-fused", "--strip-weights", "--target", "--texts", "--tf32",
        "--timing-cache", "--version-compatible", "--wait", "--workspace", "BUNDLE",
    ],
    "sensitivity": [
        "--budget", "--calibration", "--captions", "--curve", "--estimates-only", "--json",
        "--most", "--no-smoothing", "--output", "--plot", "--preset", "--prompts", "--samples",
        "--scheme", "--seed", "--strata", "--threads", "-o", "BUNDLE",
    ],
    "compare": [
        *SAMPLING, *ENGINE, "--batch", "--captions", "--details", "--json", "--out", "--output",
        "--prompts", "--repeats", "--runtime-b", "--seeds", "-o", "A", "B", "C",
    ],
    "data pack": [
        "--bad-limit", "--json", "--per-shard", "--seed", "--shapes", "--shard", "--size", "FOLDER",
    ],
    "data check": [
        "--bad-limit", "--caption", "--index", "--json", "--min-side", "--prompt-length",
        "--tokenizer", "SHARDS",
    ],
    "data embed": [
        "--bad-limit", "--caption", "--dtype", "--json", "--prompt-length", "--shard",
        "--text-encoder", "--tokenizer", "OUT", "SHARDS",
    ],
    "plan embed": [
        *ENGINE, "--batch", "--input", "--json", "--pooled-only", "--price", "--seconds", "--texts",
        "--window", "-i", "BUNDLE",
    ],
    "plan paint": [
        *SAMPLING, *ENGINE, "--batch", "--block", "--images", "--json", "--price", "--seconds",
        "--suite", "BUNDLE",
    ],
    "shards status": ["--json", "DIR"],
    "shards verify": ["--json", "--repair", "DIR"],
    "shards merge": ["--json", "--output", "-o", "DIR"],
    "completion": ["SHELL"],
    "help": ["TOPIC"],
    "train": ["--output", "--print", "RECIPE", "KEY=VALUE"],
    "distill": ["--output", "--print", "RECIPE", "KEY=VALUE"],
}  # fmt: skip


def test_help_imports_no_library_and_no_command() -> None:
    code = (
        "import sys\n"
        "from minit2i_deploy.cli import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'numpy', 'jaxtyping', 'PIL', 'tokenizers', 'onnxruntime', 'torch'}\n"
        "ours = {m for m in sys.modules if m.startswith('minit2i_deploy.')}\n"
        "print(sorted(heavy & set(sys.modules)), sorted(ours), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == (
        "[] ['minit2i_deploy._version', 'minit2i_deploy.cli', 'minit2i_deploy.cli.commands', "
        "'minit2i_deploy.cli.support', 'minit2i_deploy.cli.support.interrupt', "
        "'minit2i_deploy.cli.support.parser', 'minit2i_deploy.cli.support.store_once', "
        "'minit2i_deploy.errors']\n"
    )
    assert all(f"\n    {command.name} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_frozen(command: str) -> None:
    arguments = command.split()
    actual = _child(parser.build_parser(arguments[0]), arguments)
    printed = [action for action in actual._actions if action.help is not argparse.SUPPRESS]
    names = {name for action in printed for name in action.option_strings or [str(action.metavar)]}
    assert sorted(names - {"-h", "--help"}) == sorted(FLAGS[command])


def _child(parent: argparse.ArgumentParser, arguments: list[str]) -> argparse.ArgumentParser:
    if not arguments:
        return parent
    (choices,) = (a for a in parent._actions if isinstance(a, argparse._SubParsersAction))
    return _child(choices.choices[arguments[0]], arguments[1:])


@pytest.mark.parametrize("command", [*FLAGS, "eval"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, *command.split(), "--help")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith(f"usage: minit2i {command} ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version").out == f"minit2i {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paint"], "invalid choice: 'paint'"),
        (["generat"], "unknown command 'generat' (did you mean generate?); see minit2i --help"),
        (["--debug"], "required: COMMAND; see minit2i --help"),
        (["generate"], "required: BUNDLE"),
        (["generate", "bundle"], "no prompt given; expected PROMPT, --prompts FILE or --from"),
        (["embed", "bundle", "a", "-o"], "expected one argument"),
        (["inspect", "bundle", "b"], "unrecognized arguments: b; see minit2i inspect"),
        (["inspect", "bundle", "--jso"], "unrecognized arguments: --jso"),
        (
            ["generate", "bundle", "a", "--steps", "many"],
            "--steps: expected an integer, got 'many'",
        ),
        (
            ["generate", "bundle", "a", "--seed", "1,x"],
            "--seed: expected comma-separated integers or",
        ),
        (
            ["compare", "a", "b", "--seeds", "x"],
            "--seeds: expected comma-separated integers, got 'x'",
        ),
        (["table", "--times", "0,x,1"], "--times: expected comma-separated numbers, got '0,x,1'"),
        (["eval"], "required: TEST"),
        (["train", "recipe.yaml"], "one of the arguments --output --print is required"),
    ],
)
def test_wrong_arguments_exit_2_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.error


def _raises(
    error: BaseException, options_type: type[Any] = SolverTableOptions
) -> Callable[[Any], None]:
    def raising(options: Any) -> None:
        raise error

    raising.__annotations__["options"] = options_type
    return raising


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("steps is 0"), 2, "error: steps is 0"),
        (BundleError("two\n  lines"), 1, "error: two lines"),
        (PermissionError(13, "Permission denied", "x"), 1, "error: x: Permission denied"),
        (ZeroDivisionError("oh"), 1, "error: ZeroDivisionError: oh (unexpected; minit2i"),
        (ModuleNotFoundError("no", name="onnx.x"), 1, "error: onnx is not installed; run in a "),
        (MemoryError(), 1, "error: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_failure_is_one_line_and_a_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("minit2i_deploy.cli.table.run", _raises(error))
    done = run(capsys, "table")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"minit2i: {line}") and done.err.count("\n") == 1


def test_a_missing_library_names_the_extra_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ModuleNotFoundError("No module named 'yaml'", name="yaml")
    monkeypatch.setattr("minit2i_deploy.cli.train.run", _raises(missing, RecipeOptions))
    done = run(capsys, "train", "r.yaml", "--output", "d")
    hint = "run in a clone of minit2i-deploy: pip install -c constraints.txt '.[train]'"
    assert done.error == f"yaml is not installed; {hint}"


@pytest.mark.parametrize("arguments", [["--debug", "table"], ["table", "--debug"]])
def test_debug_shows_where(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, *arguments)
    assert done.code == 2
    assert done.err.startswith("Traceback") and "cli/table.py" in done.err
    assert done.err.splitlines()[-1].startswith(
        "minit2i: error: expected --solver NAME with --steps N"
    )


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("debug", [False, True])
def test_package_warnings_are_one_line_and_others_are_for_debugging(
    debug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warning(options: SolverTableOptions) -> None:
        warnings.warn("cut\nhere", PromptTruncatedWarning, stacklevel=1)
        warnings.warn("a library's", FutureWarning, stacklevel=1)

    monkeypatch.setattr("minit2i_deploy.cli.table.run", warning)
    lines = run(capsys, "table", *(["--debug"] if debug else [])).err.splitlines()
    assert lines[0] == "minit2i: warning: cut here"
    assert len(lines) == 1 + debug


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = [sys.executable, "-m", "minit2i_deploy.cli", "table", "--solver", "euler"]
    with subprocess.Popen(
        [*command, "--steps", "5000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().split()[:2] == ["row", "t"]
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_letters_that_the_terminal_lacks_are_escaped() -> None:
    code = "import sys\nfrom minit2i_deploy.cli import main\nsys.exit(main())\n"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "caf\u00e9"],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(rb"minit2i: error: caf\xe9: does not exist")


def test_main_takes_the_arguments_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["minit2i", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("minit2i ")
