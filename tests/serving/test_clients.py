"""Other clients, by the requests that they send.

Recorded from Open WebUI 02530d5, SillyTavern ba6f7b7, LibreChat's tools, text-embeddings-inference
1.9 and KServe's protocol 2.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.generate import generate
from minit2i_deploy.serving.service import ServiceOptions
from minit2i_deploy.text.embed import embed
from tests.helpers.serving_http import Running, pixels, running_server
from tests.helpers.serving_runs import fake_runtime, served_bundles

SLOW = {"prompt": "red", "steps": 1000, "sampler_name": "Euler", "batch_size": 10}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server() as running:
        yield running


def expected_image(prompt: str, **settings: Any) -> np.ndarray:
    bundle = served_bundles()["demo"]
    with fake_runtime(bundle) as runtime:
        return np.asarray(generate(bundle, runtime, prompt, **settings).images[0])


def test_libre_chat(server: Running) -> None:
    """It sends fixed numbers, and reads ``info`` as JSON with its infotexts."""
    body = {
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "cfg_scale": 4.5,
        "steps": 22,
        "width": 1024,
        "height": 1024,
        "seed": 3,
    }
    answer = server.post("/sdapi/v1/txt2img", body).json
    info = json.loads(answer["info"])
    assert info["infotexts"][0].startswith("a red circle\nNegative prompt: blue\nSteps: 22, ")
    assert (info["width"], info["height"], info["all_seeds"]) == (64, 64, [3])
    assert info["extra_generation_params"]["notices"] == ["demo generates 64x64, not 1024x1024"]
    table = served_bundles()["demo"].compile_table("dpmpp2m", 22)
    expected = expected_image("a red circle", seed=3, table=table, guidance=4.5, negative="blue")
    assert np.array_equal(pixels(answer["images"][0]), expected)


def test_open_webui(server: Running) -> None:
    assert server.get("/sdapi/v1/options").json["sd_model_checkpoint"] == "demo"
    models = server.get("/sdapi/v1/sd-models").json
    assert [(item["title"], item["model_name"]) for item in models] == [
        ("demo", "demo"),
        ("demo-student", "demo-student"),
    ]
    body = {"prompt": "red", "batch_size": 2, "width": 512, "height": 512}
    answer = server.post("/sdapi/v1/txt2img", body).json
    assert [pixels(image).shape for image in answer["images"]] == [(64, 64, 3)] * 2
    assert set(json.loads(answer["info"])) > {"seed", "all_seeds", "steps", "sampler_name"}


def test_silly_tavern(server: Running) -> None:
    """It asks for every list, chooses a checkpoint and waits until progress is 0."""
    lists = {
        name: server.get(f"/sdapi/v1/{name}").json
        for name in (
            "samplers",
            "schedulers",
            "sd-models",
            "sd-vae",
            "upscalers",
            "latent-upscale-modes",
        )
    }
    assert all(isinstance(value, list) for value in lists.values())
    assert {"name": "Euler", "aliases": [], "options": {}} in lists["samplers"]
    chosen = {"sd_model_checkpoint": "demo-student"}
    assert server.post("/sdapi/v1/options", chosen).status == 200
    assert server.get("/sdapi/v1/options").json["sd_model_checkpoint"] == "demo-student"
    progress = server.get("/sdapi/v1/progress").json
    assert (progress["progress"], progress["state"]["job_count"]) == (0.0, 0)
    answer = server.post("/sdapi/v1/txt2img", {"prompt": "red", "sampler_name": "DDIM"}).json
    info = json.loads(answer["info"])
    assert info["sd_model_name"] == "demo-student"
    assert "sampler 'DDIM' is not served" in info["extra_generation_params"]["notices"][0]
    server.post("/sdapi/v1/options", {"sd_model_checkpoint": "demo"})


def test_progress_and_interrupt(server: Running) -> None:
    answers: list[Any] = []
    job = threading.Thread(target=lambda: answers.append(server.post("/sdapi/v1/txt2img", SLOW)))
    job.start()
    seen = {"progress": 0.0}
    until = time.monotonic() + 30
    while seen["progress"] == 0.0 and time.monotonic() < until:
        seen = server.get("/sdapi/v1/progress").json
    assert 0 < seen["progress"] < 1
    assert pixels(str(seen["current_image"])).shape == (64, 64, 3)
    small = server.get("/sdapi/v1/progress?skip_current_image=true").json
    assert small["current_image"] is None
    assert server.post("/sdapi/v1/interrupt", {}).status == 200
    job.join(30)
    assert (answers[0].status, answers[0].json["detail"]) == (409, "interrupted")
    assert server.server.engine.scheduler.num_live == 0


def test_an_interrupt_ends_one_job_and_of_this_client_alone(server: Running) -> None:
    keys = {"X-API-Key": "another"}
    answers: dict[str, Any] = {}

    def ask(name: str, **headers: str) -> threading.Thread:
        def run() -> None:
            answers[name] = server.post("/sdapi/v1/txt2img", SLOW | {"steps": 150}, **headers)

        thread = threading.Thread(target=run)
        thread.start()
        until = time.monotonic() + 20
        while server.get("/sdapi/v1/progress", **headers).json["state"]["job_count"] == 0:
            assert time.monotonic() < until
        return thread

    other, first = ask("other", **keys), ask("first")
    second = ask("second")
    assert server.post("/sdapi/v1/interrupt", {}).status == 200
    first.join(60)
    assert server.get("/sdapi/v1/progress", **keys).json["state"]["interrupted"] is False
    for thread in (other, second):
        thread.join(60)
    assert {name: answer.status for name, answer in answers.items()} == {
        "first": 409,
        "second": 200,
        "other": 200,
    }


def test_web_ui_errors_have_its_form(server: Running) -> None:
    answer = server.post("/sdapi/v1/txt2img", {"prompt": "red", "batch_size": 11})
    assert (answer.status, set(answer.json)) == (422, {"error", "detail", "errors"})
    assert "at most 10 images" in answer.json["detail"]


def test_embed_and_embed_all(server: Running) -> None:
    bundle = served_bundles()["demo"]
    texts = ["a red circle", "two stars"]
    with fake_runtime(bundle) as runtime:
        expected = embed(bundle, runtime, texts)
    vectors = server.post("/embed", {"inputs": texts}).json
    assert np.array_equal(np.float32(vectors), expected.pooled())
    raw = np.array(server.post("/embed", {"inputs": texts[0], "normalize": False}).json)
    mean = expected.values[0][expected.mask[0] > 0].mean(axis=0, dtype=np.float64)
    assert np.array_equal(raw[0].astype(np.float32), mean.astype(np.float32))
    every = server.post("/embed_all", {"inputs": texts}).json
    for sequence, values, mask in zip(every, expected.values, expected.mask, strict=True):
        assert np.array_equal(np.float32(sequence), values[mask > 0])
    tokens = server.post("/tokenize", {"inputs": "a red circle"}).json[0]
    assert tokens[-1]["text"] == "</s>"


def test_hugging_faces_client_of_text_embeddings_inference(server: Running) -> None:
    code = (
        "import sys; from huggingface_hub import InferenceClient; "
        "print(InferenceClient(sys.argv[1]).feature_extraction('a red circle').tolist())"
    )
    # Its offline mode, which the tests run in, refuses this machine too.
    environment = os.environ | {"HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code, server.address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    values = json.loads(done.stdout)
    expected = server.post("/embed", {"inputs": "a red circle"}).json
    assert np.array_equal(np.float32(values), np.float32(expected))
    sagemaker = server.post("/invocations", {"inputs": "a red circle"})
    assert sagemaker.json == expected
    wrong = server.post("/", {"inputs": []})
    assert (wrong.status, wrong.json["error_type"]) == (400, "validation")


def test_text_embeddings_inference_limits_and_state(server: Running) -> None:
    long = server.post("/embed", {"inputs": "red " * 50})
    assert (long.status, long.json["error_type"]) == (413, "validation")
    assert server.post("/embed", {"inputs": "red " * 50, "truncate": True}).status == 200
    many = server.post("/embed", {"inputs": ["red"] * 33})
    assert (many.status, "at most 32" in many.json["error"]) == (413, True)
    info = server.get("/info").json
    assert (info["model_id"], info["max_client_batch_size"]) == ("demo", 32)
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (server.get("/health").status, server.get("/health").body) == (200, b"")


def test_kserve(server: Running) -> None:
    assert server.get("/v2/health/live").json["live"] is True
    assert server.get("/v2/health/ready").status == 200
    assert server.get("/v2/models/demo/ready").json == {"name": "demo", "ready": True}
    (output,) = server.get("/v2/models/demo-text").json["outputs"]
    assert output == {"name": "embedding", "datatype": "FP32", "shape": [-1, 128]}
    texts = [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["red", "a star"]}]
    answer = server.post("/v2/models/demo-text/infer", {"id": "x", "inputs": texts}).json
    (output,) = answer["outputs"]
    bundle = served_bundles()["demo"]
    with fake_runtime(bundle) as runtime:
        expected = embed(bundle, runtime, ["red", "a star"]).pooled()
    assert (answer["id"], output["shape"]) == ("x", [2, 128])
    assert np.array_equal(np.float32(output["data"]).reshape(2, 128), expected)


def test_kserve_images(server: Running) -> None:
    body = {
        "inputs": [{"name": "prompt", "shape": [2], "datatype": "BYTES", "data": ["red", "a"]}],
        "parameters": {"seed": 4, "table": "fast"},
    }
    (output,) = server.post("/v2/models/demo/infer", body).json["outputs"]
    images = np.array(output["data"], np.uint8).reshape(output["shape"])
    table = served_bundles()["demo"].table("ab2-20")
    for image, prompt, seed in zip(images, ("red", "a"), (4, 5), strict=True):
        assert np.array_equal(image, expected_image(prompt, seed=seed, table=table))


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v2/models/other/infer", {"inputs": []}, 404, "it has demo, demo-text, demo-student"),
        ("/v2/models/demo/infer", {"inputs": []}, 400, "a tensor named prompt"),
        ("/v2/models/demo/infer", {"inputs": [{"name": "prompt", "data": [1]}]}, 400, "strings"),
        (
            "/v2/models/demo/infer",
            {"inputs": [{"name": "prompt", "data": ["a"], "shape": [3]}]},
            400,
            "must be [1]",
        ),
    ],
)
def test_kserve_errors(server: Running, path: str, body: Any, status: int, text: str) -> None:
    answer = server.post(path, body)
    assert answer.status == status
    assert text in answer.json["error"]


def test_kserve_plans_every_prompt_before_it_runs_one() -> None:
    with running_server(service=ServiceOptions(strict=True)) as server:
        body = {"inputs": [{"name": "prompt", "data": ["red", "red " * 50]}]}
        answer = server.post("/v2/models/demo-student/infer", body)
        assert (answer.status, "prompt cut after" in answer.json["error"]) == (400, True)
        assert server.metric('minit2i_rows_total{model="demo-student"}') == 0


def test_kserve_runs_all_prompts_of_a_request_together() -> None:
    with running_server(max_queue=2) as server:
        prompts = ["red", "blue", "green"]
        for count, status in ((2, 200), (3, 429)):
            body = {"inputs": [{"name": "prompt", "data": prompts[:count]}]}
            answer = server.post("/v2/models/demo-student/infer", body)
            assert answer.status == status
        # Eight rows of the two; of the three, those two were queued and none goes on.
        assert server.server.engine.scheduler.num_live == 0
        assert server.metric("minit2i_live_images") == 0
