"""Export, quantize and run MiniT2I text-to-image models.

Nothing is imported before a public name is first used, so that ``minit2i --help`` and programs that
need one part do not load the others.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

# What __getattr__ returns, for type checkers and editors.
if TYPE_CHECKING:
    from minit2i_deploy._version import __version__
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.checkpoints import load_checkpoint
    from minit2i_deploy.config import ModelConfig
    from minit2i_deploy.demo.ready import ready_bundle
    from minit2i_deploy.editing.input_images import read_edit
    from minit2i_deploy.errors import (
        BundleError,
        CheckpointError,
        Minit2iError,
        MissingDependencyError,
        RuntimeFailure,
        TrainingError,
        UsageError,
        VerificationError,
    )
    from minit2i_deploy.generate import generate, trajectory
    from minit2i_deploy.model import build_network
    from minit2i_deploy.runtimes import open_runtime
    from minit2i_deploy.solvers.noise import standard_noise
    from minit2i_deploy.solvers.repeats import Repeats
    from minit2i_deploy.solvers.row import advance
    from minit2i_deploy.solvers.table import Table, solver_table
    from minit2i_deploy.text.embed import embed, embed_stream
    from minit2i_deploy.text.prompts import Mix

# Public name -> "module:attribute".
_PUBLIC: Final[dict[str, str]] = {
    "Bundle": "minit2i_deploy.bundle.bundle:Bundle",
    "BundleError": "minit2i_deploy.errors:BundleError",
    "CheckpointError": "minit2i_deploy.errors:CheckpointError",
    "Minit2iError": "minit2i_deploy.errors:Minit2iError",
    "MissingDependencyError": "minit2i_deploy.errors:MissingDependencyError",
    "Mix": "minit2i_deploy.text.prompts:Mix",
    "ModelConfig": "minit2i_deploy.config:ModelConfig",
    "Repeats": "minit2i_deploy.solvers.repeats:Repeats",
    "RuntimeFailure": "minit2i_deploy.errors:RuntimeFailure",
    "Table": "minit2i_deploy.solvers.table:Table",
    "TrainingError": "minit2i_deploy.errors:TrainingError",
    "UsageError": "minit2i_deploy.errors:UsageError",
    "VerificationError": "minit2i_deploy.errors:VerificationError",
    "__version__": "minit2i_deploy._version:__version__",
    "advance": "minit2i_deploy.solvers.row:advance",
    "build_network": "minit2i_deploy.model:build_network",
    "embed": "minit2i_deploy.text.embed:embed",
    "embed_stream": "minit2i_deploy.text.embed:embed_stream",
    "generate": "minit2i_deploy.generate:generate",
    "load_checkpoint": "minit2i_deploy.checkpoints:load_checkpoint",
    "open_runtime": "minit2i_deploy.runtimes:open_runtime",
    "read_edit": "minit2i_deploy.editing.input_images:read_edit",
    "ready_bundle": "minit2i_deploy.demo.ready:ready_bundle",
    "solver_table": "minit2i_deploy.solvers.table:solver_table",
    "standard_noise": "minit2i_deploy.solvers.noise:standard_noise",
    "trajectory": "minit2i_deploy.generate:trajectory",
}

__all__ = [
    "Bundle",
    "BundleError",
    "CheckpointError",
    "Minit2iError",
    "MissingDependencyError",
    "Mix",
    "ModelConfig",
    "Repeats",
    "RuntimeFailure",
    "Table",
    "TrainingError",
    "UsageError",
    "VerificationError",
    "__version__",
    "advance",
    "build_network",
    "embed",
    "embed_stream",
    "generate",
    "load_checkpoint",
    "open_runtime",
    "read_edit",
    "ready_bundle",
    "solver_table",
    "standard_noise",
    "trajectory",
]


class _Package(ModuleType):
    """This package; a public function has precedence over the submodule of its name.

    The import system binds every submodule on its package, so importing
    ``minit2i_deploy.generate`` anywhere would otherwise turn the function into a module.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _PUBLIC and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name].split(":")
    value = getattr(importlib.import_module(module), attribute)
    # A plain attribute from now on, so this function is not called again.
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
