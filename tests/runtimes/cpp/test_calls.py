"""Wrong calls of the C functions, and runs that their callbacks cancel."""

from __future__ import annotations

import ctypes

import pytest

from tests.helpers import cpp_client
from tests.helpers.cpp_client import CANCELLED, OK, USAGE, Client, last_error, library
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp


def test_null_and_unfilled_arguments() -> None:
    calls, null, by = library(), None, ctypes.byref
    handle = ctypes.c_void_p()
    assert calls.minit2i_open(null, null, by(handle)) == USAGE
    assert last_error() == "bundle is NULL, but a pointer is needed"
    assert calls.minit2i_open(b"x", null, null) == USAGE
    params = cpp_client.ModelParams()
    assert calls.minit2i_open(b"x", by(params), by(handle)) == USAGE
    assert last_error().startswith("struct_size is 0")
    for name in ("close", "state_free", "cancel", "embeddings_free", "images_free"):
        getattr(calls, f"minit2i_{name}")(null)
    assert calls.minit2i_state_new(null, null, by(handle)) == USAGE
    with Client(tiny_bundle()) as client:
        result, embed = ctypes.c_void_p(), calls.minit2i_embed
        assert embed(client.state, null, by(result)) == USAGE
        assert embed(null, by(cpp_client.embed_params(b"a")), by(result)) == USAGE
        for settings in ({"texts": None}, {"num_texts": 0}, {"batch_size": 0}):
            params = cpp_client.embed_params(b"a")
            for field, value in settings.items():
                setattr(params, field, value)
            assert embed(client.state, by(params), by(result)) == USAGE, settings
        params = cpp_client.embed_params(b"a")
        params.texts[0].data = None
        assert embed(client.state, by(params), by(result)) == USAGE
        assert calls.minit2i_generate(client.state, null, by(result)) == USAGE
        params = cpp_client.generate_params(b"a")
        params.num_parts = 0
        assert calls.minit2i_generate(client.state, by(params), by(result)) == USAGE
        assert last_error() == "num_parts is 0, but at least 1 is needed"
        assert calls.minit2i_images_save_png(null, ctypes.c_size_t(0), b"a.png") == USAGE
        assert result.value is None
        occupied = ctypes.c_void_p(1)
        assert embed(client.state, by(cpp_client.embed_params(b"a")), by(occupied)) == USAGE
        assert last_error().startswith("*embeddings is not NULL")


def test_a_newer_callers_setting_is_not_ignored() -> None:
    class Newer(ctypes.Structure):
        _fields_ = (("known", cpp_client.ModelParams), ("more", ctypes.c_uint64))

    params, handle = Newer(), ctypes.c_void_p()
    size = ctypes.c_size_t(ctypes.sizeof(params))
    assert library().minit2i_model_params_defaults(ctypes.byref(params), size) == OK
    path = str(tiny_bundle()).encode()
    assert library().minit2i_open(path, ctypes.byref(params), ctypes.byref(handle)) == OK
    library().minit2i_close(handle)
    params.more, handle = 1, ctypes.c_void_p()
    assert library().minit2i_open(path, ctypes.byref(params), ctypes.byref(handle)) == USAGE
    assert "a setting of a newer minit2i.h is set" in last_error()


def test_progress_can_cancel_and_the_state_goes_on() -> None:
    reports: list[tuple[int, int]] = []

    def stop_at_three(_: object, done: int, total: int) -> int:
        reports.append((done, total))
        return int(done == 3)

    with Client(tiny_bundle()) as client:
        stop = cpp_client.PROGRESS(stop_at_three)
        params = cpp_client.generate_params(b"a red circle", table=b"euler-20", on_progress=stop)
        images = ctypes.c_void_p()
        call = library().minit2i_generate
        status = call(client.state, ctypes.byref(params), ctypes.byref(images))
        assert (status, images.value) == (CANCELLED, None)
        assert last_error() == "cancelled by the caller after row 3 of 20"
        assert reports == [(1, 20), (2, 20), (3, 20)]
        params.on_progress = cpp_client.PROGRESS(lambda *_: 0)
        assert call(client.state, ctypes.byref(params), ctypes.byref(images)) == OK
        library().minit2i_images_free(images)


@pytest.mark.parametrize(
    ("weights", "line"),
    [([1.0, -1.0], "a sum that is not 0"), ([1.0, float("nan")], "finite numbers")],
)
def test_wrong_mixes(weights: list[float], line: str) -> None:
    with Client(tiny_bundle()) as client:
        params = cpp_client.generate_params(b"a", b"b")
        params.weights = (ctypes.c_double * 2)(*weights)
        images = ctypes.c_void_p()
        call = library().minit2i_generate
        assert call(client.state, ctypes.byref(params), ctypes.byref(images)) == USAGE
        assert line in last_error()


@pytest.mark.parametrize("device", [1, -1])
def test_a_device_that_is_not_there(device: int) -> None:
    status, line = cpp_client.refused(tiny_bundle(), cpp_client.model_params(device=device))
    assert status == USAGE
    assert line == f"device is {device}, but provider cpu has only device 0"


def test_an_index_past_the_last_preset() -> None:
    with Client(tiny_bundle()) as client:
        count = library().minit2i_num_presets(client.model)
        preset = cpp_client.Preset(struct_size=ctypes.sizeof(cpp_client.Preset))
        call = library().minit2i_get_preset
        assert call(client.model, ctypes.c_size_t(count), ctypes.byref(preset)) == USAGE
        assert last_error() == f"index is {count}, but there are {count} presets, counted from 0"
