"""The demo's findings as one page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from minit2i_deploy.io.html import document, escape, image, shorten, table, verdict
from minit2i_deploy.machine import machine_line

_STYLE: Final = """\
.pictures { display: flex; flex-wrap: wrap; gap: 1.2rem; }
figure { margin: 0; width: 192px; }
figure img { width: 192px; height: 192px; image-rendering: pixelated; border: 1px solid #bbb; }
figcaption { font-size: .85rem; line-height: 1.35; }
.kind, .reason { color: #666; }
pre { background: #f3f3f3; padding: .8rem; overflow-x: auto; font-size: .9rem; }
"""
_LONGEST_REASON: Final = 160
_STAGES: Final = {
    "tokenise": "split the prompt into tokens",
    "encode": "text encoder",
    "adapt": "text adapter",
    "noise": "draw the noise",
    "steps": "denoiser, all rows",
    "image": "round to bytes",
    "total": "whole picture",
}


def to_html(
    values: Mapping[str, Any], pictures: Mapping[str, bytes], commands: Sequence[str]
) -> str:
    """Write the page.

    Args:
        values: what ``report.report_values`` gave.
        pictures: PNG bytes by the file names that stand in values.
        commands: lines that show how to go on.
    """
    parts = [
        f"<p>{'<br>'.join(escape(line) for line in _facts(values))}</p>",
        *(_run(run, pictures) for run in values["runs"]),
        "<h2>Time a picture</h2>",
        _times(values["runs"]),
        f"<p>{escape(_once_line(values['seconds']))}</p>",
        "<h2>Parity</h2>",
        "<p>Differences measured during export; over its bound there would be no bundle.</p>",
        _checks(values["checks"]),
        "<h2>How to go on</h2>",
        f"<pre>{escape(chr(10).join(commands))}</pre>",
    ]
    return document("MiniT2I demo", _STYLE, parts)


def _run(run: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    overall = run["score"]["overall"]
    low, high = overall["interval_95"]
    rows = [_figure(item, pictures[item["file"]]) for item in run["pictures"]]
    return (
        f"<h2>{escape(run['table'])}, guidance {run['guidance']:g}: "
        f"{overall['correct']} of {overall['total']} right</h2>\n"
        "<p>Captions that training never saw, judged by an exact detector. So few pictures say "
        f"little: the 95% interval is {low:.2f} to {high:.2f}.</p>\n"
        f'<div class="pictures">{"".join(rows)}</div>'
    )


def _figure(item: Mapping[str, Any], png: bytes) -> str:
    kind = escape(item["kind"].replace("_", " "))
    reason = escape(shorten(item["reason"], _LONGEST_REASON))
    return (
        f"<figure>{image(png, item['caption'])}<figcaption>"
        f'<span class="kind">{kind}</span><br>{escape(item["caption"])}<br>'
        f'{verdict(item["correct"])} <span class="reason">{reason}; seed {item["seed"]}</span>'
        "</figcaption></figure>\n"
    )


def _times(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (words, *(f"{1000 * run['seconds_p50'][stage]:.2f}" for run in runs))
        for stage, words in _STAGES.items()
    ]
    one = (f"{1000 * run['seconds_p50']['steps'] / run['rows']:.2f}" for run in runs)
    head = ("stage (median, ms)", *(run["table"] for run in runs))
    numbers = range(1, len(head))
    return table(head, [*rows, ("denoiser, one row", *one)], numbers=numbers)


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = [
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
    return table(head, rows, numbers=(1, 2))


def _facts(values: Mapping[str, Any]) -> tuple[str, str]:
    """The model and the machine, a line each."""
    model, bundle = values["model"], values["bundle"]
    return (
        f"{model['image_size']} px, patch {model['patch_size']}, width {model['hidden_size']}, "
        f"{model['depth_double']} blocks, {bundle['precision']}, bundle of "
        f"{bundle['bytes'] / 1e6:.1f} MB, runtime {values['runtime']}",
        machine_line(values["machine"]),
    )


def _once_line(seconds: Mapping[str, float]) -> str:
    return "Once: " + ", ".join(f"{name} {spent:.1f} s" for name, spent in seconds.items()) + "."
