"""One model for several threads: equal results, one copy of the weights, cancelling, previews."""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import trajectory
from minit2i_deploy.io.images import to_pil
from minit2i_deploy.runtimes import open_runtime
from tests.helpers import cpp_client
from tests.helpers.cpp_bundles import shipped_bundle, shipped_student
from tests.helpers.cpp_client import (
    CANCELLED,
    OK,
    USAGE,
    Client,
    generate_params,
    last_error,
    library,
    program,
    run_in_threads,
)
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

# Measured 0: the same library runs the same graphs.
MAX_STATE_ERROR = 1e-4


def new_state(client: Client) -> ctypes.c_void_p:
    state = ctypes.c_void_p()
    assert library().minit2i_state_new(client.model, None, ctypes.byref(state)) == OK
    return state


def embed(state: ctypes.c_void_p, *data: bytes, **settings: object) -> np.ndarray:
    result, calls = ctypes.c_void_p(), library()
    params = cpp_client.embed_params(*data, **settings)
    assert calls.minit2i_embed(state, ctypes.byref(params), ctypes.byref(result)) == OK
    sizes = (
        len(data),
        calls.minit2i_embeddings_num_tokens(result),
        calls.minit2i_embeddings_width(result),
    )
    values = np.ctypeslib.as_array(calls.minit2i_embeddings_values(result), sizes).copy()
    calls.minit2i_embeddings_free(result)
    return values


def test_four_threads_share_one_model() -> None:
    size = Bundle.open(shipped_bundle()).config.image_size
    prompts = [b"a red circle", b"two blue squares", b"", b"a green triangle"]
    actual: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with Client(shipped_bundle()) as client:

        def work(index: int) -> None:
            state = new_state(client)
            params = generate_params(prompts[index], table=b"euler-20")
            for _ in range(8):
                values = embed(state, prompts[index])
            other = Client.__new__(Client)
            other.state = state
            actual[index] = values, other.generate(params, size)
            library().minit2i_state_free(state)

        run_in_threads(*(lambda index=index: work(index) for index in range(4)))
        for index, prompt in enumerate(prompts):
            expected = embed(client.state, prompt)
            assert np.array_equal(actual[index][0], expected)
            image = client.generate(generate_params(prompt, table=b"euler-20"), size)
            assert np.abs(actual[index][1] - image).max() <= MAX_STATE_ERROR


MEMORY = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.helpers.cpp_client import Client, library, OK, generate_params

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def use(state, model):
    other = Client.__new__(Client)
    other.state, other.model = state, model
    other.embed(b"a red circle")
    other.generate(generate_params(b"a red circle", table=b"euler-20"), int(sys.argv[3]))

client = Client(Path(sys.argv[2]))
use(client.state, client.model)
sizes = [resident()]
for _ in range(3):
    state = ctypes.c_void_p()
    assert library().minit2i_state_new(client.model, None, ctypes.byref(state)) == OK
    use(state, client.model)
    sizes.append(resident())
