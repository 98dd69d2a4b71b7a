"""Other libraries' embedding of a bundle's texts, for embedding.py.

Each gives mean-pooled vectors that are not normalized, from the bundle's own weights, which
CTranslate2 also rounds to 16 and 8 bits. A library is imported when it is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

import minit2i_deploy as m
from minit2i_deploy.interchange.embed_folder import write_embed_folder
from minit2i_deploy.runtimes.torch.network import read_weights
from minit2i_deploy.text.embed import BATCH_SIZE
from minit2i_deploy.tokenizer import Encoded

# As the official pipeline pads.
PADDED: Final = 256

Embedder = Callable[[Sequence[Encoded]], np.ndarray]
# Of a bundle, threads and an empty folder for what the library wants on disk.
Peer = Callable[[m.Bundle, int, Path], Embedder]


def _transformers(
    bundle: m.Bundle, threads: int, folder: Path, *, length: int | None = None
) -> Embedder:
    model = _torch_encoder(bundle)

    @torch.no_grad()
    def encode(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        hidden = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        values: np.ndarray = hidden.last_hidden_state.numpy()
        return values

    return _batched(encode, length)


def _optimum(bundle: m.Bundle, threads: int, folder: Path) -> Embedder:
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    model = ORTModelForFeatureExtraction.from_pretrained(
        bundle.graph_path("text_encoder").parent, session_options=settings
    )

    def encode(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        values: np.ndarray = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return values

    return _batched(encode, None)


def _sentence_transformers(bundle: m.Bundle, threads: int, folder: Path) -> Embedder:
    """On torch, as the library opens a T5 of its own; it sorts the texts by length."""
    from sentence_transformers import SentenceTransformer, models

    write_embed_folder(bundle, folder / "encoder")
    checkpoint = folder / "checkpoint"
    _torch_encoder(bundle).save_pretrained(checkpoint)
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "encoder" / "tokenizer.json"),
        pad_token="<pad>",
        eos_token="</s>",
        model_max_length=PADDED,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(checkpoint)
    encoder = models.Transformer(str(checkpoint))
    pooling = models.Pooling(encoder.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[encoder, pooling], device="cpu")

    def embedder(encoded: Sequence[Encoded]) -> np.ndarray:
        values: np.ndarray = model.encode([item.text for item in encoded], batch_size=BATCH_SIZE)
        return values

    return embedder


def _fastembed(bundle: m.Bundle, threads: int, folder: Path) -> Embedder:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    write_embed_folder(bundle, folder / "encoder")
    size = T5Config.from_pretrained(folder / "encoder").d_model
    TextEmbedding.add_custom_model(
        model="local/encoder",
        pooling=PoolingType.MEAN,
        normalization=False,
        sources=ModelSource(hf="local/encoder"),
        dim=size,
        model_file="model.onnx",
    )
    model = TextEmbedding(
        "local/encoder", specific_model_path=str(folder / "encoder"), threads=threads
    )

    def embedder(encoded: Sequence[Encoded]) -> np.ndarray:
        return np.stack(list(model.embed([item.text for item in encoded], batch_size=BATCH_SIZE)))

    return embedder


def _ctranslate2(
    bundle: m.Bundle, threads: int, folder: Path, *, compute_type: str = "float32"
) -> Embedder:
    """Its encoder, with the layers of its converter of T5, which has none for an encoder alone."""
    import ctranslate2
    from ctranslate2.converters.transformers import T5Loader
    from ctranslate2.specs import common_spec, transformer_spec

    model = _torch_encoder(bundle)
    stack = transformer_spec.TransformerEncoderSpec(
        model.config.num_layers,
        model.config.num_heads,
        head_dim=model.config.d_kv,
        activation=common_spec.Activation.GELUTanh,
        relative_attention_bias=True,
        ffn_glu=True,
        rms_norm=True,
    )
    T5Loader().set_stack(stack, model.encoder)
    spec = transformer_spec.TransformerEncoderModelSpec(stack)
    spec.config.layer_norm_epsilon = model.config.layer_norm_epsilon
    spec.register_vocabulary([str(k) for k in range(model.config.vocab_size)])
    spec.validate()
    spec.optimize(quantization=compute_type)
    folder.joinpath("encoder").mkdir()
    spec.save(str(folder / "encoder"))
    encoder = ctranslate2.Encoder(
        str(folder / "encoder"), compute_type=compute_type, intra_threads=threads
    )

    def embedder(encoded: Sequence[Encoded]) -> np.ndarray:
        pooled = np.zeros((len(encoded), model.config.d_model), np.float32)
        # Its own batches are of one length as far as they can be.
        order = sorted(range(len(encoded)), key=lambda k: len(encoded[k].ids))
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            output = encoder.forward_batch([encoded[k].ids.tolist() for k in batch])
            hidden = np.array(output.last_hidden_state)
            for k, row in zip(batch, hidden, strict=True):
                pooled[k] = row[: len(encoded[k].ids)].mean(axis=0)
        return pooled

    return embedder


PEERS: Final[dict[str, Peer]] = {
    "transformers": _transformers,
    "transformers-256": functools.partial(_transformers, length=PADDED),
    "optimum": _optimum,
    "sentence-transformers": _sentence_transformers,
    "fastembed": _fastembed,
    "ctranslate2": _ctranslate2,
    "ctranslate2-int16": functools.partial(_ctranslate2, compute_type="int16"),
    "ctranslate2-int8": functools.partial(_ctranslate2, compute_type="int8"),
}
# What the project's own environment has.
USUAL: Final = ("transformers", "transformers-256", "optimum")


def _torch_encoder(bundle: m.Bundle) -> Any:
    model = T5EncoderModel(T5Config.from_pretrained(bundle.graph_path("text_encoder").parent))
    weights = {k: torch.from_numpy(v) for k, v in read_weights(bundle, "text_encoder").items()}
    # One table under two names.
    weights.setdefault("encoder.embed_tokens.weight", weights["shared.weight"])
    model.load_state_dict(weights)
    return model.eval()


def _batched(
    encode: Callable[[np.ndarray, np.ndarray], np.ndarray], length: int | None
) -> Embedder:
    """Batches in the order of the texts, padded to the longest of each or to a length."""

    def embedder(encoded: Sequence[Encoded]) -> np.ndarray:
        pooled = []
        for start in range(0, len(encoded), BATCH_SIZE):
            batch = encoded[start : start + BATCH_SIZE]
            ids, mask = padded_arrays([item.ids for item in batch], length)
            values = encode(ids, mask)
            weights = mask[..., None].astype(np.float32)
            pooled.append((values * weights).sum(axis=1) / weights.sum(axis=1))
        return np.concatenate(pooled)

    return embedder


def padded_arrays(rows: Sequence[np.ndarray], length: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, int64 [rows, length or the longest row]."""
    width = length or max(map(len, rows))
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros_like(ids)
    for row, item in enumerate(rows):
        ids[row, : len(item)], mask[row, : len(item)] = item, 1
    return ids, mask
