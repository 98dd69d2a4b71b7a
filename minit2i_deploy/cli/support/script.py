"""The entrance of a script beside the command: the same errors in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from minit2i_deploy.cli import FAILED, INTERRUPTED, WRONG_USE
from minit2i_deploy.errors import Minit2iError, UsageError


def run_script(main: Callable[[], int | None]) -> int:
    """Run a script's own ``main``; what users can mend becomes a line, and faults stay tracebacks.

    Args:
        main: reads ``sys.argv`` and returns the exit code; None counts as 0.

    Returns:
        exit code: that of ``main``, 1 failed, 2 wrong use, 130 interrupted.
    """
    try:
        return main() or 0
    except UsageError as error:
        return _report(str(error), WRONG_USE)
    except (Minit2iError, OSError) as error:
        return _report(str(error), FAILED)
    except subprocess.CalledProcessError as error:
        # It has said why on the same standard error.
        return _report(f"a process of this script ended with code {error.returncode}", FAILED)
    except KeyboardInterrupt:
        return _report("interrupted", INTERRUPTED)


def _report(text: str, code: int) -> int:
    sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {' '.join(text.split())}\n")
    return code
