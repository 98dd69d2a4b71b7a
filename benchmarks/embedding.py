"""Texts a second: our embedding against other libraries', the same encoder in all of them.

    python benchmarks/embedding.py BUNDLE --texts 10000 --threads 2
    python benchmarks/embedding.py BUNDLE --texts 512 --padded 32 --also openvino:precision=bf16 \
        --also INT8-TEXT@openvino:precision=bf16 --also INT8-TEXT@onnxruntime
    python benchmarks/embedding.py BUNDLE --texts 512 --peer ctranslate2-int8 --peer fastembed

All embed the same texts, chunk by chunk in turns, so that a busy machine slows all of them; the
ratios are what the run is for. Peers with no precision in their name compute in BUNDLE's. Engines
of ``--also`` need not, and the least cosine of all vectors to BUNDLE's stands beside the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

# Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from embedding_peers import PADDED, PEERS, USUAL, Embedder, padded_arrays
from generate_memory import engine_options

import minit2i_deploy as m
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.evaluation.bench.stages import short_texts
from minit2i_deploy.machine import describe_machine, machine_line
from minit2i_deploy.text.embed import BATCH_SIZE
from minit2i_deploy.text.encoder import SequenceEncoder
from minit2i_deploy.tokenizer import Encoded

CHUNK: Final = 256
SHORT: Final = 20

# A child's maximum as its parent sees it includes the parent's, from before the exec.
_CHILD: Final = """
import sys
from minit2i_deploy.cli import main
from minit2i_deploy.cli.bench import peak_memory_bytes
code = main(sys.argv[1:])
print(peak_memory_bytes())
sys.exit(code)
"""

Ours = tuple[m.Bundle, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    bundle = m.Bundle.open(options.bundle)
    report: dict[str, Any] = {"machine": describe_machine(), "texts": options.texts}
    with ExitStack() as stack:
        runtime = stack.enter_context(
            m.open_runtime(bundle, options.runtime, threads=options.threads)
        )
        others = {text: _opened(text, bundle, options.threads, stack) for text in options.also}
        if not options.short_only:
            names = () if options.no_peers else options.peer or USUAL
            peers = {}
            for name in names:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minit2i-")))
                peers[name] = PEERS[name](bundle, options.threads, folder)
            report |= _rates(bundle, runtime, others, peers, options)
        if others:
            report["one_text"] = _one_text(
                bundle, {"minit2i": (bundle, runtime), **others}, options
            )
        report["short_prompt"] = _short_prompt(bundle, runtime, options.rounds)
    if not options.short_only and not options.no_peers:
        report["peak_memory_mb"] = _peaks(options)
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Texts a second of embedding, in turns.")
    parser.add_argument("bundle", metavar="BUNDLE", help="of minit2i export, in fp32")
    parser.add_argument("--texts", type=int, default=10_000, help="different short texts")
    parser.add_argument("--threads", type=int, default=2, help="of each engine; default: 2")
    parser.add_argument("--runtime", default="onnxruntime", help="ours; default: onnxruntime")
    parser.add_argument(
        "--padded", type=int, default=CHUNK, help="texts that are also padded to the full length"
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="[BUNDLE@]RUNTIME[:OPTION=VALUE,..]",
        help="another engine of ours, or another bundle on it; may be given several times",
    )
    parser.add_argument(
        "--peer",
        action="append",
        choices=PEERS,
        metavar="NAME",
        help=f"one of {', '.join(PEERS)}; may be given several times; default: the first three",
    )
    parser.add_argument("--no-peers", action="store_true", help="only engines of ours")
    parser.add_argument("--rounds", type=int, default=7, help="of the short prompt")
    parser.add_argument(
        "--short-only", action="store_true", help="only the short prompt, which needs no peers"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if min(options.texts, options.threads, options.rounds) < 1:
        parser.error("--texts, --threads and --rounds must be at least 1")
    return options


def _opened(text: str, bundle: m.Bundle, threads: int, stack: ExitStack) -> Ours:
    """Open ``[BUNDLE@]RUNTIME[:OPTION=VALUE,..]``."""
    place, _, engine = text.rpartition("@")
    other = m.Bundle.open(place) if place else bundle
    name, settings = engine_options(engine)
    return other, stack.enter_context(m.open_runtime(other, name, threads=threads, **settings))


def _one_text(
    bundle: m.Bundle, ours: dict[str, Ours], options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of one text of SHORT tokens on each of our engines, in turns."""
    size = json.loads((bundle.graph_path("text_encoder").parent / "config.json").read_text())
    arrays = padded_arrays([np.random.default_rng(0).integers(3, size["vocab_size"], SHORT)], None)
    for _, runtime in ours.values():
        runtime.encode(*arrays)
    rounds = [
        {name: _seconds(runtime, arrays) for name, (_, runtime) in ours.items()}
        for _ in range(options.rounds)
    ]
    return {
        name: {
            "seconds": statistics.median(item[name] for item in rounds),
            "share": statistics.median(item[name] / item["minit2i"] for item in rounds),
        }
        for name in ours
    }


