"""Vectors of texts by txtai: FOLDER TEXTS.json OUT.npy."""

import importlib.metadata
import json
import sys

import numpy as np
from txtai import Embeddings

folder, texts, out = sys.argv[1:]
embeddings = Embeddings(path=f"{folder}/model.onnx", method="onnx", maxlength=256)
np.save(out, np.stack(embeddings.batchtransform(json.loads(texts))))
print(importlib.metadata.version("txtai"))
