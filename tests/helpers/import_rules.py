"""The import rules: of one file, by its path inside the package and its source, and of all."""

from __future__ import annotations

import ast
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

PACKAGE = "minit2i_deploy"
FOLDERS = ("training", "export", "runtimes")
TRAINING_LIBRARIES = {"transformers", "optimum", "diffusers", "peft", "accelerate"}
ENGINES = {"onnxruntime", "tensorrt", "tensorrt_rtx", "torch", "openvino"}
# Other import names under which an engine is installed.
ENGINE_ALIASES = {
    "tensorrt_rtx_bindings": "tensorrt_rtx",
    "onnxruntime_ep_openvino": "openvino",
}
# The facade hands out names of the upper folders on first use, the command line calls into them.
MAY_REACH_UP = ("__init__.py", "cli/*")
TORCH_AT_TOP = ("model/*", "training/*", "export/*", "runtimes/torch*")
TORCH_IN_FUNCTIONS = (*TORCH_AT_TOP, "checkpoints/*")
CORE_LIBRARIES = {
    "numpy": ("*",),
    "jaxtyping": ("*",),
    "tokenizers": ("tokenizer.py",),
    "PIL": ("io/image*.py", "editing/*", "demo/*", "evaluation/shapes/*"),
    "pyarrow": ("text/embedding_files.py", "text/embedding_parquet.py"),
    "matplotlib": ("evaluation/quality/plots.py", "evaluation/editing/editing_plot.py", "cli/*"),
    "torch": ("model/*", "checkpoints/*"),
    "safetensors": ("checkpoints/*",),
    "msgpack": ("checkpoints/*",),
    "tensorstore": ("checkpoints/*",),
    "ml_dtypes": ("checkpoints/*",),
    "huggingface_hub": ("checkpoints/pull.py",),
    "starlette": ("serving/*",),
    "uvicorn": ("serving/http/server.py",),
    "prometheus_client": ("serving/http/metrics.py",),
}


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported module: its dotted name, its line, and whether it waits for a call."""

    module: str
    line: int
    deferred: bool
    typing_only: bool

    @property
    def library(self) -> str:
        """The first part of the dotted name."""
        return self.module.partition(".")[0]

    @property
    def folder(self) -> str | None:
        """The upper folder this import reaches, if it reaches one."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == PACKAGE and parts[1:2] and parts[1] in FOLDERS else None


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """Every Python file under its path inside the package, with its text."""
    for folder in (PACKAGE, *FOLDERS):
        prefix = "" if folder == PACKAGE else f"{folder}/"
        for path in sorted((root / folder).rglob("*.py")):
            yield prefix + path.relative_to(root / folder).as_posix(), path.read_text("utf-8")


def violations(path: str, source: str) -> list[str]:
    """Each broken rule as one line: place, then what is wrong."""
    tree = ast.parse(source, path)
    imports = list(_imports(tree, path))
    broken = [*_layers(path, imports), *_libraries(path, imports), *_calls(path, tree)]
    return [f"{path}:{line}: {text}" for line, text in sorted(broken)]


