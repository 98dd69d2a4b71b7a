"""What a recipe may say of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.training.recipe.data import (
    DataRecipe,
    SourceRecipe,
    parse_data,
    resolve_data_paths,
)

REFUSED: dict[str, tuple[Any, str]] = {
    "a word": ("folder", "data is 'folder', but it must be shapes, a list of sources"),
    "no sources": ([], "data.sources is (), but it must be one source or more"),
    "unknown key": ([{"shards": "a.tar", "wieght": 1}], "did you mean data.weight?"),
    "unknown key above": ({"sources": ["a.tar"], "windw": 3}, "did you mean data.window?"),
    "no shards": ([{"weight": 1}], "data.shards is missing; add it"),
    "weight zero": ([{"shards": "a", "weight": 0}], "weight is 0, but it must be a number above 0"),
    "weight below": ([{"shards": "a", "weight": -0.5}], "weight is -0.5"),
    "weight nan": ([{"shards": "a", "weight": float("nan")}], "weight is nan"),
    "weight true": ([{"shards": "a", "weight": True}], "weight is True"),
    "weight words": ([{"shards": "a", "weight": "much"}], "weight is 'much'"),
    "shards empty": ([{"shards": []}], "data.shards is [], but it must be names of tar files"),
    "shards mixed": ([{"shards": ["shapes", "a.tar"]}], "shapes alone or tar files"),
    "shards number": ([7], "a data source is 7"),
    "caption": ([{"shards": "a", "caption": "json:"}], "a suffix such as txt, or json:FIELD"),
    "min side": ([{"shards": "a", "min_side": -1}], "min_side is -1, but it must be 0 or more"),
    "window": ({"window": 0}, "data.window is 0, but it must be 1 or more"),
    "limit": ({"bad_limit": -1}, "data.bad_limit is -1"),
    "threads": ({"threads": 0}, "data.threads is 0"),
    "workers": ({"workers": 1.5}, "data.workers is 1.5"),
    "sources word": ({"sources": "a.tar"}, "data.sources is 'a.tar', but it must be a list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    value, message = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        parse_data(value)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_short_forms_mean_the_long_one() -> None:
    assert parse_data("shapes") == DataRecipe()
    assert parse_data(["a.tar"]) == parse_data({"sources": [{"shards": ["a.tar"], "weight": 1.0}]})
    assert parse_data([{"shards": "a.tar", "weight": "6e-2"}]).sources[0].weight == 0.06
    assert parse_data({"bad_limit": 3}) == DataRecipe(bad_limit=3)
    assert parse_data(DataRecipe(window=5)) == DataRecipe(window=5)


def test_plain_values_come_back() -> None:
    data = DataRecipe(
        sources=(SourceRecipe(shards=("a.tar", "b.tar"), weight=0.5), SourceRecipe(shards=("c",))),
        cache="copies",
    )
    values = data.to_dict()
    assert isinstance(values, dict) and parse_data(values) == data
    assert DataRecipe().to_dict() == "shapes"


def test_relative_paths_are_taken_from_the_recipes_folder(tmp_path: Path) -> None:
    value = {
        "sources": [
            {"shards": ["x/{00..09}.tar", "s3://bucket/a.tar"], "weight": 2},
            {"shards": "/data/a.tar"},
            "shapes",
        ],
        "cache": "copies",
        "window": 3,
    }
    assert resolve_data_paths(value, tmp_path) == {
        "sources": [
            {"shards": [f"{tmp_path}/x/{{00..09}}.tar", "s3://bucket/a.tar"], "weight": 2},
            {"shards": "/data/a.tar"},
            "shapes",
        ],
        "cache": f"{tmp_path}/copies",
        "window": 3,
    }
    assert resolve_data_paths("shapes", tmp_path) == "shapes"
