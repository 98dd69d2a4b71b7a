"""``python -m minit2i_deploy`` is the minit2i command, and so is the console script.

Nothing else is imported before Ctrl-C is looked after.
"""

from __future__ import annotations

import signal
import sys

_INTERRUPTED = 130


def main() -> int:
    """Run this process's command line and return its exit code."""
    try:
        from minit2i_deploy.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("minit2i: interrupted\n")
        return _INTERRUPTED
    finally:
        # All is done but the libraries' own farewells, in which Python would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
