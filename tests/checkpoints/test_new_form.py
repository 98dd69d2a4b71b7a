"""A checkpoint form is one class and one registration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.checkpoints import Checkpoint, forms, load_checkpoint
from minit2i_deploy.checkpoints.assemble import Drop, Target, canonical_target
from minit2i_deploy.checkpoints.containers.container import Leaf
from minit2i_deploy.checkpoints.form import Form, ReadOptions, check_prompt_length, read_weights
from minit2i_deploy.errors import CheckpointError, UsageError
from tests.helpers.checkpoint_forms import CONFIG, hub_folder

NPZ_HEAD = b"PK\x03\x04"


class NpzFile:
    """Arrays of numpy.savez as a container."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self._arrays = dict(file)

    @property
    def names(self) -> Sequence[str]:
        return list(self._arrays)

    def leaf(self, name: str) -> Leaf:
        return Leaf(self._arrays[name].shape, self._arrays[name].dtype.name)

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        return ((name, self._arrays[name]) for name in names)


class NpzForm(Form):
    """Canonical names with dashes in place of dots."""

    description = "an npz file of numpy"

    def sniff(self, path: Path, head: bytes | None) -> bool:
        return head is not None and head.startswith(NPZ_HEAD) and b".npy" in head

    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        check_prompt_length(path, options, CONFIG)
        return read_weights(
            NpzFile(path), npz_rule, CONFIG, form="npz", path=path, weights="all", files=[path]
        )


def npz_rule(name: str) -> Target | Drop | None:
    return canonical_target(name.replace("-", "."))


def write_npz(path: Path) -> dict[str, np.ndarray]:
    tensors = load_checkpoint(hub_folder()).tensors
    np.savez(path, **{name.replace(".", "-"): value for name, value in tensors.items()})  # type: ignore[arg-type]
    return tensors


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "FORMS", (*forms.FORMS, NpzForm()))


def test_an_unregistered_form_is_refused_with_those_there_are(tmp_path: Path) -> None:
    write_npz(tmp_path / "weights.npz")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "weights.npz")
    for form in forms.FORMS:
        assert form.description in str(caught.value)
    assert NpzForm.description not in str(caught.value)


@pytest.mark.usefixtures("registered")
def test_a_registered_form_is_recognized_read_and_reported(tmp_path: Path) -> None:
    tensors = write_npz(tmp_path / "weights.npz")
    for path in (tmp_path, tmp_path / "weights.npz"):
        checkpoint = load_checkpoint(path)
        assert checkpoint.report.form == "npz"
        assert checkpoint.report.path == str(tmp_path / "weights.npz")
        assert checkpoint.tensors.keys() == tensors.keys()
        assert all(np.array_equal(checkpoint.tensors[n], value) for n, value in tensors.items())


@pytest.mark.usefixtures("registered")
def test_a_registered_form_gets_the_shared_checks(tmp_path: Path) -> None:
    file = tmp_path / "weights.npz"
    tensors = write_npz(file)
    with pytest.raises(
        UsageError, match="prompt_length=64, but the checkpoint's configuration says"
    ):
        load_checkpoint(file, prompt_length=64)
    tensors["mask_token"][0, 0, 0] = np.nan
    np.savez(file, **{name.replace(".", "-"): value for name, value in tensors.items()})  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_checkpoint(file)
    np.savez(file, extra=np.zeros(1, np.float32))
    with pytest.raises(CheckpointError, match="1 unexpected: extra"):
        load_checkpoint(file)


@pytest.mark.usefixtures("registered")
def test_the_error_lists_the_registered_forms(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"expected a Flax Orbax folder, .* or an npz file"):
        load_checkpoint(tmp_path / "notes.txt")
    with pytest.raises(CheckpointError, match=r"no checkpoint in it; expected .* or an npz file"):
        load_checkpoint(tmp_path)


def test_an_unfinished_orbax_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint_1.orbax-checkpoint-tmp-5"
    folder.mkdir()
    (folder / "_METADATA").write_text("{}")
    with pytest.raises(CheckpointError, match="was not finished"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="no checkpoint in it"):
        load_checkpoint(tmp_path)
