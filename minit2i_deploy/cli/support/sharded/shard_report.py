"""The report of minit2i data check, for programs and for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from minit2i_deploy.cli.support.formatting import columns, size

if TYPE_CHECKING:
    from minit2i_deploy.training.data.check import DataReport


def report_values(report: DataReport) -> dict[str, Any]:
    """The report for programs."""
    seconds = max(report.seconds, 1e-9)
    return {
        "shards": len(report.shards),
        "empty": report.empty,
        "damaged": report.corrupt,
        "samples": report.num_samples,
        "bytes": report.num_bytes,
        "seconds": report.seconds,
        "bytes_per_s": report.num_bytes / seconds,
        "samples_per_s": report.num_samples / seconds,
        "files": dict(sorted(report.suffixes.items())),
        "bad": dict(report.bad),
        "examples": report.examples,
        "duplicate_keys": report.duplicates,
        "duplicate_examples": report.duplicate_examples,
        "unused_captions": report.unused_captions,
        "truncated": report.truncated if len(report.tokens) else None,
        "embedded": [dict(item) for item in report.embedded],
        **{key: _quantiles(values) for key, _, values in _figures(report)},
    }


def report_text(report: DataReport) -> str:
    """The report for people."""
    seconds = max(report.seconds, 1e-9)
    speed = (
        f"{report.num_samples / seconds:.0f} samples and {size(int(report.num_bytes / seconds))}"
    )
    place = f"{len(report.shards)} shards" if report.folder is None else report.folder
    what = f"{report.num_samples} samples in {place}, {size(report.num_bytes)}"
    lines = [f"{what}; read at {speed} a second"]
    files = ", ".join(f"{count} .{suffix}" for suffix, count in sorted(report.suffixes.items()))
    lines += [f"files: {files}"] if files else []
    rows = [
        (name, *(f"{quantiles[key]:.4g}" for key in ("lowest", "median", "highest")))
        for _, name, values in _figures(report)
        if (quantiles := _quantiles(values)) is not None
    ]
    if rows:
        lines += ["", columns(rows, head=("of good samples", "lowest", "median", "highest")), ""]
    lines += [*_notes(report), *_bad(report)]
    return "\n".join(lines)


def _figures(report: DataReport) -> Iterator[tuple[str, str, Sequence[float]]]:
    yield "short_side", "short side, pixels", report.short_sides
    yield "aspect", "width / height", report.aspects
    yield "caption_characters", "caption, characters", report.characters
    yield "caption_tokens", "caption, tokens", report.tokens


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    from minit2i_deploy.training.data.check import Quantiles

    quantiles = Quantiles.of(values)
    return None if quantiles is None else dataclasses.asdict(quantiles)


def _notes(report: DataReport) -> Iterator[str]:
    if len(report.tokens):
        share = report.truncated / len(report.tokens)
        yield f"{report.truncated} captions ({share:.1%}) are longer than the model takes"
    for item in report.embedded:
        digest = str(item.get("encoder_sha256"))[:12]
        yield (
            f"embedded as {item.get('dtype')} with {item.get('prompt_length')} tokens at most by "
            f"the encoder {digest}"
        )
    for name in report.empty:
        yield f"{name}: no sample in it"
    for reason in report.corrupt.values():
        yield f"corrupt: {reason}"
    if report.unused_captions:
        names = report.unused_captions
        yield f"{len(names)} captions belong to no image, such as {names[0]}"
    if report.duplicates:
        yield f"{report.duplicates} duplicate keys: {', '.join(report.duplicate_examples)}"


def _bad(report: DataReport) -> Iterator[str]:
    yield f"{report.num_bad} bad samples" if report.num_bad else "no bad samples"
    for reason, count in report.bad.most_common():
        yield f"  {count}  {reason}, such as"
        yield from (f"      {example}" for example in report.examples[reason])
