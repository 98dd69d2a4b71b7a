"""minit2i eval score: results of the benchmarks' scorers, read, counted and compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.benchmarks.generate_suite import KIND
from minit2i_deploy.evaluation.benchmarks.items import Item
from minit2i_deploy.evaluation.benchmarks.layouts import write_images
from minit2i_deploy.evaluation.benchmarks.result_files import read_results
from minit2i_deploy.evaluation.benchmarks.scores import PairedScores, Scores
from minit2i_deploy.evaluation.benchmarks.shapes_items import shapes_item
from minit2i_deploy.evaluation.benchmarks.suites import SUITES, find_suite
from minit2i_deploy.evaluation.shapes import KINDS, draw_scene, sample_scene
from minit2i_deploy.progress import Progress
from minit2i_deploy.shards.blocks import BlockResult
from minit2i_deploy.shards.job import BESIDE, Job, job_folder
from minit2i_deploy.shards.shard import Shard
from minit2i_deploy.shards.work import run_shard
from tests.helpers.cli_runs import run

Capsys = pytest.CaptureFixture[str]
# As evaluate_images.py walks the folders, with a detector that reads the first pixel.
GENEVAL_SCORER = """
import json, os, re, sys
import numpy
from PIL import Image
out = sys.argv[1]
with open(sys.argv[sys.argv.index("--outfile") + 1], "w") as results:
    for folder in os.listdir(out):
        if not folder.isdigit():
            continue
        with open(os.path.join(out, folder, "metadata.jsonl")) as stream:
            metadata = json.load(stream)
        for name in os.listdir(os.path.join(out, folder, "samples")):
            assert re.match(r"\\d+\\.png", name)
            path = os.path.join(out, folder, "samples", name)
            right = bool(numpy.asarray(Image.open(path))[0, 0, 0] > 127)
            line = {"filename": path, "tag": metadata["tag"], "correct": right}
            results.write(json.dumps(line) + "\\n")
"""


def suite_folder(
    out: Path, suite: str, items: list[Item], brightness: list[int], bundle: str = "a"
) -> Path:
    """A complete run of a suite whose image i has a brightness of its own."""
    settings = {"suite": suite, "samples": 1, "seed": 0, "guidance": 6.0}
    job = Job(
        kind=KIND,
        bundle=bundle * 64,
        input_sha256="p" * 64,
        num_items=len(items),
        block_items=2,
        data=BESIDE,
        settings=settings,
    )

    def make(block: int, block_items: range, progress: Progress) -> BlockResult:
        files = []
        for index in block_items:
            image = Image.new("RGB", (8, 8), (brightness[index],) * 3)
            fields = [{"seed": "0", "bundle": bundle}]
            files += write_images(out, find_suite(suite), items[index], [image], fields)
        counts = {"prompts": len(block_items), "images": len(block_items)}
        return BlockResult(files=files, counts=counts)

    run_shard(job, job_folder(out), Shard(), make)
    return out


def geneval_items() -> list[Item]:
    tags = ["colors", "colors", "position", "position", "position"]
    lines = [json.dumps({"tag": tag, "include": [], "prompt": tag}) for tag in tags]
    return [
        Item(index=i, name=f"{i:05d}", prompt="x", metadata=line) for i, line in enumerate(lines)
    ]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A stand-in for a clone of GenEval's repository."""
    script = tmp_path / "geneval" / "evaluation" / "evaluate_images.py"
    script.parent.mkdir(parents=True)
    script.write_text(GENEVAL_SCORER)
    return tmp_path / "geneval"


