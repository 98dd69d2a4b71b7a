"""Ctrl-C and SIGTERM save where the run is; one run at a time writes a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.errors import Minit2iError, TrainingError, TrainingInterrupted
from minit2i_deploy.io.lock import output_lock
from minit2i_deploy.training.checkpoint import list_checkpoints
from minit2i_deploy.training.stop_request import StopRequest, ignore_stop_signals
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.cli_runs import run
from tests.helpers.training_runs import assert_same_state, tiny_recipe

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def signaled(trainer: Trainer, number: signal.Signals, step: int, times: int = 1) -> Trainer:
    """A trainer that a signal reaches while it makes a step."""
    original = trainer.train_step

    def train_step(data: Any) -> float:
        if trainer.step + 1 == step:
            for _ in range(times):
                signal.raise_signal(number)
        return original(data)

    trainer.train_step = train_step  # type: ignore[method-assign]
    return trainer


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_after_its_step_and_the_run_continues(
    number: signal.Signals, tmp_path: Path
) -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    folder = tmp_path / "stopped"
    with pytest.raises(TrainingInterrupted, match=r"saved as .*step-000002; the same") as caught:
        signaled(Trainer(tiny_recipe(), folder), number, step=2).run()
    assert caught.value.signal_number == number
    assert {each: signal.getsignal(each) for each in SIGNALS} == before
    assert [path.name for path in list_checkpoints(folder)] == ["step-000002"]
    assert not (tmp_path / ".stopped.lock").exists()
    last = Trainer(tiny_recipe(), folder).run()
    assert_same_state(last, Trainer(tiny_recipe(), tmp_path / "straight").run())


def test_a_signal_in_the_last_step_changes_nothing(tmp_path: Path) -> None:
    last = signaled(Trainer(tiny_recipe(), tmp_path / "run"), signal.SIGINT, step=6).run()
    assert last.name == "step-000006"


def test_a_second_signal_acts_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        signaled(Trainer(tiny_recipe(), tmp_path / "run"), signal.SIGINT, step=2, times=2).run()
    assert not isinstance(caught.value, TrainingInterrupted)
    assert list_checkpoints(tmp_path / "run") == []


def test_a_handler_of_the_application_stays() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT] and not stop.is_made
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_command_line_says_where_it_is_saved(
    number: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*arguments: object) -> Path:
        raise TrainingInterrupted("saved as run/step-000002; the same command continues", number)

    monkeypatch.setattr("minit2i_deploy.training.train", train)
    done = run(capsys, "train", "demo", "--output", "run")
    assert done.code == 128 + number
    assert done.err == (
        "minit2i: interrupted: saved as run/step-000002; the same command continues\n"
    )


def test_readers_ignore_both() -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        ignore_stop_signals(0)
        assert all(signal.getsignal(each) is signal.SIG_IGN for each in SIGNALS)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


RUN = """
import sys
from pathlib import Path
from minit2i_deploy.errors import TrainingInterrupted
from minit2i_deploy.training.recipe.data import DataRecipe
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import tiny_recipe

recipe = tiny_recipe(steps=100000, checkpoint_every=10, data=DataRecipe(workers=2))
try:
    Trainer(recipe, Path(sys.argv[1])).run()
except TrainingInterrupted as error:
    print(error.signal_number, error)
"""


def test_a_signal_to_all_processes_of_a_run_stops_it_cleanly(
    tmp_path: Path, repository: Path
) -> None:
    words = [sys.executable, "-c", RUN, str(tmp_path / "run")]
    process = subprocess.Popen(
        words,
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not list_checkpoints(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    path = list_checkpoints(tmp_path / "run")[-1]
    assert out == f"15 saved as {path}; the same command continues from there\n", err
    assert "Traceback" not in err and process.returncode == 0


def test_a_folder_takes_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trainer = Trainer(tiny_recipe(), folder)
    with output_lock(folder), pytest.raises(Minit2iError, match=r"run: process .* is writing it"):
        trainer.run()
    assert not folder.exists()


def test_a_run_that_another_overtook_is_refused(tmp_path: Path) -> None:
    late = Trainer(tiny_recipe(seed=2), tmp_path / "run")
    last = Trainer(tiny_recipe(seed=1), tmp_path / "run").run()
    with pytest.raises(TrainingError, match="another run has written checkpoints"):
        late.run()
    assert list_checkpoints(tmp_path / "run")[-1] == last
    assert '"seed": 1' in (tmp_path / "run" / "recipe.json").read_text("utf-8")
