"""Export, top to bottom: a checkpoint in, a verified bundle out, or nothing."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import nn

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.flavours import NOISE_SCALE, flavour_for, variant_of
from minit2i_deploy.bundle.folder import bundle_folder
from minit2i_deploy.bundle.head_padding import HeadPadding
from minit2i_deploy.bundle.image_sizes import check_side_bounds
from minit2i_deploy.bundle.manifest import (
    Check,
    Flavour,
    GraphInfo,
    Manifest,
    Noise,
    Provenance,
    TokenizerInfo,
)
from minit2i_deploy.bundle.presets import default_preset
from minit2i_deploy.checkpoints.checkpoint import Checkpoint, CheckpointReport
from minit2i_deploy.checkpoints.lora_sources import (
    adapter_strengths,
    combined_digest,
    of_text_encoder,
    one_pass_scale,
    recorded_adapters,
)
from minit2i_deploy.checkpoints.lora_text_encoder import TextEncoderAdapter
from minit2i_deploy.checkpoints.text_encoder import check_encoder_config
from minit2i_deploy.checkpoints.text_identity import check_text_identity, identify_text
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.evaluation.reference_outputs import OVERFLOWING, write_reference_outputs
from minit2i_deploy.export.assets import (
    copy_tokenizer,
    tool_versions,
    write_config,
    write_tables,
)
from minit2i_deploy.export.choices import TEXT_ENCODER_OPSET
from minit2i_deploy.export.graphs.head_padding import pad_heads, padding_for
from minit2i_deploy.export.graphs.modules import (
    AdapterGraph,
    canonical_name,
    network_dtype,
    step_signature,
    text_adapter_signature,
)
from minit2i_deploy.export.graphs.onnx_export import Signature, to_onnx
from minit2i_deploy.export.graphs.onnxruntime_denoiser import FusedDenoiser
from minit2i_deploy.export.graphs.onnxruntime_heads import use_onnxruntime_heads
from minit2i_deploy.export.graphs.text_encoder import (
    merge_adapters,
    open_text_encoder,
    write_text_encoder,
)
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE, write_graph
from minit2i_deploy.export.options import ExportOptions
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.verification.bounds import require_within_bounds
from minit2i_deploy.export.verification.onnxruntime_check import (
    check_in_onnxruntime,
    runs_in_onnxruntime,
)
from minit2i_deploy.export.verification.reference import (
    NetworkReference,
    TextReference,
    record_network,
    record_text,
)
from minit2i_deploy.export.verification.torch_check import check_in_torch, runs_in_torch
from minit2i_deploy.model import MMJiT, Step, build_network
from minit2i_deploy.model.mmjit import Denoiser
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.solvers.mean_flow import StudentSettings
from minit2i_deploy.solvers.noise import GENERATOR

DEFAULTS: Final = ExportOptions()


def export_bundle(
    checkpoint: str | Path,
    bundle: str | Path,
    options: ExportOptions = DEFAULTS,
    *,
    progress: Progress = no_progress,
) -> Bundle:
    """Export a checkpoint to a bundle, verified against torch.

    Args:
        checkpoint: any form that ``load_checkpoint`` reads.
        bundle: folder to create; it appears complete or not at all.
        options: weights, precision and form of the graphs.
        progress: called with the share that is done and the name of the stage.

    Raises:
        UsageError: an option does not apply, or the folder cannot be created or replaced.
        CheckpointError: checkpoint or text encoder cannot be read, or the network was trained with
            another text encoder.
        VerificationError: a graph differs from torch by more than its bound, or values leave the
            range of the precision.
    """
    sources = (checkpoint, options.text_encoder, *adapter_strengths(options.lora))
    with bundle_folder(bundle, overwrite=options.overwrite, sources=sources) as folder:
        progress(0.0, "read checkpoint")
        source = options.load(checkpoint)
        encoder_folder = options.find_text_encoder(Path(source.report.path))
        width, name = source.config.txt_input_size, source.report.text_encoder
        check_encoder_config(encoder_folder, width, name)
        export, origin = _Export.of(source, folder, options, progress), source.report
        net = build_network(source, None if options.sides is None else options.sides[1])
        text_adapters = source.text_adapters
        del source
        encoder_graph, text = _write_text_encoder(export, encoder_folder, origin, text_adapters)
        gc.collect()  # cycles of the exporter keep the encoder's weights alive
        reference = _record_reference(export, net, text)
        _convert(export, net)
        checks = _check_in_torch(export, net, reference)
        graphs = _write_graphs(export, net)
        del net
        gc.collect()  # onnxruntime is about to load the same weights
        checks = [*_check_in_onnxruntime(export, text, reference), *checks]
        require_within_bounds(checks, "no bundle was written")
        _write_manifest(export, {"text_encoder": encoder_graph, **graphs}, checks, origin)
        progress(1.0, "verified")
    return Bundle.open(bundle)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Export:
    """What every stage needs to know."""

    folder: Path
    options: ExportOptions
    config: ModelConfig
    flavour: Flavour
    conditions: StudentSettings | None
    padding: HeadPadding | None
    progress: Progress

    @classmethod
    def of(
        cls, source: Checkpoint, folder: Path, options: ExportOptions, progress: Progress
    ) -> _Export:
        if options.sides is not None:
            check_side_bounds(source.config, options.sides)
        return cls(
            folder=folder,
            options=options,
            config=source.config,
            flavour=flavour_for(_as_trained(source), options.flavour),
            conditions=source.conditions,
            padding=padding_for(source.config, options.head_multiple),
            progress=progress,
        )

    def graph_info(self, name: str, signature: Signature, precision: str, opset: int) -> GraphInfo:
        return GraphInfo(
            path=f"{name}/{GRAPH_FILE}",
            precision=precision,
            opset=opset,
            inputs=signature.inputs,
            outputs=signature.outputs,
        )


def _as_trained(source: Checkpoint) -> ModelConfig:
    """The network's shape at the size that its weights were trained for."""
    height, width = source.report.trained_size or source.config.image_shape[1:]
    return source.config.with_image_size(width, height)


