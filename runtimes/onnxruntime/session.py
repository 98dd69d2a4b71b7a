"""Sessions of ONNX Runtime on one provider and no other, and the proof that a provider works.

Nothing here falls back: a provider that is asked for works, or an error says what it lacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure
from minit2i_deploy.runtimes.onnxruntime.providers import (
    AUTO,
    AUTO_ORDER,
    MIN_VERSION,
    PROVIDERS,
    Provider,
    attach,
    check_present,
    is_too_old,
    named_provider,
    upgrade_line,
)
from minit2i_deploy.runtimes.onnxruntime.trajectory import first_line
from minit2i_deploy.runtimes.signal_stack import preserved_signal_stack
from minit2i_deploy.runtimes.toy_graph import (
    RATE_SIZE,
    TOY_SIZE,
    TOY_STEPS,
    best_rate,
    matmul_model,
    rate_arrays,
    toy_arrays,
    toy_error,
)

# Operators whose place decides the time; small ones on shapes may stay on the CPU.
_HEAVY: Final = frozenset({"Attention", "Conv", "FusedMatMul", "Gemm", "MatMul", "Softmax"})


def find_provider(
    ort: Any,
    name: str,
    precisions: Iterable[str],
    precision: str | None = None,
    *,
    graph: Path | None = None,
) -> Provider:
    """The provider of that name, or under ``auto`` the first that works and fits.

    Args:
        ort: the onnxruntime module.
        name: one of PROVIDERS, or AUTO.
        precisions: of the graphs it is to run.
        precision: what it is to compute in, or None.
        graph: the smallest graph with attention, which must open under auto; None is not tried.

    Raises:
        UsageError: an unknown name.
        MissingDependencyError: it is not installed; the text names the pip line.
        RuntimeFailure: it finds no device of its kind, or under auto none fits.
    """
    if name != AUTO:
        provider = named_provider(name)
        check_present(ort, provider)
        return provider
    graph_precisions = set(precisions)
    for candidate in (PROVIDERS[item] for item in AUTO_ORDER):
        offers = precision is None or precision in candidate.computes
        fits = offers and graph_precisions <= set(candidate.runs)
        if fits and _works(ort, candidate) and _opens(ort, candidate, graph):
            return candidate
    computing = "" if precision is None else f" and computes in {precision}"
    raise RuntimeFailure(
        f"no provider that works here runs {', '.join(sorted(graph_precisions))}{computing}; "
        "minit2i doctor lists them"
    )


def session_options(
    ort: Any,
    provider: Provider,
    *,
    precision: str | None = None,
    threads: int = 0,
    arena: bool = True,
    cache: Path | None = None,
    capture: bool = False,
) -> tuple[Any, list[Any]]:
    """SessionOptions and the ``providers`` argument; arguments as in ``OnnxRuntime``.

    ``capture`` lets the session record CUDA graphs.

    Raises:
        UsageError: a precision that the provider does not offer.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    # Spinning threads cost other work on the machine more than they gain this one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Layers with quantized weights alone are computed as their graph says. The library's default,
    # 4, rounds their inputs to 8 bits (findings/onnxruntime_int4_weights.sh).
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if provider.name != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = attach(
        ort, provider, options, precision=precision, threads=threads, cache=cache, capture=capture
    )
    return options, providers


def open_session(ort: Any, graph: Path | bytes, provider: Provider, **settings: Any) -> Any:
    """Open one graph on one provider, and on no other.

    Args:
        ort: the onnxruntime module.
        graph: its path, or the complete model.
        provider: one that is present.
        settings: of ``session_options``.

    Raises:
        UsageError: a precision that the provider does not offer.
        RuntimeFailure: the library cannot open it, its first line says why; or the provider left
            the work to another.
    """
    options, providers = session_options(ort, provider, **settings)
    where = "a toy graph" if isinstance(graph, bytes) else graph
    try:
        # Without the last, a provider that fails is replaced by the CPU and a printed line.
        # The openvino provider loads that library here at the latest.
        with preserved_signal_stack():
            session = ort.InferenceSession(
                graph, options, providers=providers or None, enable_fallback=0
            )
    except Exception as error:  # the library's errors share no base
        reason = first_line(error)
        if is_too_old(ort):
            needed = f"needs {MIN_VERSION} or later, run: {upgrade_line(provider)}"
            reason = f"onnxruntime {ort.__version__} is too old; this package {needed} ({reason})"
        raise RuntimeFailure(f"{where}: onnxruntime cannot open it: {reason}") from error
    check_placement(session, provider, where)
    return session