def import_graph(files: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> the package's modules that it names in an import, wherever the import is.

    Imports at the top, for type checkers only and inside functions all count.

    Args:
        files: path inside the package -> source.
    """
    modules = {_module_name(path): path for path in files}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = [item.module for item in _imports(ast.parse(files[path], path), path)]
        targets = {_nearest_module(name, modules) for name in names}
        graph[module] = targets - {module, ""}
    return graph


def find_circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The modules of one import circle, the first one again at the end; empty without any."""
    finished: set[str] = set()
    for start in graph:
        circle = _circle_from(start, graph, [], finished)
        if circle:
            return circle
    return []


def _circle_from(
    module: str, graph: Mapping[str, Iterable[str]], path: list[str], finished: set[str]
) -> list[str]:
    if module in path:
        return [*path[path.index(module) :], module]
    if module in finished:
        return []
    for target in sorted(graph.get(module, ())):
        circle = _circle_from(target, graph, [*path, module], finished)
        if circle:
            return circle
    finished.add(module)
    return []


def _module_name(path: str) -> str:
    parts = [PACKAGE, *path.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _nearest_module(name: str, modules: Container[str]) -> str:
    """The module that an imported name is in: the longest part of it that is one, or ""."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _layers(path: str, imports: list[Import]) -> Iterator[tuple[int, str]]:
    home = next((folder for folder in FOLDERS if path.startswith(f"{folder}/")), None)
    for item in imports:
        if item.library in FOLDERS:
            yield item.line, f"{item.module} is imported as {PACKAGE}.{item.module}"
        yield from ((item.line, text) for text in _serving(path, item))
        if item.folder is None or item.folder == home:
            continue
        if home is not None:
            yield item.line, f"{home} imports its sibling {item.folder}"
        elif not _matches(path, MAY_REACH_UP):
            yield item.line, f"the core imports {item.folder}"
        elif not (item.deferred or item.typing_only):
            yield item.line, f"{item.folder} is imported at the top, not inside a function"


def _serving(path: str, item: Import) -> Iterator[str]:
    """The server is on top of the core: nothing but a command knows of it."""
    if not item.module.startswith(f"{PACKAGE}.serving") or path.startswith("serving/"):
        return
    if not path.startswith("cli/"):
        yield "only cli/ imports serving"
    elif not (item.deferred or item.typing_only):
        yield "serving is imported at the top, not inside a function"


def _libraries(path: str, imports: list[Import]) -> Iterator[tuple[int, str]]:
    for item in imports:
        yield from ((item.line, text) for text in _library(path, item))
    if path.startswith("runtimes/"):
        engines = {ENGINE_ALIASES.get(item.library, item.library) for item in imports} & ENGINES
        if len(engines) > 1:
            yield 1, f"one engine library a file, not {' and '.join(sorted(engines))}"


def _library(path: str, item: Import) -> Iterator[str]:
    upper = path.startswith(tuple(f"{folder}/" for folder in FOLDERS))
    if item.library in TRAINING_LIBRARIES and not path.startswith(("training/", "export/")):
        yield f"{item.library} belongs to training/ and export/"
    elif item.library == "torch" and not _matches(path, TORCH_IN_FUNCTIONS):
        yield "torch is not to be needed here"
    elif item.library == "torch" and not (
        item.deferred or item.typing_only or _matches(path, TORCH_AT_TOP)
    ):
        yield "torch is imported at the top, not inside a function"
    elif not upper and item.library not in {*sys.stdlib_module_names, PACKAGE, *FOLDERS}:
        # Names for annotations are read by type checkers and never imported.
        if not (item.typing_only or _matches(path, CORE_LIBRARIES.get(item.library, ()))):
            yield f"the core does not use {item.library} here"


def _calls(path: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    # The second is the door to the first.
    if path.startswith("cli/") or path == "__main__.py":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "print",
            "exit",
            "quit",
            "sys.exit",
            "os._exit",
        }:
            yield node.lineno, f"{ast.unparse(node.func)}() belongs to cli/"
        elif isinstance(node, ast.Name) and node.id == "SystemExit":
            yield node.lineno, "SystemExit belongs to cli/"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in {
            "os.environ",
            "os.getenv",
            "os.putenv",
        }:
            yield node.lineno, f"{ast.unparse(node)}: environment variables stop at cli/"
        elif isinstance(node, ast.ImportFrom) and node.module in {"os", "sys"}:
            for name in {alias.name for alias in node.names} & {"environ", "getenv", "exit"}:
                yield node.lineno, f"{name} belongs to cli/"


def _imports(tree: ast.AST, path: str) -> Iterator[Import]:
    yield from _walk(tree, path, deferred=False, typing_only=False)


def _walk(node: ast.AST, path: str, *, deferred: bool, typing_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
        for module in _modules(node, path):
            yield Import(
                module=module, line=node.lineno, deferred=deferred, typing_only=typing_only
            )
    deferred = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    guarded = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        inside = guarded and isinstance(node, ast.If) and child in node.body
        yield from _walk(child, path, deferred=deferred, typing_only=typing_only or inside)


def _modules(node: ast.Import | ast.ImportFrom | ast.Call, path: str) -> list[str]:
    """The modules one node imports, ``require("x")`` and ``import_module("x")`` among them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node, path)
        return [f"{base}.{alias.name}" for alias in node.names]
    called = ast.unparse(node.func).rpartition(".")[2]
    if called in {"require", "import_module", "__import__"} and node.args:
        named = node.args[0]
        return [str(named.value)] if isinstance(named, ast.Constant) else []
    return []


def _absolute(node: ast.ImportFrom, path: str) -> str:
    if node.level == 0:
        return node.module or ""
    package = [PACKAGE, *path.split("/")[:-1]]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)
