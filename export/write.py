"""Export, top to bottom: any checkpoint in, a verified bundle out, or nothing at all."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.flavours import NOISE_SCALE, find_flavour, flavour_for, variant_of
from minit2i_deploy.bundle.folder import bundle_folder
from minit2i_deploy.bundle.head_padding import HeadPadding
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
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.checkpoints.checkpoint import CheckpointReport
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.export.assets import (
    copy_tokenizer,
    tool_versions,
    write_config,
    write_tables,
)
from minit2i_deploy.export.choices import check_form, check_multiple
from minit2i_deploy.export.graphs.head_padding import pad_heads, padding_for
from minit2i_deploy.export.graphs.modules import (
    AdapterGraph,
    canonical_name,
    network_dtype,
    step_signature,
    text_adapter_signature,
)
from minit2i_deploy.export.graphs.onnx_export import DEFAULT_OPSET, Signature, check_opset, to_onnx
from minit2i_deploy.export.graphs.onnxruntime_heads import use_onnxruntime_heads
from minit2i_deploy.export.graphs.text_encoder import open_text_encoder, write_text_encoder
from minit2i_deploy.export.graphs.text_encoder_folder import find_text_encoder
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE, write_graph
from minit2i_deploy.export.verification.reference import (
    NetworkReference,
    TextReference,
    record_network,
    record_text,
)
from minit2i_deploy.export.verification.verify import (
    compare,
    compare_torch,
    require_within_bounds,
    runs_in_onnxruntime,
)
from minit2i_deploy.model import MMJiT, Step, build_network
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.solvers.mean_flow import StudentSettings
from minit2i_deploy.solvers.noise import GENERATOR


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What every stage needs to know."""

    folder: Path
    config: ModelConfig
    flavour: Flavour
    precision: str
    opset: int
    progress: Progress
    told: StudentSettings | None = None
    padding: HeadPadding | None = None
    only_for: str | None = None


