"""What made a bundle what it is, as names and short texts, and names that tell bundles apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.demo.ready import bundle_name
from minit2i_deploy.evaluation.compare.contenders import Contender

UNQUANTIZED: Final = "none"
_DIGITS: Final = 12


def describe_settings(contender: Contender) -> dict[str, str]:
    """Name to text: scheme, precisions, checkpoint, tables and versions of the tools."""
    manifest = contender.bundle.manifest
    provenance = manifest.provenance
    settings = {
        "engine": contender.engine,
        **_quantization(contender.bundle),
        **{f"{name} precision": graph.precision for name, graph in manifest.graphs.items()},
        "opset": ", ".join(sorted({str(graph.opset) for graph in manifest.graphs.values()})),
        "exported for": manifest.only_for or "every engine",
        "checkpoint": f"{provenance.checkpoint_sha256[:_DIGITS]} ({provenance.checkpoint_form})",
        "LoRA": (provenance.lora_sha256 or "none")[:_DIGITS],
        "flavour": manifest.flavour.name,
        "default preset": manifest.default_preset,
        "tables": ", ".join(sorted(manifest.tables)),
        "digest": contender.bundle.digest[:_DIGITS],
    }
    if manifest.switch is not None:
        switch = manifest.switch
        settings["step graph switch"] = f"{switch.graph.precision} from t={switch.t:g}"
    return settings | {f"{name} version": text for name, text in sorted(provenance.tools.items())}


def _quantization(bundle: Bundle) -> dict[str, str]:
    quantization = bundle.manifest.quantization
    if quantization is None:
        return {"scheme": UNQUANTIZED}
    calibration = quantization.calibration_sha256
    texts = {
        "scheme": f"{quantization.scheme} on {quantization.base_precision}",
        "calibration": "none" if calibration is None else calibration[:_DIGITS],
        "smoothed groups": str(len(quantization.smoothing)),
    }
    for name, graph in quantization.graphs.items():
        excluded = f", {len(graph.excluded)} excluded" if graph.excluded else ""
        texts[f"{name} weights"] = f"{graph.scheme}, {graph.layers} layers{excluded}"
    return texts


def split_settings(
    settings: Sequence[Mapping[str, str]], absent: str = "-"
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Settings that all share, and those that differ with the text of each.

    Args:
        settings: from ``describe_settings``, one for each bundle.
        absent: in place of a setting that a bundle lacks.
    """
    names = dict.fromkeys(name for one in settings for name in one)
    texts = {name: tuple(one.get(name, absent) for one in settings) for name in names}
    equal = {name: each[0] for name, each in texts.items() if len(set(each)) == 1}
    return equal, {name: each for name, each in texts.items() if name not in equal}


def unique_names(contenders: Sequence[Contender]) -> list[str]:
    """A name for each: its folder, where that is not unique the engine too, then the path."""
    paths = [Path(one.bundle.path) for one in contenders]
    engines = [one.engine for one in contenders]
    short = [bundle_name(path) for path in paths]
    forms = [
        short,
        [f"{name}@{engine}" for name, engine in zip(short, engines, strict=True)],
        [f"{path}@{engine}" for path, engine in zip(paths, engines, strict=True)],
    ]
    for names in forms:
        if len(set(names)) == len(names):
            return names
    # The same bundle on the same engine twice, which shows the noise of a measurement.
    return [f"{name} ({index})" for index, name in enumerate(forms[1], start=1)]
