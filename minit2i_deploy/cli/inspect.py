"""minit2i inspect: describe a bundle, a checkpoint, or an image that was generated."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.options.shared_arguments import (
    add_adapters,
    add_json,
    bundle_path,
    image_size,
    integer,
    read_adapters,
)
from minit2i_deploy.errors import Minit2iError, UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.bundle.manifest import Manifest, Quantization
    from minit2i_deploy.checkpoints import Checkpoint
    from minit2i_deploy.config import ModelConfig
    from minit2i_deploy.engines.cache import CachedEngine, CorruptEngine
    from minit2i_deploy.loop_config import LoopConfig

_GRAPH_HEAD: Final = ("graph", "precision", "opset", "size", "inputs -> outputs")
_ENGINE_HEAD: Final = ("engine", "graph", "for", "sizes", "size", "kernels", "state")
_EPILOG: Final = """\
An engine is current if its graph and weights are the bundle's, its plan has the
length that was built, and the installed library is the one that built it. Bytes
are compared when an engine is loaded.

examples:
  minit2i inspect my-bundle
  minit2i inspect run/step-020000 --json
  minit2i inspect circle.png
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectOptions:
    """Options of minit2i inspect; None where one was not given."""

    path: Path
    lora: tuple[tuple[str, float], ...] | None
    image_size: int | tuple[int, int] | None
    prompt_length: int | None
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show what is in a bundle (graphs, presets, built engines, measured checks, its source), "
        "what is read from a checkpoint and what is not, or how an image was generated."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "path",
        metavar="PATH",
        type=lambda text: Path(bundle_path(text)),
        help="bundle, checkpoint, or .png, .jpg or .webp image",
    )
    add_adapters(parser, " into a checkpoint")
    parser.add_argument(
        "--image-size", metavar="SIZE", type=image_size, help="as for minit2i export"
    )
    parser.add_argument(
        "--prompt-length", metavar="TOKENS", type=integer, help="as for minit2i export"
    )
    add_json(parser)


