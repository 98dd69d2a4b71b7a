"""What a step costs on provider cuda: launches, copies and waits, counted on the stand-in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.bundle.bundle import Bundle
from tests.helpers.cuda_standin.events import Event, captures, count, sections
from tests.helpers.cuda_standin.standin import ROOT, Run, cpp_environment, run

_PROGRAM: Final = Path(__file__).with_name("image_run.py")
_CPP_PROGRAM: Final = Path(__file__).with_name("cpp_image_run.py")
_ATTENTION: Final = re.compile("flash_fwd|cudnnBackendExecute|attention_kernel|fmha")
# From 9.0 on, the provider's own attention is cuDNN's.
FUSED: Final = ("flash_fwd", "cudnnBackendExecute")
_HOST_TO_DEVICE: Final = "host-to-device"
_CAPABILITY: Final = 90
_PAGE: Final = ROOT / "docs" / "measurements" / "nvidia_launches.md"
_LAUNCHES: Final = ("launch", "product")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCensus:
    """One guided step of a network.

    Args:
        blocks: double blocks of the network.
        kernels: of the step, without products.
        products: of the step.
        per_block: kernels and products of each block that is neither the first nor the last.
        copies_per_block: copies from the host in each such block.
        flash: attention kernels of the step that are flash attention, or cuDNN's.
        graph_copies: copies from the host within the graph of the step.
    """

    blocks: int
    kernels: int
    products: int
    per_block: int
    copies_per_block: int
    flash: int
    graph_copies: int

    @property
    def launches(self) -> int:
        """Kernels and products of a step."""
        return self.kernels + self.products

    def launches_of(self, blocks: int) -> int:
        """Launches of the same network with another number of blocks."""
        return self.launches + (blocks - self.blocks) * self.per_block

    def graph_copies_of(self, blocks: int) -> int:
        """Copies from the host within a step of the same network with another number of blocks."""
        return self.graph_copies + (blocks - self.blocks) * self.copies_per_block

    def to_dict(self) -> dict[str, int]:
        """All figures by name."""
        return {**asdict(self), "launches": self.launches}


@dataclass(frozen=True, kw_only=True, slots=True)
class Census(StepCensus):
    """A guided step in Python, and the rows of an image after all graphs are recorded.

    Args:
        rows: of an image.
        row_copies: copies from the host in all rows of an image, besides those within graphs.
        image_waits: times that the host waits for the device in all rows of an image.
    """

    rows: int
    row_copies: int
    image_waits: int

    def image_copies_of(self, blocks: int) -> int:
        """Copies from the host in all rows of an image, those within graphs included."""
        return self.row_copies + self.rows * self.graph_copies_of(blocks)


@dataclass(frozen=True, kw_only=True, slots=True)
class CppCensus(StepCensus):
    """A guided step of the C++ client, and its third image of some rows, graphs being recorded.

    Args:
        start_copies: copies from the host of an image before its second row: prompt, start, table.
        row_copies: copies from the host in the rows after the first, besides those within graphs.
        row_waits: times that the host waits in those, the reading of the result included.
    """

    start_copies: int
    row_copies: int
    row_waits: int


def image_run(
    bundle: Path,
    *,
    rows: int,
    turns: bool | str = False,
    images: int = 3,
    fail_malloc: int = 0,
    **options: Any,
) -> Run:
    """Images of a bundle on the stand-in.

    Args:
        bundle: its folder.
        rows: rows of each image.
        turns: as in ``image_run.guided_rows``.
        images: one after the other, in one process.
        fail_malloc: number of the allocation that fails, counted from 1; 0: none.
        options: of ``OnnxRuntime``.
    """
    plan = {"rows": rows, "turns": turns, "images": images}
    settings = {"cuda_graph": "on", **options, "image": plan}
    return run(
        _PROGRAM,
        bundle,
        json.dumps(settings),
        capability=_CAPABILITY,
        fail_malloc=fail_malloc,
    )


def cpp_image_run(
    bundle: Path,
    *,
    rows: int,
    turns: bool | str = False,
    images: int = 3,
    fail_malloc: int = 0,
    **options: str,
) -> Run:
    """Images by the C++ client; arguments as in ``image_run``, options of its model."""
    model = {"cuda_graph": "on", **options}
    plan = {"rows": rows, "turns": turns, "images": images, "model": model}
    return run(
        _CPP_PROGRAM,
        bundle,
        json.dumps(plan),
        variables=cpp_environment,
        capability=_CAPABILITY,
        fail_malloc=fail_malloc,
    )


def take_census(bundle: Path, *, rows: int = 20) -> Census:
    """Count what a guided step of a bundle costs with CUDA graphs."""
    # The first image checks its graphs, the second records one for each row.
    done = image_run(bundle, rows=rows)
    last_image = count(rows_of(done.events, image=2))
    return Census(
        **_step(bundle, done),
        rows=rows,
        row_copies=last_image.copies.get(_HOST_TO_DEVICE, 0),
        image_waits=last_image.waits,
    )


def cpp_census(bundle: Path, done: Run) -> CppCensus:
    """Count what a run of ``cpp_image_run`` with three images of a bundle cost."""
    start = count(sections(done.events)["start 2"])
    rows = count(rows_of(done.events, image=2))
    return CppCensus(
        **_step(bundle, done),
        start_copies=start.copies.get(_HOST_TO_DEVICE, 0),
        row_copies=rows.copies.get(_HOST_TO_DEVICE, 0),
        row_waits=rows.waits,
    )


def _step(bundle: Path, done: Run) -> dict[str, int]:
    """The fields of ``StepCensus``."""
    assert done.code == 0, done.err[-4000:]
    step = captures(done.events)[0]
    totals = count(step)
    block = _one_block(step)
    return {
        "blocks": Bundle.open(bundle).config.depth_double,
        "kernels": totals.launches - totals.products,
        "products": totals.products,
        "per_block": sum(event.kind in _LAUNCHES for event in block),
        "copies_per_block": sum(event.fields.get("kind") == _HOST_TO_DEVICE for event in block),
        "flash": sum(map(totals.kernels_with, FUSED)),
        "graph_copies": totals.copies.get(_HOST_TO_DEVICE, 0),
    }


def rows_of(events: Sequence[Event], image: int) -> list[Event]:
    """Events in the rows of one image; not those of its start, nor of reading its result."""
    parts = sections(events)
    return [event for mark in parts if mark.startswith(f"image {image} ") for event in parts[mark]]


def _one_block(step: Sequence[Event]) -> Sequence[Event]:
    """Events from the first attention to the second; none where there is only one.

    The last block is smaller, because it computes no text that nobody reads.
    """
    places = [
        i
        for i, event in enumerate(step)
        if event.kind == "launch" and _ATTENTION.search(event.name)
    ]
    return step[places[0] : places[1]] if len(places) > 1 else []


def documented(num_figures: int) -> dict[tuple[str, str], tuple[int, ...]]:
    """The page's table with so many figures in a line, by variant and precision."""
    pattern = r"^\| (\S+-\d+) (\S+)" + num_figures * r" \| (\d+)" + r" \|$"
    return {
        (variant, precision): tuple(map(int, figures))
        for variant, precision, *figures in re.findall(
            pattern, _PAGE.read_text("utf-8"), re.MULTILINE
        )
    }
