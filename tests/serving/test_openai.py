"""OpenAI's APIs, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import openai
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.protocol import BatchRuntime, Runtime
from minit2i_deploy.serving.service import ServiceOptions
from minit2i_deploy.solvers.step_inputs import ImageStep
from minit2i_deploy.text.embed import embed
from tests.helpers.serving_http import Running, pixels, running_server
from tests.helpers.serving_runs import fake_runtime, real_runtime, served_bundles


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server() as running:
        yield running


def client_of(server: Running, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with client_of(server) as each:
        yield each


def extras(**fields: Any) -> dict[str, Any]:
    return {"extra_body": fields}


def test_an_image_is_the_file_of_generate(tmp_path: Any) -> None:
    bundle = served_bundles()["demo"]
    with running_server(real_runtime) as server, client_of(server) as client:
        answer = client.images.generate(
            prompt="a red circle",
            model="demo",
            **extras(seed=7, guidance_scale=3.0, num_inference_steps=6, negative_prompt="blue"),
        )
    assert answer.data is not None and answer.data[0].b64_json is not None
    table = bundle.compile_table("dpmpp2m", 6)
    with real_runtime(bundle) as runtime:
        result = generate(
            bundle, runtime, "a red circle", seed=7, table=table, guidance=3.0, negative="blue"
        )
    result.save(tmp_path / "image.png")
    assert base64.b64decode(answer.data[0].b64_json) == (tmp_path / "image.png").read_bytes()


def test_several_images_have_seeds_that_follow(client: openai.OpenAI) -> None:
    many = client.images.generate(prompt="red", n=3, **extras(seed=2**64 - 1))
    one = client.images.generate(prompt="red", **extras(seed=1))
    assert many.data is not None and one.data is not None
    assert [item.model_extra for item in many.data] == [
        {"seed": 2**64 - 1},
        {"seed": 0},
        {"seed": 1},
    ]
    assert many.data[2].b64_json == one.data[0].b64_json
    drawn = [client.images.generate(prompt="red", **extras(seed=seed)).data for seed in (-1, None)]
    assert len({data[0].b64_json for data in drawn if data}) == 2


def test_an_answer_says_what_was_run(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red circle", model="gpt-image-1", size="1024x1024", quality="high"
    )
    assert (answer.size, answer.output_format, answer.background) == ("64x64", "png", "opaque")
    values = answer.model_extra or {}
    assert (values["model"], values["table"], values["guidance_scale"]) == (
        "demo",
        "dpmpp2m-40",
        2.5,
    )
    assert values["notices"] == [
        "model 'gpt-image-1' is not served; demo answers",
        "demo generates 64x64, not 1024x1024",
    ]


@pytest.mark.parametrize(("form", "start"), [("webp", b"RIFF"), ("jpeg", b"\xff\xd8")])
def test_formats_and_addresses(
    server: Running, client: openai.OpenAI, form: Any, start: bytes
) -> None:
    answer = client.images.generate(prompt="red", response_format="url", output_format=form)
    assert answer.data is not None and answer.data[0].url is not None
    path = answer.data[0].url.removeprefix(server.address)
    file = server.get(path)
    assert file.body.startswith(start)
    assert file.headers["content-type"] == f"image/{form}"
    assert server.get(path + "x").status == 404


def test_a_stream_has_estimates_and_then_the_image(client: openai.OpenAI) -> None:
    fields = {"table": "ab2-20", "seed": 5}
    events = list(
        client.images.generate(
            prompt="a red circle", stream=True, partial_images=3, **extras(**fields)
        )
    )
    *partial, last = events
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 3
    assert [(event.partial_image_index, event.model_extra["row"]) for event in partial] == [  # type: ignore[union-attr, index]
        (0, 5),
        (1, 10),
        (2, 15),
    ]
    assert last.type == "image_generation.completed"
    plain = client.images.generate(prompt="a red circle", **extras(**fields))
    assert plain.data is not None and plain.data[0].b64_json == last.b64_json
    first = pixels(partial[0].b64_json)
    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, pixels(last.b64_json))


def test_a_stream_of_every_row_of_several_images(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        prompt="red", n=2, model="demo-student", stream=True, **extras(partial_images=1000)
    )
    places = [(event.model_extra["image_index"], event.model_extra.get("row")) for event in stream]  # type: ignore[index, union-attr]
    assert sorted(places, key=str) == sorted(
        [(image, row) for image in (0, 1) for row in (1, 2, 3, 4, None)], key=str
    )


def test_an_error_in_a_stream_is_an_event() -> None:
    with (
        running_server(service=ServiceOptions(deadline_s=0.05)) as server,
        client_of(server) as client,
        pytest.raises(openai.APIError, match="the deadline passed"),
    ):
        list(
            client.images.generate(
                prompt="red",
                stream=True,
                **extras(num_inference_steps=1000, solver="euler"),
            )
        )


def test_a_stream_that_finds_no_room_is_refused_with_its_status() -> None:
    with running_server(max_queue=2) as server, client_of(server) as client:
        with pytest.raises(openai.RateLimitError, match="0 images of at most 2") as caught:
            client.images.generate(prompt="red", n=3, stream=True)
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        assert server.metric("minit2i_rejected_total") == 1


def test_a_client_that_leaves_a_stream_is_counted_and_its_images_end() -> None:
    slow = {"num_inference_steps": 1000, "solver": "euler", "partial_images": 1000}
    with running_server() as server:
        body = json.dumps({"prompt": "red", "n": 2, "stream": True, **slow}).encode()
        with server.connect() as connection:
            head = ("POST /v1/images/generations HTTP/1.1", "Host: localhost")
            lines = (*head, f"Content-Length: {len(body)}", "", "")
            connection.sendall("\r\n".join(lines).encode() + body)
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            assert server.server.engine.scheduler.num_live == 2
        until = time.monotonic() + 30
        while server.metric("minit2i_cancelled_total") == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert server.metric("minit2i_cancelled_total") == 1
        assert server.server.engine.scheduler.num_live == 0
        line = 'minit2i_requests_total{path="/v1/images/generations",status="499"}'
        assert server.metric(line) == 1


def test_the_log_says_what_failed_in_a_stream(caplog: pytest.LogCaptureFixture) -> None:
    def broken(bundle: Bundle) -> Runtime:
        runtime = fake_runtime(bundle)
        assert isinstance(runtime, BatchRuntime)
        step_batch, calls = runtime.step_batch, []

        def step(images: Sequence[ImageStep]) -> tuple[np.ndarray, np.ndarray]:
            calls.append(len(images))
            if len(calls) > 1:
                raise IndexError("out of range")
            return step_batch(images)

        runtime.step_batch = step  # type: ignore[method-assign]
        return runtime

    with (
        running_server(broken) as server,
        client_of(server) as client,
        pytest.raises(openai.APIError, match="its log has a line about it"),
    ):
        list(client.images.generate(prompt="red", stream=True))
    assert any(line.endswith("IndexError: out of range") for line in caplog.text.splitlines())
    assert server.server is not None


def test_embeddings_are_those_of_embed(client: openai.OpenAI) -> None:
    """Base64, which the client asks for unasked, floats, and token ids."""
    texts = ["a red circle", "two stars"]
    bundle = served_bundles()["demo"]
    with fake_runtime(bundle) as runtime:
        expected = embed(bundle, runtime, texts).pooled()
    ids = [item.ids.tolist() for item in bundle.tokenizer().encode(texts)]
    for answer in (
        client.embeddings.create(model="demo", input=texts),
        client.embeddings.create(model="demo", input=texts, encoding_format="float"),
        client.embeddings.create(model="demo", input=ids),
    ):
        values = np.array([item.embedding for item in answer.data], np.float32)
        assert np.array_equal(values, expected)
        assert answer.usage.prompt_tokens == sum(map(len, ids))
    one = client.embeddings.create(model="demo", input=ids[0], dimensions=128)
    assert np.array_equal(np.float32(one.data[0].embedding), expected[0])


def test_long_texts_are_cut_with_a_notice(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="demo", input="red " * 50)
    assert "prompt cut after" in (answer.model_extra or {})["notices"][0]
    answer = client.embeddings.create(model="demo", input=[list(range(30))])
    assert answer.usage.prompt_tokens == 20


def test_token_ids_of_another_tokenizer_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model="demo", input=[[64, 2579, 12960]])


def test_models_are_listed(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert list(models) == ["demo", "demo-student"]
    assert client.models.retrieve("demo-student").model_extra["kind"] == "student"  # type: ignore[index]
    with pytest.raises(openai.NotFoundError, match="choose one of demo, demo-student"):
        client.models.retrieve("other")


def test_strict_refuses_what_is_not_there() -> None:
    with running_server(service=ServiceOptions(strict=True)) as server, client_of(server) as client:
        with pytest.raises(openai.NotFoundError, match="'gpt-image-1' is not served"):
            client.images.generate(prompt="red", model="gpt-image-1")
        with pytest.raises(openai.BadRequestError, match="generates 64x64, not 1024x1024"):
            client.images.generate(prompt="red", size="1024x1024")
        with pytest.raises(openai.BadRequestError, match="takes no negative prompt"):
            client.images.generate(
                prompt="red", model="demo-student", **extras(negative_prompt="blue")
            )
        with pytest.raises(openai.BadRequestError, match="prompt cut after"):
            client.images.generate(prompt="red " * 50)


def test_a_full_queue_is_a_rate_limit_error() -> None:
    with running_server(max_queue=2) as server, client_of(server) as client:
        with pytest.raises(
            openai.RateLimitError, match="0 images of at most 2 are ahead, and 3 came"
        ) as caught:
            client.images.generate(prompt="red", n=3)
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        assert client.images.generate(prompt="red", n=2).data is not None
        assert server.metric("minit2i_rejected_total") == 1


def test_keys_open_the_server() -> None:
    with running_server(keys=("one", "two")) as server:
        for key in ("one", "two"):
            with client_of(server, key) as client:
                assert client.models.list().data
        with client_of(server, "three") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
