"""Whether a bundle and an engine belong together: its graphs' operators, and the open runtime."""

from __future__ import annotations

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.protocol import Runtime


def require_engine_fits(bundle: Bundle, engine: str) -> None:
    """Refuse a bundle whose graphs have operators of another engine.

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


def require_same_bundle(bundle: Bundle, runtime: Runtime) -> None:
    """Refuse a runtime of another bundle, and a closed one.

    A bundle is identified by its folder, and a copy elsewhere by its digest. A runtime from
    outside may have no ``bundle`` and no ``is_open``; it is then accepted.

    Raises:
        UsageError: the runtime was opened on another bundle.
        RuntimeFailure: the runtime is closed.
    """
    if not getattr(runtime, "is_open", True):
        raise RuntimeFailure(f"runtime {runtime.name} is closed; open it again")
    opened = getattr(runtime, "bundle", None)
    if not isinstance(opened, Bundle):
        return
    # A copy elsewhere has the same digest, and a folder that was rewritten the same path.
    if opened.path != bundle.path and opened.digest != bundle.digest:
        raise UsageError(
            f"the bundle is {bundle.path}, but the runtime was opened on {opened.path}; use the "
            "runtime of this bundle"
        )