def check_placement(session: Any, provider: Provider, path: Path | str) -> None:
    """Check that the work of a session is where it was asked for.

    Args:
        session: of ``session_options``.
        provider: that was asked for.
        path: of the graph, for the error.

    Raises:
        RuntimeFailure: matrix products or attention run elsewhere.
    """
    if provider.name == "cpu":
        return
    strays: dict[str, int] = {}
    for group in session.get_provider_graph_assignment_info():
        if group.ep_name == provider.ep:
            continue
        for node in group.get_nodes():
            if node.op_type in _HEAVY:
                strays[node.op_type] = strays.get(node.op_type, 0) + 1
    which = ", ".join(f"{count} {op}" for op, count in sorted(strays.items()))
    if provider.ep not in session.get_providers():
        which = "everything"
    if which:
        raise RuntimeFailure(
            f"{path}: provider {provider.name} left {which} to the CPU; choose provider cpu, or "
            f"{provider.remedy}"
        )


def run_toy(ort: Any, provider: Provider, **settings: Any) -> float:
    """Multiply a state with a matrix ten times, the state in two buffers on the provider's device.

    Args:
        ort: the onnxruntime module.
        provider: any of PROVIDERS.
        settings: of ``session_options``.

    Returns:
        largest difference from numpy, relative to the largest value.

    Raises:
        MissingDependencyError: the provider is not installed.
        RuntimeFailure: it finds no device, cannot run the toy, or its values are wrong.
    """
    check_present(ort, provider)
    start, turn = toy_arrays()
    session = open_session(ort, matmul_model(TOY_SIZE, TOY_SIZE, TOY_SIZE), provider, **settings)
    try:
        result = _ten_steps(ort, session, provider.device, start, turn)
    except Exception as error:  # the library's errors share no base
        raise RuntimeFailure(
            f"provider {provider.name} cannot run a toy graph: {first_line(error)}"
        ) from error
    return toy_error(f"provider {provider.name}", result)


def matrix_rate(ort: Any, provider: Provider, **settings: Any) -> float:
    """What a provider's matrix products reach: the best of several large ones, in FLOP a second.

    Args:
        ort: the onnxruntime module.
        provider: one that is present.
        settings: of ``session_options``.

    Raises:
        RuntimeFailure: it cannot run the product.
    """
    a, weights = rate_arrays()
    model = matmul_model(RATE_SIZE, RATE_SIZE, RATE_SIZE, weights)
    session = open_session(ort, model, provider, **settings)
    return best_rate(lambda: session.run(None, {"a": a}))


def _ten_steps(
    ort: Any, session: Any, device: str, start: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    fixed, now, after = (
        ort.OrtValue.ortvalue_from_numpy(array.copy(), device, 0) for array in (turn, start, start)
    )
    for _ in range(TOY_STEPS):
        binding = session.io_binding()
        binding.bind_ortvalue_input("a", now)
        binding.bind_ortvalue_input("b", fixed)
        binding.bind_ortvalue_output("y", after)
        session.run_with_iobinding(binding)
        now, after = after, now
    # The array lies on memory that the value frees.
    state: np.ndarray = now.numpy().copy()
    return state


def _opens(ort: Any, provider: Provider, graph: Path | None) -> bool:
    """Whether a provider takes a graph; cpu is not tried, because nothing comes after it."""
    if graph is None or provider.name == "cpu":
        return True
    try:
        open_session(ort, graph, provider)
    except RuntimeFailure:
        return False
    return True


def _works(ort: Any, provider: Provider) -> bool:
    try:
        run_toy(ort, provider)
    except (MissingDependencyError, RuntimeFailure):
        return False
    return True
