"""minit2i refit: replace the weights of a bundle, and of its engines, without a rebuild."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.options.shared_arguments import (
    add_adapters,
    add_bundle,
    add_json,
    integer,
    read_adapters,
)
from minit2i_deploy.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.bundle.manifest import Check, Manifest, Provenance
    from minit2i_deploy.checkpoints.checkpoint import Checkpoint
    from minit2i_deploy.config import ModelConfig
    from minit2i_deploy.engines.cache import CachedEngine
    from minit2i_deploy.progress import Progress

# Of every graph against torch in the bundle's precision. Not measured on a GPU yet: wide
# enough for other kernels of the same number type, far below the effect of a stale weight.
BOUNDS: Final = {"fp32": 2e-3, "fp16": 2e-2, "bf16": 8e-2}

_INPUTS: Final = {"text_encoder": "a fixed prompt", "text_adapter": "a fixed prompt"}

# Whose engines hold weights of their own.
_BUILT: Final = ("tensorrt", "tensorrt-rtx")

_EPILOG: Final = """\
BUNDLE does not change. The new bundle has the same graphs with the new weights,
for every runtime, and refitted engines, which are compared with PyTorch before the
bundle is written.

Engines of TensorRT must have been built with minit2i build --refit, and are
refitted on the machine that runs them. onnxruntime and openvino run the bundle's
graphs, so that there is nothing else to do.

