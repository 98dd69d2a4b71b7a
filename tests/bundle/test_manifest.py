"""The manifest's form: exact bytes, every field strict, every rule between fields."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from minit2i_deploy.bundle.manifest import (
    FileInfo,
    GraphQuantization,
    Manifest,
    Quantization,
    add_checksum,
    check_relative,
)
from minit2i_deploy.errors import BundleError
from tests.helpers.bundles import draft

Fields = dict[str, Any]


def complete() -> Manifest:
    manifest = draft()
    paths = [graph.path for graph in manifest.graphs.values()]
    paths += [*manifest.tables.values(), "tokenizer/tokenizer.json"]
    info = FileInfo(sha256="cd" * 32, bytes=5)
    return dataclasses.replace(manifest, files=dict.fromkeys(paths, info))


def fields() -> Fields:
    result: Fields = json.loads(complete().to_bytes())
    return result


def read(data: bytes) -> Manifest:
    return Manifest.from_bytes(data, "x/manifest.json")


def refuses(data: bytes, text: str) -> None:
    with pytest.raises(BundleError, match=text) as caught:
        read(data)
    assert str(caught.value).startswith("x/manifest.json: ")
    assert str(caught.value).endswith("; re-run minit2i export") and "\n" not in str(caught.value)


def test_round_trip_is_exact() -> None:
    data = complete().to_bytes()
    assert read(data) == complete()
    assert read(data).to_bytes() == data


def test_bytes_of_all_files() -> None:
    manifest = complete()
    assert manifest.num_bytes == 5 * len(manifest.files) > 0
    assert draft().num_bytes == 0


def test_text_is_canonical() -> None:
    data = complete().to_bytes()
    assert data.decode("ascii") == json.dumps(json.loads(data), sort_keys=True, indent=2) + "\n"


def test_names_of_all_fields_are_frozen() -> None:
    tree = fields()
    assert sorted(tree) == [
        "checks", "default_preset", "files", "flavour", "format_version", "graphs", "kind",
        "manifest_sha256", "model", "noise", "presets", "provenance", "tables", "tokenizer",
        "variant",
    ]  # fmt: skip
    assert (tree["format_version"], tree["kind"]) == (2, "minit2i-bundle")
    parts: dict[str, Fields] = {
        "graph": tree["graphs"]["transformer"],
        "tensor": tree["graphs"]["transformer"]["inputs"]["x"],
        "tokenizer": tree["tokenizer"],
        "file": tree["files"]["transformer/model.onnx"],
        "preset": tree["presets"]["default"],
        "flavour": tree["flavour"],
        "noise": tree["noise"],
        "provenance": tree["provenance"],
        "check": tree["checks"][0],
    }
    assert {name: " ".join(sorted(part)) for name, part in parts.items()} == {
        "graph": "inputs opset outputs path precision",
        "tensor": "dtype shape",
        "tokenizer": "path prompt_length",
        "file": "bytes sha256",
        "preset": "guidance table",
        "flavour": "a_min guidance name rounding steps",
        "noise": "generator scale",
        "provenance": "checkpoint_form checkpoint_sha256 lora_sha256 tools",
        "check": "bound measured name unit where",
    }


def quantized() -> Manifest:
    graph = GraphQuantization(scheme="int8 weights", layers=3, excluded=("a.b",))
    record = Quantization(
        scheme="int8",
        base_precision="fp16",
        source_digest="ab" * 32,
        calibration_sha256=None,
        smoothing={"a.c": 0.5},
        graphs={"transformer": graph},
    )
    return dataclasses.replace(complete(), quantization=record)


def test_only_a_quantized_bundle_has_its_quantization() -> None:
    data = quantized().to_bytes()
    assert read(data) == quantized()
    assert read(data).to_bytes() == data
    tree = json.loads(data)
    record = tree["quantization"]
    assert " ".join(record) == (
        "base_precision calibration_sha256 graphs scheme smoothing source_digest"
    )
    assert " ".join(record["graphs"]["transformer"]) == "excluded layers scheme"
    assert "quantization" not in fields()
    refuses(
        add_checksum({**fields(), "quantization": None}),
        "manifest.quantization: expected an object, got None",
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("base_precision", "int8", "got 'int8'"),
        ("source_digest", "ab", "source_digest must be 64"),
        ("calibration_sha256", "ab", "calibration_sha256 must be 64"),
        ("smoothing", {"a": 1.5}, "smoothing strength must be in 0..1"),
        ("smoothing", {"a": "1"}, "expected a finite number"),
        ("graphs", {"decoder": {"scheme": "x", "layers": 1, "excluded": []}}, "got 'decoder'"),
        (
            "graphs",
            {"transformer": {"scheme": "x", "layers": 0, "excluded": []}},
            "layers must be at least 1, got 0",
        ),
        ("graphs", {"transformer": {"scheme": "x", "layers": 1}}, "missing fields"),
    ],
)
def test_a_wrong_record_of_quantization_is_refused(name: str, value: Any, text: str) -> None:
    tree = json.loads(quantized().to_bytes())
    tree["quantization"][name] = value
    refuses(add_checksum(tree), text)


def test_the_checksum_is_of_the_bytes_with_its_digits_zeroed() -> None:
    data = complete().to_bytes()
    checksums = re.findall(rb'"manifest_sha256": "([0-9a-f]{64})"', data)
    assert len(checksums) == 1
    assert (
        hashlib.sha256(data.replace(checksums[0], b"0" * 64)).hexdigest().encode() == checksums[0]
    )


def test_every_changed_byte_is_refused() -> None:
    data = complete().to_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        with pytest.raises(BundleError):
            read(bytes(changed))
    refuses(data[:-1], "edited")
    refuses(data + b"\n", "edited")


def test_every_field_is_required_and_no_other_is_accepted() -> None:
    for name in fields():
        if name in ("kind", "format_version", "manifest_sha256"):
            continue
        tree = fields()
        del tree[name]
        refuses(add_checksum(tree), rf"missing fields \['{name}'\]")
    refuses(add_checksum({**fields(), "more": 1}), r"unknown fields \['more'\]")
    # The attribute's name is not the key in the file, which is "late".
    refuses(add_checksum({**fields(), "switch": None}), r"unknown fields \['switch'\]")
    tree = fields()
    tree["noise"]["more"] = 1
    refuses(add_checksum(tree), r"manifest\.noise: unknown fields \['more'\]")
    tree = fields()
    del tree["files"]["transformer/model.onnx"]["bytes"]
    refuses(add_checksum(tree), r"missing fields \['bytes'\]")
    tree = fields()
    del tree["manifest_sha256"]
    refuses(json.dumps(tree).encode(), "manifest_sha256 is missing")


def change(path: str, value: Any) -> Callable[[], bytes]:
    """A manifest with a checksum and the value at a slash-joined path replaced."""

    def build() -> bytes:
        tree = fields()
        *parents, last = path.split("/")
        node: Any = tree
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[last] = value
        return add_checksum(tree)

    return build


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (change("format_version", 3), "format_version is 3, but this program reads 1 and 2"),
        (change("format_version", 0), "format_version is 0, but this program reads 1 and 2"),
        (change("format_version", True), "format_version is True"),
        (change("format_version", 1.0), "format_version is 1.0"),
        (change("kind", "other"), "kind must be 'minit2i-bundle', got 'other'"),
        (change("checks", {}), "manifest.checks: expected a list, got {}"),
        (
            change("checks/0/measured", "low"),
            r"checks\[0\].measured: expected a finite number, got 'low'",
        ),
        (
            change("checks/0/measured", 10**400),
            r"checks\[0\].measured: expected a finite number, got 1000",
        ),
        (change("variant", 7), "variant: expected text or null, got 7"),
        (change("model/hidden_size", 65), "hidden_size 65 is not num_heads"),
        (change("model/hidden_size", None), "hidden_size must be a positive number, got None"),
        (change("model/color", 1), "unknown keys"),
        (change("model/student", "yes"), "manifest.model"),
        (change("model", []), "manifest.model: expected an object, got"),
        (change("graphs/denoiser", {}), "manifest.graphs.denoiser: unknown"),
        (change("graphs", {}), "graphs must be .*, got"),
        (
            change("graphs/transformer/precision", "fp12"),
            "precision must be one of fp32, .*, got 'fp12'",
        ),
        (change("graphs/transformer/opset", 0), "opset must be at least 1, got 0"),
        (
            change("graphs/transformer/inputs/x/dtype", "f4"),
            "dtype must be one of float32, .*, got 'f4'",
        ),
        (change("graphs/transformer/inputs/x/shape", [0]), r"names, got \[0\]"),
        (
            change("graphs/transformer/inputs/x/shape", [True]),
            "expected an integer or text, got True",
        ),
        (change("graphs/transformer/path", "no.onnx"), "names 'no.onnx', which is not in files"),
        (change("tokenizer/path", "../tokenizer"), "which is not in files"),
        (change("tokenizer/prompt_length", 13), "prompt_length 13 is not the model's 12"),
        (change("tables/euler-4", "tables/x.json"), "tables.euler-4 names"),
        (change("presets/default/table", "heun"), "presets.default names table 'heun'"),
        (change("default_preset", "best"), "default_preset 'best'"),
        (change("flavour/rounding", "nearest"), "got 'nearest'"),
        (change("flavour/a_min", 0), "a_min 0"),
        (change("noise/generator", "mt19937"), "got 'mt19937'"),
        (change("noise/scale", 0.0), "scale must be positive, got 0.0"),
        (change("provenance/checkpoint_sha256", "AB" * 32), "checkpoint_sha256 must be 64"),
    ],
)
def test_values_outside_their_rule_are_refused(build: Callable[[], bytes], text: str) -> None:
    refuses(build(), text)


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../../x", "a/..", "./x", "a//b", "a/", "a\\b", "C:/x", "c:x",
     "a\0b", "a b", "a\n", "caf\u00e9", "a./b", "x.", "..", ".", "~/x:y", "\\\\host\\x", "a" * 241],
)  # fmt: skip
def test_path_tricks_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be relative"):
        check_relative(name)
    tree = fields()
    tree["files"][name] = {"sha256": "cd" * 32, "bytes": 5}
    refuses(add_checksum(tree), "file name .* must be relative")


@pytest.mark.parametrize("name", ["model.onnx.data", "a/b-c_d+e/f.json", ".hidden", "a/.b"])
def test_plain_names_are_accepted(name: str) -> None:
    check_relative(name)


def test_names_that_meet_on_some_systems_are_refused() -> None:
    tree = fields()
    tree["files"]["Transformer/model.onnx"] = {"sha256": "cd" * 32, "bytes": 5}
    refuses(add_checksum(tree), "differ in case only")


@pytest.mark.parametrize("name", ["manifest.json", "Manifest.JSON", "engines/a/b", "Engines/x"])
def test_files_that_must_not_be_listed_are_refused(name: str) -> None:
    tree = fields()
    tree["files"][name] = {"sha256": "cd" * 32, "bytes": 5}
    refuses(add_checksum(tree), "must not be listed")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "Expecting value"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"kind": 1, "kind": 2}', "duplicate key"),
        (b'{"kind": NaN}', "NaN is not"),
        (b'{"kind": -1e999}', "too large a number"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
        (b"{}", "got None"),
    ],
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes, text: str) -> None:
    refuses(data, text)


def test_a_manifest_that_breaks_the_rules_is_not_written() -> None:
    bad = dataclasses.replace(complete(), default_preset="best")
    with pytest.raises(BundleError, match="cannot be written: default_preset 'best'"):
        bad.to_bytes()
    check = dataclasses.replace(complete().checks[0], measured=float("nan"))
    with pytest.raises(BundleError, match="measured: expected a finite number, got nan"):
        dataclasses.replace(complete(), checks=(check,)).to_bytes()
