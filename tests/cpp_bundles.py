"""Bundles for the C++ client: a student with real graphs, and tokenizers without any."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bundles import draft, write_files
from checkpoint_forms import student_forms
from tiny_bundle import text_folder

import minit2i_deploy.demo
from minit2i_deploy.bundle import write_manifest

DEMO_TOKENIZER = Path(str(minit2i_deploy.demo.__file__)).parent / "assets" / "tokenizer"


@functools.cache
def student_bundle() -> Path:
    """The golden few-step student, exported once a test process."""
    from safetensors.numpy import save_file

    from minit2i_deploy.checkpoints import load_checkpoint
    from minit2i_deploy.export import export_bundle

    folder = Path(tempfile.mkdtemp(dir=text_folder().parent, prefix="student-"))
    path, arguments = student_forms()["flax-msgpack"]
    checkpoint = load_checkpoint(path, **arguments)
    (folder / "checkpoint").mkdir()
    save_file(checkpoint.tensors, folder / "checkpoint" / "ema.safetensors")
    header = {"format": "minit2i-training", "version": 1, "step": 1, "recipe": {}}
    header["config"] = checkpoint.config.to_dict()
    (folder / "checkpoint" / "checkpoint.json").write_text(json.dumps(header), encoding="utf-8")
    bundle = export_bundle(
        folder / "checkpoint", folder / "bundle", text_encoder=text_folder() / "text_encoder"
    )
    return bundle.path


def tokenizer_bundle(folder: Path, tokenizer: dict[str, Any], prompt_length: int) -> Path:
    """A bundle of a tokenizer; what stands in the place of graphs is none."""
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