print(*sizes)
"""


def test_states_share_the_weights() -> None:
    """A model of the shipped bundle holds 20 MB; three more states of it a small part of that."""
    import subprocess
    import sys

    size = Bundle.open(shipped_bundle()).config.image_size
    cpp_client.build()
    command = [sys.executable, "-c", MEMORY, cpp_client.ROOT, shipped_bundle(), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sizes = [int(number) for number in done.stdout.split()]
    # Measured less than 1 MB for all three.
    assert sizes[-1] - sizes[0] < 4 * 2**20


def test_a_state_outlives_its_model() -> None:
    with Client(tiny_bundle()) as client:
        state = new_state(client)
        expected = embed(client.state, b"a red circle")
    assert np.array_equal(embed(state, b"a red circle"), expected)
    library().minit2i_state_free(state)


def test_a_state_takes_one_call_at_a_time() -> None:
    lines: list[tuple[int, str]] = []
    with Client(tiny_bundle()) as client:

        def call_again(*_: object) -> int:
            params, result = cpp_client.embed_params(b"a"), ctypes.c_void_p()
            call = library().minit2i_embed
            status = call(client.state, ctypes.byref(params), ctypes.byref(result))
            lines.append((status, last_error()))
            return 0

        progress = cpp_client.PROGRESS(call_again)
        embed(client.state, b"a red circle", on_progress=progress)
        # It works again afterwards.
        embed(client.state, b"a red circle")
    line = "state has another call in progress; make one state for each thread"
    assert lines == [(USAGE, line)]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_embedding_in_batches(batch_size: int) -> None:
    texts = [b"a red circle", b"", b"green", b"a blue square", b"two"]
    reports: list[tuple[int, int]] = []

    def report(_: object, done: int, total: int) -> int:
        reports.append((done, total))
        return 0

    with Client(tiny_bundle()) as client:
        expected = embed(client.state, *texts)
        progress = cpp_client.PROGRESS(report)
        actual = embed(client.state, *texts, batch_size=batch_size, on_progress=progress)
        assert np.abs(actual - expected).max() <= 1e-5
        counts = [min(done, 5) for done in range(batch_size, 5 + batch_size, batch_size)]
        assert reports == [(done, 5) for done in counts]
        stop = cpp_client.PROGRESS(lambda *_: 1)
        params = cpp_client.embed_params(*texts, batch_size=batch_size, on_progress=stop)
        result = ctypes.c_void_p()
        call = library().minit2i_embed
        assert call(client.state, ctypes.byref(params), ctypes.byref(result)) == CANCELLED
        line = f"cancelled by the caller after text {min(batch_size, 5)} of 5"
        assert last_error() == line and result.value is None


def test_cancel_from_another_thread(tmp_path: Path) -> None:
    """Within a step: the batch is large enough that one takes seconds."""
    started = threading.Event()
    with Client(shipped_bundle()) as client:
        params = generate_params(b"a red circle", table=b"euler-100")
        params.prompts = cpp_client.texts(*[b"a red circle"] * 64)
        params.num_images = 64
        start = cpp_client.PROGRESS(lambda *_: started.set() or 0)
        params.on_progress = start
        images = ctypes.c_void_p()

        def cancel() -> None:
            assert started.wait(120)
            library().minit2i_cancel(client.state)

        other = threading.Thread(target=cancel)
        other.start()
        status = library().minit2i_generate(
            client.state, ctypes.byref(params), ctypes.byref(images)
        )
        line, before = last_error(), time.perf_counter()
        other.join()
        assert (status, line) == (CANCELLED, "cancelled by the caller")
        # The next call is not affected, nor is one that was cancelled before it began.
        library().minit2i_cancel(client.state)
        embed(client.state, b"a red circle")
        assert time.perf_counter() - before < 60


@pytest.mark.parametrize("table", ["euler-20", "dpmpp2m-40", "dpmpp2m-8-shift2-r5-0.2-1"])
def test_previews_are_those_of_python(table: str) -> None:
    path = shipped_bundle()
    bundle = Bundle.open(path)
    size = bundle.config.image_size
    frames: list[tuple[int, float, np.ndarray, np.ndarray]] = []

    def keep(_: object, pointer: int) -> int:
        frame = cpp_client.Frame.from_address(pointer)
        assert frame.struct_size == ctypes.sizeof(frame) and frame.num_images == 1
        pixels = np.ctypeslib.as_array(frame.pixels, (frame.size, frame.size, 3)).copy()
        estimate = np.ctypeslib.as_array(frame.estimate, (1, 3, size, size)).copy()
        frames.append((frame.row, frame.t, pixels, estimate))
        return 0

    with Client(path) as client:
        preview = cpp_client.PREVIEW(keep)
        client.generate(
            generate_params(b"a red circle", table=table.encode(), on_preview=preview), size
        )
    with open_runtime(bundle, "onnxruntime") as runtime:
        expected = trajectory(
            bundle, runtime, "a red circle", table=bundle.table(table), previews=True
        )
        for frame, (row, t, pixels, estimate) in zip(expected, frames, strict=True):
            assert (row, t) == (frame.index, frame.t)
            assert np.abs(estimate - frame.estimate()).max() <= MAX_STATE_ERROR
            difference = np.asarray(to_pil(frame.estimate())[0]).astype(int) - pixels
            assert (np.abs(difference) <= 1).all()


def test_a_preview_can_cancel() -> None:
    with Client(tiny_bundle()) as client:
        stop = cpp_client.PREVIEW(lambda *_: 1)
        params = generate_params(b"a", table=b"euler-20", on_preview=stop)
        images = ctypes.c_void_p()
        call = library().minit2i_generate
        assert call(client.state, ctypes.byref(params), ctypes.byref(images)) == CANCELLED
        assert last_error() == "cancelled by the caller after row 1 of 20"


@pytest.mark.parametrize("bundle", [shipped_bundle, shipped_student])
def test_presets_and_tables_are_listed(bundle: object) -> None:
    path = bundle()  # type: ignore[operator]
    opened = Bundle.open(path)
    manifest = opened.manifest
    lines = []
    for name, preset in sorted(manifest.presets.items()):
        mark = " (default)" if name == manifest.default_preset else ""
        lines.append(f"preset {name}: table {preset.table}, guidance {preset.guidance:g}{mark}")
    lines += [f"table {name}: {len(opened.table(name))} rows" for name in sorted(manifest.tables)]
    assert program("minit2i-generate", path, "--list").splitlines() == lines


def test_warnings_go_to_the_state_that_causes_them() -> None:
    lines: list[str] = []
    warn = cpp_client.WARNING(lambda _, line: lines.append(line.decode()))
    with Client(tiny_bundle()) as client:
        params = cpp_client.StateParams(ctypes.sizeof(cpp_client.StateParams), warn, None)
        state = ctypes.c_void_p()
        call = library().minit2i_state_new
        assert call(client.model, ctypes.byref(params), ctypes.byref(state)) == OK
        embed(state, b"a green circle " * 30)
        library().minit2i_state_free(state)
        assert client.warnings == [] and len(lines) == 1