def _rates(
    bundle: m.Bundle,
    runtime: Any,
    others: dict[str, Ours],
    peers: dict[str, Embedder],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Seconds of each contender for the same chunks, and how far their values are apart."""
    encoded = bundle.tokenizer().encode(short_texts(options.texts))
    contenders = {"minit2i": _our_embedder(bundle, runtime)}
    contenders |= {name: _our_embedder(*item) for name, item in others.items()}
    contenders |= peers
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    cosines = {}
    worst = 0.0
    for name, embedder in contenders.items():
        # Warm-up; and the values, which must agree.
        is_ours = name == "minit2i" or name in others
        values = embedder(encoded[: CHUNK if is_ours else BATCH_SIZE])
        if name == "minit2i":
            reference = values
        elif name not in others and "-int" not in name:
            apart = np.abs(values - reference[: len(values)]).max() / np.abs(reference).max()
            worst = max(worst, float(apart))
        cosines[name] = _least_cosine(values, reference[: len(values)])
    for start in range(0, len(encoded), CHUNK):
        for name, embedder in contenders.items():
            if name.endswith(f"-{PADDED}") and start >= options.padded:
                continue
            began = time.perf_counter()
            embedder(encoded[start : start + CHUNK])
            seconds[name].append(time.perf_counter() - began)
    ours = seconds["minit2i"]
    ratios = {
        name: statistics.median(a / b for a, b in zip(spent, ours, strict=False))
        for name, spent in seconds.items()
    }
    rates = {}
    for name, spent in seconds.items():
        covered = min(len(encoded), CHUNK * len(spent))
        rates[name] = covered / sum(spent)
    return {
        "texts_per_s": rates,
        "times_as_long_as_ours": ratios,
        "largest_difference": worst,
        "least_cosine": cosines,
    }


def _least_cosine(values: np.ndarray, reference: np.ndarray) -> float:
    a, b = (array.astype(np.float64) for array in (values, reference))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / lengths).min())


def _our_embedder(bundle: m.Bundle, runtime: Any) -> Embedder:
    """Mean-pooled vectors on one of our runtimes, sorted by length."""

    def ours(encoded: Sequence[Encoded]) -> np.ndarray:
        encoder = SequenceEncoder(bundle, runtime, cache_bytes=0)
        pooled: dict[int, np.ndarray] = {
            k: row.mean(axis=0) for k, row in encoder.sequences(encoded)
        }
        return np.stack([pooled[k] for k in range(len(encoded))])

    return ours


def _short_prompt(bundle: m.Bundle, runtime: Any, rounds: int) -> dict[str, float]:
    """A prompt of SHORT tokens alone, and padded to PADDED, in turns on our runtime."""
    size = json.loads((bundle.graph_path("text_encoder").parent / "config.json").read_text())
    ids = np.random.default_rng(0).integers(3, size["vocab_size"], SHORT)
    short, long = padded_arrays([ids], None), padded_arrays([ids], PADDED)
    alone, padded = runtime.encode(*short), runtime.encode(*long)
    off = np.abs(padded[:, :SHORT] - alone).max() / np.abs(alone).max()
    pairs = [(_seconds(runtime, short), _seconds(runtime, long)) for _ in range(rounds)]
    return {
        "real_tokens_s": statistics.median(a for a, _ in pairs),
        "padded_s": statistics.median(b for _, b in pairs),
        "times_faster": statistics.median(b / a for a, b in pairs),
        "difference": float(off),
    }


def _seconds(runtime: Any, arrays: tuple[np.ndarray, np.ndarray]) -> float:
    began = time.perf_counter()
    runtime.encode(*arrays)
    return time.perf_counter() - began


def _peaks(options: argparse.Namespace) -> dict[str, float]:
    """Peak memory of ``minit2i embed`` as a process, for a tenth of the texts and for all."""
    peaks = {}
    texts = short_texts(options.texts)
    with tempfile.TemporaryDirectory(prefix="minit2i-embedding-") as folder:
        for count in sorted({max(1, options.texts // 10), options.texts}):
            source = Path(folder, f"{count}.txt")
            source.write_text("\n".join(texts[:count]), encoding="utf-8")
            arguments = [
                "embed",
                options.bundle,
                "--input",
                str(source),
                "--runtime",
                options.runtime,
            ]
            arguments += ["-o", str(Path(folder, "t.npz")), "--threads", str(options.threads)]
            command = [sys.executable, "-c", _CHILD, *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            peaks[str(count)] = int(done.stdout.splitlines()[-1]) / 1e6
    return peaks


def _text(report: dict[str, Any]) -> str:
    lines = [machine_line(report["machine"])]
    if "texts_per_s" in report:
        lines += _rate_lines(report)
    short = report["short_prompt"]
    lines.append(
        f"{SHORT} tokens: {short['real_tokens_s'] * 1e3:.1f} ms, padded to {PADDED} "
        f"{short['padded_s'] * 1e3:.1f} ms: {short['times_faster']:.2f} times faster, values "
        f"{short['difference']:.1e} apart"
    )
    for name, item in report.get("one_text", {}).items():
        lines.append(
            f"{SHORT} tokens, {name}: {item['seconds'] * 1e3:.1f} ms, {item['share']:.2f} of ours"
        )
    for count, peak in report.get("peak_memory_mb", {}).items():
        lines.append(f"peak memory of minit2i embed, {count} texts: {peak:.0f} MB")
    return "\n".join(lines)


def _rate_lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['texts']} texts"]
    for name, rate in report["texts_per_s"].items():
        ratio = report["times_as_long_as_ours"][name]
        cosine = report["least_cosine"][name]
        lines.append(
            f"  {name:32} {rate:9.1f} texts/s   takes {ratio:5.2f} times as long as ours"
            f"   cosine {cosine:.5f} or more"
        )
    lines.append(f"  largest difference of pooled vectors {report['largest_difference']:.1e}")
    return lines


if __name__ == "__main__":
    sys.exit(run_script(main))
