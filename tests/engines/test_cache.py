"""The cache of engines: keys, records, which engine fits, what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.engines.cache import (
    PORTABLE,
    BuildFlags,
    CachedEngine,
    CorruptEngine,
    Device,
    EngineKey,
    EngineRequest,
    cached_engines,
    engine_lock,
    find_engine,
    fingerprint,
    native_target,
    plan_builds,
    read_engine,
    require_engine,
    write_engine,
)
from minit2i_deploy.engines.fit import library_mismatch, mismatch
from minit2i_deploy.engines.key import differences
from minit2i_deploy.engines.sidecar import NO_AUDIT, PLAN_FILE, RECORD_FILE
from minit2i_deploy.errors import BundleError, RuntimeFailure, UsageError
from tests.helpers.bundles import write_bundle

ADA = Device(capability=89, name="NVIDIA GeForce RTX 4090")
AMPERE = Device(capability=86, name="NVIDIA GeForce RTX 3090")
HOPPER = Device(capability=90, name="NVIDIA H200")
RTX = {"library": "tensorrt_rtx", "library_version": "1.7.1.116"}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_bundle(tmp_path / "bundle"))


def key_of(bundle: Bundle, **changes: Any) -> EngineKey:
    values: dict[str, Any] = {
        "sizes": {"batch": (1, 1, 4)},
        "flags": BuildFlags(),
        "targets": ("sm89",),
        **RTX,
    }
    return EngineKey.of(bundle, changes.pop("graph", "transformer"), **values | changes)


def put(bundle: Bundle, key: EngineKey, plan: bytes = b"plan" * 100) -> CachedEngine:
    with engine_lock(bundle, key):
        return write_engine(bundle, key, plan, audit=NO_AUDIT, build_s=1.5)


def request(device: Device | None = ADA, **changes: Any) -> EngineRequest:
    return EngineRequest(**{"device": device, **RTX, **changes})


def test_the_fingerprint_covers_every_field(bundle: Bundle) -> None:
    key = key_of(bundle)
    others = [
        key_of(bundle, graph="text_adapter"),
        key_of(bundle, sizes={"batch": (1, 2, 4)}),
        key_of(bundle, flags=BuildFlags(refit=True)),
        key_of(bundle, targets=("sm86", "sm89")),
        key_of(bundle, library="tensorrt"),
        key_of(bundle, library_version="1.7.2"),
        key_of(bundle, weights_sha256="ab" * 32),
        dataclasses.replace(key, graph_sha256="cd" * 32),
        dataclasses.replace(key, data_sha256=None),
        dataclasses.replace(key, precision="fp16"),
        dataclasses.replace(key, recipe=key.recipe + 1),
    ]
    assert len({fingerprint(item) for item in [key, *others]}) == len(others) + 1
    assert fingerprint(key) == fingerprint(key_of(bundle))
    for other in others:
        assert len(differences(key, other)) >= 1
    assert differences(key, key_of(bundle)) == []


def test_the_fingerprint_of_a_fixed_key_never_changes(bundle: Bundle) -> None:
    # Another value throws away every engine that users have built: raise RECIPE, say it in the
    # changelog, then change it here.
    fixed = dataclasses.replace(key_of(bundle), graph_sha256="ab" * 32, data_sha256="cd" * 32)
    assert fingerprint(fixed) == "23d0cce7f473525538fa"


def test_targets_are_sorted(bundle: Bundle) -> None:
    assert key_of(bundle, targets=("sm89", "sm120")) == key_of(bundle, targets=("sm120", "sm89"))


@pytest.mark.parametrize(
    "changes",
    [
        {"graph": "vae"},
        {"sizes": {"batch": (2, 1, 4)}},
        {"sizes": {"batch": (0, 1, 4)}},
        {"sizes": {"batch": (1, 4)}},
        {"sizes": {}},
        {"sizes": {"batch": (1, 1, 1), "branches": (1, 1, 1)}},
        {"library": "cudnn"},
        {"targets": ()},
        {"targets": ("89",)},
        {"targets": ("native:sm90:\n",)},
    ],
)
def test_a_key_outside_its_rules_is_refused(bundle: Bundle, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        key_of(bundle, **changes)


@pytest.mark.parametrize(
    "values",
    [{"hardware_level": "all"}, {"workspace_bytes": 0}, {"optimization_level": 6}],
)
def test_flags_outside_their_rules_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        BuildFlags(**values)


def test_a_written_engine_is_read_back(bundle: Bundle) -> None:
    written = put(bundle, key_of(bundle))
    assert list(cached_engines(bundle)) == [written]
    engine = require_engine(bundle, "transformer", request(sizes={"batch": 4, "branches": 2}))
    assert engine.record == written.record
    assert engine.plan.read_bytes() == b"plan" * 100
    assert engine.record.plan_bytes == 400
    assert "for sm89 by tensorrt_rtx 1.7.1.116" in engine.record.words
    # The cache is no part of the bundle's promise.
    Bundle.open(bundle.path).verify()
    assert sorted(os.listdir(bundle.path / "engines")) == [written.record.fingerprint]


def test_what_does_not_fit_is_refused_with_its_reason(bundle: Bundle) -> None:
    put(bundle, key_of(bundle))
    cases = {
        "built for sm89, but this GPU is sm86 (NVIDIA GeForce RTX 3090)": request(AMPERE),
        "accepts batch from 1 to 4, got 8": request(sizes={"batch": 8}),
        "built by tensorrt_rtx, expected tensorrt": request(library="tensorrt"),
        "built by tensorrt_rtx 1.7.1.116, but 1.8.0.1 is installed": request(
            library_version="1.8.0.1"
        ),
        "holds the bundle's weights, expected refitted weights abababab..": request(
            weights_sha256="ab" * 32
        ),
    }
    for reason, case in cases.items():
        search = find_engine(bundle, "transformer", case)
        assert search.engine is None
        assert search.reasons == (f"engines/{fingerprint(key_of(bundle))}: {reason}",)
        with pytest.raises(RuntimeFailure, match="minit2i build") as caught:
            require_engine(bundle, "transformer", case)
        assert reason in str(caught.value)
    assert find_engine(bundle, "text_adapter", request()).reasons == ()
    with pytest.raises(RuntimeFailure, match="none was built"):
        require_engine(bundle, "text_adapter", request())
    with pytest.raises(UsageError, match="vae"):
        find_engine(bundle, "vae", request())


def test_an_engine_of_a_graph_that_changed_is_stale(bundle: Bundle) -> None:
    put(bundle, key_of(bundle))
    for name, text in (("model.onnx", "the graph"), ("model.onnx.data", "the weights")):
        path = bundle.path / "transformer" / name
        before = path.read_bytes()
        path.write_bytes(b"other" + before[5:])
        write_manifest(bundle.path, bundle.manifest)
        changed = Bundle.open(bundle.path)
        (reason,) = find_engine(changed, "transformer", request()).reasons
        assert text in reason and "changed since" in reason
        (planned,) = plan_builds(changed, [key_of(changed)])
        assert not planned.current and "changed" in planned.reason
        path.write_bytes(before)


@pytest.mark.parametrize(
    "targets, level, device, fits",
    [
        (("sm86", "sm89"), "none", AMPERE, True),
        (("sm86", "sm89"), "none", HOPPER, False),
        ((PORTABLE,), "none", ADA, True),
        ((PORTABLE,), "none", HOPPER, False),
        ((PORTABLE,), "none", Device(capability=75, name="T4"), False),
        ((PORTABLE,), "none", Device(capability=87, name="Orin"), False),
        ((PORTABLE,), "none", Device(capability=121, name="GB10"), True),
        ((native_target(90, "NVIDIA H200"),), "none", HOPPER, True),
        ((native_target(90, "NVIDIA H100"),), "none", HOPPER, False),
        ((native_target(90, "NVIDIA H100"),), "same-capability", HOPPER, True),
        ((native_target(80, "NVIDIA A100"),), "same-capability", HOPPER, False),
        ((native_target(80, "NVIDIA A100"),), "ampere-plus", HOPPER, True),
    ],
)
def test_which_gpu_runs_which_engine(
    bundle: Bundle, targets: tuple[str, ...], level: str, device: Device, fits: bool
) -> None:
    key = key_of(bundle, targets=targets, flags=BuildFlags(hardware_level=level))
    assert (mismatch(bundle, key, request(device)) is None) == fits


def test_a_portable_engine_of_fp8_needs_a_gpu_with_fp8(bundle: Bundle) -> None:
    key = dataclasses.replace(key_of(bundle, targets=(PORTABLE,)), precision="fp8")
    assert mismatch(bundle, key, request(ADA)) is None
    assert "needs sm89" in (mismatch(bundle, key, request(AMPERE)) or "")


@pytest.mark.parametrize(
    "compatible, version, fits",
    [
        (False, "1.7.1.116", True),
        (False, "1.7.1.117", False),
        (True, "1.8.0.2", True),
        (True, "1.6.9.9", False),
        (True, "2.0.0.0", False),
    ],
)
def test_which_version_runs_which_engine(
    bundle: Bundle, compatible: bool, version: str, fits: bool
) -> None:
    key = key_of(bundle, flags=BuildFlags(version_compatible=compatible))
    assert (library_mismatch(key, "tensorrt_rtx", version) is None) == fits


def test_the_best_engine_is_preferred(bundle: Bundle) -> None:
    for targets in ((PORTABLE,), ("sm89",)):
        for largest in (2, 4):
            put(bundle, key_of(bundle, targets=targets, sizes={"batch": (1, 1, largest)}))
    best = require_engine(bundle, "transformer", request(sizes={"batch": 2})).record.key
    assert (best.targets, best.sizes["batch"][2]) == (("sm89",), 2)
    wide = require_engine(bundle, "transformer", request(sizes={"batch": 3})).record.key
    assert (wide.targets, wide.sizes["batch"][2]) == (("sm89",), 4)
    other = require_engine(bundle, "transformer", request(AMPERE)).record.key
    assert other.targets == (PORTABLE,)


def test_of_engines_that_differ_in_flags_the_most_exact_and_fastest_is_preferred(
    bundle: Bundle,
) -> None:
    """From the least preferred on, so that each is in front of all before it."""
    for flags in (
        BuildFlags(tf32=True, optimization_level=5),
        BuildFlags(refit=True, optimization_level=5),
        BuildFlags(optimization_level=2),
        BuildFlags(),
        BuildFlags(optimization_level=4),
        BuildFlags(optimization_level=5),
    ):
        put(bundle, key_of(bundle, flags=flags))
        best = require_engine(bundle, "transformer", request()).record.key
        assert best.flags == flags


def test_an_engine_without_weights_is_not_used(bundle: Bundle) -> None:
    put(bundle, key_of(bundle, flags=BuildFlags(refit=True, strip_weights=True)))
    (reason,) = find_engine(bundle, "transformer", request()).reasons
    assert reason.endswith(
        "was built with --strip-weights and holds none; minit2i refit puts them in"
    )
    full = put(bundle, key_of(bundle, flags=BuildFlags(refit=True)))
    assert require_engine(bundle, "transformer", request()).folder == full.folder


def _truncate(folder: Path) -> None:
    plan = folder / PLAN_FILE
    plan.write_bytes(plan.read_bytes()[:-1])


def _alter(folder: Path) -> None:
    plan = folder / PLAN_FILE
    plan.write_bytes(b"X" + plan.read_bytes()[1:])


def _remove_plan(folder: Path) -> None:
    (folder / PLAN_FILE).unlink()


def _remove_record(folder: Path) -> None:
    (folder / RECORD_FILE).unlink()


def _edit(**changes: object) -> Any:
    def edit(folder: Path) -> None:
        values = json.loads((folder / RECORD_FILE).read_text())
        values.update(changes)
        (folder / RECORD_FILE).write_text(json.dumps(values))

    return edit


def _claim_another_gpu(folder: Path) -> None:
    values = json.loads((folder / RECORD_FILE).read_text())
    values["key"]["targets"] = ["sm86"]
    (folder / RECORD_FILE).write_text(json.dumps(values))


@pytest.mark.parametrize(
    "harm, text",
    [
        (_truncate, "399 bytes, expected 400"),
        (_alter, "its sha256 is not that"),
        (_remove_plan, "cannot be read"),
        (_remove_record, "missing"),
        (_edit(format_version=2), "format_version 2"),
        (_edit(surprise=1), "unknown fields"),
        (_edit(plan_bytes="many"), "expected an integer"),
        (_edit(key={}), "missing fields"),
        (_claim_another_gpu, "moved or edited"),
    ],
)
def test_a_corrupt_engine_is_never_loaded(bundle: Bundle, harm: Any, text: str) -> None:
    key = key_of(bundle)
    harm(put(bundle, key).folder)
    search = find_engine(bundle, "transformer", request())
    assert search.engine is None and text in search.reasons[0]
    (planned,) = plan_builds(bundle, [key])
    assert not planned.current and text in planned.reason
    with pytest.raises(BundleError, match="minit2i build"):
        read_engine(bundle, key)
    # A build replaces it.
    assert put(bundle, key).record == read_engine(bundle, key).record


def test_a_folder_under_another_name_is_refused(bundle: Bundle) -> None:
    folder = put(bundle, key_of(bundle)).folder
    folder.rename(folder.with_name("0" * 20))
    (item,) = cached_engines(bundle)
    assert isinstance(item, CorruptEngine) and "moved or edited" in item.reason


def test_the_plan_says_what_differs(bundle: Bundle) -> None:
    (nothing,) = plan_builds(bundle, [key_of(bundle)])
    assert (nothing.current, nothing.reason) == (False, "none was built")
    put(bundle, key_of(bundle))
    new = [
        key_of(bundle),
        key_of(bundle, targets=("sm120",)),
        key_of(bundle, flags=BuildFlags(refit=True)),
        key_of(bundle, sizes={"batch": (1, 2, 2)}, library_version="1.8"),
    ]
    same, target, flags, several = plan_builds(bundle, new)
    assert same.current
    assert target.reason == "targets sm89, now sm120"
    assert flags.reason == "flags were no flags, now refit"
    assert "batch 1 to 4, best at 1, now batch 1 to 2, best at 2" in several.reason
    assert "library version 1.7.1.116, now 1.8" in several.reason
