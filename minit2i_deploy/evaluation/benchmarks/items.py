"""Prompts of a benchmark, read from the files that the benchmark is published in."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.benchmarks.suites import (
    DPG,
    FID,
    GENEVAL,
    PRISM,
    SHAPES,
    Suite,
)
from minit2i_deploy.text.text_lines import read_prompt_lines

# Names become files of any system: DPG's scorer also cuts them at the first dot.
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_+-]{0,99}")
_MAX_FILE_BYTES: Final = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One prompt of a benchmark.

    Args:
        index: its place, from 0; seeds depend on it.
        name: of its file or folder.
        group: folder above that, or "".
        prompt: the text.
        metadata: line of JSON that the scorer reads beside the images, or "".
    """

    index: int
    name: str
    prompt: str
    group: str = ""
    metadata: str = ""


def read_items(suite: Suite, path: Path) -> list[Item]:
    """All prompts in the official order.

    Args:
        suite: whose prompts.
        path: file or folder, as ``suite.prompts`` says.

    Raises:
        UsageError: it cannot be read, is of another suite, has no prompt, or has a name twice.
    """
    reader = {GENEVAL: _geneval, SHAPES: _geneval, DPG: _dpg, PRISM: _prism, FID: _fid}
    items = reader.get(suite.name, _folder)(path)
    if not items:
        raise UsageError(f"{path}: no prompt in it; expected {suite.prompts}")
    names: dict[tuple[str, str], int] = {}
    for item in items:
        other = names.setdefault((item.group, item.name), item.index)
        if other != item.index:
            raise UsageError(
                f"{path}: {item.name!r} is the name of prompts {other + 1} and {item.index + 1}; "
                "give each another name"
            )
        _check_text(path, item)
    return items


def items_digest(items: Sequence[Item]) -> str:
    """Hash of all prompts, whatever files they came in."""
    digest = hashlib.sha256()
    for item in items:
        fields = [item.group, item.name, item.prompt, item.metadata]
        digest.update(json.dumps(fields).encode() + b"\n")
    return digest.hexdigest()


def _geneval(path: Path) -> list[Item]:
    items: list[Item] = []
    for number, values in _json_lines(path, GENEVAL):
        include = values.get("include")
        if not isinstance(values.get("tag"), str) or not isinstance(include, list):
            raise UsageError(
                f"{path}: line {number} has no tag and include, so it is no GenEval prompt; name "
                "evaluation_metadata.jsonl, or another suite"
            )
        index = len(items)
        items.append(
            Item(
                index=index,
                name=f"{index:05d}",
                prompt=_text_of(path, number, values, "prompt"),
                metadata=json.dumps(values),
            )
        )
    return items


def _dpg(path: Path) -> list[Item]:
    if path.is_dir():
        pairs = [(file.stem, _read_text(file)) for file in path.glob("*.txt")]
        _expect(path, pairs, "ITEM.txt files, such as dpg_bench/prompts")
    elif path.suffix.lower() == ".csv":
        pairs = list(dict(_csv_pairs(path)).items())
    else:
        pairs = []
        for number, values in _json_lines(path, DPG):
            if "item_id" not in values:
                raise UsageError(
                    f"{path}: line {number} has no item_id, so it is no DPG-Bench prompt; name "
                    "another file or suite"
                )
            prompt = _text_of(path, number, values, "prompt")
            pairs.append((str(values["item_id"]), prompt))
    # As the official JAX code orders them: numbers first.
    pairs.sort(key=lambda pair: _numbers_first(pair[0]))
    return [Item(index=i, name=_safe(path, n), prompt=text) for i, (n, text) in enumerate(pairs)]


def _numbers_first(name: str) -> tuple[bool, int, str]:
    is_number = name.isascii() and name.isdigit()
    return not is_number, int(name) if is_number else 0, name


def _csv_pairs(path: Path) -> Iterator[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(_read_text(path)))
    if not {"item_id", "text"} <= set(reader.fieldnames or ()):
        raise UsageError(f"{path}: has no columns item_id and text; name dpg_bench.csv")
    for row in reader:
        yield row["item_id"], row["text"]


def _prism(path: Path) -> list[Item]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    _expect(path, files, "TRACK.jsonl files, such as captions/en")
    items: list[Item] = []
    for file in files:
        track = _safe(path, file.stem)
        for place, (number, values) in enumerate(_json_lines(file, PRISM)):
            if "include" in values and "tag" in values:
                raise UsageError(f"{file}: has GenEval's prompts; name --prompts of PRISM-Bench")
            prompt = _text_of(file, number, values, "prompt")
            name = f"{track}-{place:03d}"
            items.append(Item(index=len(items), name=name, group=track, prompt=prompt))
    return items


def _fid(path: Path) -> list[Item]:
    if path.suffix.lower() != ".json":
        return _folder(path)
    values = _parsed(path, _read_text(path), str(path))
    captions = list(values.values()) if isinstance(values, dict) else values
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise UsageError(f"{path}: expected a JSON object or list of captions; name such a file")
    return [Item(index=i, name=f"{i:05d}", prompt=text) for i, text in enumerate(captions)]


def _folder(path: Path) -> list[Item]:
    if path.suffix.lower() == ".jsonl":
        lines = _json_lines(path, "folder")
        prompts = [_text_of(path, number, values, "prompt") for number, values in lines]
    elif path.suffix.lower() == ".txt":
        prompts = read_prompt_lines(path)
    else:
        raise UsageError(f"{path}: expected a .txt or .jsonl file of prompts")
    return [Item(index=i, name=f"{i:05d}", prompt=text) for i, text in enumerate(prompts)]


def _json_lines(path: Path, suite: str) -> list[tuple[int, dict[str, Any]]]:
    """Number and object of each line that is not blank."""
    if path.is_dir() or path.suffix.lower() != ".jsonl":
        raise UsageError(f"{path}: expected a .jsonl file of {suite} prompts")
    objects = []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        values = _parsed(path, line, f"{path}: line {number}")
        if not isinstance(values, dict):
            raise UsageError(f"{path}: line {number} is not a JSON object; correct it")
        objects.append((number, values))
    return objects


def _parsed(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON; correct it") from error


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UsageError(f"{path}: exceeds {_MAX_FILE_BYTES} bytes; split it")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start + 1}") from error


def _text_of(path: Path, number: int, values: dict[str, Any], field: str) -> str:
    text = values.get(field)
    if not isinstance(text, str):
        raise UsageError(f"{path}: line {number} has no text {field!r}; add it")
    return text


def _check_text(path: Path, item: Item) -> None:
    try:
        item.prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{path}: prompt {item.index + 1} is not valid Unicode") from error
    if not item.prompt.strip() or "\0" in item.prompt:
        raise UsageError(f"{path}: prompt {item.index + 1} is blank or has a NUL; correct it")


def _safe(path: Path, name: str) -> str:
    if _SAFE_NAME.fullmatch(name) is None:
        raise UsageError(
            f"{path}: {name!r} cannot name a file; expected letters, digits, -, _ and +"
        )
    return name


def _expect(path: Path, entries: Sequence[object], what: str) -> None:
    if not entries:
        raise UsageError(f"{path}: has no {what}")
