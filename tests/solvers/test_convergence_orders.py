"""Order of convergence on flows of this family whose solution is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minit2i_deploy.solvers.row import advance
from minit2i_deploy.solvers.table import solver_table

Array = np.ndarray[Any, np.dtype[Any]]
NOISE_SCALE = 2.0
START = np.linspace(-3.9, 4.1, 9).reshape(1, 3, 1, 3)


class MixtureFlow:
    """The flow of data that is an equal mixture of Gaussians: everything about it is explicit."""

    def __init__(self, means: list[float], deviation: float) -> None:
        self.means, self.deviation = means, deviation

    def _posterior(self, x: Array, t: float) -> tuple[Array, float]:
        variance = (t * self.deviation) ** 2 + ((1.0 - t) * NOISE_SCALE) ** 2
        logits = np.stack([-((x - t * mean) ** 2) / (2.0 * variance) for mean in self.means])
        weights = np.exp(logits - logits.max(axis=0))
        return weights / weights.sum(axis=0), variance

    def _expectation(self, x: Array, t: float, slope: float) -> Array:
        weights, variance = self._posterior(x, t)
        parts = [mean + slope / variance * (x - t * mean) for mean in self.means]
        return np.asarray((weights * np.stack(parts)).sum(axis=0))

    def estimate(self, x: Array, t: float) -> Array:
        """The expected clean image, which is what a perfect network would return."""
        return self._expectation(x, t, t * self.deviation**2)

    def velocity(self, x: Array, t: float) -> Array:
        """The expected data minus noise, without a division by 1 - t."""
        return self._expectation(x, t, t * self.deviation**2 - (1.0 - t) * NOISE_SCALE**2)

    def solution(self, x: Array, steps: int = 1000) -> Array:
        """Classical Runge-Kutta of order 4; 1000 and 2000 steps differ by 1.4e-12."""
        dt = 1.0 / steps
        for t in np.arange(steps) * dt:
            one = self.velocity(x, t)
            two = self.velocity(x + 0.5 * dt * one, t + 0.5 * dt)
            three = self.velocity(x + 0.5 * dt * two, t + 0.5 * dt)
            four = self.velocity(x + dt * three, t + dt)
            x = x + dt / 6.0 * (one + 2.0 * two + 2.0 * three + four)
        return x


GAUSSIAN = MixtureFlow([0.4], 0.5)
MIXTURE = MixtureFlow([-0.6, 0.5], 0.3)


def errors(flow: MixtureFlow, solver: str, counts: list[int], **grid: Any) -> list[float]:
    expected = flow.solution(START)
    actual = []
    for steps in counts:
        # A floor below every step: the flow itself is solved, not the reference's.
        a_min = None if solver == "dpmpp2m" else 1e-6
        table = solver_table(solver, steps=steps, a_min=a_min, **grid)
        x, h = START, np.zeros_like(START)
        for row in table.steps(dtype=np.float64):
            x, h = advance(x, h, flow.estimate(x, row.t)[None], row.weights, row.values)
        actual.append(float(np.abs(x - expected).max()))
    return actual


def order(actual: list[float], counts: list[int]) -> float:
    return float(-np.polyfit(np.log(counts), np.log(actual), 1)[0])


def test_the_reference_solution_is_the_known_one() -> None:
    # One Gaussian moves affinely: from N(0, 2^2) to N(0.4, 0.5^2). Measured 2.3e-13.
    expected = 0.4 + 0.5 / NOISE_SCALE * START
    np.testing.assert_allclose(GAUSSIAN.solution(START), expected, atol=1e-11)
    x, t = START, 0.3
    v = (MIXTURE.estimate(x, t) - x) / (1.0 - t)
    np.testing.assert_allclose(MIXTURE.velocity(x, t), v, atol=1e-13)


# Measured, Gaussian and mixture: euler 0.99 0.98, heun 2.02 2.02, ab2 2.03 2.01.
@pytest.mark.parametrize(("solver", "expected"), [("euler", 1), ("heun", 2), ("ab2", 2)])
@pytest.mark.parametrize("flow", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_order_of_convergence(flow: MixtureFlow, solver: str, expected: int) -> None:
    counts = [40, 80, 160, 320]
    assert abs(order(errors(flow, solver, counts), counts) - expected) < 0.25


# Measured on shift 0.4: euler 0.99, heun 2.01, ab2 2.00.
@pytest.mark.parametrize(("solver", "expected"), [("euler", 1), ("heun", 2), ("ab2", 2)])
def test_order_holds_on_a_shifted_grid(solver: str, expected: int) -> None:
    counts = [40, 80, 160, 320]
    actual = errors(MIXTURE, solver, counts, grid="shifted", shift=0.4)
    assert abs(order(actual, counts) - expected) < 0.25


@pytest.mark.parametrize("flow", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_order_of_dpmpp2m(flow: MixtureFlow) -> None:
    # Lambda is infinite at both ends, so its steps never become small there and the error falls
    # as log(n) / n^2: the slope nears 2 from below. Measured 1.82 and 1.79 on these counts, 1.79
    # and 1.75 on half of each.
    counts = [640, 1280, 2560, 5120]
    actual = errors(flow, "dpmpp2m", counts)
    assert abs(order(actual, counts) - 2) < 0.25
    assert actual[-1] < 1e-5


# Printed in docs/reference/sampling.md; column by column 10, 20 and 40 evaluations, heun one less.
@pytest.mark.parametrize(
    ("solver", "counts", "expected"),
    [
        ("euler", [10, 20, 40], [0.167, 0.088, 0.0454]),
        ("heun", [5, 10, 20], [0.241, 0.0861, 0.0228]),
        ("ab2", [10, 20, 40], [0.122, 0.0431, 0.0119]),
        ("dpmpp2m", [10, 20, 40], [0.0997, 0.0272, 0.0062]),
    ],
)
def test_documented_errors_by_evaluations(
    solver: str, counts: list[int], expected: list[float]
) -> None:
    np.testing.assert_allclose(errors(MIXTURE, solver, counts), expected, rtol=0.01)


@pytest.mark.parametrize(("noise_scale", "expected"), [(2.0, 0.263), (1.0, 0.5)])
def test_sde_belongs_to_noise_of_deviation_1(noise_scale: float, expected: float) -> None:
    # Printed in docs/reference/sampling.md. Every row is affine in x, so the variance has a
    # recursion.
    spread = 0.5
    variance = noise_scale**2
    table = solver_table("sde", steps=1000, a_min=0.001)
    for t, a, b, n in zip(*(table.column(name) for name in ("t", "a", "b", "n")), strict=True):
        slope = t * spread**2 / ((t * spread) ** 2 + ((1.0 - t) * noise_scale) ** 2)
        variance = (a + b * slope) ** 2 * variance + n**2
    # Measured 0.2626 and 0.4998.
    assert abs(variance**0.5 - expected) < 1e-3
