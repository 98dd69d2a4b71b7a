"""The demo's findings as one page that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

from minit2i_deploy.demo.machine import machine_line

_STYLE: Final = """\
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.2rem; }
figure { margin: 0; width: 192px; }
figure img { width: 192px; height: 192px; image-rendering: pixelated; border: 1px solid #bbb; }
figcaption { font-size: .85rem; line-height: 1.35; }
.kind, .reason { color: #666; } .yes { color: #0a6b2d; } .no { color: #a11212; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
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
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>MiniT2I demo</title>',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>MiniT2I demo</h1>",
        f"<p>{_e(_model_line(values))}<br>{_e(machine_line(values['machine']))}</p>",
        *(_run(run, pictures) for run in values["runs"]),
        "<h2>Time a picture</h2>",
        _times(values["runs"]),
        f"<p>{_e(_once_line(values['seconds']))}</p>",
        "<h2>Parity</h2>",
        "<p>Differences measured during export; over its bound there would be no bundle.</p>",
        _checks(values["checks"]),
        "<h2>How to go on</h2>",
        f"<pre>{_e(chr(10).join(commands))}</pre>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _run(run: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    overall = run["score"]["overall"]
    low, high = overall["interval_95"]
    rows = [_figure(item, pictures[item["file"]]) for item in run["pictures"]]
    return (
        f"<h2>{_e(run['table'])}, guidance {run['guidance']:g}: "
        f"{overall['correct']} of {overall['total']} right</h2>\n"
        "<p>Captions that training never saw, judged by an exact detector. So few pictures say "
        f"little: the 95% interval is {low:.2f} to {high:.2f}.</p>\n"
        f'<div class="pictures">{"".join(rows)}</div>'
    )


def _figure(item: Mapping[str, Any], png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    word, style = ("right", "yes") if item["correct"] else ("wrong", "no")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{_e(item["caption"])}">'
        f'<figcaption><span class="kind">{_e(item["kind"].replace("_", " "))}</span><br>'
        f'{_e(item["caption"])}<br><b class="{style}">{word}</b> '
        f'<span class="reason">{_e(_short(item["reason"]))}; seed {item["seed"]}</span>'
        "</figcaption></figure>\n"
    )


def _times(runs: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{_e(run['table'])}</th>" for run in runs)
    lines = [f"<table><tr><th>stage (median, ms)</th>{head}</tr>"]
    for stage, words in _STAGES.items():
        cells = "".join(
            f'<td class="n">{1000 * run["seconds_p50"][stage]:.2f}</td>' for run in runs
        )
        lines.append(f"<tr><td>{words}</td>{cells}</tr>")
    cells = "".join(
        f'<td class="n">{1000 * run["seconds_p50"]["steps"] / run["rows"]:.2f}</td>' for run in runs
    )
    return "\n".join([*lines, f"<tr><td>denoiser, one row</td>{cells}</tr></table>"])


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    lines = ["<table><tr><th>check</th><th>measured</th><th>bound</th><th>unit</th>"]
    lines.append("<th>compared</th></tr>")
    for check in checks:
        numbers = "".join(f'<td class="n">{check[key]:.3g}</td>' for key in ("measured", "bound"))
        words = "".join(f"<td>{_e(check[key])}</td>" for key in ("unit", "where"))
        lines.append(f"<tr><td>{_e(check['name'])}</td>{numbers}{words}</tr>")
    return "\n".join([*lines, "</table>"])


def _model_line(values: Mapping[str, Any]) -> str:
    model, bundle = values["model"], values["bundle"]
    return (
        f"{model['image_size']} px, patch {model['patch_size']}, width {model['hidden_size']}, "
        f"{model['depth_double']} blocks, {bundle['precision']}, bundle of "
        f"{bundle['bytes'] / 1e6:.1f} MB, runtime {values['runtime']}"
    )


def _once_line(seconds: Mapping[str, float]) -> str:
    return "Once: " + ", ".join(f"{name} {spent:.1f} s" for name, spent in seconds.items()) + "."


def _short(reason: str) -> str:
    # A noisy picture has dozens of regions, each with its words; report.json has them all.
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 3]}..."


def _e(text: str) -> str:
    return html.escape(text)
