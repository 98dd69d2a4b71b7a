"""Sessions of ONNX Runtime on one provider and no other, and the proof that a provider works.

Nothing here falls back: a provider that is asked for works, or an error says what it lacks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import (
    DeviceWarning,
    Minit2iError,
    MissingDependencyError,
    RuntimeFailure,
)
from minit2i_deploy.runtimes.cuda.devices import has_driver
from minit2i_deploy.runtimes.onnxruntime.provider_options import ProviderSettings, attach
from minit2i_deploy.runtimes.onnxruntime.providers import (
    AUTO,
    AUTO_ORDER,
    PROVIDERS,
    Provider,
    check_present,
    is_too_old,
    lacks_kernels,
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

# The library's highest severity of messages.
_FATAL: Final = 4
# What is written with an optimized graph.
_SAVING: Final = {
    "optimized_model_external_initializers_file_name": "{}.data",
    # Smaller ones are read with the graph.
    "optimized_model_external_initializers_min_size_in_bytes": "1024",
    "save_external_prepacked_constant_initializers": "1",
}
# Operators whose place decides the time; small ones on shapes may stay on the CPU.
_HEAVY: Final = frozenset({"Attention", "Conv", "FusedMatMul", "Gemm", "MatMul", "Softmax"})


def find_provider(
    ort: Any,
    name: str,
    precisions: Iterable[str],
    precision: str | None = None,
    *,
    graph: Path | None = None,
    device: int = 0,
) -> Provider:
    """The provider of that name, or under ``auto`` the first that works and fits.

    Under ``auto``, an NVIDIA GPU that is not used is named in a warning.

    Args:
        ort: the onnxruntime module.
        name: one of PROVIDERS, or AUTO.
        precisions: of the graphs it is to run.
        precision: what it is to compute in, or None.
        graph: the smallest graph with attention, which must open under auto; None is not tried.
        device: index of the GPU, for providers that run on one.

    Raises:
        UsageError: an unknown name, or no GPU of that index.
        MissingDependencyError: it is not installed; the text names the pip line.
        RuntimeFailure: it finds no device of its kind, or under auto none fits.
    """
    if name != AUTO:
        provider = named_provider(name)
        check_present(ort, provider, device)
        return provider
    graph_precisions = set(precisions)
    for candidate in (PROVIDERS[item] for item in AUTO_ORDER):
        if precision is not None and precision not in candidate.computes:
            continue
        try:
            _try(ort, candidate, graph_precisions, graph, device)
        except (MissingDependencyError, RuntimeFailure) as error:
            _warn_of_unused_gpu(ort, candidate, error)
        else:
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
    arena: bool = True,
    prepack: bool = True,
    optimized: bool = False,
    save: Path | None = None,
    **settings: Any,
) -> tuple[Any, list[Any]]:
    """SessionOptions and the ``providers`` argument.

    Args:
        ort: the onnxruntime module.
        provider: one that is present.
        arena: as in ``OnnxRuntime``.
        prepack: copy weights into the order that the CPU's kernels read, when a graph is opened;
            else they are read from the mapped file, at a higher cost in each run.
        optimized: the graph is one that was written with ``save``.
        save: file to write the optimized graph to, its weights beside it, also as prepacked.
        settings: of ``ProviderSettings``.

    Raises:
        UsageError: a precision that the provider does not offer, or no such device.
    """
    asked = ProviderSettings(**settings)
    options = ort.SessionOptions()
    options.intra_op_num_threads = asked.threads
    options.enable_cpu_mem_arena = arena
    # Spinning threads cost other work on the machine more than they gain this one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Layers with quantized weights alone are computed as their graph says. The library's default,
    # 4, rounds their inputs to 8 bits (findings/onnxruntime_int4_weights.sh).
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    # Its errors are raised and explained; printed as well they would stand in red before that, and
    # on a GPU every session warns of the few nodes on shapes that belong on the CPU.
    options.log_severity_level = _FATAL
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = str(save)
        for name, value in _SAVING.items():
            options.add_session_config_entry(f"session.{name}", value.format(save.name))
    if provider.name != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options, attach(ort, provider, options, asked)


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
        if is_too_old(ort, provider.since):
            needed = f"needs {provider.since} or later; {upgrade_line(provider)}"
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
        if group.ep_name in (provider.ep, provider.behind):
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
    device = int(settings.get("device", 0))
    check_present(ort, provider, device)
    start, turn = toy_arrays()
    session = open_session(ort, matmul_model(TOY_SIZE, TOY_SIZE, TOY_SIZE), provider, **settings)
    try:
        result = _ten_steps(ort, session, (provider.device, device), start, turn)
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
    ort: Any, session: Any, device: tuple[str, int], start: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    fixed, now, after = (
        ort.OrtValue.ortvalue_from_numpy(array.copy(), *device) for array in (turn, start, start)
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


def _try(
    ort: Any, provider: Provider, precisions: set[str], graph: Path | None, device: int
) -> None:
    """Try what a bundle needs of a provider; cpu's graph is not, as nothing comes after it.

    Raises:
        MissingDependencyError: the provider is not installed.
        RuntimeFailure: it does not work, or does not take the graph.
    """
    gpu = check_present(ort, provider, device)
    for precision in sorted(precisions):
        if reason := lacks_kernels(ort, provider, precision, gpu):
            raise RuntimeFailure(f"a graph is {precision}, {reason}")
    run_toy(ort, provider, device=device)
    if graph is not None and provider.name != "cpu":
        open_session(ort, graph, provider, device=device)


def _warn_of_unused_gpu(ort: Any, provider: Provider, error: Minit2iError) -> None:
    installed = provider.ep in ort.get_available_providers()
    if provider.device == "cuda" and installed and has_driver():
        warnings.warn(f"the GPU is not used: {error}", DeviceWarning, stacklevel=4)
