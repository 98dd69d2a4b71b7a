"""Refits of fake engines: every weight by its name, nothing stale, and back bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import GRAPHS
from minit2i_deploy.bundle.weight_replacement import network_tensors, write_with_weights
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.engines.cache import CachedEngine, cached_engines
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.runtimes.step_probe import answers, graph_errors, make_probe
from minit2i_deploy.runtimes.tensorrt.refit import refit_bundle
from tests.checkpoints.test_lora import write_adapter
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.fakes.fake_plan import read_plan
from tests.helpers.tensorrt_runs import (
    GUIDANCE,
    TABLE,
    Bench,
    make_bench,
    write_fake_engine,
)

ENGINE = ["--engine", "tensorrt-rtx"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(monkeypatch, tmp_path / "base", refit=True)


def other_bundle(bench: Bench, folder: Path, factor: float = 1.25) -> Bundle:
    """The same graphs with every weight a quarter larger."""
    folder.mkdir()
    tensors = network_tensors(bench.bundle)
    other = {name: value * np.float32(factor) for name, value in tensors.items()}
    return write_with_weights(bench.bundle, folder, other, bench.bundle.manifest.provenance)


def image(bundle: Bundle) -> np.ndarray:
    with open_runtime(bundle, "tensorrt-rtx") as runtime:
        return generate(bundle, runtime, "red", table=TABLE, guidance=GUIDANCE).x


def refit_message(bench: Bench, tmp_path: Path) -> str:
    with pytest.raises(RuntimeFailure) as caught:
        refit_bundle("tensorrt_rtx", 0, bench.bundle, other_bundle(bench, tmp_path / "other"))
    assert "\n" not in str(caught.value)
    assert bench.cuda.live()["streams"] == 0
    return str(caught.value)


def test_a_refitted_engine_has_the_new_weights_and_its_own_name(
    bench: Bench, tmp_path: Path
) -> None:
    other = other_bundle(bench, tmp_path / "other")
    shares: list[float] = []
    refitted = refit_bundle("tensorrt_rtx", 0, bench.bundle, other, shares.append)
    assert shares == [0.5, 1.0]
    old = {item.folder.name for item in cached_engines(bench.bundle)}
    for engine in refitted:
        assert engine.record.fingerprint not in old
        assert engine.record.refitted_from in old
        assert engine.record.key.flags.refit
        assert read_plan(engine.plan.read_bytes())["refit"]
    assert all(isinstance(item, CachedEngine) for item in cached_engines(other))
    assert len(list(cached_engines(other))) == 3
    # The fake engine adds the new weights to the old bundle's graph; onnxruntime reads the new one.
    with OnnxRuntime(other, threads=1) as runtime:
        expected = generate(other, runtime, "red", table=TABLE, guidance=GUIDANCE).x
    assert np.abs(image(other) - expected).max() <= 3e-5 * np.abs(expected).max()
    assert np.abs(image(bench.bundle) - expected).max() > 0.1


def test_back_to_the_base_bit_for_bit(bench: Bench, tmp_path: Path) -> None:
    before = image(bench.bundle)
    other = other_bundle(bench, tmp_path / "other")
    refit_bundle("tensorrt_rtx", 0, bench.bundle, other)
    assert not np.array_equal(image(other), before)
    (tmp_path / "back").mkdir()
    back = write_with_weights(
        other, tmp_path / "back", network_tensors(bench.bundle), other.manifest.provenance
    )
    refit_bundle("tensorrt_rtx", 0, other, back)
    assert np.array_equal(image(back), before)
    assert np.array_equal(image(bench.bundle), before)


def test_weights_that_the_builder_merged_are_set_together(bench: Bench, tmp_path: Path) -> None:
    bench.library.merged = [
        {"double_blocks.0.img_mlp.w1.weight", "double_blocks.0.img_mlp.w3.weight"}
    ]
    refit_bundle("tensorrt_rtx", 0, bench.bundle, other_bundle(bench, tmp_path / "other"))


def test_a_weight_that_the_engine_hides_is_an_error(bench: Bench, tmp_path: Path) -> None:
    bench.library.hidden = {"final_layer.linear.bias"}
    message = refit_message(bench, tmp_path)
    assert "final_layer.linear.bias cannot be replaced in this engine" in message


def test_a_merge_with_something_unknown_is_an_error(bench: Bench, tmp_path: Path) -> None:
    bench.library.merged = [{"final_layer.linear.bias", "a folded constant"}]
    assert "the engine also asks for a folded constant, which are not" in refit_message(
        bench, tmp_path
    )


def test_engines_that_were_not_built_for_it_name_the_build_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(monkeypatch, tmp_path / "base")
    message = refit_message(bench, tmp_path)
    assert "run: minit2i build" in message and message.endswith("--engine tensorrt-rtx --refit")


def test_engines_without_weights_are_filled_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = make_bench(monkeypatch, tmp_path / "base", refit=True, strip=True)
    with pytest.raises(RuntimeFailure, match=r"holds none; minit2i refit puts them in"):
        image(bench.bundle)
    write_adapter(tmp_path / "lora", lora_alpha=0.05)
    out = tmp_path / "out"
    lora = ["--lora", tmp_path / "lora", "-o", out]
    done = run(capsys, "refit", bench.bundle.path, *lora, *ENGINE)
    assert done.code == 0, done.err
    bundle = Bundle.open(out)
    engines = [item for item in cached_engines(bundle) if isinstance(item, CachedEngine)]
    assert {item.record.key.graph for item in engines} == set(GRAPHS)
    assert not any(item.record.key.flags.strip_weights for item in engines)
    (encoder,) = [item for item in engines if item.record.key.graph == "text_encoder"]
    assert read_plan(encoder.plan.read_bytes())["weights"]
    assert np.isfinite(image(bundle)).all()


def test_engines_of_another_gpu_are_left_out(bench: Bench, tmp_path: Path) -> None:
    foreign = write_fake_engine(
        bench.bundle, "transformer", bench.library, refit=True, gpu=("NVIDIA Other", 75)
    )
    other = other_bundle(bench, tmp_path / "other")
    refitted = refit_bundle("tensorrt_rtx", 0, bench.bundle, other)
    assert len(refitted) == 2
    assert foreign.record.fingerprint not in {item.record.refitted_from for item in refitted}
    for item in cached_engines(bench.bundle):
        if item.folder != foreign.folder:
            shutil.rmtree(item.folder)
    with pytest.raises(RuntimeFailure, match="text_adapter has no engine of tensorrt_rtx"):
        refit_bundle("tensorrt_rtx", 0, bench.bundle, other)
    assert bench.cuda.live()["streams"] == 0


def test_the_probe_tells_one_network_from_another(bench: Bench, tmp_path: Path) -> None:
    other = other_bundle(bench, tmp_path / "other", factor=1.001)
    actual = []
    for bundle in (bench.bundle, other, bench.bundle):
        with OnnxRuntime(bundle, threads=1) as runtime:
            probe = make_probe(bench.bundle, runtime) if not actual else probe
            actual.append(answers(runtime, probe))
    assert set(graph_errors(actual[2], actual[0]).values()) == {0.0}
    assert min(graph_errors(actual[1], actual[0]).values()) > 1e-4


def test_the_command_refits_an_adapter(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of a size that keeps float32 exact, as test_float64.py measures; 6 drives activations to 8e4,
    # and then two float32 engines are 3e-5 apart, both as far from float64.
    write_adapter(tmp_path / "lora", lora_alpha=0.05)
    out = tmp_path / "out"
    done = run(capsys, "refit", bench.bundle.path, "--lora", tmp_path / "lora", "-o", out,
               *ENGINE, "--json")  # fmt: skip
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert [check["name"] for check in result["checks"]] == ["text_adapter", "transformer"]
    # Measured 3e-7 and 1e-6 (AVX-512 with AMX).
    assert all(check["measured"] <= 1e-5 for check in result["checks"])
    bundle = Bundle.open(out)
    bundle.verify()
    merged = load_checkpoint(hub_folder(), lora=tmp_path / "lora")
    assert bundle.manifest.provenance.lora_sha256 is not None
    for name, value in network_tensors(bundle).items():
        assert np.array_equal(value, merged.tensors[name]), name
    again = run(capsys, "refit", out, "--lora", tmp_path / "lora", "-o", tmp_path / "b", *ENGINE)
    assert (again.code, "already contains a merged adapter" in again.err) == (2, True)
    # And back: the checkpoint's weights are the base's, so the images are.
    back = tmp_path / "back"
    done = run(capsys, "refit", out, "--checkpoint", hub_folder(), "-o", back, *ENGINE)
    assert done.code == 0, done.err
    assert "transformer" in done.out and "refitted" in done.out
    assert np.array_equal(image(Bundle.open(back)), image(bench.bundle))


def test_a_refit_that_does_nothing_is_refused(
    bench: Bench,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_adapter(tmp_path / "lora")
    monkeypatch.setattr(bench.library.Refitter, "refit_cuda_engine", lambda self: True)
    done = run(capsys, "refit", bench.bundle.path, "--lora", tmp_path / "lora", "-o",
               tmp_path / "out", *ENGINE)  # fmt: skip
    assert done.code == 1
    assert "gives the old values although" in done.err
    assert not (tmp_path / "out").exists()


def test_wrong_use_exits_2(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, "refit", bench.bundle.path, "-o", tmp_path / "out", *ENGINE)
    assert (done.code, "expected --checkpoint or --lora" in done.err) == (2, True)
