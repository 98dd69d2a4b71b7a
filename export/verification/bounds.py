"""Measured differences against their bounds: over one there is no bundle."""

from __future__ import annotations

from collections.abc import Iterable

from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.errors import VerificationError


def require_within_bounds(checks: Iterable[Check], consequence: str) -> None:
    """Refuse what is over its bound, or is no number at all.

    Args:
        checks: what was measured.
        consequence: last words of the error: what follows from it.

    Raises:
        VerificationError: the first such check.
    """
    for check in checks:
        if not check.measured <= check.bound:
            raise VerificationError(
                f"{check.name}: {check.measured:.3g} {check.unit} but at most {check.bound:.3g} is"
                f" allowed ({check.where}); {consequence}"
            )
