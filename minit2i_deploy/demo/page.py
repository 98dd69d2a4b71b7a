"""The demo's report as an HTML page in a single file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from minit2i_deploy.io.html import document, escape, image, shorten, table, verdict
from minit2i_deploy.machine import machine_line

_STYLE: Final = """\
.images { display: flex; flex-wrap: wrap; gap: 1.2rem; max-width: 40rem; }
figure { margin: 0; width: 192px; }
figure img { width: 192px; height: 192px; image-rendering: pixelated;
             border: 1px solid var(--line); }
figcaption { font-size: .85rem; line-height: 1.35; }
.kind, .reason { color: var(--soft); }
pre { background: var(--box); padding: .8rem; overflow-x: auto; font-size: .9rem; }
"""
_MAX_REASON_CHARS: Final = 160
# Share of the start noise from which grain is visible beside an image without any.
_VISIBLE_NOISE: Final = 0.002
_STAGES: Final = {
    "tokenise": "tokenizer",
    "encode": "text encoder",
    "adapt": "text adapter",
    "noise": "noise",
    "steps": "denoiser, all rows",
    "image": "conversion to bytes",
    "total": "total",
}


def to_html(values: Mapping[str, Any], images: Mapping[str, bytes], commands: Sequence[str]) -> str:
    """The page.

    Args:
        values: from ``report.report_values``.
        images: PNG bytes by the file names in values.
        commands: command lines to try next.
    """
    parts = [
        f"<p>{'<br>'.join(escape(line) for line in _facts(values))}</p>",
        *(_run(run, values["runs"], images) for run in values["runs"]),
        _edits(values["edits"], images),
        "<h2>Time per image</h2>",
        _times(values["runs"]),
        f"<p>{escape(_setup_line(values['seconds']))}</p>",
        "<h2>Parity</h2>",
        "<p>Differences measured during export; nothing is written if one exceeds its bound.</p>",
        _checks(values["checks"]),
        "<h2>Next steps</h2>",
        f"<pre>{escape(chr(10).join(commands))}</pre>",
    ]
    return document("MiniT2I demo", _STYLE, parts)


def _run(
    run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]
) -> str:
    overall = run["score"]["overall"]
    low, high = overall["interval_95"]
    figures = [_figure(item, images[item["file"]]) for item in run["pictures"]]
    text = (
        "Captions that training excluded, judged by an exact detector. The 95% confidence "
        f"interval of the score is {low:.2f} to {high:.2f}. {_noise_sentence(run, runs)}"
    )
    return (
        f"<h2>{escape(_title(run))}: {overall['correct']} of {overall['total']} right</h2>\n"
        f"<p>{escape(text.strip())}</p>\n"
        f'<div class="images">{"".join(figures)}</div>'
    )


def _title(run: Mapping[str, Any]) -> str:
    preset = run["name"].removeprefix("student-")
    model = "Few-step student" if run["name"] != preset else "Base model"
    return f"{model}, preset {preset} ({run['table']}, guidance {run['guidance']:g})"


def _noise_sentence(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """Why the images of a run are grainier than those of others; empty if they are not.

    Source: docs/reference/sampling.md, "Where the trajectory ends".
    """
    if run["residual_noise"] < _VISIBLE_NOISE or run["a_min"] is None:
        return ""
    clean = [one["table"] for one in runs if one["residual_noise"] < _VISIBLE_NOISE]
    end = f", while {' and '.join(clean)} end on the estimate" if clean else ""
    return (
        f"These images are grainier because {run['table']} divides by max(1 - t, a_min) with the "
        f"official sampler's a_min of {run['a_min']:g}: its last steps stop short of the network's "
        f"estimate and {run['residual_noise']:.1%} of the start noise remains{end}."
    )


def _figure(item: Mapping[str, Any], png: bytes) -> str:
    kind = escape(item["kind"].replace("_", " "))
    reason = escape(shorten(item["reason"], _MAX_REASON_CHARS))
    return (
        f"<figure>{image(png, item['caption'])}<figcaption>"
        f'<span class="kind">{kind}</span><br>{escape(item["caption"])}<br>'
        f'{verdict(item["correct"])} <span class="reason">{reason}; seed {item["seed"]}</span>'
        "</figcaption></figure>\n"
    )


def _edits(edits: Sequence[Mapping[str, Any]], images: Mapping[str, bytes]) -> str:
    right = sum(item["correct"] for item in edits)
    figures = [
        f"<figure>{image(images[item['first']], 'the first image')}<figcaption>"
        f'<span class="kind">{escape(item["title"])}</span><br>before</figcaption></figure>\n'
        + _figure({**item, "kind": f"{item['table']}, guidance {item['guidance']:g}"},
                  images[item["file"]])
        for item in edits
    ]  # fmt: skip
    return (
        f"<h2>Edits: {right} of {len(edits)} right</h2>\n"
        "<p>Drawn scenes, edited by the base model with one seed. The detector judges the complete "
        "caption.</p>\n"
        f'<div class="images">{"".join(figures)}</div>'
    )


def _times(runs: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        (label, *(f"{1000 * run['seconds_p50'][stage]:.2f}" for run in runs))
        for stage, label in _STAGES.items()
    ]
    per_row = (f"{1000 * run['seconds_p50']['steps'] / run['rows']:.2f}" for run in runs)
    head = ("stage (median, ms)", *(run["table"] for run in runs))
    return table(head, [*lines, ("denoiser, per row", *per_row)], numbers=range(1, len(head)))


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        (
            check["name"],
            f"{check['measured']:.3g}",
            f"{check['bound']:.3g}",
            check["unit"],
            check["where"],
        )
        for check in checks
    ]
    head = ("check", "measured", "bound", "unit", "compared")
    return table(head, lines, numbers=(1, 2))


def _facts(values: Mapping[str, Any]) -> tuple[str, str]:
    """The model and the machine, a line each."""
    model, bundle = values["model"], values["bundle"]
    return (
        f"{model['image_size']} px, patch {model['patch_size']}, width {model['hidden_size']}, "
        f"{model['depth_double']} blocks, {bundle['precision']}, bundle of "
        f"{bundle['bytes'] / 1e6:.1f} MB, runtime {values['runtime']}",
        machine_line(values["machine"]),
    )


def _setup_line(seconds: Mapping[str, float]) -> str:
    times = ", ".join(f"{name} {duration:.1f} s" for name, duration in seconds.items())
    return f"Before the first image: {times}."
