"""The public names are frozen, and cost nothing until they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from types import ModuleType

import pytest

import minit2i_deploy

NAMES = [
    "Bundle", "BundleError", "CheckpointError", "Minit2iError", "MissingDependencyError",
    "Mix", "ModelConfig", "Repeats", "RuntimeFailure", "Table", "TrainingError", "UsageError",
    "VerificationError", "__version__", "advance", "build_network", "embed", "embed_stream",
    "generate", "load_checkpoint", "open_runtime", "read_edit", "ready_bundle", "solver_table",
    "standard_noise", "trajectory",
]  # fmt: skip


def test_names_are_frozen() -> None:
    assert sorted(minit2i_deploy.__all__) == NAMES
    assert set(NAMES) <= set(dir(minit2i_deploy))


def test_static_and_lazy_imports_name_the_same_things() -> None:
    assert minit2i_deploy.__file__ is not None
    with open(minit2i_deploy.__file__, encoding="utf-8") as stream:
        tree = ast.parse(stream.read())
    static = {
        alias.name: f"{node.module}:{alias.name}"
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert static == minit2i_deploy._PUBLIC


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys, minit2i_deploy\n"
        "heavy = {'numpy', 'torch', 'PIL', 'tokenizers', 'onnxruntime', 'jaxtyping'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "minit2i_deploy.Bundle, minit2i_deploy.solver_table\n"
        "print(sorted((heavy - {'numpy', 'jaxtyping'}) & set(sys.modules)))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n[]\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves(name: str) -> None:
    assert not isinstance(getattr(minit2i_deploy, name), ModuleType)


def test_a_function_wins_over_the_submodule_of_its_name() -> None:
    before = vars(minit2i_deploy).get("generate")
    # What the import system does after it has loaded minit2i_deploy/generate.py.
    minit2i_deploy.generate = ModuleType("minit2i_deploy.generate")
    assert vars(minit2i_deploy).get("generate") is before


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        minit2i_deploy.nothing  # noqa: B018
