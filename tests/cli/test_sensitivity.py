"""minit2i sensitivity: from the command line to a file that quantize takes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize import Calibration, DrawSettings, calibrate
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.rounding.layers import round_layers
from minit2i_deploy.export.quantize.rounding.matrix import quantize_matrix
from minit2i_deploy.export.quantize.sensitivity.layer_errors import (
    LayerError,
    SensitivityMeter,
    Subject,
)
from minit2i_deploy.export.quantize.sensitivity.results_file import (
    load_known,
    partial_path,
    read_exclusions,
    save_partial,
)
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import tiny_bundle

# The test tokenizer has few words, so captions are longer than the model's 12 tokens.
pytestmark = pytest.mark.filterwarnings("default")
PROMPTS = PromptSet(name="test", texts=("red", "a blue", "a", "green"))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> Sequence[object]:
    """A command on the golden network, with a calibration made once and as little as can be."""
    bundle = Bundle.open(tiny_bundle())
    path = tmp_path_factory.mktemp("calibration") / "c.npz"
    calibrate(bundle, PROMPTS, DrawSettings(samples=1, strata=1, activations=16)).save(path)
    small = ("--samples", 1, "--strata", 2, "--no-smoothing", "--estimates-only")
    return ("sensitivity", bundle.path, "-o", "s.json", "--calibration", path, *small)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)


def test_a_run_writes_figures_and_a_map(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    done = run(capsys, *arguments, "--plot", "map.png")
    assert done.code == 0, done.err
    assert sorted(path.name for path in Path().iterdir()) == ["map.png", "s.json"]
    values = json.loads(Path("s.json").read_text())
    bundle = Bundle.open(tiny_bundle())
    assert values["bundle"] == bundle.digest
    assert (values["kind"], values["scheme"]) == ("minit2i-sensitivity", "int8")
    assert values["times"][0] == 0.0
    assert all(len(layer["estimate"]) == 2 for layer in values["layers"])
    assert all(0 < max(layer["estimate"]) < 1 for layer in values["layers"])
    assert (values["budget"], values["excluded"], values["splits"]) == (None, None, [])
    with Image.open("map.png") as image:
        assert min(image.size) > 200
    assert done.out.endswith("\n\ns.json\n")
    assert f"{len(values['layers'])} layers" in done.out


def test_a_budget_names_layers_that_quantize_takes(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_layers(monkeypatch)
    # The images are near enough when the two worst layers are excluded.
    from minit2i_deploy.export.quantize.sensitivity import sensitivity_run

    monkeypatch.setattr(
        sensitivity_run, "psnr_of", lambda meter: lambda exclude: 20.0 + 6.0 * len(exclude)
    )
    done = run(capsys, *arguments, "--budget", "psnr=31", "--json")
    assert done.code == 0, done.err
    values = json.loads(done.out)
    assert values == json.loads(Path("s.json").read_text())
    assert values["budget"]["reached"] == 32.0
    worst = sorted(values["layers"], key=lambda one: -(one["whole"] ** 2) / one["num_weights"])
    assert values["excluded"] == [one["name"] for one in worst[:2]]
    checkpoint = Bundle.open(tiny_bundle()).manifest.provenance.checkpoint_sha256
    origin = {"checkpoint_sha256": checkpoint, "lora_sha256": None}
    names = read_exclusions("s.json", **origin, scheme="int8")
    assert list(names) == values["excluded"]
    with pytest.raises(UsageError, match="measured at scheme int8, but fp8 is quantized"):
        read_exclusions("s.json", **origin, scheme="fp8")
    with pytest.raises(UsageError, match="measured at checkpoint_sha256"):
        read_exclusions("s.json", checkpoint_sha256="0" * 64, lora_sha256=None, scheme="int8")
    with pytest.raises(UsageError, match="measured at lora_sha256 None, but 00000000"):
        read_exclusions("s.json", checkpoint_sha256=checkpoint, lora_sha256="0" * 64, scheme="int8")


def test_a_curve_shares_its_points_with_the_search(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_layers(monkeypatch)
    measured: list[int] = []

    def psnr_of(meter: SensitivityMeter) -> Callable[[Collection[str]], float]:
        def value(exclude: Collection[str]) -> float:
            measured.append(len(exclude))
            return 20.0 + 6.0 * len(exclude)

        return value

    monkeypatch.setattr(
        "minit2i_deploy.export.quantize.sensitivity.sensitivity_run.psnr_of", psnr_of
    )
    done = run(capsys, *arguments, "--budget", "psnr=31", "--curve", "curve.png")
    assert done.code == 0, done.err
    assert sorted(path.name for path in Path().iterdir()) == ["curve.png", "s.json"]
    values = json.loads(Path("s.json").read_text())
    points = values["curve"]["points"]
    assert points[0]["num_excluded"] == 0
    assert [one["value"] for one in points] == [20.0 + 6.0 * one["num_excluded"] for one in points]
    sizes = [one["bytes"] for one in points]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert len(measured) == len(set(measured))
    assert "PSNR dB" in done.out


def test_an_unmet_budget_writes_nothing_and_keeps_the_layers(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = fake_layers(monkeypatch)
    done = run(capsys, *arguments, "--budget", "psnr=190", "--most", 0.2)
    assert done.code == 1
    assert "budget psnr=190 is not met with at most 20% of the weights" in done.error
    assert "best reached" in done.error
    assert [path.name for path in Path().iterdir()] == ["s.json.partial"]
    count = len(requests)
    # Another budget needs no layer again, be it after a failure or after a whole run.
    for decibels in (1, 2):
        assert run(capsys, *arguments, "--budget", f"psnr={decibels}").code == 0
        assert [path.name for path in Path().iterdir()] == ["s.json"]
    assert len(requests) == count
    # Other settings do.
    assert run(capsys, *arguments, "--seed", 1).code == 0
    assert len(requests) == 2 * count


def test_an_interrupted_run_goes_on(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = fake_layers(monkeypatch, stop_after=2)
    done = run(capsys, *arguments)
    assert done.code == 130
    assert "the same command resumes" in done.err
    assert not Path("s.json").exists()
    first = fake_layers(monkeypatch)
    assert run(capsys, *arguments).code == 0
    assert requests[:2] == [name for name in requests if name not in first]
    values = json.loads(Path("s.json").read_text())
    assert [one["name"] for one in values["layers"]] == requests[:2] + first


def test_a_partial_file_of_other_settings_is_refused(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str]
) -> None:
    save_partial(partial_path(Path("s.json")), "0" * 64, [])
    done = run(capsys, *arguments)
    assert (done.code, "belongs to a run with other settings" in done.error) == (2, True)


def test_other_prompts_are_another_run(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calibration is the same file, so that nothing else differs."""
    Path("a.txt").write_text("red\na blue\na\ngreen\n")
    Path("b.txt").write_text("star\ntwo dots\nblue\na red\n")
    requests = fake_layers(monkeypatch, stop_after=2)
    assert run(capsys, *arguments, "--prompts", "a.txt").code == 130
    done = run(capsys, *arguments, "--prompts", "b.txt")
    assert (done.code, "belongs to a run with other settings" in done.error) == (2, True)
    assert len(requests) == 2


