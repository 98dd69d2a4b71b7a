"""A bundle on disk: open it with its sizes checked, verify its hashes, write its manifest."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from minit2i_deploy.bundle.image_sizes import sized_config
from minit2i_deploy.bundle.manifest import ENGINES, FILE_NAME, FileInfo, Manifest
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import BundleError, UsageError
from minit2i_deploy.io.files import atomic_write_bytes, sha256_file
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.solvers.guidance import one_pass_table
from minit2i_deploy.solvers.mean_flow import StudentSettings
from minit2i_deploy.solvers.methods import find_solver
from minit2i_deploy.solvers.repeats import NO_REPEATS, Repeats
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.tokenizer import FILE_NAME as TOKENIZER_FILE
from minit2i_deploy.tokenizer import Tokenizer

# A manifest has some 100 kB. JSON of any size would be parsed into memory before it is checked.
_MAX_MANIFEST_BYTES: Final = 16 * 2**20

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """An opened bundle.

    Args:
        path: its folder, absolute, symbolic links resolved.
        manifest: its manifest.json.
        digest: sha256 of manifest.json's bytes; it identifies the complete bundle, because the
            manifest has the hash of every other file.
        size: width and height of images in place of the manifest's, where those are free; of
            ``at_size``.
    """

    path: Path
    manifest: Manifest
    digest: str
    size: tuple[int, int] | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read the manifest and check that every file exists with its size.

        Raises:
            BundleError: no bundle, an unknown version, a manifest outside the format, or a file
                that is missing, of another size, or outside the folder and the hub's blobs.
        """
        folder = Path(path).resolve()
        data = _read_manifest(folder)
        manifest = Manifest.from_bytes(data, str(folder / FILE_NAME))
        # Sizes only: hashing gigabytes would take seconds at every start. ``verify`` hashes.
        for name, info in manifest.files.items():
            _check_size(folder, name, info)
        return cls(path=folder, manifest=manifest, digest=hashlib.sha256(data).hexdigest())

    def __repr__(self) -> str:
        # The manifest's own is thousands of characters.
        precision = self.manifest.graphs["transformer"].precision
        return f"<Bundle {self.path}, {self.manifest.variant or 'no variant'}, {precision}>"

    @property
    def config(self) -> ModelConfig:
        """Shape of the network, at this size of images."""
        model = self.manifest.model
        return model if self.size is None else model.with_image_size(*self.size)

    def at_size(self, size: tuple[int, int] | None) -> Bundle:
        """The same bundle for images of another size, where its sizes are free.

        Args:
            size: width and height in pixels; None is this bundle's.

        Raises:
            UsageError: the bundle's size is fixed, or it is not between its bounds.
        """
        if size is None:
            return self
        config = sized_config(self.manifest.model, self.manifest.side_bounds, size)
        own = config == self.manifest.model
        return dataclasses.replace(self, size=None if own else (size[0], size[1]))

    def verify(self, progress: Progress = no_progress) -> None:
        """Hash every file, the manifest first.

        Args:
            progress: called after each file with the share of bytes that are hashed.

        Raises:
            BundleError: names the first file that differs from the manifest.
        """
        data = _read_manifest(self.path)
        _compare(FILE_NAME, hashlib.sha256(data).hexdigest(), self.digest)
        total, done = self.manifest.num_bytes, 0
        for name, info in self.manifest.files.items():
            path = _check_size(self.path, name, info)
            _compare(name, _hash(path), info.sha256)
            done += info.bytes
            progress(done / total if total else 1.0)

    def graph_path(self, name: str) -> Path:
        """Path of one ONNX graph.

        Raises:
            UsageError: the name is not one of text_encoder, text_adapter, transformer.
        """
        graph = _choose("graph", name, self.manifest.graphs)
        return self.path / graph.path

    def data_path(self, name: str) -> Path:
        """Path of the file with one graph's weights.

        Raises:
            UsageError: the name is not one of text_encoder, text_adapter, transformer.
        """
        graph = _choose("graph", name, self.manifest.graphs)
        return self.path / self.manifest.data_file(graph)

    def table(self, name: str) -> Table:
        """Read a solver table.

        Raises:
            UsageError: the bundle has no table of that name; those it has are listed.
            BundleError: the file is not a table.
        """
        path = self.path / _choose("table", name, self.manifest.tables)
        try:
            return Table.load(path)
        except UsageError as error:
            raise BundleError(f"{error}; re-run minit2i export") from error

    def compile_table(
        self,
        solver: str,
        steps: int,
        *,
        grid: str = "uniform",
        shift: float | None = None,
        a_min: float | None = None,
        repeats: Repeats = NO_REPEATS,
    ) -> Table:
        """Compile a solver with this bundle's a_min and noise, for a student with its conditions.

        Where one branch gives the guided estimate, no row has a second.

        Args:
            solver: a name in ``solvers.SOLVERS``.
            steps: of the solver.
            grid: as for ``table.solver_table``.
            shift: as for ``table.solver_table``.
            a_min: floor of the division by 1 - t; None takes the flavour's.
            repeats: as for ``table.solver_table``, at this bundle's noise scale.

        Raises:
            UsageError: an unknown solver, or settings that it does not have.
            BundleError: the table of the default preset is corrupt.
        """
        method = find_solver(solver)
        if a_min is None and method.divides:
            a_min = self.manifest.flavour.a_min
        conditions: StudentSettings = {}
        if method.conditioned and (table := self.preset()[0]).is_conditioned:
            conditions = {
                "omega": float(table.column("omega")[0]),
                "t_min": float(table.column("t_min")[0]),
                "t_max": float(table.column("t_max")[0]),
            }
        table = solver_table(
            solver,
            steps=steps,
            grid=grid,
            shift=shift,
            a_min=a_min,
            repeats=dataclasses.replace(repeats, noise_scale=self.manifest.noise.scale),
            **conditions,
        )
        return table if self.manifest.one_pass_guidance is None else one_pass_table(table)

    def preset(self, name: str | None = None) -> tuple[Table, float]:
        """Read a preset's table and guidance scale; without a name, the default preset's.

        Raises:
            UsageError: the bundle has no preset of that name; those it has are listed.
            BundleError: the table's file is not a table.
        """
        name = self.manifest.default_preset if name is None else name
        preset = _choose("preset", name, self.manifest.presets)
        return self.table(preset.table), preset.guidance

    def tokenizer(self) -> Tokenizer:
        """Open the tokenizer at the model's prompt length.

        Raises:
            BundleError: the file is not a T5 tokenizer, or not the one of the manifest.
        """
        info = self.manifest.tokenizer
        name = f"{info.path}/{TOKENIZER_FILE}"
        expected = self.manifest.files[name].sha256 if name in self.manifest.files else None
        return _open_tokenizer(self.path / info.path, info.prompt_length, self.digest, expected)