def _write_text_encoder(
    export: _Export,
    source: Path,
    origin: CheckpointReport,
    adapters: Sequence[TextEncoderAdapter],
) -> tuple[GraphInfo, TextReference]:
    """Tokenizer and text encoder, and their values at the reference prompts."""
    export.progress(0.05, "text encoder")
    config, name = export.config, "text_encoder"
    encoder = open_text_encoder(source, config.txt_input_size)
    tokenizer = copy_tokenizer(
        source, export.folder / "tokenizer", config.prompt_length, encoder.config
    )
    identity = identify_text(encoder, tokenizer)
    # The network was trained with the encoder as it is, and the adapters on it.
    check_text_identity(origin.text_identity, identity, origin.path, source)
    merge_adapters(encoder, adapters, source)
    text = record_text(encoder, tokenizer, config)
    signature = write_text_encoder(encoder, export.folder / name, TEXT_ENCODER_OPSET)
    return export.graph_info(name, signature, "fp32", TEXT_ENCODER_OPSET), text


def _record_reference(export: _Export, net: MMJiT, text: TextReference) -> NetworkReference:
    done = stage_of(export.progress, 0.15, 0.4, "torch reference")
    return record_network(net, text, export.flavour.a_min, export.conditions, done)


def _convert(export: _Export, net: MMJiT) -> None:
    """Turn the float32 network into the form that is written, in place."""
    if export.padding is not None:
        pad_heads(net, export.padding)
    net.to(network_dtype(export.options.precision))


def _check_in_torch(export: _Export, net: MMJiT, reference: NetworkReference) -> list[Check]:
    precision = export.options.precision
    if not runs_in_torch(precision):
        return []
    done = stage_of(export.progress, 0.4, 0.5, f"torch in {precision}")
    return check_in_torch(net, reference, precision, done)


def _write_graphs(export: _Export, net: MMJiT) -> dict[str, GraphInfo]:
    """Text adapter and step graph."""
    if export.options.only_for is not None:
        use_onnxruntime_heads(net)  # from here on torch cannot run the network
    modules: dict[str, tuple[nn.Module, Signature]] = {
        "text_adapter": (AdapterGraph(net.text_adapter), text_adapter_signature(export.config)),
        "transformer": (
            Step(_denoiser(export, net)),
            step_signature(export.config, export.options.sides),
        ),
    }
    graphs, precision, opset = {}, export.options.precision, export.options.opset
    for name, (module, signature) in modules.items():
        export.progress(0.5, f"write {name}")
        model = to_onnx(module.eval(), signature, opset)
        write_graph(model, module, export.folder / name, canonical_name)
        graphs[name] = export.graph_info(name, signature, precision, opset)
    write_config(export.folder / "transformer", export.config)
    return graphs


def _denoiser(export: _Export, net: MMJiT) -> Denoiser:
    """In the order of operators that suits the engine."""
    options = export.options
    is_fixed = export.config.loop is None and options.sides is None
    fits = options.only_for == "cuda" and is_fixed
    return FusedDenoiser(net.denoiser) if fits else net.denoiser


def _check_in_onnxruntime(
    export: _Export, text: TextReference, reference: NetworkReference
) -> list[Check]:
    precision = export.options.precision
    network = reference if runs_in_onnxruntime(precision) else None
    done = stage_of(export.progress, 0.6, 0.95, "onnxruntime against torch")
    return check_in_onnxruntime(export.folder, text, network, precision, done)


def _write_manifest(
    export: _Export, graphs: dict[str, GraphInfo], checks: list[Check], origin: CheckpointReport
) -> None:
    """Tables and, last of all, the manifest."""
    one_pass = one_pass_scale(origin.adapters)
    tables, presets = write_tables(export.folder, export.flavour, export.conditions, one_pass)
    manifest = Manifest(
        model=export.config,
        variant=variant_of(export.config),
        graphs=graphs,
        tokenizer=TokenizerInfo(path="tokenizer", prompt_length=export.config.prompt_length),
        tables=tables,
        presets=presets,
        default_preset=default_preset(presets),
        flavour=export.flavour,
        noise=Noise(generator=GENERATOR, scale=NOISE_SCALE),
        provenance=Provenance(
            checkpoint_sha256=origin.sha256,
            checkpoint_form=origin.form,
            tools=tool_versions(),
            lora_sha256=combined_digest(origin.adapters),
        ),
        text_encoder_lora_sha256=combined_digest(of_text_encoder(origin.adapters)),
        checks=tuple(checks),
        padded_head_dim=None if export.padding is None else export.padding.padded,
        only_for=export.options.only_for,
        adapters=recorded_adapters(origin.adapters),
        trained_size=origin.trained_size,
        one_pass_guidance=one_pass,
        side_bounds=export.options.sides,
    )
    if export.options.precision in OVERFLOWING:
        draft = Bundle(path=export.folder, manifest=manifest, digest="")
        with GraphsRuntime(draft) as runtime:
            write_reference_outputs(draft, runtime, export.folder)
    export.progress(0.95, "hash files")
    write_manifest(export.folder, manifest)
