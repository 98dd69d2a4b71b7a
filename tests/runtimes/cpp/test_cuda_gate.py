"""What keeps other calls away from CUDA while the C++ client records a graph."""

from __future__ import annotations

import pytest

from tests.helpers.cpp_client import program

pytestmark = pytest.mark.cpp


def test_a_recording_gets_in_between_calls_that_overlap() -> None:
    """std::shared_mutex alone kept it out for as long as three threads took turns."""
    assert int(program("cuda_gate")) >= 2
