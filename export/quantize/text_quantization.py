"""Quantize a bundle's text encoder alone, measured by the vectors that embedding gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import GRAPHS, Check, Quantization
from minit2i_deploy.export.quantize.bundle_writing import (
    QuantizedGraph,
    graph_record,
    write_quantized_bundle,
)
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.graph.linear_layers import excluded_layers
from minit2i_deploy.export.quantize.graph.model_graph import Graph
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
from minit2i_deploy.export.quantize.graph.rewrite import quantize_graph
from minit2i_deploy.export.quantize.options import STEP, QuantizeOptions
from minit2i_deploy.export.quantize.schemes import Scheme
from minit2i_deploy.export.verification.bounds import require_within_bounds
from minit2i_deploy.progress import Progress
from minit2i_deploy.text.embedding_parts import pool
from minit2i_deploy.text.encoder import SequenceEncoder

_GRAPH: Final = GRAPHS[0]
_NUM_TEXTS: Final = 64
# 1 - cosine of a text's pooled vectors. Measured at FLAN-T5-Large's size, random weights: 4e-4 with
# the layers of the scheme, 2e-3 with all.
_BOUND: Final = 5e-3


def write_text_quantization(
    source: Bundle,
    folder: Path,
    scheme: Scheme,
    prompts: PromptSet,
    options: QuantizeOptions,
    progress: Progress,
) -> None:
    """Write a bundle whose text encoder is quantized; all other graphs are the source's.

    Args:
        source: not quantized, its text encoder in fp32.
        folder: to write to.
        scheme: of the text encoder.
        prompts: texts to measure with.
        options: layers to include and to exclude.
        progress: called with the share that is done and the name of the stage.

    Raises:
        UsageError: a pattern matches no layer, or all layers are excluded.
        VerificationError: vectors differ from the source's by more than their bound.
    """
    progress(0.0, f"quantize {_GRAPH}")
    plain = QuantizableGraph.read(source.graph_path(_GRAPH))
    excluded = excluded_layers(
        plain.linears, scheme.text_encoder.exclude, options.include, options.exclude
    )
    quantized = quantize_graph(plain, scheme.text_encoder, {}, exclude=excluded)
    progress(0.4, "measure")
    checks = [_measure(source, quantized, prompts.texts[:_NUM_TEXTS])]
    require_within_bounds(checks, "no bundle was written; exclude more layers")
    item = QuantizedGraph(
        graph=quantized,
        record=graph_record(plain, scheme.text_encoder, excluded),
        precision=scheme.text_encoder.weights.name,
    )
    record = Quantization(
        scheme=scheme.name,
        base_precision=source.manifest.graphs[STEP].precision,
        source_digest=source.digest,
        calibration_sha256=None,
        smoothing={},
        graphs={_GRAPH: item.record},
    )
    progress(0.9, "write")
    write_quantized_bundle(folder, source, {_GRAPH: item}, record, checks)
    progress(1.0, "written")


def _measure(source: Bundle, quantized: Graph, texts: Sequence[str]) -> Check:
    """The text whose pooled vectors are furthest apart."""
    encoded = source.tokenizer().encode(list(texts))
    vectors = []
    for graphs in ({}, {_GRAPH: quantized}):
        with GraphsRuntime(source, graphs) as runtime:
            encoder = SequenceEncoder(source, runtime, cache_bytes=0)
            sequences = dict(encoder.sequences(encoded))
        vectors.append(np.stack([pool(sequences[index]) for index in range(len(encoded))]))
    cosines = np.einsum("nw,nw->n", *(item.astype(np.float64) for item in vectors))
    return Check(
        name=_GRAPH,
        measured=float(np.max(1 - cosines)),
        bound=_BOUND,
        unit="1 - cosine",
        where=f"pooled vectors of {len(texts)} texts to the source's, fp32 arithmetic on"
        " onnxruntime CPU, the worst",
    )
