"""The layers stay layers: the rules over every file, and over sources that break each one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.import_rules import find_circle, import_graph, sources, violations

ENGINE_FILES = ("runtimes/torch", "runtimes/tensorrt", "runtimes/openvino")
BROKEN = {
    "core reaches up": ("bundle.py", "import minit2i_deploy.export.write"),
    "core reaches up by name": ("bundle.py", "def f():\n    from minit2i_deploy import runtimes"),
    "core reaches up, relative": ("demo/report.py", "def f():\n    from ..export import write"),
    "core reaches up for types": (
        "generate.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import minit2i_deploy.runtimes",
    ),
    "cli reaches up at the top": ("cli/main.py", "from minit2i_deploy.training import train"),
    "siblings": ("training/eval.py", "def f():\n    from minit2i_deploy.runtimes import base"),
    "siblings, relative": ("export/write.py", "from ..runtimes.base import Runtime"),
    "top-level folder": ("cli/main.py", "def f():\n    import export"),
    "torch in the core": ("generate.py", "def f():\n    import torch"),
    "torch in the core, required": ("images.py", "def f():\n    require('torch', 'export')"),
    "torch in a reader's top": ("checkpoints/own.py", "from torch import load"),
    "torch in another runtime": ("runtimes/onnxruntime/runtime.py", "import torch"),
    "transformers in the core": ("model/encoder.py", "import transformers"),
    "optimum in a runtime": ("runtimes/ort.py", "def f():\n    import optimum.onnxruntime"),
    "library out of place": ("bundle.py", "import PIL.Image"),
    "library nowhere": ("cli/main.py", "import tqdm"),
    "library out of place, in a function": ("bundle.py", "def f():\n    import PIL.Image"),
    "library in the else of a guard": (
        "bundle.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import PIL",
    ),
    "torch in the core, for types": (
        "generate.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
    ),
    "server in the core": (
        "generate.py",
        "def f():\n    from minit2i_deploy.serving.service import Service",
    ),
    "server in a runtime": ("runtimes/fake.py", "import minit2i_deploy.serving"),
    "server at the top of a command": (
        "cli/serve.py",
        "from minit2i_deploy.serving.http.server import serve",
    ),
    "starlette out of place": ("generate.py", "import starlette.responses"),
    "two engines": ("runtimes/torch_ort.py", "import torch\nimport onnxruntime"),
    "two engines, alias": ("runtimes/rtx.py", "import tensorrt\nimport tensorrt_rtx_bindings"),
    "print": ("training/train.py", "print('loss')"),
    "exit": ("bundle.py", "import sys\nsys.exit(1)"),
    "exit by name": ("bundle.py", "from sys import exit"),
    "raised exit": ("export/write.py", "raise SystemExit(2)"),
    "environment": ("runtimes/base.py", "import os\nos.environ['A']"),
    "environment, getenv": ("noise.py", "import os\nos.getenv('A')"),
    "environment by name": ("noise.py", "from os import environ"),
}

ALLOWED = {
    "server": ("cli/serve.py", "def f():\n    from minit2i_deploy.serving.http import server"),
    "inside the server": (
        "serving/http/app.py",
        "import starlette.routing\nfrom minit2i_deploy.serving.service import Service",
    ),
    "cli": ("cli/main.py", "import os\ndef f():\n    from minit2i_deploy.export import write"),
    "facade": ("__init__.py", "def f():\n    from minit2i_deploy.runtimes import open_runtime"),
    "facade's types": (
        "__init__.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n from minit2i_deploy import export",
    ),
    "own folder": ("training/train.py", "import torch\nfrom minit2i_deploy.training import data"),
    "core below": (
        "export/write.py",
        "import transformers\nfrom minit2i_deploy.bundle.bundle import Bundle",
    ),
    "reader": ("checkpoints/own.py", "def f():\n    import torch\n    import safetensors.numpy"),
    "typing": (
        "checkpoints/own.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
    ),
    "a library's types": (
        "bundle.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PIL.Image import Image",
    ),
    "one engine": ("runtimes/torch/runtime.py", "import numpy\nimport torch"),
    "similar name": ("export_names.py", "from minit2i_deploy.errors import require"),
}


@pytest.mark.parametrize(("path", "source"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_reported(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(("path", "source"), ALLOWED.values(), ids=ALLOWED.keys())
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_every_file_keeps_the_rules(repository: Path) -> None:
    files = list(sources(repository))
    assert {"errors.py", "training/__init__.py", "export/__init__.py"} <= {
        path for path, _ in files
    }
    assert [line for path, source in files for line in violations(path, source)] == []


# Each file imports the next one, and the last one the first.
CIRCLES = {
    "at the top": "from minit2i_deploy.{name} import x",
    "for types": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from minit2i_deploy.{name} import X"
    ),
    "inside a function": "def f():\n    from minit2i_deploy.{name} import x",
    "of the module": "from minit2i_deploy import {name}",
    "relative": "from .{name} import x",
}


@pytest.mark.parametrize("last", CIRCLES.values(), ids=CIRCLES.keys())
def test_a_circle_is_reported(last: str) -> None:
    files = {
        "a.py": "from minit2i_deploy.b import x\nimport minit2i_deploy.d",
        "b.py": "import minit2i_deploy.c",
        "c.py": "",
        "d.py": "",
    }
    assert find_circle(import_graph(files)) == []
    files["c.py"] = last.format(name="a")
    names = [f"minit2i_deploy.{name}" for name in "abca"]
    assert find_circle(import_graph(files)) == names


def test_no_modules_import_one_another_in_a_circle(repository: Path) -> None:
    """Not even through imports inside functions or for types.

    A module named by a string in a registry, such as ``runtimes.RUNTIMES``, the facade's or the
    commands', does not count: it is imported when it is first used.
    """
    graph = import_graph(dict(sources(repository)))
    assert len(graph) > 200
    assert graph["minit2i_deploy.generate"] > {"minit2i_deploy.request", "minit2i_deploy.protocol"}
    assert find_circle(graph) == []


def test_the_core_loads_without_torch_transformers_or_onnx(repository: Path) -> None:
    names = [
        f"minit2i_deploy.{path.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")
        for path, _ in sources(repository)
        if not path.startswith(("model/", "training/", "export/", *ENGINE_FILES))
        and not path.endswith("__main__.py")
    ]
    script = (
        "import sys, importlib\n"
        "for name in ('torch', 'transformers', 'onnx'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
