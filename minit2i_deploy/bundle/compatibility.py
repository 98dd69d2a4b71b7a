"""A bundle and the runtime that is to run it: refused where the two do not belong together."""

from __future__ import annotations

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.protocol import Runtime


def check_pair(bundle: Bundle, runtime: Runtime) -> None:
    """Refuse a runtime of another bundle, and one that was closed.

    A bundle is known by its folder, and a copy elsewhere by its digest. A runtime from outside
    that does not tell its ``bundle``, or whether it ``is_open``, is taken as it is.

    Raises:
        UsageError: the runtime was opened on another bundle.
        RuntimeFailure: the runtime is closed.
    """
    if not getattr(runtime, "is_open", True):
        raise RuntimeFailure(f"runtime {runtime.name} is closed; open it again")
    own = getattr(runtime, "bundle", None)
    if not isinstance(own, Bundle):
        return
    if own.path != bundle.path and own.digest != bundle.digest:
        raise UsageError(
            f"{bundle.path}: came with a runtime of {own.path}; give the runtime that was opened "
            "on this bundle"
        )
