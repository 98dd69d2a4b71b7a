"""Downloading releases, with a stand-in for the hub's library."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.checkpoints.pull import RELEASES, pull
from minit2i_deploy.cli.pull import _MODELS, size_lines
from minit2i_deploy.errors import CheckpointError, Minit2iError, MissingDependencyError, UsageError
from minit2i_deploy.export.text_encoder_folder import find_text_encoder
from tests.helpers.checkpoint_forms import PUBLIC
from tests.helpers.cli_runs import run
from tests.helpers.fake_hub import FakeHub, GatedRepoError, install, make_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = make_hub(tmp_path / "hub")
    install(monkeypatch, fake)
    return fake


def test_only_required_files_are_downloaded_and_export_finds_them(
    hub: FakeHub, tmp_path: Path
) -> None:
    pulled = pull("b16", tmp_path / "out")
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert files == {
        "pull.json",
        "minit2i-b-16/transformer/config.json",
        "minit2i-b-16/transformer/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/tokenizer.json",
    }
    assert pulled.checkpoint == tmp_path / "out" / "minit2i-b-16" / "transformer"
    assert load_checkpoint(pulled.checkpoint).report.form == "huggingface"
    assert find_text_encoder(pulled.checkpoint, None) == tmp_path / "out" / "text_encoder"


def test_the_commit_is_resolved_first_and_recorded(hub: FakeHub, tmp_path: Path) -> None:
    pull("l16", tmp_path / "out", revision="v2")
    record = json.loads((tmp_path / "out" / "pull.json").read_text())
    assert (record["model"], record["complete"]) == ("l16", True)
    assert [(p["repository"], p["commit"]) for p in record["parts"]] == [
        ("MiniT2I/MiniT2I", "b" * 40),
        ("google/flan-t5-large", "a" * 40),
    ]
    downloads = [call for call in hub.calls if call[0] == "download"]
    assert {call[1:3] for call in downloads} == {
        ("MiniT2I/MiniT2I", "b" * 40),
        ("google/flan-t5-large", "a" * 40),
    }
    assert all("l-16/transformer" in call[3] for call in downloads if "MiniT2I" in call[1])


def test_the_student_is_complete_without_the_text_encoder(hub: FakeHub, tmp_path: Path) -> None:
    pulled = pull("b16-mf", tmp_path / "out", text_encoder=False)
    assert not (tmp_path / "out" / "text_encoder").exists()
    assert pulled.checkpoint == tmp_path / "out" / "minit2i-b-16-mf" / "checkpoint"
    expected = load_checkpoint(
        PUBLIC / "mf_jax_orbax" / "checkpoint", image_size=32, prompt_length=12
    )
    actual = load_checkpoint(pulled.checkpoint, image_size=32, prompt_length=12)
    # The hash covers every file of the folder, so there is none too many.
    assert actual.report.sha256 == expected.report.sha256
    assert not (pulled.checkpoint.parent / "README.md").exists()


def test_an_interrupted_download_resumes_at_its_commits(hub: FakeHub, tmp_path: Path) -> None:
    hub.gives_up_quietly = True
    folder = tmp_path / "out"
    with pytest.raises(CheckpointError, match=r"2 of 2 files are missing, .* run the same"):
        pull("b16", folder, revision="v2", text_encoder=False)
    assert json.loads((folder / "pull.json").read_text())["complete"] is False
    hub.gives_up_quietly = False
    assert pull("b16", folder, text_encoder=False).downloads[0].commit == "b" * 40
    assert pull("b16", folder, revision="main", text_encoder=False).downloads[0].commit == "a" * 40


def test_offline_is_one_line_and_exit_1(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fails = ConnectionError("Max retries exceeded\nwith url: x")
    done = run(capsys, "pull", "b16", "--output", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "cannot reach the hub (Max retries exceeded); connect and run this" in done.error
    assert not (tmp_path / "out").exists()


def test_offline_with_the_real_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("huggingface_hub")
    # The tests run with HF_HUB_OFFLINE, and no connection leaves this machine.
    done = run(capsys, "pull", "b16", "--output", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert "MiniT2I/MiniT2I: cannot reach the hub (" in done.error


def test_the_command_prints_what_to_do_next(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = run(capsys, "pull", "b16", "--no-text-encoder")
    assert done.code == 0
    assert done.out.splitlines()[-1].endswith(
        "next: minit2i export minit2i-b16/minit2i-b-16/transformer BUNDLE"
    )
    values = json.loads(run(capsys, "pull", "b16", "--no-text-encoder", "--json").out)
    assert values["checkpoint"] == "minit2i-b16/minit2i-b-16/transformer"
    assert values["parts"][0]["commit"] == "a" * 40


def test_a_log_gets_a_line_from_time_to_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "part").write_bytes(bytes(2000))
    with size_lines(tmp_path, every_s=0.01):
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert lines and set(lines) == {f"pull 2.0 kB in {tmp_path}"}


def test_names_of_models_are_those_of_the_command() -> None:
    assert tuple(RELEASES) == _MODELS


@pytest.mark.parametrize(
    ("fails", "error", "text"),
    [
        (
            GatedRepoError("401 Client Error"),
            CheckpointError,
            r"needs a login \(401 Client Error\)",
        ),
        (OSError(28, "No space left on device", "x"), Minit2iError, "x: cannot be written: No sp"),
        (RuntimeError(""), CheckpointError, r"cannot reach the hub \(RuntimeError\)"),
    ],
)
def test_failures_say_what_to_do(
    fails: Exception, error: type[Exception], text: str, hub: FakeHub, tmp_path: Path
) -> None:
    hub.fails = fails
    with pytest.raises(error, match=text):
        pull("b16", tmp_path / "out")


def test_wrong_use(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one of b16, l16, b16-mf, got 'm16'"):
        pull("m16", tmp_path / "out")
    with pytest.raises(UsageError, match="MiniT2I/MiniT2I: no revision 'v9'"):
        pull("b16", tmp_path / "out", revision="v9")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="holds other files"):
        pull("b16", tmp_path / "full")
    pull("b16", tmp_path / "out", text_encoder=False)
    with pytest.raises(UsageError, match="made for model 'b16', not 'l16'"):
        pull("l16", tmp_path / "out")


def test_a_repository_without_the_files(hub: FakeHub, tmp_path: Path) -> None:
    shutil.rmtree(hub.repositories["MiniT2I/MiniT2I"] / "minit2i-b-16")
    with pytest.raises(CheckpointError, match=r"commit aaaaaaaa has no minit2i-b-16/transformer"):
        pull("b16", tmp_path / "out")


def test_a_missing_library_names_its_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"constraints.txt '.\[hub\]'"):
        pull("b16", tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["../outside", "minit2i-b-16/../../x", "/etc/x", "a//b", "a\\..\\b", "c:x"]
)
def test_names_that_leave_the_folder_are_refused(
    name: str, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = SimpleNamespace(sha="a" * 40, siblings=[SimpleNamespace(rfilename=name)])
    monkeypatch.setattr(FakeHub, "model_info", lambda *_, **__: listed)
    with pytest.raises(CheckpointError, match="could leave its folder; nothing was downloaded"):
        pull("b16", tmp_path / "release")
    assert not (tmp_path / "release").exists()
    assert not any(call[0] == "download" for call in hub.calls)