def run(options: InspectOptions) -> None:
    """Detect what the path is, and print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.bundle.manifest import FILE_NAME
    from minit2i_deploy.cli.support.formatting import json_text

    if _is_image(options.path):
        _refuse_checkpoint_options(options, "an image")
        _print_record(options)
        return
    if (options.path / FILE_NAME).exists():
        _refuse_checkpoint_options(options, "a bundle")
        bundle = Bundle.open(options.path)
        print(json_text(_bundle_values(bundle)) if options.json else _bundle_text(bundle))
        return
    if not options.path.exists():
        raise Minit2iError(
            f"{options.path}: does not exist; give the path of a bundle, a checkpoint or an image"
        )
    from minit2i_deploy.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(
        options.path,
        lora=read_adapters(options.lora),
        image_size=options.image_size,
        prompt_length=options.prompt_length,
    )
    print(
        json_text(_checkpoint_values(checkpoint)) if options.json else _checkpoint_text(checkpoint)
    )


def _refuse_checkpoint_options(options: InspectOptions, kind: str) -> None:
    for name in ("lora", "image_size", "prompt_length"):
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} requires a checkpoint, but {options.path} is {kind}"
            )


def _is_image(path: Path) -> bool:
    from minit2i_deploy.io.image_formats import SUFFIXES

    return path.suffix.lower() in SUFFIXES and path.is_file()


def _print_record(options: InspectOptions) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text
    from minit2i_deploy.io.image_record import FIELD, Record
    from minit2i_deploy.io.strict_json import encode

    record = Record.read(options.path)
    if options.json:
        print(json_text(encode(record)))
        return
    fields = record.fields()
    for name in (FIELD, "parameters"):
        del fields[name]
    facts = [
        ("image", str(options.path)),
        ("prompt", record.prompt_text),
        *fields.items(),
        ("checkpoint", record.checkpoint),
    ]
    print(columns(facts))
    print(f"next: minit2i generate BUNDLE --from {options.path} -o again{options.path.suffix}")


def _bundle_values(bundle: Bundle) -> dict[str, Any]:
    from minit2i_deploy.io.strict_json import encode

    values = {"path": str(bundle.path), "digest": bundle.digest, **encode(bundle.manifest)}
    return values | {"engines": [_engine_values(bundle, item) for item in _engines(bundle)]}


def _bundle_text(bundle: Bundle) -> str:
    from minit2i_deploy.cli.support.formatting import check_lines, columns, size

    manifest = bundle.manifest
    flavour, provenance = manifest.flavour, manifest.provenance
    facts = [
        ("bundle", str(bundle.path)),
        ("digest", bundle.digest),
        ("files", f"{len(manifest.files)}, {size(manifest.num_bytes)}"),
        ("variant", manifest.variant or "none of the published ones"),
        ("model", _config_line(manifest.model)),
        ("flavour", f"{flavour.name} (a_min {flavour.a_min:g})"),
        ("checkpoint", f"{provenance.checkpoint_form}, sha256 {provenance.checkpoint_sha256}"),
        ("tools", ", ".join(f"{name} {tool}" for name, tool in provenance.tools.items())),
    ]
    if manifest.side_bounds is not None:
        facts.insert(5, ("sides", manifest.sides_text))
    if manifest.trained_size is not None:
        facts.insert(5, ("size", f"{manifest.model.size_text}; {manifest.trained_text}"))
    if manifest.padded_head_dim is not None:
        padded = f"padded with zeros to {manifest.padded_head_dim} in the graphs"
        facts.insert(5, ("heads", f"{manifest.model.head_dim} wide, {padded}"))
    if manifest.only_for is not None:
        facts.insert(-1, ("runs on", f"provider {manifest.only_for} of onnxruntime only"))
    if manifest.one_pass_guidance is not None:
        facts[-1:-1] = [("guidance", f"{manifest.one_pass_guidance:g}, in one pass")]
    if provenance.lora_sha256 is not None:
        facts[-1:-1] = [("lora", f"merged, {text}") for text in _lora_texts(manifest)]
    if manifest.text_encoder_lora_sha256 is not None:
        adapted = f"adapted, sha256 {manifest.text_encoder_lora_sha256}"
        facts[-1:-1] = [("text encoder", adapted)]
    if manifest.quantization is not None:
        facts.insert(-1, ("quantized", _quantization_line(manifest.quantization)))
    parts = [
        columns(facts),
        columns(_graph_rows(bundle), head=_GRAPH_HEAD),
        columns(_preset_rows(bundle), head=("preset", "table", "guidance", "")),
        "tables: " + ", ".join(manifest.tables),
    ]
    if engines := _engine_rows(bundle):
        parts.insert(2, columns(engines, head=_ENGINE_HEAD))
    return "\n\n".join([*parts, *([check_lines(manifest.checks)] if manifest.checks else [])])


def _lora_texts(manifest: Manifest) -> list[str]:
    if manifest.adapters is None:
        return [f"sha256 {manifest.provenance.lora_sha256}"]
    return [f"sha256 {item.sha256} at {item.strength:g}" for item in manifest.adapters]


def _quantization_line(record: Quantization) -> str:
    graphs = [f"{name}: {graph.scheme}" for name, graph in sorted(record.graphs.items())]
    return f"{record.scheme} on {record.base_precision} ({'; '.join(graphs)})"


def _graph_rows(bundle: Bundle) -> list[tuple[str, ...]]:
    from minit2i_deploy.cli.support.formatting import size

    files = bundle.manifest.files
    rows: list[tuple[str, ...]] = []
    graphs, switch = dict(bundle.manifest.graphs), bundle.manifest.switch
    if switch is not None:
        graphs[f"transformer from t={switch.t:g}"] = switch.graph
    for name, graph in graphs.items():
        with_data = (graph.path, bundle.manifest.data_file(graph))
        num_bytes = sum(files[path].bytes for path in with_data if path in files)
        flow = f"{' '.join(graph.inputs)} -> {' '.join(graph.outputs)}"
        rows.append((name, graph.precision, str(graph.opset), size(num_bytes), flow))
    return rows


def _preset_rows(bundle: Bundle) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, preset in bundle.manifest.presets.items():
        default = "default" if name == bundle.manifest.default_preset else ""
        rows.append((name, preset.table, f"{preset.guidance:g}", default))
    return rows


def _engines(bundle: Bundle) -> list[CachedEngine | CorruptEngine]:
    from minit2i_deploy.engines.cache import cached_engines

    return list(cached_engines(bundle))


def _engine_state(bundle: Bundle, engine: CachedEngine | CorruptEngine) -> str:
    """``current``, or why not."""
    from minit2i_deploy.engines.cache import CorruptEngine
    from minit2i_deploy.engines.fit import graph_changes, library_mismatch, weights_missing
    from minit2i_deploy.engines.library import installed_version

    if isinstance(engine, CorruptEngine):
        return engine.reason
    key = engine.record.key
    if (change := graph_changes(bundle, key)) is not None:
        return change
    version = installed_version(key.library)
    if version is None:
        return f"{key.library} is not installed here"
    return library_mismatch(key, key.library, version) or weights_missing(key) or "current"


def _engine_values(bundle: Bundle, engine: CachedEngine | CorruptEngine) -> dict[str, Any]:
    from minit2i_deploy.engines.cache import CorruptEngine
    from minit2i_deploy.io.strict_json import encode

    record = {} if isinstance(engine, CorruptEngine) else encode(engine.record)
    return {"folder": str(engine.folder), "state": _engine_state(bundle, engine), **record}


def _engine_rows(bundle: Bundle) -> list[tuple[str, ...]]:
    from minit2i_deploy.cli.support.formatting import size
    from minit2i_deploy.engines.cache import CorruptEngine
    from minit2i_deploy.engines.key import describe_size
    from minit2i_deploy.export.tensorrt.audit import describe_audit

    rows: list[tuple[str, ...]] = []
    for engine in _engines(bundle):
        state = _engine_state(bundle, engine)
        if isinstance(engine, CorruptEngine):
            rows.append((engine.folder.name, "?", "", "", "", "", state))
            continue
        record = engine.record
        key = record.key
        target = f"{key.library} {' '.join(key.targets)}"
        sizes = "; ".join(f"{name} {describe_size(values)}" for name, values in key.sizes.items())
        counts = describe_audit(record.audit)
        plan = size(record.plan_bytes)
        rows.append((engine.folder.name, key.graph, target, sizes, plan, counts, state))
    return rows


def _checkpoint_values(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"config": checkpoint.config.to_dict(), **checkpoint.report.to_dict()}


def _checkpoint_text(checkpoint: Checkpoint) -> str:
    from minit2i_deploy.cli.support.formatting import columns

    report = checkpoint.report
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in report.dtypes.items())
    facts = [
        ("checkpoint", report.path),
        ("form", report.form),
        ("weights", report.weights),
        ("sha256", report.sha256),
        ("model", _config_line(checkpoint.config)),
        ("parameters", f"{report.num_parameters:,}"),
        ("tensors", f"{len(checkpoint.tensors)} ({dtypes})"),
    ]
    if report.step is not None:
        facts.append(("step", f"{report.step:,}"))
    if report.text_encoder is not None:
        facts.append(("text encoder", report.text_encoder))
    for lora in report.adapters:
        merged = f"rank {lora.rank}, alpha {lora.alpha:g}, strength {lora.strength:g} on "
        merged += f"{lora.num_modules} matrices"
        if lora.num_text_modules:
            merged += f" and {lora.num_text_modules} of the text encoder"
        merged += f", sha256 {lora.sha256}"
        facts.append(("lora", merged))
        if lora.one_pass_guidance is not None:
            facts.append(("guidance", f"{lora.one_pass_guidance:g}, in one pass"))
    dropped = [
        ("dropped", f"{item.what}: {item.num_tensors} tensors, {item.reason}")
        for item in report.dropped
    ]
    return columns([*facts, *dropped])


def _config_line(config: ModelConfig) -> str:
    student = ", few-step student" if config.student else ""
    loop = "" if config.loop is None else f" in a loop {_loop_text(config.loop)}"
    return (
        f"{config.size_text} px, patch {config.patch_size}, width {config.hidden_size}, "
        f"{config.num_heads} heads, {config.depth_double} blocks{loop}, prompt of "
        f"{config.prompt_length} tokens of width {config.txt_input_size}{student}"
    )


def _loop_text(loop: LoopConfig) -> str:
    return f"{loop.pre} + {loop.num_loops} x {loop.core} + {loop.post}"
