"""minit2i data: from a folder of images to shards that are checked, embedded and trained on."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.evaluation.shapes import draw_scene, sample_scene
from minit2i_deploy.training.data.images import decode_image
from minit2i_deploy.training.data.shards.index import open_index
from tests.helpers.cli_runs import run
from tests.helpers.shard_files import good, picture, served, write_set, write_tar
from tests.helpers.training_runs import tiny_recipe

RECIPE = tiny_recipe()
TEXT = (
    "--text-encoder",
    RECIPE.text_encoder_folder,
    "--tokenizer",
    RECIPE.tokenizer_folder,
    "--prompt-length",
    "20",
)
Capsys = pytest.CaptureFixture[str]


def write_images(folder: Path, count: int = 5) -> Path:
    """Pictures with captions beside them, one in a folder of its own and one with dots."""
    for number in range(count):
        name = {0: "deep/er/p0", 1: "p.1.final"}.get(number, f"p{number}")
        path = folder / f"{name}.{'PNG' if number == 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, form="PNG" if number == 2 else "JPEG"))
        path.with_suffix(".txt").write_text(f"picture {number}\n", "utf-8")
    return folder


def read_all(shard: Path) -> list[dict[str, bytes]]:
    index = open_index(str(shard))
    return [index.read(number).members for number in range(len(index))]


def test_a_folder_is_packed_as_it_is(tmp_path: Path, capsys: Capsys) -> None:
    folder, out = write_images(tmp_path / "in"), tmp_path / "out"
    (folder / ".hidden.jpg").write_bytes(b"")
    (folder / "notes.md").write_text("no picture")
    done = run(capsys, "data", "pack", folder, out, "--per-shard", 2, "--json")
    assert done.code == 0 and done.err == ""
    assert json.loads(done.out) == {
        "folder": str(out),
        "shards": 3,
        "samples": 5,
        "left_out": 0,
    }
    assert sorted(path.name for path in out.glob("*.tar")) == [f"00000{n}.tar" for n in range(3)]
    actual = [members for shard in sorted(out.glob("*.tar")) for members in read_all(shard)]
    order = [0, 1, 2, 3, 4]
    assert [members["txt"] for members in actual] == [f"picture {n}\n".encode() for n in order]
    assert actual[0]["jpg"] == picture(0) and actual[2]["png"] == picture(2, form="PNG")


def test_shards_of_a_run_are_those_of_any_other(tmp_path: Path, capsys: Capsys) -> None:
    folder, outs = write_images(tmp_path / "in"), [tmp_path / name for name in ("a", "b", "c")]
    pack = ("data", "pack", folder)
    assert run(capsys, *pack, outs[0], "--per-shard", 2).code == 0
    for out, shards in zip(outs[1:], (("0/1",), ("4/5", "1/2", "0/3")), strict=True):
        for shard in shards:
            assert run(capsys, *pack, out, "--per-shard", 2, "--shard", shard).code == 0
    contents = [{path.name: path.read_bytes() for path in out.iterdir()} for out in outs]
    assert contents[0] == contents[1]
    assert run(capsys, "shards", "merge", outs[1]).code == 0
    status = run(capsys, "shards", "verify", outs[2])
    assert status.code == 1 and "1 of 3 blocks are missing (block 2)" in status.err
    assert run(capsys, *pack, outs[2], "--per-shard", 2, "--shard", "2/3").code == 0
    assert {path.name: path.read_bytes() for path in outs[2].iterdir()} == contents[0]
    (folder / "more.jpg").write_bytes(picture(9))
    other = run(capsys, *pack, outs[2], "--per-shard", 2, "--shard", "0/1")
    assert other.code == 2 and "but this input has" in other.error


def test_a_bad_image_moves_no_other_in_a_shard(tmp_path: Path, capsys: Capsys) -> None:
    folder, out = write_images(tmp_path / "in"), tmp_path / "out"
    (folder / "p3.jpg").write_bytes(b"no image")
    command = ("data", "pack", folder, out, "--per-shard", 2, "--shard", "0/1")
    assert run(capsys, *command).code == 1
    done = run(capsys, *command, "--bad-limit", 1)
    assert done.code == 0 and "p3.jpg" in done.err
    texts = [read_all(shard)[0]["txt"] for shard in sorted(out.glob("*.tar"))]
    assert texts == [b"picture 0\n", b"picture 2\n", b"picture 4\n"]


def test_captions_from_metadata(tmp_path: Path, capsys: Capsys) -> None:
    folder, out = write_images(tmp_path / "in", 3), tmp_path / "out"
    lines = [
        {"file_name": "deep/er/p0.jpg", "text": "zero"},
        {"file_name": "p.1.final.jpg", "text": "one\u2028still one"},
        {"file_name": "p2.PNG", "text": "two", "more": 3},
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "metadata.jsonl").write_text(text + "\n\n", "utf-8")
    assert run(capsys, "data", "pack", folder, out).code == 0
    captions = [members["txt"].decode() for members in read_all(out / "000000.tar")]
    assert captions == ["zero", "one\u2028still one", "two"]


METADATA = {
    "no json": (b"{", "line 1 is not a JSON object in UTF-8"),
    "no object": (b"[]", "line 1 is not a JSON object"),
    "no utf-8": (b'{"file_name": "\xff"}', "line 1 is not a JSON object in UTF-8"),
    "no text": (b'\n{"file_name": "p2.PNG"}', "line 2 has no file_name or none of text"),
    "no name": (b'{"text": "x"}', "line 1 has no file_name"),
    "text a number": (b'{"file_name": "p2.PNG", "text": 3}', "line 1 has no file_name or none"),
    "another image": (b'{"file_name": "x", "text": "x"}', "no line of metadata.jsonl names it"),
    "half a pair": (rb'{"file_name": "deep/er/p0.jpg", "text": "\ud800"}', "not valid Unicode"),
}


@pytest.mark.parametrize("name", METADATA)
def test_damaged_metadata_is_refused(tmp_path: Path, capsys: Capsys, name: str) -> None:
    folder, out = write_images(tmp_path / "in", 3), tmp_path / "out"
    data, message = METADATA[name]
    (folder / "metadata.jsonl").write_bytes(data)
    done = run(capsys, "data", "pack", folder, out)
    assert done.code == 1 and message in done.error
    assert not out.exists() and list(tmp_path.glob(".*")) == []


def test_bad_images_are_skipped_up_to_a_limit(tmp_path: Path, capsys: Capsys) -> None:
    folder, out = write_images(tmp_path / "in"), tmp_path / "out"
    (folder / "p3.jpg").write_bytes(b"no picture")
    (folder / "p4.txt").unlink()
    done = run(capsys, "data", "pack", folder, out, "--bad-limit", 1)
    assert done.code == 1 and not out.exists()
    assert "p4.jpg: no caption (no .txt); 2 bad images exceed --bad-limit 1" in done.error
    done = run(capsys, "data", "pack", folder, out)
    assert "p3.jpg: image cannot be read (of no known format); 1 bad images exceed" in done.error
    done = run(capsys, "data", "pack", folder, out, "--bad-limit", 2)
    assert done.code == 0 and len(done.err.splitlines()) == 2
    assert done.out == f"{out}  3 samples in 1 shards\n"


def test_drawn_shapes_are_packed(tmp_path: Path, capsys: Capsys) -> None:
    arguments = ("data", "pack", "--shapes", 7, "--size", 32, "--seed", 4, "--per-shard", 5)
    assert run(capsys, *arguments, tmp_path / "a").code == 0
    assert run(capsys, *arguments, tmp_path / "b").code == 0
    for name in ("000000.tar", "000001.tar"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    members = read_all(tmp_path / "a" / "000001.tar")[1]
    scene, _, caption = sample_scene(np.random.default_rng([1, 4, 6]))
    assert members["txt"].decode() == caption
    assert np.array_equal(np.asarray(decode_image(members["png"])), draw_scene(scene, 32))


WRONG_PACK: dict[str, tuple[tuple[object, ...], str]] = {
    "no out": (("in",), "expected FOLDER OUT, got 1 folders"),
    "too many": (("in", "out", "more"), "got 3 folders"),
    "shapes and folder": (("in", "out", "--shapes", 3), "expected --shapes N OUT"),
    "size alone": (("in", "out", "--size", 3), "--size requires --shapes"),
    "no shapes": (("out", "--shapes", 0), "0 images of 64 pixels"),
    "no size": (("out", "--shapes", 3, "--size", 0), "3 images of 0 pixels"),
    "seed": (("out", "--shapes", 3, "--seed", -1), "seed -1"),
    "per shard": (("in", "out", "--per-shard", 0), "--per-shard: expected at least 1, got 0"),
    "limit": (("in", "out", "--bad-limit", -1), "--bad-limit: expected at least 0, got -1"),
    "no folder": (("nowhere", "out"), "nowhere: is not a folder"),
    "no images": (("empty", "out"), "empty: has no image (.jpg, .jpeg, .png, .webp)"),
    "occupied": (("in", "in"), "the folder exists and is not empty"),
}


@pytest.mark.parametrize("name", WRONG_PACK)
def test_wrong_use_of_pack(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_images(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG_PACK[name]
    done = run(capsys, "data", "pack", *arguments)
    assert done.code == 2 and message in done.error
    assert not (tmp_path / "out").exists()


def check_set(folder: Path) -> list[Path]:
    """Two shards with five bad samples, an empty one, and a key that comes twice."""
    samples = {f"{n:02d}": good(n) for n in range(10)}
    samples |= {
        "10": {"jpg": picture(1)[:150], "txt": b"a"},
        "11": {"jpg": picture(1)[:160], "txt": b"a"},
        "12": {"txt": b"a"},
        "13": {"jpg": picture(1), "txt": b"\xff"},
        "14": {"jpg": picture(1, (9, 30)), "txt": b"a"},
    }
    folder.mkdir()
    return [
        write_tar(folder / "a.tar", samples),
        write_tar(folder / "b.tar", {"03": good(3), "15": good(15) | {"txt": b"red " * 30}}),
        write_tar(folder / "c.tar", {}),
    ]


def test_check_reports_what_there_is(tmp_path: Path, capsys: Capsys) -> None:
    check_set(tmp_path / "set")
    arguments = (f"{tmp_path}/set/*.tar", "--min-side", 12, "--tokenizer", RECIPE.tokenizer_folder)
    done = run(capsys, "data", "check", *arguments, "--prompt-length", 20, "--json")
    assert done.code == 1
    assert done.error.startswith("5 of 17 samples are bad, but --bad-limit is 0")
    actual = json.loads(done.out)
    assert actual["shards"] == 3 and actual["samples"] == 17
    assert actual["empty"] == [f"{tmp_path}/set/c.tar"] and actual["damaged"] == {}
    assert actual["bad"] == {
        "image cannot be read": 2,
        "no image": 1,
        "caption is not UTF-8": 1,
        "image too small": 1,
    }
    assert actual["examples"]["image too small"] == [
        f"{tmp_path}/set/a.tar: sample 14: image too small (9 x 30)"
    ]
    assert actual["duplicate_keys"] == 1
    assert actual["duplicate_examples"] == [f"{tmp_path}/set/b.tar: 03"]
    assert actual["files"] == {"jpg": 16, "txt": 17}
    assert actual["short_side"] == {"count": 12, "lowest": 16, "median": 16, "highest": 16}
    assert actual["aspect"]["median"] == 1.25
    assert actual["caption_tokens"]["count"] == 12 and actual["truncated"] == 1
    assert actual["bytes"] == sum(path.stat().st_size for path in (tmp_path / "set").iterdir())
    assert actual["bytes_per_s"] == pytest.approx(actual["bytes"] / actual["seconds"])


def test_check_tells_people(tmp_path: Path, capsys: Capsys) -> None:
    check_set(tmp_path / "set")
    arguments = (f"{tmp_path}/set/*.tar", "--tokenizer", RECIPE.tokenizer_folder, "--bad-limit", 4)
    done = run(capsys, "data", "check", *arguments, "--prompt-length", 20)
    assert done.code == 0 and done.err == ""
    assert done.out.startswith("17 samples in 3 shards, ")
    for text in (
        "files: 16 .jpg, 17 .txt",
        "short side, pixels",
        "1 captions (7.7%) are longer than the model takes",
        "c.tar: no sample in it",
        "1 duplicate keys: ",
        "4 bad samples",
        "  2  image cannot be read, such as",
    ):
        assert text in done.out


def test_check_names_damaged_shards_and_reads_the_others(tmp_path: Path, capsys: Capsys) -> None:
    paths = write_set(tmp_path, [3, 3])
    paths[0].write_bytes(paths[0].read_bytes()[:700])
    done = run(capsys, "data", "check", *paths, tmp_path / "missing.tar", "--bad-limit", 100)
    assert done.code == 1 and done.error.startswith(f"{paths[0]}: not a complete tar file")
    assert "corrupt: " in done.out and "missing.tar: cannot be read" in done.out
    assert done.out.startswith("3 samples in 3 shards")


def test_check_writes_an_index_only_with_its_option(tmp_path: Path, capsys: Capsys) -> None:
    (path,) = write_set(tmp_path, [3])
    retained = Path(f"{path}.index.json")
    assert run(capsys, "data", "check", path).code == 0 and not retained.exists()
    assert run(capsys, "data", "check", path, "--index").code == 0
    packed = retained.read_bytes()
    retained.unlink()
    open_index(str(path))
    assert retained.read_bytes() == packed


def test_check_reads_a_server_that_sends_whole_files(tmp_path: Path, capsys: Capsys) -> None:
    write_set(tmp_path, [3, 4])
    with served(tmp_path, ranges=False) as (address, _):
        done = run(capsys, "data", "check", f"{address}/{{00..01}}.tar", "--index")
    assert done.code == 0 and done.out.startswith("7 samples in 2 shards")
    assert list(tmp_path.glob("*.json")) == []


def test_from_pictures_to_a_checkpoint(tmp_path: Path, capsys: Capsys) -> None:
    """Packed, checked, embedded, trained, stopped and resumed."""
    folder = write_images(tmp_path / "in")
    shards, embedded = tmp_path / "shards", tmp_path / "embedded"
    assert run(capsys, "data", "pack", folder, shards, "--per-shard", 3).code == 0
    done = run(capsys, "data", "embed", f"{shards}/*.tar", embedded, *TEXT, "--json")
    assert done.code == 0, done.err
    message = json.loads(done.out)
    assert message["samples"] == 5 and message["shards"] == 2 and message["kept"] == 0
    done = run(capsys, "data", "check", f"{embedded}/*.tar")
    assert done.code == 0 and "embedded as fp32 with 20 tokens at most by the encoder" in done.out
    recipe = RECIPE.to_dict() | {"steps": 2, "checkpoint_every": 1}
    losses = []
    for name, data in (("plain", f"{shards}/*.tar"), ("embedded", f"{embedded}/*.tar")):
        values = recipe | {"data": {"sources": [data], "workers": 0}}
        (tmp_path / "recipe.yaml").write_text(json.dumps(values))
        run_folder = tmp_path / name
        arguments = (tmp_path / "recipe.yaml", "--output", run_folder)
        done = run(capsys, "train", *arguments)
        assert done.code == 0, done.err
        assert run(capsys, "train", *arguments, "steps=4").code == 0
        assert (
            run(capsys, "train", arguments[0], "--output", tmp_path / f"{name}-2", "steps=4").code
            == 0
        )
        resumed, straight = (
            (tmp_path / part / "step-000004" / "model.safetensors").read_bytes()
            for part in (name, f"{name}-2")
        )
        assert resumed == straight
        losses.append((run_folder / "log.jsonl").read_text())
        state = json.loads((run_folder / "step-000004" / "checkpoint.json").read_text())["data"]
        assert state["samples_seen"] == 16 and state["bad"] == []
    assert losses[0] == losses[1]


def test_embed_goes_on_and_leaves_out(tmp_path: Path, capsys: Capsys) -> None:
    paths = write_set(tmp_path / "in", [2, 2])
    write_tar(paths[1], {"0": good(0), "1": {"jpg": b""}})
    arguments = ("data", "embed", f"{tmp_path}/in/*.tar", tmp_path / "out", *TEXT)
    done = run(capsys, *arguments)
    error = "sample 1: no caption (no .txt); 1 bad samples exceed --bad-limit 0"
    assert done.code == 1 and error in done.error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00.tar",
        "00.tar.index.json",
    ]
    done = run(capsys, *arguments, "--bad-limit", 1)
    assert done.code == 0 and "sample 1: no caption (no .txt); skipped" in done.err
    assert done.out.startswith(f"{tmp_path}/out  1 samples, ")
    assert done.out.endswith(" in 2 shards, 1 of them from before\n")


def test_embed_of_a_bad_shard_leaves_no_empty_folder(tmp_path: Path, capsys: Capsys) -> None:
    (path,) = write_set(tmp_path / "in", [1])
    path.write_bytes(b"no tar file" * 100)
    assert run(capsys, "data", "embed", path, tmp_path / "new" / "out", *TEXT).code == 1
    assert [actual.name for actual in tmp_path.iterdir()] == ["in"]


def test_embed_finds_the_tokenizer_beside_the_encoder(tmp_path: Path, capsys: Capsys) -> None:
    (path,) = write_set(tmp_path / "in", [1])
    encoder, tokenizer = tmp_path / "t5" / "text_encoder", tmp_path / "t5" / "tokenizer"
    shutil.copytree(RECIPE.text_encoder_folder, encoder)
    arguments = ("data", "embed", path, tmp_path / "out", "--text-encoder", encoder)
    done = run(capsys, *arguments, "--prompt-length", 20)
    assert done.code == 2
    assert (
        "no tokenizer.json in its tokenizer/, in itself or in ../tokenizer; save the" in done.error
    )
    done = run(capsys, *arguments, "--prompt-length", 20, "--tokenizer", tmp_path)
    assert done.code == 1 and done.error.endswith("name the folder of a T5 tokenizer")
    shutil.copytree(RECIPE.tokenizer_folder, tokenizer)
    assert run(capsys, *arguments, "--prompt-length", 20).code == 0


def test_wrong_use_of_embed_and_check(tmp_path: Path, capsys: Capsys) -> None:
    (path,) = write_set(tmp_path, [2])
    done = run(capsys, "data", "embed", path, tmp_path / "out")
    assert done.code == 2 and "--text-encoder" in done.error
    done = run(capsys, "data", "embed", path, tmp_path / "out", "--text-encoder", tmp_path)
    assert done.code == 1 and "has no config.json of a T5 encoder" in done.error
    done = run(capsys, "data", "check", path, "--caption", "json:")
    assert done.code == 2 and "a suffix such as txt, or json:FIELD" in done.error
    assert run(capsys, "data").code == 2
    assert run(capsys, "data", "check", f"{tmp_path}/x*.tar").code == 2
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_help_shows_every_task(capsys: Capsys) -> None:
    for task in ("pack", "check", "embed"):
        done = run(capsys, "data", task, "--help")
        assert done.code == 0 and "examples:" in done.out
        assert max(map(len, done.out.splitlines())) <= 90


def test_a_picture_of_another_mode_is_packed(tmp_path: Path, capsys: Capsys) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(folder / "a.png")
    (folder / "a.txt").write_text("clear")
    assert run(capsys, "data", "pack", folder, tmp_path / "out").code == 0
    assert run(capsys, "data", "check", tmp_path / "out" / "000000.tar").code == 0
