"""Vectors of texts by sentence-transformers: FOLDER TEXTS.json OUT.npy."""

import importlib.metadata
import json
import sys

import numpy as np
from sentence_transformers import SentenceTransformer

folder, texts, out = sys.argv[1:]
model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
np.save(out, model.encode(json.loads(texts)))
print(importlib.metadata.version("sentence-transformers"))
