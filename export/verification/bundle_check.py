"""Check an existing bundle: every hash, and its graphs against the checkpoint again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.checkpoints import CheckpointReport
from minit2i_deploy.checkpoints.lora_sources import combined_digest
from minit2i_deploy.checkpoints.text_identity import check_text_identity, identify_text
from minit2i_deploy.errors import BundleError, UsageError
from minit2i_deploy.export.graphs.head_padding import pad_heads
from minit2i_deploy.export.graphs.modules import network_dtype
from minit2i_deploy.export.graphs.text_encoder import merge_adapters, open_text_encoder
from minit2i_deploy.export.options import SourceOptions
from minit2i_deploy.export.verification.bounds import require_within_bounds
from minit2i_deploy.export.verification.onnxruntime_check import (
    check_in_onnxruntime,
    runs_in_onnxruntime,
)
from minit2i_deploy.export.verification.reference import record_network, record_text
from minit2i_deploy.export.verification.torch_check import check_in_torch, runs_in_torch
from minit2i_deploy.model import build_network
from minit2i_deploy.progress import Progress, no_progress, stage_of

_DEFAULTS: Final = SourceOptions()


def verify_bundle(
    bundle: str | Path,
    checkpoint: str | Path | None = None,
    options: SourceOptions = _DEFAULTS,
    *,
    progress: Progress = no_progress,
) -> tuple[Check, ...]:
    """Hash every file and, with a checkpoint, measure every graph against torch again.

    Args:
        bundle: its folder.
        checkpoint: what it was exported from; None checks the hashes alone.
        options: the checkpoint's weights, as they were given to ``export_bundle``; images have
            the bundle's size, and a looped network runs as often as the bundle's.
        progress: called with the share that is done and the name of the stage.

    Returns:
        the checks that were measured now; without a checkpoint, those of the manifest.

    Raises:
        UsageError: a checkpoint was given for a quantized bundle.
        BundleError: a file differs, or the bundle was made from another checkpoint.
        VerificationError: a graph differs from torch by more than its bound.
    """
    opened = Bundle.open(bundle)
    opened.verify(stage_of(progress, 0.0, 0.1, "hash files"))
    if checkpoint is None:
        return opened.manifest.checks
    if opened.manifest.quantization is not None:
        raise UsageError(
            f"{opened.path}: is quantized and was measured against its source bundle, not against"
            " a checkpoint; verify the bundle it was made from"
        )
    checks = _measure(opened, checkpoint, options, progress)
    require_within_bounds(checks, "re-run minit2i export")
    return tuple(checks)


def _measure(
    bundle: Bundle, checkpoint: str | Path, options: SourceOptions, progress: Progress
) -> list[Check]:
    if bundle.config.loop is not None:
        options = dataclasses.replace(options, loops=bundle.config.loop.num_loops)
    source = _at_size_of(bundle, options).load(checkpoint)
    _check_origin(bundle, source.report)
    encoder_folder = options.find_text_encoder(Path(source.report.path))
    encoder = open_text_encoder(encoder_folder, bundle.config.txt_input_size)
    identity = identify_text(encoder, bundle.tokenizer())
    check_text_identity(source.report.text_identity, identity, source.report.path, encoder_folder)
    merge_adapters(encoder, source.text_adapters, encoder_folder)
    text = record_text(encoder, bundle.tokenizer(), bundle.config)
    net, conditions = build_network(source), source.conditions
    del encoder, source
    done = stage_of(progress, 0.1, 0.5, "torch reference")
    reference = record_network(net, text, bundle.manifest.flavour.a_min, conditions, done)
    precision = bundle.manifest.graphs["transformer"].precision
    checks = []
    if runs_in_torch(precision):
        if (padding := bundle.manifest.head_padding) is not None:
            pad_heads(net, padding)
        net.to(network_dtype(precision))
        done = stage_of(progress, 0.5, 0.6, f"torch in {precision}")
        checks = check_in_torch(net, reference, precision, done)
    del net  # onnxruntime is about to load the weights a second time
    network = reference if runs_in_onnxruntime(precision) else None
    done = stage_of(progress, 0.6, 1.0, "onnxruntime")
    return [*check_in_onnxruntime(bundle.path, text, network, precision, done), *checks]


def _at_size_of(bundle: Bundle, options: SourceOptions) -> SourceOptions:
    """The options with the bundle's size of images.

    Raises:
        UsageError: they have another one.
    """
    _, height, width = bundle.config.image_shape
    size = options.image_size
    if size not in (None, (width, height)) and not (size == width == height):
        raise UsageError(
            f"{bundle.path}: image_size is {size}, but the bundle's images are {width}x{height}; "
            "omit image_size"
        )
    return dataclasses.replace(options, image_size=(width, height))


def _check_origin(bundle: Bundle, actual: CheckpointReport) -> None:
    expected = bundle.manifest.provenance
    if actual.sha256 != expected.checkpoint_sha256:
        raise BundleError(
            f"{bundle.path}: made from checkpoint {expected.checkpoint_sha256[:8]}.. but"
            f" {actual.path} is {actual.sha256[:8]}..; give the checkpoint it was made from"
        )
    # Bundles of earlier releases have the digest of the one adapter's weights alone.
    earlier = (item.weights_sha256 for item in actual.adapters[:1])
    digests = (combined_digest(actual.adapters), *earlier)
    if expected.lora_sha256 not in digests:
        raise BundleError(
            f"{bundle.path}: made with {_describe_lora(expected.lora_sha256)} but this is"
            f" {_describe_lora(digests[0])}; give the adapter it was made with"
        )


def _describe_lora(sha256: str | None) -> str:
    return "no adapter" if sha256 is None else f"adapter {sha256[:8]}.."