def test_four_bits_are_rounded_as_quantize_rounds_them(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*arguments, "--scheme", "int4-weights"]
    done = run(capsys, *command)
    assert done.code == 2
    assert "has 16 activations of each value, but the weights of scheme int4-weights" in done.error
    monkeypatch.setattr("minit2i_deploy.export.quantize.options.GPTQ_ACTIVATIONS", 16)
    subjects: list[Subject] = []

    def stop(self: SensitivityMeter, name: str) -> LayerError:
        subjects.append(self.subject)
        raise KeyboardInterrupt

    monkeypatch.setattr(SensitivityMeter, "layer", stop)
    assert run(capsys, *command).code == 130
    (subject,) = subjects
    path = Path(str(arguments[arguments.index("--calibration") + 1]))
    expected = round_layers(
        subject.scaled.step,
        subject.scheme,
        Calibration.load(path),
        rounding="gptq",
        exclude=subject.excluded,
    ).weights
    name = subject.layers[0].name
    stored = subject.alone(name).weights[f"{name}.weight"]
    assert (stored == expected[name].values).all()
    assert (
        stored
        != quantize_matrix(subject.scaled.step.matrix(subject.layers[0]), subject.scheme).values
    ).any()


def test_a_calibration_with_other_adapters_is_refused(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(str(arguments[arguments.index("--calibration") + 1]))
    plain = Calibration.load(path)
    dataclasses.replace(plain, meta={**plain.meta, "lora_sha256": "ef" * 32}).save("lora.npz")
    done = run(capsys, *with_options(arguments, ("--calibration", "lora.npz")))
    assert done.code == 2
    assert "with LoRA efefefef.., but" in done.error


def fake_layers(monkeypatch: pytest.MonkeyPatch, stop_after: int = 10**6) -> list[str]:
    """Layers that cost nothing; the names that were asked for are added to the list."""
    requests: list[str] = []

    def layer(self: SensitivityMeter, name: str) -> LayerError:
        if len(requests) == stop_after:
            raise KeyboardInterrupt
        requests.append(name)
        (actual,) = (one for one in self.subject.layers if one.name == name)
        error = 0.01 * (1 + len(name) % 7)
        return LayerError(
            name=name,
            num_weights=actual.num_inputs * actual.num_outputs,
            estimate=(error, error),
            final=(error, error),
            whole=error,
        )

    monkeypatch.setattr(SensitivityMeter, "layer", layer)
    return requests


def test_a_partial_file_keeps_every_digit() -> None:
    layers = [
        LayerError(name="a", num_weights=3, estimate=(0.1, 1 / 3), final=(1e-9, 0.2), whole=0.7),
        LayerError(name="b", num_weights=4, estimate=(0.25,)),
    ]
    save_partial(partial_path(Path("x")), "ab", layers)
    assert list(load_known(Path("x"), "ab").values()) == layers
    assert load_known(Path("none"), "ab") == {}


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"kind": "minit2i-sensitivity-partial", "run": "ab", "layers": [{"name": 1}]}'],
)
def test_a_corrupt_partial_file_is_refused(text: str) -> None:
    Path("x.partial").write_text(text)
    with pytest.raises(UsageError, match=r"x\.partial: "):
        load_known(Path("x"), "ab")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "not a file of minit2i sensitivity"),
        ("nonsense", "not JSON"),
        ('{"kind": "minit2i-sensitivity", "format_version": 1, "excluded": null}', "has no budget"),
        ('{"kind": "minit2i-sensitivity", "format_version": 2}', "not a file of"),
    ],
)
def test_other_files_give_no_exclusions(text: str, message: str) -> None:
    Path("x.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_exclusions("x.json", checkpoint_sha256="ab", lora_sha256=None, scheme="int8")
    with pytest.raises(UsageError, match="cannot be read"):
        read_exclusions("none.json", checkpoint_sha256="ab", lora_sha256=None, scheme="int8")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--scheme", "int3"), "unknown scheme 'int3'"),
        (("--scheme", "int8-text"), "scheme int8-text quantizes the text encoder alone"),
        (("-o", "s.txt"), "expected a .json file"),
        (("--plot", "map.svg"), "expected a .png file"),
        (("--budget", "size=3"), "expected psnr=DECIBELS"),
        (("--most", 0.3), "--most requires --budget"),
        (("--captions", 3), "--captions requires --budget score"),
        (
            ("--budget", "psnr=30", "--most", 2),
            "expected a largest excluded share of 0 to 1, got 2",
        ),
        (("--budget", "score=0.1", "--captions", 0), "expected at least 1 caption per kind, got 0"),
        (("--budget", "psnr=30", "--captions", 3), "--captions requires --budget score"),
        (("--samples", 0), "samples is 0"),
        (("--strata", 0), "strata is 0"),
        (("--threads", -1), "--threads: expected at least 0, got -1"),
        (("--preset", "none"), "preset 'none' is not in the bundle"),
    ],
)
def test_wrong_use_is_refused(
    arguments: Sequence[object],
    more: tuple[object, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = run(capsys, *with_options(arguments, more))
    assert (done.code, message in done.error) == (2, True), done.err
    assert list(Path().iterdir()) == []


def with_options(arguments: Sequence[object], more: Sequence[object]) -> list[object]:
    """A command line with further options, in place of its own of the same name."""
    command = list(arguments)
    for option in (item for item in more if str(item).startswith("-") and item in command):
        place = command.index(option)
        del command[place : place + 2]
    return [*command, *more]


@pytest.mark.parametrize("more", [("psnr=30", "--most", 2), ("score=0.1", "--captions", 0)])
def test_a_budget_is_checked_before_the_bundle_is_read(
    arguments: Sequence[object], more: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    command, _, *rest = arguments
    assert run(capsys, command, "nowhere", *rest, "--budget", *more).code == 2


def test_a_calibration_of_another_checkpoint_is_refused(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = write_bundle(tmp_path / "b")
    done = run(capsys, arguments[0], other, *arguments[2:])
    assert (done.code, "the calibration is of checkpoint" in done.error) == (2, True)


def test_a_missing_bundle_is_a_failure(
    arguments: Sequence[object], capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, arguments[0], "nowhere", *arguments[2:])
    assert (done.code, "no bundle there" in done.error) == (1, True)
