"""Bundles for the C++ client: the shipped models, and tokenizers without graphs."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minit2i_deploy.demo
from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import add_checksum
from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.demo.shipped import shipped_model
from minit2i_deploy.solvers.guidance import one_pass_table
from tests.helpers.bundles import draft, write_files

DEMO_TOKENIZER = Path(str(minit2i_deploy.demo.__file__)).parent / "assets" / "tokenizer"


@functools.cache
def shipped_bundle(scheme: str | None = None) -> Path:
    """The shipped base model in fp32, or quantized by a scheme. Do not write into it; copy it."""
    return _ready("demo") if scheme is None else _quantized("demo", scheme)


@functools.cache
def shipped_student(scheme: str | None = None) -> Path:
    """The shipped few-step student, as ``shipped_bundle``."""
    return _ready("demo-student") if scheme is None else _quantized("demo-student", scheme)


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="minit2i-shipped-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _ready(name: str) -> Path:
    """A bundle of a shipped model, in a folder of this process."""
    return ready_bundle(name, _folder())


@functools.cache
def cpu_bundle() -> Path:
    """The base model in fp32 with operators of ONNX Runtime's own, for provider cpu alone."""
    from minit2i_deploy.export import ExportOptions, export_bundle

    model, text = shipped_model().checkpoint, shipped_model().text_encoder
    return export_bundle(
        model, _folder() / "cpu", ExportOptions(text_encoder=text, only_for="cpu")
    ).path


@functools.cache
def switch_bundle() -> Path:
    """The base model in INT8 whose rows from t = 0.5 on run the fp32 step graph."""
    from minit2i_deploy.export.quantize.switch_bundle import add_switch

    copy = shutil.copytree(shipped_bundle("int8-cpu"), _folder() / "late")
    return add_switch(Bundle.open(copy), Bundle.open(shipped_bundle()), 0.5).path


@functools.cache
def one_pass_bundle() -> Path:
    """The base model as if its weights gave guidance 2.5 in one branch; table ab2-20 has one."""
    folder = _folder() / "one-pass"
    shutil.copytree(shipped_bundle(), folder)
    bundle = Bundle.open(folder)
    table = dataclasses.replace(one_pass_table(bundle.table("ab2-20")), name="ab2-20")
    table.save(folder / "tables" / "ab2-20.json")
    fields = {"one_pass_guidance": 2.5, "text_encoder_lora_sha256": "0" * 64}
    write_manifest(folder, dataclasses.replace(bundle.manifest, **fields))
    return folder


def _quantized(part: str, scheme: str) -> Path:
    """Calibrated on little data: what matters is the form of the graphs, not their error."""
    from minit2i_deploy.export.quantize import DrawSettings, QuantizeOptions, quantize_bundle

    ranges = _folder() / f"{part}.npz"
    options = QuantizeOptions(scheme=scheme)
    if options.needs_calibration:
        options = QuantizeOptions(
            scheme=scheme,
            draw=DrawSettings(samples=2, strata=2, activations=96),
            calibration=ranges if ranges.is_file() else None,
            save_calibration=ranges if scheme == "int8" else None,
        )
    return quantize_bundle(_ready(part), _folder() / f"{part}-{scheme}", options).path


def tokenizer_bundle(folder: Path, tokenizer: dict[str, Any], prompt_length: int) -> Path:
    """A bundle of a tokenizer; its graph files are no graphs."""
    write_files(folder)
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    manifest = draft()
    write_manifest(
        folder,
        dataclasses.replace(
            manifest,
            model=dataclasses.replace(manifest.model, prompt_length=prompt_length),
            tokenizer=dataclasses.replace(manifest.tokenizer, prompt_length=prompt_length),
        ),
    )
    return folder


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and its checksum."""
    path = bundle / "manifest.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    fields.pop("manifest_sha256")
    path.write_bytes(add_checksum(fields))


def demo_tokenizer() -> dict[str, Any]:
    """The shipped model's tokenizer.json."""
    values: dict[str, Any] = json.loads((DEMO_TOKENIZER / "tokenizer.json").read_text("utf-8"))
    return values


def released_form() -> dict[str, Any]:
    """The same vocabulary under the rules of the released T5 tokenizers, with ties and extra ids.

    They cut at white space first, and their extra ids swallow the white space around them.
    """
    values = demo_tokenizer()
    values["normalizer"] = values["normalizer"]["normalizers"][0]
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}
    values["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, {**metaspace, "split": True}],
    }
    vocabulary = values["model"]["vocab"]
    known = {piece for piece, _ in vocabulary}
    # Scores that tie in several ways of cutting a run of one character.
    ties = [("!!", -6.0), ("!!!", -9.0), ("\u2581!", -5.0), ("\u2581!!", -8.0), ("aa", -4.0)]
    vocabulary += [[piece, score] for piece, score in ties if piece not in known]
    sides = {"lstrip": True, "rstrip": True, "single_word": False, "normalized": False}
    values["added_tokens"] += [
        {"id": len(vocabulary) + index, "content": f"<extra_id_{index}>", "special": True, **sides}
        for index in range(12)
    ]
    return values
