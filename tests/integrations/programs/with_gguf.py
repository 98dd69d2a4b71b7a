"""A GGUF file by the guide's lines, read back: CODE FOLDER-OF-RELEASE.

Prints the version, the number of tensors, and the largest error relative to a tensor's largest
value, of those that are rounded to 8 bits and of the others.
"""

import importlib.metadata
import json
import os
import sys

import gguf
import numpy as np
from safetensors.numpy import load_file

code, folder = sys.argv[1:]
os.chdir(folder)
exec(compile(code, "guide", "exec"), {})
weights = load_file("release/transformer/diffusion_pytorch_model.safetensors")
tensors = {item.name: item for item in gguf.GGUFReader("minit2i.gguf").tensors}
assert tensors.keys() == weights.keys()
errors = {"Q8_0": 0.0, "F32": 0.0}
for name, item in tensors.items():
    assert list(item.shape) == list(weights[name].shape)[::-1], name
    values = gguf.quants.dequantize(item.data, item.tensor_type).reshape(weights[name].shape)
    largest = max(float(np.abs(weights[name]).max()), np.finfo(np.float32).tiny)
    error = float(np.abs(values - weights[name]).max()) / largest
    errors[item.tensor_type.name] = max(errors[item.tensor_type.name], error)
print(json.dumps({"version": importlib.metadata.version("gguf"), **errors}))