examples:
  minit2i refit my-bundle --lora my-adapter -o my-lora-bundle --engine onnxruntime
  minit2i refit my-bundle --lora style=0.8 --lora subject -o both --engine tensorrt
  minit2i refit my-bundle --checkpoint run/step-040000 -o newer --engine tensorrt-rtx
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitOptions:
    """Options of minit2i refit; None where one was not given."""

    bundle: str
    checkpoint: Path | None
    lora: tuple[tuple[str, float], ...] | None
    output: Path
    engine: str
    device: int
    overwrite: bool
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Write a bundle with other weights of the same architecture, without an export, and refit "
        "its TensorRT engines."
    )
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        type=Path,
        help="take all weights from this checkpoint, in any form that minit2i export reads",
    )
    add_adapters(parser, " into the weights of --checkpoint, or of the bundle")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="new folder for the bundle"
    )
    parser.add_argument(
        "--engine",
        required=True,
        choices=(*_BUILT, "onnxruntime", "openvino"),
        help="the runtime that is compared with PyTorch, and whose engines are refitted where it "
        "has any (minit2i help engines)",
    )
    parser.add_argument(
        "--device",
        metavar="N",
        type=integer,
        default=0,
        help="index of the GPU, for TensorRT (default 0)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    add_json(parser)


def run(options: RefitOptions) -> None:
    """Write, refit and compare; the bundle is in place only after that."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.bundle.folder import bundle_folder
    from minit2i_deploy.bundle.weight_replacement import (
        check_refittable,
        write_checks,
        write_with_weights,
    )
    from minit2i_deploy.progress import ProgressLine, stage_of
    from minit2i_deploy.runtimes.tensorrt.refit import refit_bundle

    if options.checkpoint is None and options.lora is None:
        raise UsageError("no weights given; expected --checkpoint or --lora")
    base = Bundle.open(options.bundle)
    check_refittable(base)
    _refuse_adapted_text_encoder(base)
    sources = (options.bundle, options.checkpoint, *(read_adapters(options.lora) or ()))
    with (
        ProgressLine("refit") as progress,
        bundle_folder(options.output, overwrite=options.overwrite, sources=sources) as folder,
    ):
        progress(0.0, "read weights")
        source = _new_weights(base, options)
        _check_guidance(base, source)
        provenance = _provenance(base, source)
        text_encoder = _new_text_encoder(base, source, options.engine)
        # Graphs are those of the old bundle, and so is everything that is read from it below.
        template = dataclasses.replace(base, manifest=_with_adapters(base, source))
        bundle = write_with_weights(template, folder, source.tensors, provenance, text_encoder)
        del text_encoder
        engines: list[CachedEngine] = []
        if options.engine in _BUILT:
            library = options.engine.replace("-", "_")
            done = stage_of(progress, 0.2, 0.6, "refit engines")
            engines = refit_bundle(library, options.device, base, bundle, done)
        checks = _compare_with_torch(base, bundle, options, progress)
        write_checks(bundle, folder, checks, provenance)
    _print(options, engines, checks)


def _new_weights(base: Bundle, options: RefitOptions) -> Checkpoint:
    from minit2i_deploy.checkpoints import load_checkpoint
    from minit2i_deploy.checkpoints.lora import merge_lora

    config, lora = base.config, read_adapters(options.lora)
    if options.checkpoint is None:
        assert lora is not None
        return merge_lora(_bundle_weights(base), lora)
    source = load_checkpoint(options.checkpoint, lora=lora)
    # No weight depends on the size of the images.
    source = dataclasses.replace(source, config=_with_size_of(config, source.config))
    if config.loop is not None and source.config.loop is not None:
        # The engines run the loop as often as the bundle does, whatever the new weights say.
        same_loops = source.config.with_loops(config.loop.num_loops)
        source = dataclasses.replace(source, config=same_loops)
    if source.config != config:
        differing = [
            f"{field.name} {getattr(source.config, field.name)}, not {getattr(config, field.name)}"
            for field in dataclasses.fields(config)
            if getattr(source.config, field.name) != getattr(config, field.name)
        ]
        raise UsageError(
            f"{options.checkpoint}: not the architecture of {base.path}: {differing[0]}; run "
            "minit2i export and minit2i build"
        )
    _check_text_encoder(base, source)
    return source


def _refuse_adapted_text_encoder(base: Bundle) -> None:
    """New weights need the text encoder that they were trained with."""
    if base.manifest.text_encoder_lora_sha256 is not None:
        raise UsageError(
            f"{base.path}: an adapter is merged into its text encoder; name the bundle without it"
        )


def _new_text_encoder(
    base: Bundle, source: Checkpoint, engine: str
) -> dict[str, np.ndarray] | None:
    """The bundle's text encoder with the adapters' part for it; None if they have none."""
    from minit2i_deploy.bundle.weight_replacement import read_weights
    from minit2i_deploy.checkpoints.lora_text_encoder import merge_into_text_encoder

    if not source.text_adapters:
        return None
    if engine in _BUILT:
        raise UsageError(
            f"{source.text_adapters[0].file.path}: adapts the text encoder, whose engine {engine} "
            "does not refit; run minit2i export and minit2i build"
        )
    tensors = dict(read_weights(base.data_path("text_encoder")))
    merge_into_text_encoder(tensors, source.text_adapters, str(base.path))
    return tensors


def _with_adapters(base: Bundle, source: Checkpoint) -> Manifest:
    """The manifest with what was merged now."""
    from minit2i_deploy.checkpoints.lora_sources import (
        combined_digest,
        of_text_encoder,
        recorded_adapters,
    )

    adapters = source.report.adapters
    return dataclasses.replace(
        base.manifest,
        adapters=recorded_adapters(adapters),
        text_encoder_lora_sha256=combined_digest(of_text_encoder(adapters)),
    )


def _check_guidance(base: Bundle, source: Checkpoint) -> None:
    """The tables stay the bundle's, so both weights must be guided alike."""
    from minit2i_deploy.checkpoints.lora_sources import one_pass_scale

    old, new = base.manifest.one_pass_guidance, one_pass_scale(source.report.adapters)
    if old != new:
        words = [
            "two branches" if scale is None else f"one pass at {scale:g}" for scale in (old, new)
        ]
        raise UsageError(
            f"{base.path}: is guided by {words[0]} and the new weights by {words[1]}, which needs "
            "other tables; run minit2i export"
        )


def _with_size_of(config: ModelConfig, other: ModelConfig) -> ModelConfig:
    """Another configuration with this one's size of images, where its patches allow it."""
    if config.patch_size != other.patch_size:
        return other
    _, height, width = config.image_shape
    return other.with_image_size(width, height)


def _check_text_encoder(base: Bundle, source: Checkpoint) -> None:
    """The text encoder stays the bundle's, so it must be the one of the new weights."""
    from minit2i_deploy.bundle.weight_replacement import read_weights
    from minit2i_deploy.checkpoints.text_identity import check_stored_text

    stored = dict(read_weights(base.data_path("text_encoder")))
    tensors = {name: partial(stored.pop, name) for name in stored}
    identity, origin = source.report.text_identity, source.report.path
    check_stored_text(identity, tensors, base.tokenizer(), origin, base.path)


def _bundle_weights(base: Bundle) -> Checkpoint:
    from minit2i_deploy.bundle.weight_replacement import network_tensors
    from minit2i_deploy.checkpoints.checkpoint import Checkpoint, CheckpointReport

    if base.manifest.provenance.lora_sha256 is not None:
        raise UsageError(
            f"{base.path}: already contains a merged adapter; name the bundle without it"
        )
    tensors = network_tensors(base)
    report = CheckpointReport(
        form=base.manifest.provenance.checkpoint_form,
        path=str(base.path),
        weights="those of the bundle",
        sha256=base.manifest.provenance.checkpoint_sha256,
        dtypes={base.manifest.graphs["transformer"].precision: len(tensors)},
        num_parameters=sum(array.size for array in tensors.values()),
    )
    return Checkpoint(config=base.config, tensors=tensors, report=report)


def _provenance(base: Bundle, source: Checkpoint) -> Provenance:
    from minit2i_deploy.checkpoints.lora_sources import combined_digest

    origin = source.report
    return dataclasses.replace(
        base.manifest.provenance,
        checkpoint_sha256=origin.sha256,
        checkpoint_form=origin.form,
        lora_sha256=combined_digest(origin.adapters),
    )


def _compare_with_torch(
    base: Bundle, bundle: Bundle, options: RefitOptions, progress: Progress
) -> tuple[Check, ...]:
    """Compare the refitted engines with torch, and make sure they are not the old ones."""
    from minit2i_deploy.bundle.manifest import Check
    from minit2i_deploy.runtimes import open_runtime
    from minit2i_deploy.runtimes.step_probe import (
        answers,
        encoded_prompt,
        graph_errors,
        make_probe,
    )

    has_new_encoder = bundle.manifest.text_encoder_lora_sha256 is not None
    progress(0.6, "torch")
    with open_runtime(bundle, "torch") as runtime:
        probe = make_probe(bundle, runtime)
        expected = answers(runtime, probe)
    if has_new_encoder:
        expected["text_encoder"] = probe.encoded
    actual = []
    for each in (base, bundle) if _can_run(base, options.engine) else (bundle,):
        progress(0.7, "compare")
        device = {"device": options.device} if options.engine in _BUILT else {}
        with open_runtime(each, options.engine, **device) as runtime:
            actual.append(answers(runtime, probe))
            if has_new_encoder:
                actual[-1]["text_encoder"] = encoded_prompt(each, runtime)
    if len(actual) > 1:
        _refuse_stale(base, bundle, *actual)
    refitted = options.engine in _BUILT
    engine = f"refitted {options.engine} engine" if refitted else options.engine
    checks = tuple(
        Check(
            name=graph,
            measured=error,
            bound=BOUNDS[bundle.manifest.graphs[graph].precision],
            unit="relative",
            where=f"{engine} to torch, {_INPUTS.get(graph, 'one step from a fixed state')}",
        )
        for graph, error in graph_errors(actual[-1], expected).items()
    )
    for check in checks:
        if not check.measured <= check.bound:
            raise VerificationError(
                f"{check.name}: {check.measured:.3g} {check.unit} exceeds the bound of "
                f"{check.bound:.3g} ({check.where}); no bundle was written"
            )
    return checks


def _can_run(base: Bundle, engine: str) -> bool:
    """Whether the bundle's engines hold weights: those of --strip-weights give no old values."""
    from minit2i_deploy.engines.cache import CachedEngine, cached_engines
    from minit2i_deploy.engines.fit import weights_missing

    keys = [
        item.record.key
        for item in cached_engines(base)
        if isinstance(item, CachedEngine) and item.record.key.library == engine.replace("-", "_")
    ]
    runnable = {key.graph for key in keys if weights_missing(key) is None}
    return {key.graph for key in keys} <= runnable


def _refuse_stale(
    base: Bundle, bundle: Bundle, old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> None:
    from minit2i_deploy.bundle.weight_replacement import changed_names

    for graph, values in new.items():
        changed = next(iter(changed_names(base, bundle, graph)), None)
        if changed is not None and values.tobytes() == old[graph].tobytes():
            raise VerificationError(
                f"{graph}: the refitted engine gives the old values although {changed} changed; no "
                "bundle was written; run minit2i export and minit2i build"
            )


def _print(options: RefitOptions, engines: list[CachedEngine], checks: tuple[Check, ...]) -> None:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.formatting import check_lines, json_text
    from minit2i_deploy.io.strict_json import encode

    bundle = Bundle.open(options.output)
    if options.json:
        values = {
            "bundle": str(bundle.path),
            "digest": bundle.digest,
            "engines": [engine.record.fingerprint for engine in engines],
            "checks": encode(checks),
        }
        print(json_text(values))
        return
    for engine in engines:
        print(f"engines/{engine.record.fingerprint}  {engine.record.words}")
    print(check_lines(checks))
    print(f"{bundle.path}")
