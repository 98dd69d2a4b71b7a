"""Parts of the dialects that need no server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.serving.dialects.image_links import ImageLinks
from minit2i_deploy.serving.dialects.openai_images import watched_rows
from minit2i_deploy.serving.dialects.texts import mean_vectors
from minit2i_deploy.serving.http.endpoint import Call
from minit2i_deploy.serving.http.errors import HttpError
from minit2i_deploy.serving.http.fields import Field
from minit2i_deploy.text.embedding_parts import pool
from tests.helpers.serving_runs import Clock


@pytest.mark.parametrize(
    ("num_rows", "count", "rows"),
    [
        (20, 0, []),
        (20, 3, [5, 10, 15]),
        (4, 3, [1, 2, 3]),
        (4, 4, [1, 2, 3, 4]),
        (4, 1000, [1, 2, 3, 4]),
        (1, 1, [1]),
        (40, 1, [20]),
    ],
)
def test_estimates_are_spread_over_the_rows(num_rows: int, count: int, rows: list[int]) -> None:
    assert sorted(watched_rows(num_rows, count)) == rows


def test_as_many_estimates_as_are_asked_for() -> None:
    for num_rows in range(1, 60):
        for count in range(num_rows + 1):
            rows = watched_rows(num_rows, count)
            assert len(rows) == count
            assert all(1 <= row <= num_rows for row in rows)


def read(links: ImageLinks, path: str) -> bytes:
    (endpoint,) = links.endpoints()
    request: Any = SimpleNamespace(path_params={"name": path.rpartition("/")[2]})
    answer = asyncio.run(endpoint.answer(Call(request=request, values={}, body={})))  # type: ignore[arg-type]
    return bytes(answer.body)


def test_linked_images_go_by_age_and_by_bytes() -> None:
    clock = Clock()
    links = ImageLinks(max_bytes=10, max_seconds=60, clock=clock)
    first, second = (links.add(data, "image/png") for data in (b"first", b"next"))
    assert (read(links, first), read(links, second)) == (b"first", b"next")
    third = links.add(b"three", "image/png")
    with pytest.raises(HttpError, match="kept for 1 minutes"):
        read(links, first)
    assert (read(links, second), read(links, third)) == (b"next", b"three")
    clock.now = 61
    with pytest.raises(HttpError, match="no such image"):
        read(links, third)


def test_a_normalized_mean_is_the_pooled_embedding() -> None:
    sequences = [np.random.default_rng(n).standard_normal((n, 8), np.float32) for n in (1, 5)]
    vectors = mean_vectors(sequences, normalize=True)
    assert all(
        np.array_equal(vector, pool(each)) for vector, each in zip(vectors, sequences, strict=True)
    )
    raw = mean_vectors(sequences, normalize=False)
    assert np.array_equal(raw[0], sequences[0][0])


NUMBER = Field(name="x", kind="number", help="a number", low=0, high=2, default=1.5)


@pytest.mark.parametrize(
    ("body", "value"), [({}, 1.5), ({"x": None}, 1.5), ({"x": 2}, 2.0), ({"x": 0.5}, 0.5)]
)
def test_a_field_reads_its_value(body: dict[str, Any], value: float) -> None:
    assert NUMBER.read(body) == value
    assert isinstance(NUMBER.read(body), float)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "x must be 0 to 2, got 3"),
        (-0.1, "x must be 0 to 2, got -0.1"),
        (True, "x must be a number, got True"),
        ("1", "x must be a number, got '1'"),
        ([1] * 100, r"x must be a number, got \[1, 1, .*\.\."),
    ],
)
def test_a_field_refuses_in_one_line(value: Any, text: str) -> None:
    with pytest.raises(HttpError, match=text) as caught:
        NUMBER.read({"x": value})
    assert (caught.value.status, caught.value.param) == (400, "x")
    assert len(str(caught.value)) < 120


def test_whole_floats_are_integers() -> None:
    """JavaScript's 3.0 is written 3, and some clients write 3.0."""
    count = Field(name="n", kind="integer", help="a count", low=1)
    assert count.read({"n": 3.0}) == 3
    with pytest.raises(HttpError, match=r"n must be an integer, got 3\.5"):
        count.read({"n": 3.5})
