"""An image by diffusers, of seed 7: FOLDER PROMPT OUT.npy."""

import sys

import diffusers
import numpy as np

folder, prompt, out = sys.argv[1:]
pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
np.save(out, np.asarray(pipeline(prompt, seed=7).images[0]))
print(diffusers.__version__)
