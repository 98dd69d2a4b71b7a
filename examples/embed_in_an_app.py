"""Text embeddings in a program: the captions nearest to a query.

    python examples/embed_in_an_app.py [BUNDLE] ["your query"]

Needs the extra ``cpu``: no torch, no transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import minit2i_deploy as m

CAPTIONS = [
    "a red circle",
    "a blue square",
    "a green triangle above a red square",
    "two yellow circles",
    "three blue crosses",
    "an orange square left of a purple circle",
]


def main(folder: Path, query: str) -> None:
    bundle = m.Bundle.open(folder)
    with m.open_runtime(bundle) as runtime:
        # One vector of length 1 for each text: float32 [texts, width].
        index = m.embed(bundle, runtime, CAPTIONS).pooled()
        vector = m.embed(bundle, runtime, query).pooled()[0]
    similarity = index @ vector
    print(f"nearest to {query!r}:")
    for place in np.argsort(-similarity)[:3]:
        print(f"  {similarity[place]:.3f}  {CAPTIONS[place]}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        Path(arguments[0]) if arguments else m.ready_bundle("demo"),
        arguments[1] if len(arguments) > 1 else "a red square",
    )
