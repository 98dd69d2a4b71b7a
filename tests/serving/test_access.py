"""Who is let in: keys, hosts and origins; and what a page of another site can do: nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from minit2i_deploy.cli import main
from minit2i_deploy.errors import UsageError
from minit2i_deploy.serving.http.access import ApiKeys
from tests.helpers.serving_http import Running, running_server

IMAGES = "/v1/images/generations"
SITE = "https://site.example"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_server(keys=("first", "second"), origins=(SITE,)) as running:
        yield running


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first"},
        {"Authorization": "bearer second"},
        {"Authorization": basic("anyone:second")},
        {"X-API-Key": "first"},
    ],
)
def test_a_key_lets_in(server: Running, headers: dict[str, str]) -> None:
    assert server.get("/v1/models", **headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer firs"},
        {"Authorization": "Bearer first second"},
        {"Authorization": "first"},
        {"Authorization": "Basic !"},
        {"Authorization": basic("first")},
        {"X-API-Key": ""},
        {"X-API-Key": "f\xefrst"},
    ],
)
def test_nothing_else_does(server: Running, headers: dict[str, str]) -> None:
    answer = server.get("/v1/models", **headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json["error"]["type"] == "authentication_error"


def test_what_is_open_without_a_key(server: Running) -> None:
    """Health for load balancers, and the page, which asks its user for the key."""
    paths = ("/health", "/v2/health/ready", "/openapi.json", "/")
    assert [server.get(path).status for path in paths] == [200] * 4
    assert [server.get(path).status for path in ("/metrics", "/info", "/v2/models/demo")] == [
        401
    ] * 3


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1"])
def test_another_host_is_not_answered(server: Running, host: str) -> None:
    assert server.get("/health", Host=host).status == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8000"])
def test_names_of_this_machine_are(server: Running, host: str) -> None:
    assert server.get("/health", Host=host).status == 200


def test_pages_of_other_sites_are_refused(server: Running) -> None:
    key = {"Authorization": "Bearer first"}
    answer = server.get("/v1/models", Origin="https://evil.example", **key)
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers
    own = server.get("/v1/models", Origin=server.address, **key)
    assert (own.status, "access-control-allow-origin" in own.headers) == (200, False)
    named = server.get("/v1/models", Origin=SITE, **key)
    assert (named.status, named.headers["access-control-allow-origin"]) == (200, SITE)


def test_the_question_of_a_browser(server: Running) -> None:
    asks = {"Access-Control-Request-Method": "POST"}
    named = server.ask("OPTIONS", IMAGES, headers={"Origin": SITE, **asks})
    assert (named.status, named.headers["access-control-allow-origin"]) == (204, SITE)
    assert "authorization" in named.headers["access-control-allow-headers"]
    other = server.ask("OPTIONS", IMAGES, headers={"Origin": "https://evil.example", **asks})
    assert "access-control-allow-origin" not in other.headers


def test_a_browser_may_send_what_its_client_adds(server: Running) -> None:
    """OpenAI's JavaScript client sends a dozen headers of its own, and reads Retry-After."""
    asked = "authorization,content-type,x-stainless-lang,x-stainless-runtime"
    question = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    answer = server.ask("OPTIONS", IMAGES, headers={"Origin": SITE, **question})
    assert answer.headers["access-control-allow-headers"] == asked
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    odd = question | {"Access-Control-Request-Headers": "a b;c"}
    answer = server.ask("OPTIONS", IMAGES, headers={"Origin": SITE, **odd})
    assert (
        answer.headers["access-control-allow-headers"] == "authorization, content-type, x-api-key"
    )


def test_a_proxy_in_front_is_answered() -> None:
    """One that passes the Host on and one that does not; and links begin with its address."""
    public = "https://images.example.org"
    with running_server(public_url=public) as server:
        for host in ("images.example.org", f"127.0.0.1:{server.port}"):
            answer = server.post(
                IMAGES,
                {"prompt": "red", "model": "demo-student", "response_format": "url"},
                Host=host,
                Origin=public,
            )
            assert answer.status == 200
            assert answer.json["data"][0]["url"].startswith(f"{public}/")
        refused = server.get("/health", Host="other.example.org")
        assert (refused.status, "--public-url" in refused.json["error"]) == (421, True)


@pytest.mark.parametrize(
    "url",
    [
        "images.example.org",
        "ftp://a.example",
        "https://",
        "https://a.example/path",
        "https://u@a.b",
    ],
)
def test_a_public_url_that_is_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "demo", "--public-url", url]) == 2
    assert re.search(
        r"--public-url must be https:// or http:// and a host", capsys.readouterr().err
    )


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("# ours\n\n one \ntwo\n", "utf-8")
    keys = ApiKeys.read(path)
    assert [keys.admit(key) for key in ("one", "two", " one ", "# ours", "", None)] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert "one" not in repr(vars(keys))


@pytest.mark.parametrize(
    ("content", "text"), [(b"# none\n", "holds no key"), (b"\xff", "UTF-8"), (None, "No such file")]
)
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = tmp_path / "keys.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=text):
        ApiKeys.read(path)
