"""Help topics, near misses, names of GPUs, and completion scripts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.cli.commands import COMMANDS
from minit2i_deploy.cli.support.gpu_names import GPUS, target_of
from minit2i_deploy.errors import UsageError
from minit2i_deploy.runtimes import RUNTIMES
from tests.helpers.cli_runs import run


@pytest.mark.parametrize("arguments", [(), ("help",), ("--help",)])
def test_no_arguments_print_the_help(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, *arguments)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: minit2i ")
    assert "Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted." in done.out


def test_help_on_a_command_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("generate",), ("data", "pack")):
        assert run(capsys, "help", *arguments).out == run(capsys, *arguments, "--help").out


def test_help_on_engines_names_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "help", "engines").out
    assert all(f"\n  {name} " in text for name in RUNTIMES)
    for option in ("--runtime", "--engine", "--for", "--target", "--device auto"):
        assert option in text


def test_help_on_something_else_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "help", "data", "unpack")
    assert done.code == 2
    assert done.error.startswith("no help on 'data unpack'; choose a command")


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("generate", "b", "a", "--seeds", "3"), "--seed"),
        (("generate", "b", "a", "--cfg", "3"), "--guidance"),
        (("generate", "b", "a", "--cfg-scale", "3"), "--guidance"),
        (("generate", "b", "a", "--out", "x.png"), "--output"),
        (("generate", "b", "a", "--num_inference_steps", "3"), "--steps"),
        (("generate", "b", "a", "--gpu"), "--device"),
        (("compare", "a", "b", "--seed", "3"), "--seeds"),
        (("train", "r.yaml", "--out", "run"), "--output"),
        (("quantize", "a", "b", "--late-from", "0.5"), "--switch-at"),
        (("data", "pack", "a", "b", "--per-shards", "3"), "--per-shard"),
    ],
)
def test_a_near_miss_names_the_option(
    arguments: tuple[str, ...], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, *arguments)
    assert done.code == 2
    assert f"(did you mean {suggestion}?); see minit2i {arguments[0]}" in done.error


def test_a_size_is_chosen_at_export(capsys: pytest.CaptureFixture[str]) -> None:
    for command, option in (("generate", "--width"), ("bench", "--size")):
        done = run(capsys, command, "b", option, "512")
        assert done.code == 2 and "minit2i export --image-size chooses it" in done.error
    assert "(did you mean --image-size?)" in run(capsys, "export", "c", "b", "--size", "96").error


def test_options_that_are_not_near_get_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in run(capsys, "doctor", "--cfg", "3").error
    assert "did you mean" not in run(capsys, "generate", "b", "a", "--xyzzy").error


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("rtx4090", "sm89"),
        ("RTX 4090", "sm89"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "sm89"),
        ("rtx3080-laptop", "sm86"),
        ("rtx2080ti", "sm75"),
        ("H100", "sm90"),
        ("h100-sxm", "sm90"),
        ("l4", "sm89"),
        ("A100", "sm80"),
        ("rtx5090", "sm120"),
        ("dgx-spark", "sm121"),
        ("sm89", "sm89"),
        ("SM120", "sm120"),
        ("cpu", "cpu"),
        ("native", "native"),
    ],
)
def test_gpus_by_name(name: str, target: str) -> None:
    assert target_of(name) == target


def test_every_listed_gpu_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "help", "gpus").out
    for capability, names in GPUS.items():
        assert f"  {capability}" in text
        for name in names:
            assert target_of(name) == capability
            assert f" {name}" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("rtx4091", "did you mean rtx409"), ("gpu", "minit2i help gpus lists names")],
)
def test_unknown_gpus_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        target_of(name)


def test_a_gpu_name_reaches_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    called: list[str | None] = []

    def stub(source: object, out: object, options: Any, **settings: object) -> None:
        called.append(options.target)
        raise UsageError("enough")

    monkeypatch.setattr("minit2i_deploy.export.quantize.quantize_bundle", stub)
    run(capsys, "quantize", "a", "b", "--scheme", "int8", "--target", "rtx4090")
    run(capsys, "quantize", "a", "b", "--scheme", "int8")
    assert called == ["sm89", None]


def completed(script: Path, line: str) -> list[str]:
    """What bash offers at the end of a line."""
    arguments = re.split(" +", line)
    quoted = " ".join(f"'{word}'" for word in arguments)
    code = (
        f"source {script}\nCOMP_WORDS=({quoted})\nCOMP_CWORD={len(arguments) - 1}\n"
        '_minit2i_complete\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "minit2i.bash"
    script.write_text(run(capsys, "completion", "bash").out)
    assert completed(script, "minit2i ge") == ["generate"]
    assert completed(script, "minit2i ") == [command.name for command in COMMANDS]
    assert completed(script, "minit2i data ") == ["pack", "check", "embed"]
    assert completed(script, "minit2i data pack --si") == ["--size"]
    assert completed(script, "minit2i generate b --see") == ["--seed"]
    assert completed(script, "minit2i export a b --precision ") == ["fp32", "bf16", "fp16"]
    assert completed(script, "minit2i help eng") == ["engines"]
    # File names are left to the shell.
    assert completed(script, "minit2i generate b") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_is_sound(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "completion", shell)
    assert (done.code, done.err) == (0, "")
    assert all(re.search(rf"\b{command.name}\b", done.out) for command in COMMANDS)
    if (program := shutil.which(shell)) is not None:
        (tmp_path / "script").write_text(done.out)
        subprocess.run([program, "-n", tmp_path / "script"], check=True)
