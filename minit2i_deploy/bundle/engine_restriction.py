"""Bundles whose graphs hold operators of one engine's own, which no other engine runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from minit2i_deploy.errors import RuntimeFailure

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle

# Providers of ONNX Runtime, by our names.
ENGINES: Final = ("cpu",)


def check_only_for(name: str | None) -> None:
    """Check what a manifest says of it; None is every engine.

    Raises:
        ValueError: no engine that bundles are made for.
    """
    if name is not None and name not in ENGINES:
        raise ValueError(f"only_for is {name!r}, but one of {', '.join(ENGINES)} is needed")


def require_engine_fits(bundle: Bundle, engine: str) -> None:
    """Refuse a bundle that was exported for another engine alone.

    Args:
        bundle: an open bundle.
        engine: name of a provider of ONNX Runtime, or of another runtime.

    Raises:
        RuntimeFailure: its graphs have operators that this engine lacks.
    """
    only = bundle.manifest.only_for
    if only is not None and engine != only:
        raise RuntimeFailure(
            f"{bundle.path}: is for provider {only} of onnxruntime alone (export --for {only}), so "
            f"{engine} cannot run it; export the checkpoint again without --for"
        )
