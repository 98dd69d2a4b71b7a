"""Writes the shipped model and its student as a static folder that runs in the browser.

    python scripts/build_web.py FOLDER

``make web`` runs it; ``minit2i demo --web`` opens the same pages.
"""

from __future__ import annotations

import sys
from pathlib import Path

from minit2i_deploy.demo.ready import default_cache
from minit2i_deploy.demo.web_packages import library_folder
from minit2i_deploy.demo.web_site import ready_site_bundles, write_site


def main() -> None:
    """Write the folder and print its size."""
    folder = Path(sys.argv[1])
    write_site(folder, ready_site_bundles(), library_folder(default_cache()), overwrite=True)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB; serve it with any file server")


if __name__ == "__main__":
    main()
