"""The minit2i command. Errors become one line and an exit code here, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

from minit2i_deploy.cli.support.interrupt import uninterrupted_imports
from minit2i_deploy.cli.support.parser import Invocation, parse
from minit2i_deploy.errors import TrainingInterrupted, UsageError

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: arguments after the program's name; None takes this process's.

    Returns:
        exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted, 143 training ended by SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with uninterrupted_imports():
            return _main(arguments)
    except TrainingInterrupted as error:
        sys.stderr.write(f"minit2i: interrupted: {_one_line(str(error))}\n")
        # As a shell counts signals.
        return 128 + error.signal_number
    except KeyboardInterrupt as error:
        # A command that can resume says where the work so far is.
        text = f": {_one_line(str(error))}" if str(error) else ""
        sys.stderr.write(f"minit2i: interrupted{text}\n")
        return INTERRUPTED


def _main(arguments: Sequence[str]) -> int:
    try:
        invocation = parse(arguments)
    except UsageError as error:
        return _report(error, WRONG_USE, debug=False)
    except Exception as error:
        # The arguments alone may need numpy, and its import memory.
        return _report_failure(error, "cpu", debug="--debug" in arguments)
    except SystemExit:
        # argparse has printed the help or the version.
        try:
            return _finish(lambda: None)
        except OSError as error:
            return _report_failure(error, "", debug=False)
    with warnings.catch_warnings():
        warnings.showwarning = _warner(invocation.debug)
        return _run(invocation)


def _run(invocation: Invocation) -> int:
    try:
        # A prompt may hold letters that the terminal's encoding lacks.
        with contextlib.suppress(AttributeError):
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        return _finish(lambda: invocation.run(invocation.options))
    except UsageError as error:
        return _report(error, WRONG_USE, debug=invocation.debug)
    except Exception as error:
        return _report_failure(error, invocation.extra, debug=invocation.debug)


def _finish(work: Callable[[], None]) -> int:
    """Do the work and flush; a reader may close the pipe early, as head does."""
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at exit, which must not print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return DONE


def _report_failure(error: Exception, extra: str, *, debug: bool) -> int:
    try:
        from minit2i_deploy.cli.support.error_text import explained

        failure: Exception = explained(error, extra)
    except MemoryError:
        # Too little is left even for that import.
        failure = MemoryError("out of memory; close other programs or use a smaller batch")
    return _report(failure, FAILED, debug=debug)


def _report(error: Exception, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    sys.stderr.write(f"minit2i: error: {_one_line(str(error))}\n")
    return code


def _warner(debug: bool) -> Callable[..., None]:
    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        # Libraries warn their programmers, not this program's users.
        if category.__module__.partition(".")[0] == "minit2i_deploy":
            sys.stderr.write(f"minit2i: warning: {_one_line(str(message))}\n")
        elif debug:
            sys.stderr.write(f"{filename}:{lineno}: {category.__name__}: {message}\n")

    return show


def _one_line(text: str) -> str:
    return " ".join(part for line in text.splitlines() if (part := line.strip()))
