"""Files of a bundle beside its graphs: tokenizer, tables, the network's configuration."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.bundle.manifest import Flavour, Preset
from minit2i_deploy.bundle.presets import PresetTable, presets_of
from minit2i_deploy.checkpoints.text_encoder import check_tokenizer
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.solvers.guidance import one_pass_table
from minit2i_deploy.solvers.mean_flow import MEAN_FLOW, StudentSettings
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.tokenizer import FILE_NAME, Tokenizer, find_tokenizer

TOKENIZER_FILES: Final = (
    FILE_NAME,
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)

# Plain Euler tables beside the presets', for comparison.
_FEWER_STEPS: Final = (50, 20)
_TOOLS: Final = (
    "minit2i-deploy",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "optimum-onnx",
    "torch",
    "transformers",
)


def copy_tokenizer(text_encoder: Path, folder: Path, prompt_length: int, config: Any) -> Tokenizer:
    """Copy the tokenizer's files and open the copy.

    Args:
        text_encoder: the encoder's folder; the tokenizer lies in it, in its ``tokenizer`` or in
            a ``tokenizer`` beside it.
        folder: of the bundle, for the tokenizer.
        prompt_length: most tokens of a prompt.
        config: of the encoder, with the ids it knows.

    Raises:
        UsageError: tokenizer.json is missing, or has other ids than the encoder.
        BundleError: the file is not a T5 tokenizer.
    """
    source = find_tokenizer(text_encoder)
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    tokenizer = Tokenizer.open(folder, prompt_length)
    check_tokenizer(source, tokenizer, config)
    return tokenizer


def write_tables(
    folder: Path,
    flavour: Flavour,
    conditions: StudentSettings | None = None,
    one_pass_guidance: float | None = None,
) -> tuple[dict[str, str], dict[str, Preset]]:
    """Write the solver tables and name the presets that use them.

    Args:
        folder: of the bundle.
        flavour: gives a_min and steps of the reference table, and every preset's guidance.
        conditions: omega, t_min and t_max of a few-step student; None takes the released recipe's.
        one_pass_guidance: scale of guidance that the weights give in one branch, or None.

    Returns:
        table name -> path relative to the bundle, and preset name -> table and guidance.
    """
    (folder / "tables").mkdir()
    conditions = conditions or {}
    guidance = one_pass_guidance or conditions.get("omega", flavour.guidance)
    one_pass = one_pass_guidance is not None

    def compile_table(choice: PresetTable) -> Table:
        table = choice.compile(flavour.a_min, conditions)
        return one_pass_table(table) if one_pass else table

    compiled = {
        preset: compile_table(choice)
        for preset, choice in presets_of(flavour, one_pass=one_pass).items()
    }
    tables = list(compiled.values())
    if flavour.name != MEAN_FLOW:
        fewer = [PresetTable(solver="euler", steps=steps) for steps in _FEWER_STEPS]
        tables += [compile_table(each) for each in fewer]
    paths = {}
    for table in tables:
        paths[table.name] = f"tables/{table.name}.json"
        table.save(folder / paths[table.name])
    presets = {
        preset: Preset(table=table.name, guidance=guidance) for preset, table in compiled.items()
    }
    return paths, presets


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write the network's config.json beside its graph."""
    text = json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def tool_versions() -> dict[str, str]:
    """Versions of the packages that a bundle's bytes depend on."""
    versions = {}
    for name in _TOOLS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            # A source tree on PYTHONPATH has no package metadata.
            versions[name] = "not installed"
    return versions
