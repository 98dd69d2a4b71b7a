"""Tables, and starts between and at their rows, for the clients that compile them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from minit2i_deploy.solvers.repeats import Repeats
from minit2i_deploy.solvers.table import Table, solver_table

TABLES: Final[Mapping[str, Table]] = {
    "euler": solver_table("euler", steps=8, interval=(0.2, 0.6)),
    "euler-4e-2": solver_table("euler-4e-2", steps=7),
    "heun": solver_table("heun", steps=7, a_min=0.1),
    "sde": solver_table("sde", steps=6),
    "ab2": solver_table("ab2", steps=9, clip=1.0),
    "dpmpp2m": solver_table("dpmpp2m", steps=11, rescale=0.5),
    "shifted": solver_table("dpmpp2m", steps=12, grid="shifted", shift=2.0),
    "one step": solver_table("euler", steps=1),
    "mean-flow": solver_table("mean-flow", steps=4, omega=5.0),
    "stretch": solver_table(
        "dpmpp2m", steps=8, grid="shifted", shift=2.0, repeats=Repeats(count=4, interval=(0.2, 1))
    ),
    "jumps": solver_table(
        "ab2", steps=9, repeats=Repeats(count=3, jump=2, interval=(0.3, 0.9), noise_scale=1.5)
    ),
}
_ANY: Final = (0.001, 0.125, 0.37, 0.5, 0.81, 0.999)
_ENDS: Final = (0.0, 1.0)


def _row_times(name: str) -> tuple[float, ...]:
    """Of rows that begin a step, up to the first one that goes back."""
    times = TABLES[name].column("t").tolist()
    back = next((i for i in range(1, len(times)) if times[i] < times[i - 1]), len(times))
    return tuple(t for t in sorted(set(times[:back])) if all(t <= later for later in times[back:]))


# Where a client without solvers starts as Python does: at rows, and where one step is a line.
STARTS: Final[Mapping[str, tuple[float, ...]]] = {
    **{name: (*_ENDS, *_row_times(name)) for name in TABLES},
    **{name: (*_ENDS, *_row_times(name), *_ANY) for name in ("euler", "euler-4e-2", "one step")},
    # The last step, and that of AB2 and DPM++(2M) before it, whose successor has no history.
    **{name: (*_ENDS, *_row_times(name), 0.999) for name in ("heun", "shifted")},
    **{name: (*_ENDS, *_row_times(name), 0.83, 0.999) for name in ("ab2", "dpmpp2m")},
}
BETWEEN: Final = "between two of its rows; choose a strength at which a row begins, for example"
REFUSED_STARTS: Final[Mapping[str, tuple[tuple[float, str], ...]]] = {
    "heun": ((0.37, BETWEEN),),
    "sde": ((0.37, BETWEEN), (0.999, BETWEEN)),
    "ab2": ((0.001, BETWEEN), (0.37, BETWEEN)),
    "dpmpp2m": ((0.37, BETWEEN),),
    "shifted": ((0.37, BETWEEN),),
    "mean-flow": ((0.37, BETWEEN),),
    "stretch": ((0.999, "goes back to t = "),),
    "jumps": ((0.001, BETWEEN), (0.999, "goes back to t = ")),
}
