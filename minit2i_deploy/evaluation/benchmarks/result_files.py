"""Results as the scorers of the benchmarks write them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.benchmarks.scores import Scores
from minit2i_deploy.evaluation.benchmarks.suites import DPG, GENEVAL, PRISM, Suite


def read_results(suite: Suite, path: Path) -> Scores:
    """Read what a scorer wrote.

    Args:
        suite: geneval takes the results.jsonl of evaluate_images.py; dpg the text file of
            compute_dpg_bench.py or a .json object of score by image; prism a .jsonl file of
            judgments with group, item_id, sample, metric, score and max_score.
        path: file of results.

    Raises:
        UsageError: it cannot be read, is of another suite, or scores an image twice.
    """
    readers = {GENEVAL: _geneval, DPG: _dpg, PRISM: _judge}
    if suite.name not in readers:
        raise UsageError(f"{path}: {suite.name} has no file of results for each image")
    return readers[suite.name](path)


def _geneval(path: Path) -> Scores:
    values, groups = dict[str, float](), dict[str, str]()
    for number, line in _objects(path):
        try:
            name, correct, tag = line["filename"], line["correct"], line["tag"]
        except KeyError as error:
            raise UsageError(
                f"{path}: line {number} has no {error}; name the results of evaluate_images.py"
            ) from error
        if not isinstance(correct, bool):
            raise UsageError(f"{path}: line {number}: correct is {correct!r}, expected a boolean")
        # OUT/00000/samples/00000.png, wherever OUT was.
        key = "/".join(PurePosixPath(str(name).replace("\\", "/")).parts[-3:])
        _add(values, path, key, float(correct))
        groups[key] = str(tag)
    return Scores(values=values, groups=groups, by_group=True)


def _dpg(path: Path) -> Scores:
    values: dict[str, float] = {}
    if path.suffix.lower() == ".json":
        try:
            content = dict(json.loads(_read(path)))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path}: is not a JSON object of scores; name such a file") from error
        for name, value in content.items():
            _add(values, path, str(name), _share(path, str(name), value))
    else:
        for line in _read(path).splitlines():
            # IMAGE, score of each sample, mean; a summary follows.
            fields = line.rsplit(", ")
            name = PurePosixPath(fields[0].replace("\\", "/")).name
            if len(fields) > 2 and name.endswith(".png"):
                _add(values, path, name, _share(path, name, fields[-1]))
    if not values:
        raise UsageError(f"{path}: has no line of an image; name the results of DPG-Bench")
    return Scores(values=values, groups=dict.fromkeys(values, "all"), by_group=False)


def _judge(path: Path) -> Scores:
    shares: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    keys = set()
    for number, line in _objects(path):
        try:
            group, item, sample = str(line["group"]), str(line["item_id"]), int(line["sample"])
            share = float(line["score"]) / float(line["max_score"])
            key = (group, item, sample, str(line["metric"]))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UsageError(
                f"{path}: line {number}: expected group, item_id, sample, metric, score and "
                f"max_score ({error}); name a judge's results.jsonl"
            ) from error
        if key in keys:
            raise UsageError(f"{path}: line {number} judges {item} by {key[3]} again; keep one")
        keys.add(key)
        name = f"{group}/{item}/{sample:05d}.png"
        shares.setdefault(name, []).append(_share(path, name, share))
        groups[name] = group
    values = {name: fmean(each) for name, each in shares.items()}
    return Scores(values=values, groups=groups, by_group=False)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{path}: line {number} is not JSON; score the images again"
            ) from error
        if not isinstance(values, dict):
            raise UsageError(f"{path}: line {number} is not a JSON object; score the images again")
        yield number, values


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start + 1}") from error


def _share(path: Path, name: str, text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{path}: {name} has score {text!r}, expected 0 to 1")
    return value


def _add(values: dict[str, float], path: Path, key: str, value: float) -> None:
    if key in values:
        raise UsageError(f"{path}: scores {key} twice; score the images again")
    values[key] = value
