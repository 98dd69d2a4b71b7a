"""What tests of several clients share."""

from __future__ import annotations

import pytest

from tests.helpers.cuda_standin.bundles import NETWORKS


@pytest.fixture(params=NETWORKS, ids="-".join)
def network(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Variant and precision of a network on the stand-in for CUDA's libraries."""
    pair: tuple[str, str] = request.param
    return pair
