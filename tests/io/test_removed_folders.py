"""Folders that stay empty are removed; others stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from minit2i_deploy.io.files import remove_if_empty


def test_a_new_empty_folder_is_removed_with_its_parents(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), remove_if_empty(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(parents=True)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), remove_if_empty(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "kept").touch()
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_an_existing_folder_stays_even_if_empty(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with remove_if_empty(tmp_path / "a"):
        pass
    assert (tmp_path / "a").is_dir()


def test_without_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with remove_if_empty(tmp_path / "file" / "a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
