"""The server as a whole: its start, its end, its document, and the command."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minit2i_deploy.cli import main
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.serving.http.server import bind
from tests.helpers.serving_http import Answer, Running, running_server
from tests.helpers.serving_process import server_process
from tests.helpers.serving_runs import served_bundles

SLOW = {"prompt": "a", "solver": "euler", "num_inference_steps": 1000}
QUICK = {"prompt": "a", "model": "demo-student", "seed": 1}
IMAGES = "/v1/images/generations"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server() as running:
        yield running


def test_the_document_lists_what_is_there(server: Running) -> None:
    document = server.get("/openapi.json").json
    assert document["openapi"].startswith("3.")
    fields = document["paths"][IMAGES]["post"]["requestBody"]["content"]["application/json"]
    assert fields["schema"]["required"] == ["prompt"]
    assert fields["schema"]["properties"]["n"]["maximum"] == 10
    for path, operations in document["paths"].items():
        for method in operations:
            filled = re.sub(r"{\w+}", "demo", path)
            answer = server.ask(method.upper(), filled, {} if method == "post" else None)
            assert answer.status not in (405, 500), path
            assert answer.status != 404 or "files" in path


def test_metrics_count_rows_and_calls(server: Running) -> None:
    before = server.metric('minit2i_rows_total{model="demo-student"}')
    server.post(IMAGES, QUICK | {"n": 2})
    server.post("/v1/embeddings", {"input": ["a", "b", "c"]})
    assert server.metric('minit2i_rows_total{model="demo-student"}') == before + 8
    assert server.metric('minit2i_texts_total{model="demo"}') >= 3
    assert server.metric("minit2i_live_images") == 0


def ask_later(server: Running, body: object) -> tuple[threading.Thread, list[Answer]]:
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(server.post(IMAGES, body)))
    thread.start()
    until = time.monotonic() + 20
    while not server.server.engine.scheduler.num_live:
        assert time.monotonic() < until
        time.sleep(0.005)
    return thread, answers


def test_a_stop_lets_requests_finish() -> None:
    with running_server(drain_s=60.0) as server:
        thread, answers = ask_later(server, SLOW | {"num_inference_steps": 300})
        server.server.stop()
        thread.join(60)
    assert answers[0].status == 200


def test_a_stop_answers_what_cannot_finish() -> None:
    with running_server(drain_s=0.1) as server:
        thread, answers = ask_later(server, SLOW | {"n": 10})
        server.server.stop()
        thread.join(30)
    assert (answers[0].status, answers[0].json["error"]["code"]) == (503, "stopping")
    assert int(answers[0].headers["retry-after"]) > 0


def test_a_server_whose_engine_ended_ends_too() -> None:
    """So that what supervises it starts it again; clients get an error first."""
    errors: list[BaseException] = []
    with running_server(on_error=errors.append) as server:

        def broken() -> None:
            raise ZeroDivisionError("a fault")

        server.server.engine.scheduler.plan = broken  # type: ignore[method-assign, assignment]
        answer = server.post(IMAGES, QUICK)
        assert (answer.status, "a fault" in answer.json["error"]["message"]) == (500, True)
    assert isinstance(errors[0], RuntimeFailure)


def test_a_port_in_use_is_one_line(server: Running) -> None:
    with pytest.raises(UsageError, match=f"127.0.0.1:{server.port}: cannot be bound"):
        bind("127.0.0.1", server.port)
    with pytest.raises(UsageError, match="name another --host or --port"):
        bind("256.0.0.1", 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["demo", "--port", "70000"], "--port must be 0 to 65535, got 70000"),
        (["demo", "--max-batch", "0"], "--max-batch must be 1 to 1024"),
        (["demo", "--deadline", "nan"], "--deadline must be at least 0.001, got nan"),
        (["demo", "demo"], "two bundles are called demo"),
        (["x=demo", "x=demo-student"], "two bundles are called x"),
        (["nowhere"], "no bundle there"),
        (["demo", "--api-keys", "nowhere"], "nowhere: cannot be read"),
    ],
)
def test_wrong_use(
    arguments: list[str],
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(served_bundles()["demo"].path.parent))
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_the_command_serves_and_ends_on_a_signal() -> None:
    places = [f"{name}={bundle.path}" for name, bundle in served_bundles().items()]
    with server_process(*places, "--runtime", "fake") as (process, server):
        assert [item["id"] for item in server.get("/v1/models").json["data"]] == [
            "demo",
            "demo-student",
        ]
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read().endswith("minit2i: stopped\n")


def test_after_a_kill_clients_get_errors_and_a_new_server_answers() -> None:
    """Never half an image: an answer has a length, and a stream an end of its own."""
    place = f"demo={served_bundles()['demo'].path}"
    with server_process(place, "--runtime", "fake") as (process, server):
        errors: list[Exception] = []

        def ask() -> None:
            try:
                server.post(IMAGES, SLOW | {"n": 10})
            except OSError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.3)
        process.kill()
        thread.join(20)
    assert isinstance(errors[0], ConnectionError)
    with server_process(place, "--runtime", "fake") as (_, server):
        assert server.post(IMAGES, {"prompt": "a"}).status == 200
