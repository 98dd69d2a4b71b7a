"""`Contender`: a bundle on a runtime, and which properties two of them must share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.protocol import Runtime


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contender:
    """A bundle on an open runtime.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        engine: name of the engine and its settings, for reports.
    """

    bundle: Bundle
    runtime: Runtime
    engine: str

    def to_dict(self) -> dict[str, Any]:
        """Description, ready for JSON."""
        manifest = self.bundle.manifest
        switch = manifest.switch
        return {
            "path": str(self.bundle.path),
            "digest": self.bundle.digest,
            "engine": self.engine,
            "checkpoint_sha256": manifest.provenance.checkpoint_sha256,
            "precisions": {name: graph.precision for name, graph in manifest.graphs.items()},
            "late": None
            if switch is None
            else {"t": switch.t, "precision": switch.graph.precision},
            "bytes": graph_bytes(self.bundle),
        }


# Property that must be equal -> how to read it from a bundle.
_EQUAL: Final[dict[str, Callable[[Bundle], object]]] = {
    "image size": lambda bundle: bundle.config.size_text,
    "kind": lambda bundle: "base model" if bundle.config.student is None else "few-step student",
    "prompt length": lambda bundle: bundle.config.prompt_length,
    "tokenizer": lambda bundle: _tokenizer_digest(bundle),
    "noise": lambda bundle: (bundle.manifest.noise.generator, bundle.manifest.noise.scale),
}


def check_comparable(a: Bundle, b: Bundle) -> None:
    """Refuse two bundles that cannot generate the same prompts from the same noise by one table.

    Raises:
        UsageError: names the first thing that differs.
    """
    for what, read in _EQUAL.items():
        first, second = read(a), read(b)
        if first != second:
            raise UsageError(
                f"{b.path}: {what} is {second}, but {a.path} has {first}; compare bundles with the"
                f" same {what}"
            )


def graph_bytes(bundle: Bundle) -> dict[str, int]:
    """Bytes of each graph's folder, of all other files as ``other``, and their ``total``."""
    files = bundle.manifest.files
    sizes = {}
    graphs = dict(bundle.manifest.graphs)
    if bundle.manifest.switch is not None:
        graphs["late step graph"] = bundle.manifest.switch.graph
    for name, graph in graphs.items():
        folder = graph.path.rpartition("/")[0] + "/"
        sizes[name] = sum(info.bytes for path, info in files.items() if path.startswith(folder))
    total = bundle.manifest.num_bytes
    return sizes | {"other": total - sum(sizes.values()), "total": total}


def _tokenizer_digest(bundle: Bundle) -> str:
    """First digits of the vocabulary's sha256, few enough for a line of text."""
    return bundle.manifest.files[f"{bundle.manifest.tokenizer.path}/tokenizer.json"].sha256[:12]
