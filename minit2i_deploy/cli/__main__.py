"""``python -m minit2i_deploy.cli`` is the minit2i command."""

from __future__ import annotations

import sys

from minit2i_deploy.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
