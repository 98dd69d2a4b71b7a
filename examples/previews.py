"""An image in the making: one preview for each row of the table, and how to stop early.

    python examples/previews.py [BUNDLE] [FOLDER]

Needs the extra ``cpu``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import minit2i_deploy as m
from minit2i_deploy.io.images import to_pil

PROMPT = "a red circle above a blue square"
EVERY = 5


def main(folder: Path, output: Path) -> None:
    bundle = m.Bundle.open(folder)
    table = m.solver_table("dpmpp2m", steps=20)
    output.mkdir(parents=True, exist_ok=True)
    with m.open_runtime(bundle) as runtime:
        for frame in m.trajectory(bundle, runtime, PROMPT, seed=7, table=table, previews=True):
            # The estimate of the clean image; frame.x() is the noisy state itself.
            if frame.index % EVERY == 0:
                to_pil(frame.estimate())[0].save(output / f"row-{frame.index:02}.png")
            print(f"row {frame.index + 1} of {frame.total}, t = {frame.t:.2f}")
            # Leaving the loop here would cancel the rest: that is all it takes to stop.
        to_pil(frame.x())[0].save(output / "final.png")
    print(f"wrote {output}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        Path(arguments[0]) if arguments else m.ready_bundle("demo"),
        Path(arguments[1] if len(arguments) > 1 else "minit2i-previews"),
    )
