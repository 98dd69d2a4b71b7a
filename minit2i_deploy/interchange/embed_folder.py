"""The text encoder as one flat folder that the usual embedding libraries open.

A bundle keeps graph and tokenizer apart. sentence-transformers, fastembed, txtai, optimum and
text-embeddings-inference want them in one folder, each with a small file or field of its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.names import data_beside
from minit2i_deploy.errors import UsageError
from minit2i_deploy.interchange.linked_files import link_file, write_template, write_values
from minit2i_deploy.io.files import atomic_directory

GRAPH_FILE: Final = "model.onnx"
MODULE_FILE: Final = "minit2i_text_encoder.py"
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
# text-embeddings-inference requires the first of each pair, transformers' T5 has the second.
_ALIASES: Final = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "d_ff",
}
_MODULES: Final = (
    ("", f"{MODULE_FILE.removesuffix('.py')}.OnnxTextEncoder"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Normalize", "sentence_transformers.models.Normalize"),
)


def write_embed_folder(
    bundle: Bundle, out: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write the folder; graph, weights and tokenizer are hard links where the disk has them.

    Args:
        bundle: whose text encoder it is.
        out: folder to create; it appears complete or not at all.
        overwrite: replace a folder that an earlier call wrote.

    Returns:
        the folder.

    Raises:
        UsageError: it exists and may not be replaced.
        Minit2iError: the disk failed or is full.
    """
    target = Path(out)
    if target.resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"{target}: is inside the bundle; name a folder outside")
    with atomic_directory(target, overwrite=overwrite, check=_require_embed_folder) as folder:
        _link_parts(bundle, folder)
        width = _write_config(bundle, folder)
        _write_tokenizer_config(bundle, folder)
        _write_modules(bundle, folder, width)
    return target


def _require_embed_folder(folder: Path) -> None:
    if not (folder / MODULE_FILE).is_file():
        raise UsageError(
            f"{folder}: exists and was not written by minit2i embed-folder, so it is not replaced; "
            "name a new folder"
        )


def _link_parts(bundle: Bundle, folder: Path) -> None:
    graph = bundle.graph_path("text_encoder")
    link_file(graph, folder / GRAPH_FILE)
    data = data_beside(graph)
    # The graph names this file, so its name stays.
    link_file(data, folder / data.name)
    for path in bundle.manifest.files:
        parent, _, name = path.rpartition("/")
        if parent == bundle.manifest.tokenizer.path and name != _TOKENIZER_CONFIG:
            link_file(bundle.path / path, folder / name)


def _write_config(bundle: Bundle, folder: Path) -> int:
    """The encoder's config.json with the names that other libraries read; returns its width."""
    values = _read(bundle.graph_path("text_encoder").parent / "config.json")
    values |= {name: values[source] for name, source in _ALIASES.items()}
    values |= {"model_type": "t5", "max_position_embeddings": bundle.config.prompt_length}
    # text-embeddings-inference requires a list, which a T5 made from settings alone lacks.
    values["architectures"] = ["T5EncoderModel"]
    write_values(folder / "config.json", values)
    width: int = values["d_model"]
    return width


def _write_tokenizer_config(bundle: Bundle, folder: Path) -> None:
    source = bundle.path / bundle.manifest.tokenizer.path / _TOKENIZER_CONFIG
    values = _read(source) if source.is_file() else {"tokenizer_class": "T5Tokenizer"}
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    # T5's own number is 1e30, which several libraries refuse.
    values = tokens | values | {"model_max_length": bundle.config.prompt_length}
    write_values(folder / _TOKENIZER_CONFIG, values)


def _write_modules(bundle: Bundle, folder: Path, width: int) -> None:
    """What sentence-transformers reads."""
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(_MODULES)
    ]
    write_values(folder / "modules.json", modules)
    # text-embeddings-inference requires both modes.
    modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    write_values(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    (folder / "2_Normalize").mkdir()
    write_values(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    write_values(
        folder / "sentence_bert_config.json", {"max_seq_length": bundle.config.prompt_length}
    )
    write_template(MODULE_FILE, folder / MODULE_FILE)


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
