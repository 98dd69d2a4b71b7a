"""Export the shipped models and pack them as the ready bundles ``demo`` and ``demo-student``.

Usage: python scripts/pack_demo_bundles.py. Run it after a change of the exported graphs, of the
manifest or of the shipped weights; tests/demo/test_ready.py says when it is due.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from minit2i_deploy.demo.ready import READY, pack_bundle
from minit2i_deploy.demo.shipped import ASSETS, shipped_model
from minit2i_deploy.export import ExportOptions, export_bundle


def main() -> None:
    """Export both models in a temporary folder and write assets/bundles/."""
    models = shipped_model()
    folder = ASSETS / "bundles"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for name, model in READY.items():
            bundle = export_bundle(
                ASSETS / model, Path(work) / name, ExportOptions(text_encoder=models.text_encoder)
            )
            pack_bundle(bundle, name, folder / f"{name}.zip")
            print(f"{folder / name}.zip: {(folder / f'{name}.zip').stat().st_size} bytes")


if __name__ == "__main__":
    main()
