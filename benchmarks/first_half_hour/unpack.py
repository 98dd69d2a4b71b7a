"""Join and unpack what gpu_first_pack.py packed; needs Python alone.

    python unpack.py FOLDER

Run it in the folder of the pieces, again whenever more of them have arrived. An archive is unpacked
when all its pieces are there and right.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import sys
import tarfile
from pathlib import Path

PIECES = Path(__file__).resolve().parent


def main(target: Path) -> int:
    """Unpack every complete archive; 1 while some are not complete."""
    missing = 0
    for name, archive in json.loads((PIECES / "pieces.json").read_text()).items():
        done = target / f".{name}.unpacked"
        if done.exists() and done.read_text() == archive["sha256"]:
            continue
        data, problems = _join(archive)
        if problems:
            print(f"{name}: {'; '.join(problems)}")
            missing += 1
            continue
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(data))) as tar:
            tar.extractall(target, filter="tar")
        done.write_text(archive["sha256"])
        print(f"{name}: unpacked")
    return 1 if missing else 0


def _join(archive: dict) -> tuple[bytes, list[str]]:
    parts, problems = [], []
    for piece in archive["pieces"]:
        path = PIECES / piece["name"]
        part = path.read_bytes() if path.exists() else b""
        if not path.exists():
            problems.append(f"{piece['name']} is not here")
        elif hashlib.sha256(part).hexdigest() != piece["sha256"]:
            problems.append(f"{piece['name']} is damaged, copy it again")
        parts.append(part)
    return b"".join(parts), problems


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python unpack.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
