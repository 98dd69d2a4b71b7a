"""`Library`: TensorRT or TensorRT-RTX, one Python interface under two import names.

Neither is imported before a `Library` is opened. What only a build or only a run needs of them is
in export/tensorrt/library.py and runtimes/tensorrt/library.py, which derive from this class.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Self

from minit2i_deploy.engines.key import TENSORRT, TENSORRT_RTX
from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure, install_hint, require


@dataclass(frozen=True, kw_only=True, slots=True)
class _Distribution:
    """How a library is installed.

    Args:
        modules: import name of the wheel, then that of NVIDIA's archive if it is another.
        extra: extra of this package that installs it.
        oldest: first version that pads head widths itself and can decompose attention on request.
    """

    modules: tuple[str, ...]
    extra: str
    oldest: tuple[int, ...]


_DISTRIBUTIONS: Final = {
    TENSORRT: _Distribution(modules=("tensorrt",), extra="tensorrt", oldest=(10, 15)),
    TENSORRT_RTX: _Distribution(
        modules=("tensorrt_rtx_bindings", "tensorrt_rtx"), extra="rtx", oldest=(1, 2)
    ),
}


class Library:
    """An engine library that is loaded; ``open`` makes one.

    Attributes:
        name: TENSORRT or TENSORRT_RTX.
        version: all its digits.
        module: the Python module; both libraries have the same classes.
    """

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self.module = module
        self.version = str(module.__version__)

    @classmethod
    def open(cls, name: str) -> Self:
        """Load a library.

        Args:
            name: TENSORRT or TENSORRT_RTX.

        Raises:
            MissingDependencyError: it is not installed; the text names the pip line.
            RuntimeFailure: it is too old, or cannot load a library that it depends on.
        """
        library = cls(name, _load(name))
        oldest = _DISTRIBUTIONS[name].oldest
        if _numbers(library.version)[: len(oldest)] < oldest:
            raise RuntimeFailure(
                f"{name} {library.version} is installed, expected {'.'.join(map(str, oldest))} or "
                f"later; {install_hint(library.extra)}"
            )
        return library

    @property
    def extra(self) -> str:
        """Extra of this package that installs it."""
        return _DISTRIBUTIONS[self.name].extra

    @property
    def is_rtx(self) -> bool:
        """Whether it builds without a GPU, for the targets that are named."""
        return self.name == TENSORRT_RTX

    def create_network(self, builder: Any) -> Any:
        """A strongly typed network: its types are those of its graph, on every version."""
        flags = self.module.NetworkDefinitionCreationFlag
        flag = getattr(flags, "STRONGLY_TYPED", None)
        # TensorRT 11 has no other networks and may drop the flag.
        return builder.create_network(0 if flag is None else 1 << int(flag))


def installed_version(name: str) -> str | None:
    """Version of a library, or None if it is missing, too old or does not load."""
    try:
        return Library.open(name).version
    except (MissingDependencyError, RuntimeFailure):
        return None


def _load(name: str) -> ModuleType:
    distribution = _DISTRIBUTIONS[name]
    for module in distribution.modules:
        try:
            return require(module, distribution.extra)
        except MissingDependencyError:
            continue
        except ModuleNotFoundError as error:
            raise RuntimeFailure(f"{module} does not load: {error}") from error
        except (ImportError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise RuntimeFailure(
                f"{module} does not load ({reason}); install the CUDA version it was built for"
            ) from error
    other = TENSORRT if name == TENSORRT_RTX else TENSORRT_RTX
    hint = ""
    if any(importlib.util.find_spec(module) for module in _DISTRIBUTIONS[other].modules):
        hint = f" ({other.replace('_', '-')} is; choose that instead)"
    raise MissingDependencyError(
        f"{name} is not installed{hint}; {install_hint(distribution.extra)}"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"[0-9]+", version))
