"""LoRA adapters merged onto a base checkpoint.

Source: LoRA, Hu et al. 2106.09685, section 4.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from minit2i_deploy.checkpoints.canonical_names import linear_modules
from minit2i_deploy.checkpoints.checkpoint import Checkpoint, Dropped, LoraReport
from minit2i_deploy.checkpoints.lora_file import (
    ONE_PASS_GUIDANCE,
    AdapterFile,
    read_adapter,
)
from minit2i_deploy.checkpoints.lora_names import is_t5_matrix
from minit2i_deploy.checkpoints.lora_sources import Lora, adapter_strengths, one_pass_scale
from minit2i_deploy.checkpoints.lora_text_encoder import TextEncoderAdapter
from minit2i_deploy.errors import CheckpointError
from minit2i_deploy.io.files import sha256_file, sha256_files


def merge_lora(base: Checkpoint, lora: Lora) -> Checkpoint:
    """A checkpoint whose weights are W + strength * scale * B @ A for each pair of each adapter.

    The base's arrays are changed in place, so that there is no second copy of the model. Adapters
    are added in the order of their digests: the sum does not depend on the order of ``lora``.
    Pairs of the text encoder are not merged yet: the result carries them in ``text_adapters``.

    Args:
        base: the checkpoint that the adapters were trained on.
        lora: an adapter folder, or its safetensors file: PEFT's, with adapter_config.json beside
            it, or one in diffusers' or kohya's form; or several, with the strength of each.

    Raises:
        CheckpointError: an adapter is corrupt, was trained on another base, or uses a setting
            that a plain merge does not cover.
        UsageError: a strength is no finite number, or 0, or an adapter that gives guidance in one
            pass is merged at another strength than 1, or beside another one.
    """
    modules = linear_modules(base.config)
    adapters = []
    for path, strength in adapter_strengths(lora).items():
        adapter = read_adapter(path, modules)
        _check_fits(adapter, modules, base)
        _check_base(adapter, base)
        adapters.append((_report(adapter, strength), adapter))
    one_pass_scale([report for report, _ in adapters])
    adapters.sort(key=lambda item: (item[0].sha256, item[0].strength))
    for report, adapter in adapters:
        for module, pair in adapter.network.pairs.items():
            base.tensors[f"{module}.weight"] += pair.update(report.strength)
    merged = tuple(report for report, _ in adapters)
    dropped = (*base.report.dropped, *_unused(adapters))
    return dataclasses.replace(
        base,
        report=dataclasses.replace(base.report, adapters=merged, dropped=dropped),
        text_adapters=tuple(
            TextEncoderAdapter(file=adapter, strength=report.strength)
            for report, adapter in adapters
            if adapter.text_encoder.pairs
        ),
    )


def _unused(adapters: Sequence[tuple[LoraReport, AdapterFile]]) -> list[Dropped]:
    num_unused = sum(adapter.num_unused for _, adapter in adapters)
    if num_unused == 0:
        return []
    unused = Dropped(
        what="adapter on unused embedders",
        num_tensors=num_unused,
        reason="reaches no output of the network",
    )
    return [unused]


def _report(adapter: AdapterFile, strength: float) -> LoraReport:
    scale = adapter.network.config.get(ONE_PASS_GUIDANCE)
    network, text = adapter.network.pairs, adapter.text_encoder.pairs
    largest = max((*network.values(), *text.values()), key=lambda pair: pair.rank)
    return LoraReport(
        path=str(adapter.path),
        rank=largest.rank,
        alpha=largest.alpha,
        scale=largest.scale,
        num_modules=len(network),
        num_text_modules=len(text),
        # The settings are part of it, because they hold the scale.
        sha256=sha256_files(adapter.files, adapter.path.parent),
        weights_sha256=sha256_file(adapter.path),
        strength=strength,
        one_pass_guidance=None if scale is None else float(scale),
    )


def _check_fits(
    adapter: AdapterFile, modules: Mapping[str, tuple[int, ...]], base: Checkpoint
) -> None:
    """Check that every pair has its matrix, and every targeted matrix its pair.

    Of the text encoder only the names are known here; shapes are checked when it is opened.
    """
    wrong = [
        f"{module} {list(pair.shape)} (base: {list(modules.get(module, ())) or 'none'})"
        for module, pair in sorted(adapter.network.pairs.items())
        if pair.shape != modules.get(module)
    ]
    wrong += [
        f"{module} {list(pair.shape)} (a T5 encoder: none)"
        for module, pair in sorted(adapter.text_encoder.pairs.items())
        if not is_t5_matrix(module)
    ]
    wrong += [f"{module} (not in the adapter)" for module in adapter.network.missing(modules)]
    if wrong:
        raise CheckpointError(
            f"{adapter.path}: an adapter for another base than {base.report.path}: "
            f"{len(wrong)} modules differ: {', '.join(wrong)}; give the base it was trained on"
        )


def _check_base(adapter: AdapterFile, base: Checkpoint) -> None:
    if adapter.base_sha256 not in (None, base.report.sha256):
        raise CheckpointError(
            f"{adapter.path}: an adapter for another base than {base.report.path}: it was trained "
            f"on weights of sha256 {adapter.base_sha256:.12}.., but these are "
            f"{base.report.sha256:.12}..; give the base it was trained on"
        )