def export_bundle(
    checkpoint: str | Path,
    bundle: str | Path,
    *,
    precision: str = "fp32",
    text_encoder: str | Path | None = None,
    flavour: str | None = None,
    ema: bool | str = True,
    lora: str | Path | None = None,
    image_size: int | None = None,
    prompt_length: int | None = None,
    opset: int = DEFAULT_OPSET,
    head_multiple: int = 1,
    only_for: str | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Bundle:
    """Export a checkpoint to a bundle, verified against torch.

    Args:
        checkpoint: any form that ``load_checkpoint`` reads.
        bundle: folder to make; it appears whole or not at all.
        precision: fp32, bf16 or fp16, of adapter and step; the text encoder stays fp32.
        text_encoder: folder of the T5 encoder; without it, looked for at the checkpoint.
        flavour: a name in ``flavours.FLAVOURS``; without it, the one for the network's shape.
        ema: as for ``load_checkpoint``, like the next three.
        lora: adapter to merge.
        image_size: of a Flax checkpoint of no published shape.
        prompt_length: as image_size.
        opset: of the graphs, 23 or 18.
        head_multiple: of adapter and step: heads are padded with zeros to the next multiple of
            it, one of ``choices.HEAD_MULTIPLES``.
        only_for: "cpu" for operators of ONNX Runtime's own in adapter and step, which take its CPU
            provider less time and which no other engine runs; None for standard ones.
        overwrite: replace a bundle that stands there.
        progress: called with the share that is done and the name of the stage.

    Raises:
        UsageError: an argument is wrong, or the target cannot be written or replaced.
        CheckpointError: checkpoint or text encoder cannot be read.
        VerificationError: a graph differs from torch by more than its bound.
    """
    network_dtype(precision)
    check_opset(opset)
    check_multiple(head_multiple)
    check_form(only_for, precision, opset)
    if flavour is not None:
        find_flavour(flavour)
    sources = (checkpoint, text_encoder, lora)
    with bundle_folder(bundle, overwrite=overwrite, sources=sources) as folder:
        progress(0.0, "read checkpoint")
        source = load_checkpoint(
            checkpoint, ema, lora=lora, image_size=image_size, prompt_length=prompt_length
        )
        origin = source.report
        job = _Job(
            folder=folder,
            config=source.config,
            flavour=flavour_for(source.config, flavour),
            precision=precision,
            opset=opset,
            progress=progress,
            told=source.conditions,
            padding=padding_for(source.config, head_multiple),
            only_for=only_for,
        )
        given = None if text_encoder is None else Path(text_encoder)
        encoder_folder = find_text_encoder(Path(origin.path), given)
        net = build_network(source)
        del source
        encoder_graph, text = _write_text_encoder(job, encoder_folder)
        gc.collect()  # cycles of the exporter hold the encoder's weights
        reference, graphs, checks = _record_and_write(job, net, text)
        del net
        gc.collect()  # onnxruntime is about to load the same weights
        checks = [*_compare(job, text, reference), *checks]
        require_within_bounds(checks, "no bundle was written")
        _write_manifest(job, {"text_encoder": encoder_graph, **graphs}, checks, origin)
        progress(1.0, "verified")
    return Bundle.open(bundle)


def _write_text_encoder(job: _Job, source: Path) -> tuple[GraphInfo, TextReference]:
    job.progress(0.05, "text encoder")
    encoder = open_text_encoder(source, job.config.txt_input_size)
    vocabulary = encoder.config.vocab_size
    tokenizer_folder = job.folder / "tokenizer"
    tokenizer = copy_tokenizer(source, tokenizer_folder, job.config.prompt_length, vocabulary)
    text = record_text(encoder, tokenizer, job.config)
    signature = write_text_encoder(encoder, job.folder / "text_encoder", job.opset)
    return _graph_info("text_encoder", signature, "fp32", job.opset), text


def _record_and_write(
    job: _Job, net: MMJiT, text: TextReference
) -> tuple[NetworkReference, dict[str, GraphInfo], list[Check]]:
    """Record float32 torch, then turn the network to its final form in place and write it."""
    done = stage_of(job.progress, 0.15, 0.4, "torch reference")
    reference = record_network(net, text, job.flavour.a_min, job.told, done)
    if job.padding is not None:
        pad_heads(net, job.padding)
    net.to(network_dtype(job.precision))
    if job.only_for is not None:
        use_onnxruntime_heads(net)
    checks = []
    if not runs_in_onnxruntime(job.precision):
        done = stage_of(job.progress, 0.4, 0.5, "torch in the precision")
        checks = compare_torch(net, reference, job.precision, done)
    return reference, _write_graphs(job, net), checks


def _compare(job: _Job, text: TextReference, reference: NetworkReference) -> list[Check]:
    network = reference if runs_in_onnxruntime(job.precision) else None
    done = stage_of(job.progress, 0.6, 0.95, "onnxruntime against torch")
    return compare(job.folder, text, network, job.precision, done)


def _write_graphs(job: _Job, net: MMJiT) -> dict[str, GraphInfo]:
    modules: dict[str, tuple[nn.Module, Signature]] = {
        "text_adapter": (AdapterGraph(net.text_adapter), text_adapter_signature(job.config)),
        "transformer": (Step(net.denoiser), step_signature(job.config)),
    }
    graphs = {}
    for name, (module, signature) in modules.items():
        job.progress(0.5, f"write {name}")
        model = to_onnx(module.eval(), signature, job.opset)
        write_graph(model, module, job.folder / name, canonical_name)
        graphs[name] = _graph_info(name, signature, job.precision, job.opset)
    write_config(job.folder / "transformer", job.config)
    return graphs


def _graph_info(name: str, signature: Signature, precision: str, opset: int) -> GraphInfo:
    return GraphInfo(
        path=f"{name}/{GRAPH_FILE}",
        precision=precision,
        opset=opset,
        inputs=signature.inputs,
        outputs=signature.outputs,
    )


def _write_manifest(
    job: _Job, graphs: dict[str, GraphInfo], checks: list[Check], origin: CheckpointReport
) -> None:
    tables, presets = write_tables(job.folder, job.flavour, job.told)
    manifest = Manifest(
        model=job.config,
        variant=variant_of(job.config),
        graphs=graphs,
        tokenizer=TokenizerInfo(path="tokenizer", prompt_length=job.config.prompt_length),
        tables=tables,
        presets=presets,
        default_preset=default_preset(presets),
        flavour=job.flavour,
        noise=Noise(generator=GENERATOR, scale=NOISE_SCALE),
        provenance=Provenance(
            checkpoint_sha256=origin.sha256,
            checkpoint_form=origin.form,
            tools=tool_versions(),
            lora_sha256=None if origin.lora is None else origin.lora.sha256,
        ),
        checks=tuple(checks),
        padded_head_dim=None if job.padding is None else job.padding.padded,
        only_for=job.only_for,
    )
    job.progress(0.95, "hash files")
    write_manifest(job.folder, manifest)
