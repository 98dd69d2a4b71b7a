"""Vectors of texts by fastembed: FOLDER TEXTS.json OUT.npy."""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

folder, texts, out = sys.argv[1:]
TextEmbedding.add_custom_model(
    model="me/my-encoder",
    pooling=PoolingType.MEAN,
    normalization=True,
    sources=ModelSource(hf="me/my-encoder"),
    dim=json.loads((Path(folder) / "config.json").read_text())["d_model"],
    model_file="model.onnx",
    additional_files=["model.onnx_data"],
)
encoder = TextEmbedding("me/my-encoder", specific_model_path=folder)
np.save(out, np.stack(list(encoder.embed(json.loads(texts)))))
print(importlib.metadata.version("fastembed"))
