"""What a server must survive: each gets its status and one line, and the server goes on."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from minit2i_deploy.serving.http.body import BodyLimits
from minit2i_deploy.serving.service import ServiceOptions
from tests.helpers.serving_http import Running, running_server

IMAGES, EMBEDDINGS = "/v1/images/generations", "/v1/embeddings"
MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    limits = BodyLimits(max_bytes=MAX_BYTES, max_seconds=1.0)
    with running_server(body=limits, header_s=0.5) as running:
        yield running


BAD: dict[str, tuple[str, object, int, str]] = {
    "no image": (IMAGES, {"prompt": "a", "n": 0}, 400, "n must be 1 to 10, got 0"),
    "1000 images": (IMAGES, {"prompt": "a", "n": 1000}, 400, "n must be 1 to 10, got 1000"),
    "n of another type": (
        IMAGES,
        {"prompt": "a", "n": True},
        400,
        "n must be an integer, got True",
    ),
    "no prompt": (IMAGES, {}, 400, "prompt is required"),
    "prompt of another type": (IMAGES, {"prompt": ["a"]}, 400, "prompt must be a string"),
    "NUL": (IMAGES, {"prompt": "a\0b"}, 400, "NUL"),
    "broken Unicode": (IMAGES, {"prompt": "a\ud800"}, 400, "Unicode"),
    "long prompt": (IMAGES, {"prompt": "a" * 40_000}, 400, "at most 32000"),
    "size": (IMAGES, {"prompt": "a", "size": "big"}, 400, "size must be auto or WIDTHxHEIGHT"),
    "seed": (IMAGES, {"prompt": "a", "seed": 2**64}, 400, "seed must be 0 to 2**64 - 1"),
    "negative seed": (IMAGES, {"prompt": "a", "seed": -2}, 400, "seed must be 0 to 2**64 - 1"),
    "steps": (IMAGES, {"prompt": "a", "num_inference_steps": 10**9}, 400, "steps must be 1 to"),
    "solver": (
        IMAGES,
        {"prompt": "a", "solver": "magic", "num_inference_steps": 3},
        400,
        "magic",
    ),
    "table": (IMAGES, {"prompt": "a", "table": "../../etc/passwd"}, 400, "is not in the bundle"),
    "student's table": (IMAGES, {"prompt": "a", "table": "mean-flow-4"}, 400, "it has ab2-20"),
    "format": (IMAGES, {"prompt": "a", "output_format": "svg"}, 400, "png, jpeg, webp"),
    "guidance": (IMAGES, {"prompt": "a", "guidance_scale": "high"}, 400, "must be a number"),
    "huge guidance": (IMAGES, {"prompt": "a", "guidance_scale": 10**400}, 400, "float64 holds"),
    "huge seed": (IMAGES, {"prompt": "a", "seed": 10**400}, 400, "seed must be"),
    "NaN": (IMAGES, b'{"prompt": "a", "guidance_scale": NaN}', 400, "not JSON"),
    "infinite": (IMAGES, b'{"prompt": "a", "guidance_scale": 1e999}', 400, "not JSON"),
    "half JSON": (IMAGES, b'{"prompt": "a"', 400, "not JSON"),
    "twice a field": (IMAGES, b'{"prompt": "a", "prompt": "b"}', 400, "not JSON"),
    "deep JSON": (IMAGES, b'{"prompt":' + b"[" * 90_000, 400, "not JSON"),
    "a list": (IMAGES, b"[]", 400, "must be a JSON object"),
    "invalid UTF-8": (IMAGES, b'{"prompt": "\xff"}', 400, "not UTF-8"),
    "large body": (IMAGES, b" " * (MAX_BYTES + 1), 413, f"larger than {MAX_BYTES} bytes"),
    "no text": (EMBEDDINGS, {"input": []}, 400, "input is empty"),
    "number": (EMBEDDINGS, {"input": 7}, 400, "must be a string"),
    "mixed": (EMBEDDINGS, {"input": ["a", [1]]}, 400, "must be a string"),
    "no ids": (EMBEDDINGS, {"input": [[]]}, 400, "must be a string"),
    "many texts": (EMBEDDINGS, {"input": ["a"] * 2049}, 400, "at most 2048"),
    "dimensions": (EMBEDDINGS, {"input": "a", "dimensions": 7}, 400, "dimensions must be 128"),
    "encoding": (EMBEDDINGS, {"input": "a", "encoding_format": "int"}, 400, "float, base64"),
}


@pytest.mark.parametrize(("path", "body", "status", "text"), BAD.values(), ids=BAD.keys())
def test_bad_requests(server: Running, path: str, body: Any, status: int, text: str) -> None:
    answer = server.post(path, body)
    assert (answer.status, text in answer.body.decode()) == (status, True), answer.body
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]


def test_unknown_fields_are_ignored(server: Running) -> None:
    assert server.post(EMBEDDINGS, {"input": "a", "user": "me", "x": {"y": 1}}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", IMAGES, 405),
        ("DELETE", "/", 405),
        ("BREW", "/", 405),
        ("GET", "/nothing", 404),
        ("GET", "/page/../service.py", 404),
        ("GET", "/page/..%2fservice.py", 404),
        ("GET", "/page/%00", 404),
        ("GET", "/v1/images/files/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("POST", "//v1/images/generations", 404),
    ],
)
def test_wrong_methods_and_paths(server: Running, method: str, path: str, status: int) -> None:
    assert server.ask(method, path).status == status


def test_a_wrong_method_says_which_are_right(server: Running) -> None:
    answer = server.get(IMAGES)
    assert answer.headers["allow"] == "POST, OPTIONS"
    assert answer.json["error"]["message"] == f"{IMAGES} takes POST, OPTIONS"


RAW: dict[str, tuple[bytes, bytes]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
    "two lengths": (
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Content-Length: 6\r\n\r\nhello",
        b"400",
    ),
    "length and chunks": (
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
        b"400",
    ),
    "unknown encoding": (
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: x, chunked\r\n\r\n",
        b"400",
    ),
    "negative length": (
        b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"400",
    ),
    "space in a name": (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length : 5\r\n\r\nhello",
        b"400",
    ),
    "long headers": (b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"400"),
}


@pytest.mark.parametrize(("data", "status"), RAW.values(), ids=RAW.keys())
def test_broken_http_is_refused_and_the_connection_closed(
    server: Running, data: bytes, status: bytes
) -> None:
    with server.connect() as connection:
        answer = exchange(connection, data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:80]
    # What came after it is not taken for a second request.
    assert answer.count(b"HTTP/1.1 ") == 1
    assert server.get("/health").status == 200


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Send, and read until the other side closes."""
    answer = b""
    try:
        connection.sendall(data)
        while chunk := connection.recv(65536):
            answer += chunk
    except ConnectionError:
        pass
    return answer


