"""The novel colour: drawn, asked for and judged where it is named, and nowhere else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import minit2i_deploy
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    NOVEL_COLOURS,
    NOVEL_KINDS,
    Object,
    Requirement,
    Scene,
    Spec,
    detect,
    draw_scene,
    held_out_captions,
    is_held_out,
    judge,
    sample_scene,
)
from minit2i_deploy.evaluation.shapes.caption import every_caption, vocabulary_corpus
from minit2i_deploy.tokenizer import Tokenizer
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

ASSETS = Path(minit2i_deploy.__file__).parent / "demo" / "assets"
# The shipped model's model.prompt_length.
PROMPT_LENGTH = 20


def novel(kind: str, num: int) -> list[tuple[Scene, Spec, str]]:
    rng = np.random.default_rng(51)
    return [sample_scene(rng, kind) for _ in range(num)]


def test_what_the_shipped_model_was_trained_on_has_not_moved() -> None:
    digest = hashlib.blake2b(digest_size=8)
    rng = np.random.default_rng(3)
    some = {"counting": 2.0, "position": 1.0, "colour_attribution": 1.0}
    for i in range(60):
        scene, _, caption = sample_scene(rng, weights=some if i % 2 else None)
        digest.update(caption.encode() + draw_scene(scene).tobytes())
    for _, caption in held_out_captions(5, 0):
        digest.update(caption.encode())
    # Taken before there was a novel kind.
    assert digest.hexdigest() == "9bb09386afa323d1"
    assert not any("cyan" in caption for caption in vocabulary_corpus())


@pytest.mark.parametrize("kind", NOVEL_KINDS)
def test_captions_name_the_novel_colour_once(kind: str) -> None:
    meaning = {caption: spec for spec, caption in every_caption(kind)}
    drawn = novel(kind, 200)
    assert {spec.kind for _, spec, _ in drawn} == {kind}
    for scene, spec, caption in drawn:
        assert meaning[caption] == spec and not is_held_out(caption)
        assert [one.colour for one in scene.objects].count("cyan") == 1
        assert caption.split().count("cyan") == 1
    if kind == "novel_attribution":
        first = [spec.required[0].colour == "cyan" for _, spec, _ in drawn]
        assert 60 < sum(first) < 140
    held_out = held_out_captions(20, 0, (kind,))
    assert len(held_out) == 20
    assert all(is_held_out(caption) and meaning[caption] == spec for spec, caption in held_out)


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("kind", NOVEL_KINDS)
def test_every_drawing_is_correct_for_its_caption(kind: str, size: int) -> None:
    for scene, spec, _ in novel(kind, 100):
        verdict = judge(draw_scene(scene, size), spec)
        assert verdict.correct, (verdict.reason, scene)


def test_noisy_drawings_stay_correct() -> None:
    rng = np.random.default_rng(52)
    drawn = [item for kind in NOVEL_KINDS for item in novel(kind, 100)]
    right = 0
    for scene, spec, _ in drawn:
        noisy = np.rint(draw_scene(scene) + rng.normal(0, 8, (64, 64, 3)))
        right += judge(np.clip(noisy, 0, 255).astype(np.uint8), spec).correct
    # measured 200 of 200
    assert right >= 0.99 * len(drawn)


@pytest.mark.parametrize("colour", [*COLOURS, *BACKGROUNDS])
def test_the_novel_colour_is_far_from_every_other(colour: str) -> None:
    values = (COLOURS | BACKGROUNDS)[colour]
    # 143.1 to blue
    assert np.linalg.norm(np.subtract(values, NOVEL_COLOURS["cyan"])) > 143


@pytest.mark.parametrize("colour", list(COLOURS))
def test_a_known_colour_is_no_novel_one(colour: str) -> None:
    spec = Spec(kind="novel_colour", required=(Requirement(shape="circle", colour="cyan"),))
    scene = Scene(
        objects=(Object(shape="circle", colour=colour, x=32, y=32, size=24),), background="white"
    )
    verdict = judge(draw_scene(scene), spec)
    assert not verdict.correct and f"got {colour} circle" in verdict.reason


def test_known_kinds_do_not_know_the_novel_colour() -> None:
    with pytest.raises(UsageError, match=r"colour: expected one of red, .*, got 'cyan'"):
        Spec(kind="colours", required=(Requirement(shape="circle", colour="cyan"),))
    scene = Scene(
        objects=(Object(shape="circle", colour="cyan", x=32, y=32, size=24),), background="white"
    )
    (result,) = detect(draw_scene(scene)).detections
    assert result.colour == "unknown"
    free = Spec(kind="single_object", required=(Requirement(shape="circle"),))
    assert not judge(draw_scene(scene), free).correct
    assert judge(draw_scene(scene), dataclasses.replace(free, kind="novel_colour")).correct


def test_the_shipped_vocabulary_spells_the_word() -> None:
    tokenizer = Tokenizer.open(ASSETS / "tokenizer", 512)
    captions = [caption for kind in NOVEL_KINDS for _, caption in every_caption(kind)]
    assert max(len(encoded.ids) for encoded in tokenizer.encode(captions)) <= PROMPT_LENGTH
    names = ("cyan", *COLOURS)
    ids = [one.ids.tolist() for one in tokenizer.encode([f"a {word} circle" for word in names])]
    # Word, article and end token: one piece a known word, four for this one, none of them unknown.
    assert [len(pieces) for pieces in ids] == [7, *(4 for _ in COLOURS)]
    assert not {piece for pieces in ids[1:] for piece in pieces} & set(ids[0][1:-2])
    assert tokenizer.rust.token_to_id("<unk>") not in ids[0]


def test_names_that_are_unknown() -> None:
    with pytest.raises(UsageError, match=r"kind: expected one of single_object, .*, got 'novel'"):
        sample_scene(np.random.default_rng(0), "novel")
    with pytest.raises(UsageError, match=r"kinds among .* novel_colour, novel_attribution"):
        sample_scene(np.random.default_rng(0), weights={"novel": 1.0})


# The test tokenizer has few words, so captions are longer than the model's 12 tokens.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        ((), KINDS),
        (("--kinds", "novel"), NOVEL_KINDS),
        (("--kinds", "all"), (*KINDS, *NOVEL_KINDS)),
    ],
)
def test_kinds_from_the_command_line(
    arguments: tuple[str, ...],
    kinds: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_bundle(tmp_path / "b")
    common = ("eval", "shapes", tmp_path / "b", "--runtime", "fake", "--per-kind", 1, "--steps", 1)
    done = run(capsys, *common, "--json", *arguments)
    assert done.code == 0
    values = json.loads(done.out)
    assert tuple(values["kinds"]) == kinds
    assert [item["kind"] for item in values["pictures"]] == list(kinds)


def test_tables_are_compared_on_known_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "b")
    done = run(capsys, "eval", "shapes", tmp_path / "b", "--tables", "euler-4", "--kinds", "novel")
    assert (
        done.code == 2
        and "--tables compares the known kinds only; leave out --kinds novel" in done.error
    )
