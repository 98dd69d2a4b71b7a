"""A file of texts to a file of embeddings: window by window, in bounded memory, resumable."""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import Minit2iError, PromptTruncatedWarning, UsageError
from minit2i_deploy.io.files import atomic_write_text
from minit2i_deploy.text.embed import WINDOW
from minit2i_deploy.text.embedding_files import Contents, Sizes, write_parts
from minit2i_deploy.text.embedding_parts import Part, pool
from minit2i_deploy.text.encoder import SequenceEncoder
from minit2i_deploy.text.text_lines import Line, TextSource

PROGRESS_FILE: Final = "progress.json"
# Of the lines that were left out or cut, so many are told; all are counted.
MAX_REPORTED: Final = 20
_VERSION: Final = 1


@dataclass(kw_only=True, slots=True)
class JobState:
    """How far a job is; what the progress file holds.

    Args:
        job: what must be the same for the job to go on.
        num_lines, num_bytes, sha256: of what has been read of the texts.
        num_parts, num_texts: of what has been written.
        longest: tokens of the longest text so far.
        width: of a token; 0 before the first part.
        num_skipped: lines that hold no text.
        skipped: number and problem of the first of them.
        num_cut: texts that were longer than the model takes.
    """

    job: dict[str, Any]
    num_lines: int = 0
    num_bytes: int = 0
    sha256: str = ""
    num_parts: int = 0
    num_texts: int = 0
    longest: int = 0
    width: int = 0
    num_skipped: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)
    num_cut: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a finished job did.

    Args:
        shapes: names and shapes of what was written.
        num_texts: rows written.
        num_resumed: rows that an earlier, interrupted run had left.
        num_skipped: lines that hold no text.
        skipped: number and problem of the first MAX_REPORTED of them.
        num_cut: texts that were longer than the model takes.
    """

    shapes: dict[str, list[int]]
    num_texts: int
    num_resumed: int
    num_skipped: int
    skipped: tuple[tuple[int, str], ...]
    num_cut: int


def parts_folder(target: Path) -> Path:
    """Where the parts of an unfinished file stand: beside it, removed at the end."""
    return target.with_name(f"{target.name}.parts")


def embed_lines(
    encoder: SequenceEncoder,
    source: TextSource,
    target: Path,
    contents: Contents,
    *,
    job: dict[str, Any],
    resumable: bool,
    window: int = WINDOW,
    on_part: Callable[[JobState], None] | None = None,
) -> Report:
    """Embed every text of a source and write one file; lines without a text are left out.

    Args:
        encoder: encodes; its cache lasts for the whole job.
        source: at its start.
        target: file to write, of a suffix in ``embed_output.SUFFIXES``.
        contents: what the file is to hold.
        job: plain values that say what is embedded and how. Rows of an interrupted run are taken
            up if its values were the same and the source begins with what that run had read.
        resumable: keep the rows when this run is interrupted.
        window: texts that are sorted by length, encoded and kept together.
        on_part: called after each window.

    Raises:
        UsageError: all lines are blank, the rows of another job stand there, or the folder may
            not be written.
        Minit2iError: lines came and none holds a text, or the disk failed or is full.
        RuntimeFailure: the engine failed.
    """
    if window < 1:
        raise UsageError(f"window {window} came; at least 1 is needed")
    folder = parts_folder(target)
    progress = _open(folder, {**job, **asdict(contents), "version": _VERSION}, resumable)
    _take_up(folder, source, progress)
    num_resumed = progress.num_texts
    try:
        lines = iter(source)
        while items := list(itertools.islice(lines, window)):
            _add_part(encoder, folder, items, source, progress, contents)
            if on_part is not None:
                on_part(progress)
        # Blank lines after the last window count as well.
        progress.num_lines = source.num_lines
        shapes = _finish(folder, target, progress, contents)
    except BaseException:
        if not resumable:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return Report(
        shapes=shapes,
        num_texts=progress.num_texts,
        num_resumed=num_resumed,
        num_skipped=progress.num_skipped,
        skipped=tuple(progress.skipped),
        num_cut=progress.num_cut,
    )


def make_part(
    encoder: SequenceEncoder, items: Sequence[Line], contents: Contents
) -> tuple[Part, list[tuple[int, str]]]:
    """Encode lines that hold texts.

    Returns:
        the part, and number and notice of every text that was cut.
    """
    texts = [item.text or "" for item in items]
    encoded = encoder.tokenizer.encode(texts)
    rows: list[np.ndarray | None] = [None] * len(encoded)
    pooled: list[np.ndarray | None] = [None] * len(encoded)
    for position, row in encoder.rows(encoded):
        rows[position] = row if contents.tokens else row[:0]
        pooled[position] = pool(row) if contents.pooled else None
    part = Part(
        tokens=np.concatenate([row for row in rows if row is not None]),
        lengths=np.array([len(item.ids) for item in encoded], dtype=np.int64),
        lines=np.array([item.number for item in items], dtype=np.int64),
        pooled=np.stack([p for p in pooled if p is not None]) if contents.pooled else None,
        texts=texts,
    )
    pairs = zip(items, encoded, strict=True)
    return part, [(item.number, e.notice) for item, e in pairs if e.notice is not None]


def _open(folder: Path, job: dict[str, Any], resumable: bool) -> JobState:
    """The progress of the same job that was interrupted, or of a new one."""
    path = folder / PROGRESS_FILE
    if folder.exists():
        found = _read_progress(path)
        differing = sorted(k for k in {*job, *found.job} if job.get(k) != found.job.get(k))
        if differing:
            raise UsageError(
                f"{folder}: holds rows of another run (other {', '.join(differing)}); delete it "
                "or write to another file"
            )
        if resumable:
            return found
        # What a kill left of a run that could not be gone on with.
        shutil.rmtree(folder)
    progress = JobState(job=job)
    try:
        folder.mkdir()
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made ({error.strerror}); name a folder you can write"
        ) from error
    _write_progress(folder, progress)
    return progress


def _read_progress(path: Path) -> JobState:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        skipped = [(int(line), str(problem)) for line, problem in values.pop("skipped")]
        return JobState(**values, skipped=skipped)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: cannot be read, so what stands there cannot be gone on with; delete "
            f"{path.parent} or write to another file"
        ) from error


def _write_progress(folder: Path, progress: JobState) -> None:
    atomic_write_text(folder / PROGRESS_FILE, json.dumps(asdict(progress), indent=2) + "\n")


def _take_up(folder: Path, source: TextSource, progress: JobState) -> None:
    if not progress.num_lines:
        return
    if not source.skip(progress.num_lines) or source.sha256 != progress.sha256:
        raise UsageError(
            f"{folder}: holds rows of an earlier run, but the first {progress.num_lines} lines of "
            "the texts have changed since; delete it or write to another file"
        )


def _add_part(
    encoder: SequenceEncoder,
    folder: Path,
    items: Sequence[Line],
    source: TextSource,
    progress: JobState,
    contents: Contents,
) -> None:
    good = [item for item in items if item.text is not None]
    bad = [(item.number, item.problem or "") for item in items if item.text is None]
    progress.num_skipped += len(bad)
    progress.skipped += bad[: max(0, MAX_REPORTED - len(progress.skipped))]
    if good:
        part, cut = make_part(encoder, good, contents)
        part.save(folder / _part_name(progress.num_parts))
        _warn_of_cuts(cut, progress.num_cut)
        progress.num_cut += len(cut)
        progress.num_parts += 1
        progress.num_texts += len(part)
        progress.longest = max(progress.longest, int(part.lengths.max()))
        progress.width = part.tokens.shape[1]
    progress.num_lines, progress.num_bytes = source.num_lines, source.num_bytes
    progress.sha256 = source.sha256
    # Last, so that a part counts only once all of it is on disk.
    _write_progress(folder, progress)


def _warn_of_cuts(cut: Sequence[tuple[int, str]], num_before: int) -> None:
    for line, notice in cut[: max(0, MAX_REPORTED - num_before)]:
        warnings.warn(f"line {line}: {notice}", PromptTruncatedWarning, stacklevel=2)


def _finish(
    folder: Path, target: Path, progress: JobState, contents: Contents
) -> dict[str, list[int]]:
    if not progress.num_parts:
        shutil.rmtree(folder, ignore_errors=True)
        raise _nothing(progress)

    def parts() -> Iterator[Part]:
        for index in range(progress.num_parts):
            yield Part.load(folder / _part_name(index))

    sizes = Sizes(num_texts=progress.num_texts, longest=progress.longest, width=progress.width)
    return write_parts(target, parts, sizes, contents)


def _nothing(progress: JobState) -> Minit2iError:
    if not progress.skipped:
        return UsageError(
            f"no text came in {progress.num_lines} lines; write one a line; nothing was written"
        )
    number, problem = progress.skipped[0]
    return Minit2iError(
        f"no text came in {progress.num_lines} lines; line {number}: {problem}; mend the lines; "
        "nothing was written"
    )


def _part_name(index: int) -> str:
    return f"part-{index:06d}.npz"