def test_a_websocket_is_answered_as_http(server: Running) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
    }
    assert server.get("/health", **headers).status == 200
    assert server.get("/ws", **headers).status == 404


def test_a_half_open_client_is_dropped(server: Running) -> None:
    began = time.monotonic()
    with server.connect() as silent, server.connect() as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        assert silent.recv(10) == slow.recv(10) == b""
    assert time.monotonic() - began < 10


def test_a_slow_body_is_given_up(server: Running) -> None:
    with server.connect() as slow:
        answer = exchange(
            slow,
            b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        )
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 1 s" in answer


def test_a_second_request_on_a_connection_may_take_its_time(server: Running) -> None:
    """Not more than its share: the time for headers begins with its first byte."""
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(request)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            time.sleep(0.7)
        connection.sendall(request[:20])
        assert connection.recv(10) == b""


def test_a_client_that_leaves_frees_its_place(server: Running) -> None:
    body = json.dumps({"prompt": "a", "solver": "euler", "num_inference_steps": 1000, "n": 10})
    head = f"POST {IMAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    streamed = body[:-1] + ', "stream": true, "partial_images": 1000}'
    for data in (head + body, head.replace(str(len(body)), str(len(streamed))) + streamed):
        with server.connect() as connection:
            connection.sendall(data.encode())
            wait_for(lambda: server.server.engine.scheduler.num_live == 10)
        wait_for(lambda: server.server.engine.scheduler.num_live == 0)
    assert server.metric("minit2i_cancelled_total") == 2
    assert server.metric('minit2i_images_total{model="demo",state="cancelled"}') == 20


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_request_is_one_line_in_the_log(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[str]:
        messages = [each.getMessage() for each in caplog.records if each.name == "minit2i.serve"]
        return [line.rpartition(" 0.")[0] for line in messages if "/metrics" not in line]

    with caplog.at_level(logging.INFO, logger="minit2i.serve"):
        server.ask("GET", "/a%0Ab?key=secret", headers={"Authorization": "Bearer secret"})
        server.post(IMAGES, {"prompt": "a", "n": 0})
        # Written after the answer.
        wait_for(lambda: len(lines()) == 2)
    assert lines() == ["GET /a%0Ab 404", f"POST {IMAGES} 400"]


def test_a_deadline_is_a_504() -> None:
    with running_server(service=ServiceOptions(deadline_s=0.05)) as server:
        slow = {"prompt": "a", "solver": "euler", "num_inference_steps": 1000}
        answer = server.post(IMAGES, slow)
    assert (answer.status, answer.json["error"]["code"]) == (504, "deadline")
    assert answer.headers["x-should-retry"] == "false"
