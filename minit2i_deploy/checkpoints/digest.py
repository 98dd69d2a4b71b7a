"""Hash of what a checkpoint was read from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from minit2i_deploy.io.files import sha256_file


def sha256_of(files: Sequence[Path], root: Path) -> str:
    """The sha256 of one file; of several, that of the lines ``sha256sum`` prints for them.

    Args:
        files: at least one.
        root: folder that the names in those lines are relative to.
    """
    digests = {file.relative_to(root).as_posix(): sha256_file(file) for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
