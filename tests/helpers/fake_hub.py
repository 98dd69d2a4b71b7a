"""A stand-in for the hub's library, whose repositories are folders on disk."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.checkpoint_forms import PUBLIC, hub_folder

COMMITS = {"main": "a" * 40, "v2": "b" * 40, "a" * 40: "a" * 40, "b" * 40: "b" * 40}
T5_FILES = ("config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin", "README.md")


class RevisionNotFoundError(OSError):
    """Named as the hub's own."""


class GatedRepoError(OSError):
    """Named as the hub's own."""


@dataclass
class FakeHub:
    """Repositories as folders on disk.

    Args:
        repositories: name -> folder.
        calls: what the library was asked for.
        fails: raised by a listing; by a file if ``only_files``.
        only_files: listings do not fail.
        gives_up_quietly: files are not written, and nothing is raised.
    """

    repositories: dict[str, Path]
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    fails: BaseException | None = None
    only_files: bool = False
    gives_up_quietly: bool = False

    def HfApi(self) -> FakeHub:
        return self

    def model_info(self, repository: str, revision: str | None) -> Any:
        self.calls.append(("info", repository, revision))
        if self.fails is not None and not self.only_files:
            raise self.fails
        if (revision or "main") not in COMMITS:
            raise RevisionNotFoundError("404")
        root = self.repositories[repository]
        names = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
        return SimpleNamespace(
            sha=COMMITS[revision or "main"],
            siblings=[SimpleNamespace(rfilename=name) for name in names],
        )

    def hf_hub_download(
        self, repository: str, filename: str, *, revision: str, local_dir: Path
    ) -> str:
        self.calls.append(("download", repository, revision, filename))
        if self.fails is not None:
            raise self.fails
        target = local_dir / filename
        if not self.gives_up_quietly:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.repositories[repository] / filename, target)
        return str(target)


def make_hub(root: Path) -> FakeHub:
    """A hub with small files under the names of the releases."""
    for name in ("minit2i-b-16", "minit2i-l-16"):
        shutil.copytree(hub_folder(), root / "release" / name / "transformer")
    (root / "release" / "README.md").write_text("x")
    shutil.copytree(PUBLIC / "mf_jax_orbax", root / "student")
    (root / "student" / "README.md").write_text("x")
    (root / "t5").mkdir()
    for name in T5_FILES:
        (root / "t5" / name).write_text("{}")
    return open_hub(root)


def open_hub(root: Path) -> FakeHub:
    """The hub that ``make_hub`` wrote."""
    return FakeHub(
        {
            "MiniT2I/MiniT2I": root / "release",
            "MiniT2I/MiniT2I-B-16-MF-jax": root / "student",
            "google/flan-t5-large": root / "t5",
        }
    )


def install(patch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    """Let the package find the stand-in in place of huggingface_hub."""
    logging = SimpleNamespace(get_verbosity=lambda: 30, set_verbosity=lambda level: None)
    logging.set_verbosity_error = lambda: None
    utils: Any = SimpleNamespace(disable_progress_bars=lambda: None, logging=logging)
    modules: dict[str, Any] = {"huggingface_hub": hub, "huggingface_hub.utils": utils}
    for name, module in modules.items():
        patch.setitem(sys.modules, name, module)
