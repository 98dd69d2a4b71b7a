"""Embed a file of texts into a file: window by window, in bounded memory, resumable."""

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
from minit2i_deploy.io.lock import output_lock
from minit2i_deploy.text.embed import WINDOW
from minit2i_deploy.text.embedding_files import Contents, Sizes, write_parts
from minit2i_deploy.text.embedding_parts import Part, pool
from minit2i_deploy.text.encoder import SequenceEncoder
from minit2i_deploy.text.text_lines import Line, TextSource

PROGRESS_FILE: Final = "progress.json"
# Of skipped lines and truncated texts, the first so many are reported; all are counted.
MAX_REPORTED: Final = 20
_VERSION: Final = 1


@dataclass(kw_only=True, slots=True)
class JobState:
    """Progress of a job, as the progress file has it.

    Args:
        job: settings that must be the same to resume it.
        num_lines, num_bytes, sha256: of the part of the texts that has been read.
        num_parts, num_texts: written so far.
        longest: tokens of the longest text so far.
        width: of a token; 0 before the first part.
        num_skipped: lines without a text.
        skipped: number and problem of the first of them.
        num_cut: texts that were truncated.
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
    """The outcome of a finished job.

    Args:
        shapes: names and shapes of the arrays that were written.
        num_texts: texts that were embedded.
        num_resumed: of those, texts of an earlier, interrupted run.
        num_skipped: lines without a text.
        skipped: number and problem of the first MAX_REPORTED of them.
        num_cut: texts that were truncated.
    """

    shapes: dict[str, list[int]]
    num_texts: int
    num_resumed: int
    num_skipped: int
    skipped: tuple[tuple[int, str], ...]
    num_cut: int


def parts_folder(target: Path) -> Path:
    """The folder with the parts of an unfinished file: beside it, removed at the end."""
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
    """Embed every text of a source and write one file; lines without a text are skipped.

    Args:
        encoder: its cache lasts for the job.
        source: at its start.
        target: file to write, of a suffix in ``embedding_files.SUFFIXES``.
        contents: the arrays to write.
        job: plain values that identify the texts and the settings. An interrupted run is resumed
            if its values were the same and the source begins with the lines it had read.
        resumable: whether to keep the parts when this run is interrupted.
        window: number of texts that are sorted by length, encoded and saved together.
        on_part: called after each window.

    Raises:
        UsageError: all lines are blank, the folder has parts of another job, or it is not
            writable.
        Minit2iError: no line has a text, another process is writing this file, or the disk failed
            or is full.
        RuntimeFailure: the engine failed.
    """
    if window < 1:
        raise UsageError(f"window must be at least 1, got {window}")
    with output_lock(target):
        return _embed_locked(encoder, source, target, contents, job, resumable, window, on_part)


def _embed_locked(
    encoder: SequenceEncoder,
    source: TextSource,
    target: Path,
    contents: Contents,
    job: dict[str, Any],
    resumable: bool,
    window: int,
    on_part: Callable[[JobState], None] | None,
) -> Report:
    folder = parts_folder(target)
    progress = _open(folder, {**job, **asdict(contents), "version": _VERSION}, resumable)
    _resume(folder, source, progress)
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
        # Interrupts too: Ctrl-C must not leave parts that nothing will resume.
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
    """Encode lines that have a text.

    Returns:
        the part, and line number and notice of every truncated text.
    """
    texts = [item.text or "" for item in items]
    encoded = encoder.tokenizer.encode(texts)
    sequences: list[np.ndarray | None] = [None] * len(encoded)
    pooled: list[np.ndarray | None] = [None] * len(encoded)
    for position, sequence in encoder.sequences(encoded):
        sequences[position] = sequence if contents.tokens else sequence[:0]
        pooled[position] = pool(sequence) if contents.pooled else None
    part = Part(
        tokens=np.concatenate([sequence for sequence in sequences if sequence is not None]),
        lengths=np.array([len(item.ids) for item in encoded], dtype=np.int64),
        lines=np.array([item.number for item in items], dtype=np.int64),
        pooled=np.stack([p for p in pooled if p is not None]) if contents.pooled else None,
        texts=texts,
    )
    pairs = zip(items, encoded, strict=True)
    return part, [(item.number, e.notice) for item, e in pairs if e.notice is not None]


def _open(folder: Path, job: dict[str, Any], resumable: bool) -> JobState:
    """The state of the same job that was interrupted, or of a new one."""
    path = folder / PROGRESS_FILE
    if folder.exists():
        stored = _read_progress(path)
        differing = sorted(k for k in {*job, *stored.job} if job.get(k) != stored.job.get(k))
        if differing:
            raise UsageError(
                f"{folder}: has parts of another run (different {', '.join(differing)}); delete "
                "it or write to another file"
            )
        if resumable:
            return stored
        # The parts of a killed run that was not resumable.
        shutil.rmtree(folder)
    progress = JobState(job=job)
    try:
        folder.mkdir()
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be created ({error.strerror}); choose a writable folder"
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
            f"{path}: cannot be read, so the run cannot be resumed; delete {path.parent} or write "
            "to another file"
        ) from error


def _write_progress(folder: Path, progress: JobState) -> None:
    atomic_write_text(folder / PROGRESS_FILE, json.dumps(asdict(progress), indent=2) + "\n")


def _resume(folder: Path, source: TextSource, progress: JobState) -> None:
    if not progress.num_lines:
        return
    if not source.skip(progress.num_lines) or source.sha256 != progress.sha256:
        raise UsageError(
            f"{folder}: has parts of an earlier run, but the first {progress.num_lines} lines of "
            "the texts have changed; delete it or write to another file"
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
        _warn_truncated(cut, progress.num_cut)
        progress.num_cut += len(cut)
        progress.num_parts += 1
        progress.num_texts += len(part)
        progress.longest = max(progress.longest, int(part.lengths.max()))
        progress.width = part.tokens.shape[1]
    progress.num_lines, progress.num_bytes = source.num_lines, source.num_bytes
    progress.sha256 = source.sha256
    # Last, so that a part counts only once it is complete on disk.
    _write_progress(folder, progress)


def _warn_truncated(cut: Sequence[tuple[int, str]], num_before: int) -> None:
    for line, notice in cut[: max(0, MAX_REPORTED - num_before)]:
        warnings.warn(f"line {line}: {notice}", PromptTruncatedWarning, stacklevel=2)


def _finish(
    folder: Path, target: Path, progress: JobState, contents: Contents
) -> dict[str, list[int]]:
    if not progress.num_parts:
        shutil.rmtree(folder, ignore_errors=True)
        raise _no_text_error(progress)

    def parts() -> Iterator[Part]:
        for index in range(progress.num_parts):
            yield Part.load(folder / _part_name(index))

    sizes = Sizes(num_texts=progress.num_texts, longest=progress.longest, width=progress.width)
    return write_parts(target, parts, sizes, contents)


def _no_text_error(progress: JobState) -> Minit2iError:
    if not progress.skipped:
        return UsageError(
            f"no text in {progress.num_lines} lines; write one a line; nothing was written"
        )
    number, problem = progress.skipped[0]
    return Minit2iError(
        f"no text in {progress.num_lines} lines; line {number}: {problem}; correct the lines; "
        "nothing was written"
    )


def _part_name(index: int) -> str:
    return f"part-{index:06d}.npz"
