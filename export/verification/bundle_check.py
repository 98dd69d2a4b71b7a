"""Check a bundle that is there: every hash, and its graphs against the checkpoint once more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.checkpoints import Checkpoint, CheckpointReport, load_checkpoint
from minit2i_deploy.errors import BundleError, UsageError
from minit2i_deploy.export.graphs.head_padding import pad_heads
from minit2i_deploy.export.graphs.modules import network_dtype
from minit2i_deploy.export.graphs.text_encoder import open_text_encoder
from minit2i_deploy.export.graphs.text_encoder_folder import find_text_encoder
from minit2i_deploy.export.verification.reference import record_network, record_text
from minit2i_deploy.export.verification.verify import (
    compare,
    compare_torch,
    require_within_bounds,
    runs_in_onnxruntime,
)
from minit2i_deploy.model import build_network
from minit2i_deploy.progress import Progress, no_progress, stage_of


def verify_bundle(
    bundle: str | Path,
    checkpoint: str | Path | None = None,
    *,
    text_encoder: str | Path | None = None,
    ema: bool | str = True,
    lora: str | Path | None = None,
    image_size: int | None = None,
    prompt_length: int | None = None,
    progress: Progress = no_progress,
) -> tuple[Check, ...]:
    """Hash every file and, given the checkpoint, measure every graph against torch again.

    Args:
        bundle: its folder.
        checkpoint: what it was exported from; without it, only hashes are checked.
        text_encoder: as for ``export_bundle``.
        ema: as for ``export_bundle``, like the next three.
        lora: the adapter that was merged.
        image_size: of a Flax checkpoint of no published shape.
        prompt_length: as image_size.
        progress: called with the share that is done and the name of the stage.

    Returns:
        what was measured now; without a checkpoint, what was measured at the export.

    Raises:
        UsageError: a checkpoint came for a quantised bundle.
        BundleError: a file differs, or the bundle was made from another checkpoint.
        VerificationError: a graph differs from torch by more than its bound.
    """
    opened = Bundle.open(bundle)
    opened.verify(stage_of(progress, 0.0, 0.1, "hash files"))
    if checkpoint is None:
        return opened.manifest.checks
    if opened.manifest.quantization is not None:
        raise UsageError(
            f"{opened.path}: is quantised and was measured against its source bundle, not against a"
            " checkpoint; verify the bundle it was made from"
        )

    def load() -> Checkpoint:
        return load_checkpoint(
            checkpoint, ema, lora=lora, image_size=image_size, prompt_length=prompt_length
        )

    checks = _measure(opened, load, text_encoder, progress)
    require_within_bounds(checks, "re-run minit2i export")
    return tuple(checks)


def _check_source(bundle: Bundle, found: CheckpointReport) -> None:
    promised = bundle.manifest.provenance
    if found.sha256 != promised.checkpoint_sha256:
        raise BundleError(
            f"{bundle.path}: made from checkpoint {promised.checkpoint_sha256[:8]}.. but"
            f" {found.path} is {found.sha256[:8]}..; give the checkpoint it was made from"
        )
    lora = None if found.lora is None else found.lora.sha256
    if lora != promised.lora_sha256:
        raise BundleError(
            f"{bundle.path}: made with {_lora_words(promised.lora_sha256)} but this is"
            f" {_lora_words(lora)}; give the adapter it was made with"
        )


def _lora_words(sha256: str | None) -> str:
    return "no adapter" if sha256 is None else f"adapter {sha256[:8]}.."


def _measure(
    bundle: Bundle,
    load: Callable[[], Checkpoint],
    text_encoder: str | Path | None,
    progress: Progress,
) -> list[Check]:
    source = load()
    _check_source(bundle, source.report)
    given = None if text_encoder is None else Path(text_encoder)
    folder = find_text_encoder(Path(source.report.path), given)
    encoder = open_text_encoder(folder, bundle.config.txt_input_size)
    text = record_text(encoder, bundle.tokenizer(), bundle.config)
    net, told = build_network(source), source.conditions
    del encoder, source
    a_min = bundle.manifest.flavour.a_min
    done = stage_of(progress, 0.1, 0.5, "torch reference")
    reference = record_network(net, text, a_min, told, done)
    precision = bundle.manifest.graphs["transformer"].precision
    checks = []
    if not runs_in_onnxruntime(precision):
        if (padding := bundle.manifest.head_padding) is not None:
            pad_heads(net, padding)
        net.to(network_dtype(precision))
        done = stage_of(progress, 0.5, 0.6, "torch")
        checks = compare_torch(net, reference, precision, done)
    del net  # onnxruntime is about to load the weights a second time
    network = reference if runs_in_onnxruntime(precision) else None
    done = stage_of(progress, 0.6, 1.0, "onnxruntime")
    return [*compare(bundle.path, text, network, precision, done), *checks]
