"""A runtime runs the bundle that it was opened on, and no other."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.manifest import StepSwitch
from minit2i_deploy.bundle.step_switch import SwitchRuntime, bundle_after_switch
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.generate import frames, generate, trajectory
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.request import Request
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.text.embed import embed, embed_stream
from tests.helpers.bundles import draft, write_bundle, write_files

CALLS: dict[str, Callable[[Bundle, Runtime], object]] = {
    "generate": lambda bundle, runtime: generate(bundle, runtime, "red"),
    "trajectory": lambda bundle, runtime: list(trajectory(bundle, runtime, "red")),
    "frames": lambda bundle, runtime: list(frames(bundle, runtime, Request.of(bundle, "red"))),
    "embed": lambda bundle, runtime: embed(bundle, runtime, "red"),
    "embed_stream": lambda bundle, runtime: list(embed_stream(bundle, runtime, ["red"])),
}


def other_bundle(folder: Path) -> Bundle:
    """Of the same shapes, and of another checkpoint."""
    write_files(folder)
    origin = dataclasses.replace(draft().provenance, checkpoint_sha256="cd" * 32)
    write_manifest(folder, dataclasses.replace(draft(), provenance=origin))
    return Bundle.open(folder)


@pytest.mark.parametrize("name", CALLS)
def test_another_bundle_s_runtime_is_refused(tmp_path: Path, name: str) -> None:
    a, b = Bundle.open(write_bundle(tmp_path / "a")), other_bundle(tmp_path / "b")
    with open_runtime(b, "fake") as runtime:
        with pytest.raises(
            UsageError, match=r"bundle is .*/a, but the runtime was opened on .*/b;"
        ):
            CALLS[name](a, runtime)
        CALLS[name](b, runtime)


def test_one_bundle_in_several_guises(tmp_path: Path) -> None:
    a = Bundle.open(write_bundle(tmp_path / "a"))
    shutil.copytree(a.path, tmp_path / "copy")
    (tmp_path / "link").symlink_to(a.path)
    info = dataclasses.replace(draft().graphs["transformer"], path="late/model.onnx")
    manifest = dataclasses.replace(a.manifest, switch=StepSwitch(t=0.5, graph=info))
    view = bundle_after_switch(dataclasses.replace(a, manifest=manifest))
    opened = [Bundle.open(tmp_path / name) for name in ("a", "copy", "link")]
    for each in (*opened, view):
        with open_runtime(each, "fake") as runtime:
            assert generate(a, runtime, "red").x.shape == (1, 3, 32, 32)


def test_a_split_runtime_is_its_early_one_s(tmp_path: Path) -> None:
    a, b = Bundle.open(write_bundle(tmp_path / "a")), other_bundle(tmp_path / "b")
    runtime = SwitchRuntime(FakeRuntime(b), FakeRuntime(a), 0.5)
    generate(b, runtime, "red")
    with pytest.raises(UsageError, match="but the runtime was opened on"):
        generate(a, runtime, "red")


def test_a_runtime_without_a_bundle_is_accepted(tmp_path: Path) -> None:
    class Silent:
        """As somebody else's: all that the protocol asks for, and no attribute ``bundle``."""

        def __init__(self, bundle: Bundle) -> None:
            inner = FakeRuntime(bundle)
            self.name = "silent"
            self.encode, self.adapt = inner.encode, inner.adapt
            self.start, self.close = inner.start, inner.close

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None:
            self.close()

    a, b = Bundle.open(write_bundle(tmp_path / "a")), other_bundle(tmp_path / "b")
    assert np.isfinite(generate(a, Silent(b), "red").x).all()


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_runtime_is_refused_for_cached_texts_too(tmp_path: Path, name: str) -> None:
    a = Bundle.open(write_bundle(tmp_path / "a"))
    for runtime in (FakeRuntime(a), SwitchRuntime(FakeRuntime(a), FakeRuntime(a), 0.5)):
        embed(a, runtime, "red")
        runtime.close()
        with pytest.raises(RuntimeFailure, match="runtime fake is closed; open it again"):
            CALLS[name](a, runtime)