@functools.lru_cache(maxsize=4)
def _open_tokenizer(
    folder: Path, prompt_length: int, digest: str, expected: str | None
) -> Tokenizer:
    """Cached, because parsing a vocabulary is slow; the digest identifies the file's bytes.

    The hash comes first: on corrupt bytes the library panics, and prints lines of its own.
    """
    if expected is not None:
        _compare(f"{folder.name}/{TOKENIZER_FILE}", _hash(folder / TOKENIZER_FILE), expected)
    return Tokenizer.open(folder, prompt_length)


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> Manifest:
    """Hash every file of a folder and write manifest.json, the last step of making a bundle.

    Args:
        folder: has the finished files; ``engines/`` and an old manifest.json are excluded.
        manifest: everything but ``files``, which is replaced.

    Returns:
        the manifest as written.

    Raises:
        BundleError: a file name, link or field that the format does not allow.
    """
    root = Path(folder)
    complete = dataclasses.replace(manifest, files=_scan(root))
    atomic_write_bytes(root / FILE_NAME, complete.to_bytes())
    return complete


def _scan(root: Path) -> dict[str, FileInfo]:
    files = {}
    # Sorted, so that the same files give the same manifest on every file system.
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name == FILE_NAME or name.split("/")[0] == ENGINES:
            continue
        # A link's target may change or stay behind when the folder is copied.
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(f"{path}: is a link or a device; copy the file itself")
        if path.is_file():
            files[name] = FileInfo(sha256=_hash(path), bytes=path.stat().st_size)
    return files


def _hint(name: str) -> str:
    # The command line takes these names, so people try them here too.
    ready = name in ("demo", "demo-student")
    return f", or open minit2i_deploy.ready_bundle({name!r})" if ready else ""


def _read_manifest(folder: Path) -> bytes:
    path = folder / FILE_NAME
    try:
        size = path.stat().st_size
        if size > _MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{path}: too large for a manifest, {size} bytes; re-run minit2i export"
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"{folder}: no bundle there ({FILE_NAME} is missing); name a folder that minit2i "
            f"export made{_hint(folder.name)}"
        ) from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error


def _check_size(folder: Path, name: str, info: FileInfo) -> Path:
    path = folder / name
    try:
        resolved = path.resolve(strict=True)
        size = resolved.stat().st_size
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{path}: missing or unreadable; re-run minit2i export") from error
    # A manifest is untrusted: a link must not make a program read files outside the bundle.
    if not resolved.is_relative_to(folder) and resolved.parent != _hub_blobs(folder):
        raise BundleError(f"{path}: leads out of the bundle to {resolved}; copy the file itself")
    if not resolved.is_file():
        raise BundleError(f"{path}: not a file; re-run minit2i export")
    if size != info.bytes:
        raise BundleError(
            f"{path}: {size} bytes but manifest says {info.bytes}; re-run minit2i export"
        )
    return path


def _hub_blobs(folder: Path) -> Path | None:
    """Where files are links to, if the folder lies in the cache of the Hugging Face hub.

    Source: huggingface_hub's guide on its cache: models--OWNER--NAME/snapshots/REVISION/FILE is a
    link to models--OWNER--NAME/blobs/HASH.
    """
    for snapshots in folder.parents:
        if snapshots.name == "snapshots" and "--" in snapshots.parent.name:
            return snapshots.parent / "blobs"
    return None


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error


def _compare(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise BundleError(
            f"{name}: sha256 {actual[:8]}.. but manifest says {expected[:8]}..; re-run minit2i"
            " export"
        )


def _choose(what: str, name: str, choices: Mapping[str, _T]) -> _T:
    if name not in choices:
        raise UsageError(f"{what} {name!r} is not in the bundle; it has {', '.join(choices)}")
    return choices[name]