def test_geneval_of_two_bundles_is_one_command(tmp_path: Path, clone: Path, capsys: Capsys) -> None:
    first = suite_folder(tmp_path / "a", "geneval", geneval_items(), [255, 0, 255, 0, 0])
    second = suite_folder(tmp_path / "b", "geneval", geneval_items(), [255, 255, 0, 255, 255], "b")
    command = ("eval", "score", "geneval", first, second, "--scorer", clone, "--json")
    done = run(capsys, *command)
    assert (done.code, done.err) == (0, "")
    values = json.loads(done.out)
    a, b = values["sides"]
    # Mean of the tasks' means, not of the images.
    assert a["groups"] == {"colors": 0.5, "position": pytest.approx(1 / 3)}
    assert a["overall"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (a["prompts"], a["images"], a["scored"]) == (5, 5, 5)
    assert b["overall"] == pytest.approx((1 + 2 / 3) / 2)
    assert (values["paired"]["won"], values["paired"]["lost"]) == (3, 1)
    # Two-sided binomial test of 1 of 4 by hand: 2 * (1 + 4) / 16.
    assert values["paired"]["p_value"] == pytest.approx(0.625)
    text = run(capsys, "eval", "score", "geneval", first, second).out
    assert "won 3, lost 1 of 5" in text and "5 prompts, 5 images" in text


def test_results_of_other_images_are_refused(tmp_path: Path, clone: Path, capsys: Capsys) -> None:
    out = suite_folder(tmp_path / "a", "geneval", geneval_items(), [0] * 5)
    results = tmp_path / "r.jsonl"
    assert run(capsys, "eval", "score", "geneval", out, "--scorer", clone).code == 0
    lines = Path(f"{out}.scores/results.jsonl").read_text().splitlines()
    results.write_text("\n".join(lines[1:]))
    done = run(capsys, "eval", "score", "geneval", out, "--results", results)
    assert done.code == 2 and "lacks 1 of 5 images, such as 0000" in done.error
    results.write_text("\n".join([*lines, lines[0]]))
    done = run(capsys, "eval", "score", "geneval", out, "--results", results)
    assert done.code == 2 and "twice" in done.error


def test_a_scorer_that_fails_is_a_failure(tmp_path: Path, clone: Path, capsys: Capsys) -> None:
    out = suite_folder(tmp_path / "a", "geneval", geneval_items(), [0] * 5)
    (clone / "evaluation" / "evaluate_images.py").write_text("raise SystemExit(3)")
    done = run(capsys, "eval", "score", "geneval", out, "--scorer", clone)
    assert done.code == 1 and "failed with exit code 3" in done.error
    done = run(capsys, "eval", "score", "geneval", out, "--scorer", tmp_path)
    assert done.code == 2 and "--scorer names a clone" in done.error


def test_dpg_results_as_its_script_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "results.txt"
    path.write_text(
        "x/9.png, 1.0, 0.5, 0.5, 0.0, 0.5\nx/coco_1.png, 1.0, 1.0, 1.0, 1.0, 1.0\n"
        "Model: x\nL1 category scores:\n\tentity: 75.0\nDPG-Bench score: 75.0\n"
    )
    scores = read_results(SUITES["dpg"], path)
    assert scores.values == {"9.png": 0.5, "coco_1.png": 1.0} and scores.overall == 0.75
    (tmp_path / "per_prompt.json").write_text(json.dumps({"9.png": 0.5, "coco_1.png": 1.0}))
    assert read_results(SUITES["dpg"], tmp_path / "per_prompt.json").values == scores.values


def test_one_grid_may_lack_a_score(tmp_path: Path, capsys: Capsys) -> None:
    items = [Item(index=n, name=str(n), prompt="x") for n in range(3)]
    out, results = suite_folder(tmp_path / "a", "dpg", items, [0, 1, 2]), tmp_path / "r.txt"
    results.write_text("a/1.png, 1.0, 1.0\na/2.png, 0.5, 0.5\n")
    done = run(capsys, "eval", "score", "dpg", out, "--results", results, "--json")
    assert done.code == 0 and "has no score of 0.png" in done.err
    values = json.loads(done.out)["sides"][0]
    assert (values["overall"], values["scored"], values["prompts"]) == (0.75, 2, 3)
    results.write_text("a/1.png, 1.0, 1.0\n")
    done = run(capsys, "eval", "score", "dpg", out, "--results", results)
    assert done.code == 2 and "lacks 2 of 3 images, such as 0.png, 2.png" in done.error


def test_judgments_of_alignment_and_aesthetics(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows = [
        ("style", 0, "alignment", 8),
        ("style", 0, "aesthetic", 6),
        ("entity", 1, "alignment", 5),
    ]
    lines = [
        json.dumps(
            {
                "group": group, "item_id": f"{group}-00{n}", "sample": 0, "metric": metric,
                "score": score, "max_score": 10,
            }
        )
        for group, n, metric, score in rows
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    scores = read_results(SUITES["prism"], path)
    assert scores.values == {"style/style-000/00000.png": 0.7, "entity/entity-001/00000.png": 0.5}
    path.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(UsageError, match="judges style-000 by alignment again"):
        read_results(SUITES["prism"], path)


@pytest.mark.parametrize(
    ("suite", "text", "message"),
    [
        ("geneval", "", "no score in the results"),
        ("geneval", "{", "line 1 is not JSON"),
        ("geneval", '{"filename": "a", "tag": "b"}', "has no 'correct'"),
        ("geneval", '{"filename": "a", "tag": "b", "correct": 1}', "expected a boolean"),
        ("dpg", "Model: x", "no line of an image"),
        ("dpg", "x/1.png, 2.0, 2.0", "expected 0 to 1"),
        ("prism", '{"group": "a"}', "name a judge's results"),
        ("fid", "", "no file of results"),
    ],
)
def test_results_that_are_none(tmp_path: Path, suite: str, text: str, message: str) -> None:
    path = tmp_path / "results.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_results(SUITES[suite], path)


def test_graded_scores_have_an_interval_by_the_normal_law() -> None:
    rng = np.random.default_rng(0)
    keys = [str(n) for n in range(400)]
    groups = dict.fromkeys(keys, "all")
    base = rng.uniform(0.2, 0.8, 400)
    first = Scores(
        values=dict(zip(keys, base.tolist(), strict=True)), groups=groups, by_group=False
    )
    shifted = (base + rng.normal(0.05, 0.1, 400)).clip(0, 1)
    second = Scores(
        values=dict(zip(keys, shifted.tolist(), strict=True)), groups=groups, by_group=False
    )
    paired = PairedScores.of(second, first)
    # numpy's own: mean and standard error of the differences.
    error = 1.959963984540054 * (shifted - base).std(ddof=1) / 20
    mean = float((shifted - base).mean())
    assert paired.interval == pytest.approx((mean - error, mean + error))
    assert paired.p_value is None and paired.won + paired.lost == 400


def test_the_shapes_detector_scores_drawn_scenes(tmp_path: Path, capsys: Capsys) -> None:
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng, kind) for kind in KINDS]
    items = [shapes_item(i, spec, caption) for i, (_, spec, caption) in enumerate(scenes)]
    out = suite_folder(tmp_path / "drawn", "shapes", items, [0] * len(items))
    black = suite_folder(tmp_path / "black", "shapes", items, [0] * len(items), "b")
    for item, (scene, _, _) in zip(items, scenes, strict=True):
        image = Image.fromarray(draw_scene(scene, 64))
        write_images(out, SUITES["shapes"], item, [image], [{}])
    marks = Path(f"{out}.shards/_blocks")
    for mark in marks.iterdir():
        values = json.loads(mark.read_text())
        for name in values["files"]:
            values["files"][name]["bytes"] = (out / name).stat().st_size
        mark.write_text(json.dumps(values))
    done = run(capsys, "eval", "score", "shapes", out, black, "--json")
    values = json.loads(done.out)
    assert [side["overall"] for side in values["sides"]] == [1.0, 0.0]
    assert values["sides"][0]["groups"] == dict.fromkeys(sorted(KINDS), 1.0)
    assert values["paired"]["lost"] == len(KINDS) and values["paired"]["won"] == 0


def test_fid_names_the_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    (tmp_path / "pytorch_fid.py").write_text("print('FID:  12.5')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stats = tmp_path / "mscoco.npz"
    stats.write_bytes(b"mu and sigma")
    items = [Item(index=0, name="00000", prompt="x"), Item(index=1, name="00001", prompt="y")]
    out = suite_folder(tmp_path / "a", "fid", items, [0, 9])
    command = ("eval", "score", "fid", out, "--python", sys.executable)
    done = run(capsys, *command, "--stats", stats, "--json")
    values = json.loads(done.out)
    assert values["sides"][0]["fid"] == 12.5 and values["statistics"]["file"] == "mscoco.npz"
    assert run(capsys, *command).error == (
        "fid requires --stats: the statistics of the reference images"
    )


def test_folders_that_cannot_be_compared(tmp_path: Path, capsys: Capsys) -> None:
    items = geneval_items()
    first = suite_folder(tmp_path / "a", "geneval", items, [0] * 5)
    done = run(capsys, "eval", "score", "dpg", first)
    assert done.code == 2 and "has images of geneval, not of dpg" in done.error
    done = run(capsys, "eval", "score", "geneval", tmp_path)
    assert done.code == 2 and "name the .shards folder" in done.error
    Path(f"{tmp_path / 'a'}.shards/_blocks/000001.done").unlink()
    done = run(capsys, "eval", "score", "geneval", first)
    assert done.code == 1 and "1 of 3 blocks are missing" in done.error
    for arguments, message in (
        ((first, first, first), "expected OUT or OUT OUT_B"),
        ((first, "--results", "x", "y"), "expected 1 files"),
        ((first, "--results", "x", "--scorer", "y"), "mutually exclusive"),
    ):
        done = run(capsys, "eval", "score", "geneval", *arguments)
        assert done.code == 2 and message in done.error
