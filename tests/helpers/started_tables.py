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
_ANY: Final = (0.0, 0.001, 0.125, 0.37, 0.4999999999, 0.5, 0.81, 0.999, 1.0)
STARTS: Final[Mapping[str, tuple[float, ...]]] = {
    **dict.fromkeys(TABLES, _ANY),
    "mean-flow": (0.0, 0.25, 0.5, 0.75, 1.0),
    "jumps": (0.0, 0.125, 0.37, 0.5, 1.0),
}
