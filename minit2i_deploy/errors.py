"""All errors and warnings. A message says what was expected, what came and what to do.

Minit2iError
+-- UsageError (also ValueError)   an argument or option is wrong; the command line exits 2
+-- BundleError                    a bundle is missing, corrupt, foreign or of an unknown version
+-- CheckpointError                a checkpoint cannot be read as a MiniT2I model
+-- VerificationError              a measured difference is over its stated bound
+-- RuntimeFailure                 an engine library failed, or cannot do what is required
+-- MissingDependencyError         an optional package is not installed; the text names the pip line
+-- TrainingError                  a training run cannot start, continue or be resumed

KeyboardInterrupt
+-- TrainingInterrupted            a signal ended a training run; its state is saved

UserWarning
+-- SettingIgnoredWarning          a setting has no effect beside the others
+-- PromptTruncatedWarning         a prompt has more tokens than the model takes
+-- DataWarning                    training data is skipped or not what it should be
+-- DeviceWarning                  a GPU that is there is not used
+-- CudaGraphWarning               CUDA graphs are not used as requested
+-- PrecisionWarning               a precision is slow here, or has rounded what it should not
+-- CacheWarning                   an entry of a cache was corrupt and is made anew
"""

from __future__ import annotations

import importlib
from types import ModuleType


class Minit2iError(Exception):
    """Base of everything this package raises on purpose; the command line exits 1 on it."""


class UsageError(Minit2iError, ValueError):
    """An argument is outside what the call accepts; the command line exits 2."""


class BundleError(Minit2iError):
    """A bundle is missing, corrupt, foreign or of an unknown format version."""


class CheckpointError(Minit2iError):
    """A checkpoint cannot be read as a MiniT2I model."""


class VerificationError(Minit2iError):
    """A measured difference is over its stated bound."""


class RuntimeFailure(Minit2iError):
    """An engine library failed, or cannot do what is required."""


class MissingDependencyError(Minit2iError):
    """An optional package is not installed."""


class TrainingError(Minit2iError):
    """A training run cannot start, continue or be resumed."""


class TrainingInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended a training run between two steps; its state is saved.

    Args:
        text: where it is saved.
        signal_number: of the signal that came.
    """

    def __init__(self, text: str, signal_number: int) -> None:
        super().__init__(text)
        self.signal_number = signal_number


class SettingIgnoredWarning(UserWarning):
    """A setting has no effect beside the others; the text says why."""


class PromptTruncatedWarning(UserWarning):
    """A prompt has more tokens than the model takes; the text says where it was cut."""


class DataWarning(UserWarning):
    """Training data is skipped or not what it should be; the text says which and why."""


class DeviceWarning(UserWarning):
    """A GPU that is there is not used; the text says why."""


class CudaGraphWarning(UserWarning):
    """CUDA graphs are not used as requested; the text says why and what is done instead."""


class PrecisionWarning(UserWarning):
    """A precision is slow on this device, or parts were rounded; the text says what to do."""


class CacheWarning(UserWarning):
    """An entry of a cache was corrupt and is made anew, or cannot be kept; the text says why."""


def pip_line(extra: str) -> str:
    """The command that installs an extra, or with "" the package alone, from a clone."""
    # On no index yet.
    return f"pip install -c constraints.txt '.[{extra}]'" if extra else "pip install ."


def install_hint(extra: str) -> str:
    """What to do where a package is missing or too old: the command, and where it is run."""
    return f"run in a clone of minit2i-deploy: {pip_line(extra)}"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which pip line brings it.

    Args:
        module: name to import, for example ``"onnxruntime"``.
        extra: extra of this distribution that installs it, for example ``"cpu"``.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A package that is installed but lacks one of its own dependencies is another problem.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependencyError(f"{module} is not installed; {install_hint(extra)}") from error
