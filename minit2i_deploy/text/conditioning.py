"""Prompts to the denoiser's tokens: tokenize, encode, adapt."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import PromptTruncatedWarning, UsageError
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.solvers.table import CONDITION_COLUMNS, Table
from minit2i_deploy.text.encoder import SequenceEncoder
from minit2i_deploy.text.prompts import Prompt, as_mix, common_shares
from minit2i_deploy.tokenizer import Encoded

# Between tokenize and the line that has the prompt are branch_tokens, Request.tokens, frames and
# generate or trajectory.
_GENERATE_CALLER: Final = 6


class Stopwatch:
    """Adds the seconds of a ``with`` block to one entry of a dictionary."""

    def __init__(self, timings: dict[str, float], stage: str) -> None:
        self.timings, self.stage, self.began = timings, stage, 0.0

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        spent = time.perf_counter() - self.began
        self.timings[self.stage] = self.timings.get(self.stage, 0.0) + spent


def branch_tokens(
    bundle: Bundle,
    runtime: Runtime,
    prompts: Sequence[Prompt],
    negative: str | None,
    guided: bool,
    timings: dict[str, float],
    conditions: Float32[np.ndarray, " 4"] | None = None,
) -> Float32[np.ndarray, "branches batch adapted hidden"]:
    """Adapted tokens of every branch: those of the prompts' parts, then the unconditional one.

    Args:
        bundle: source of tokenizer and sizes.
        runtime: runs encoder and adapter.
        prompts: one for each image, all with the same shares.
        negative: prompt in place of the unconditional branch; None is a mask of zeros.
        guided: whether there is an unconditional branch.
        timings: receives tokenise, encode and adapt in seconds.
        conditions: float32 [4], a few-step student's, the same for every image.

    Returns:
        float32 [parts or parts + 1, len(prompts), adapted tokens, hidden].

    Raises:
        UsageError: the prompts' shares differ.
    """
    num_parts = len(common_shares(prompts))
    mixes = [as_mix(prompt) for prompt in prompts]
    texts = [mix.texts[part] for part in range(num_parts) for mix in mixes]
    with Stopwatch(timings, "tokenise"):
        texts_and_negative = texts if negative is None else [*texts, negative]
        encoded = tokenize(bundle, texts_and_negative, stacklevel=_GENERATE_CALLER)
    adapted = adapted_tokens(
        bundle,
        runtime,
        encoded,
        adds_empty=guided and negative is None,
        timings=timings,
        conditions=conditions,
    )
    # One text after the other for part 0, then part 1 and so on: a branch is contiguous.
    parts = adapted[: len(texts)].reshape(num_parts, len(mixes), *adapted.shape[1:])
    if not guided:
        return parts
    return np.concatenate([parts, np.broadcast_to(adapted[-1], parts[:1].shape)])


def adapted_tokens(
    bundle: Bundle,
    runtime: Runtime,
    encoded: Sequence[Encoded],
    *,
    adds_empty: bool,
    timings: dict[str, float],
    conditions: Float32[np.ndarray, " 4"] | None = None,
) -> Float32[np.ndarray, "texts adapted hidden"]:
    """Encode and adapt tokenized texts.

    Args:
        bundle: source of sizes.
        runtime: runs encoder and adapter.
        encoded: at least one.
        adds_empty: whether no prompt, a mask of zeros, comes after the texts.
        timings: receives encode and adapt in seconds.
        conditions: float32 [4], a few-step student's, the same for every text.

    Returns:
        float32 [len(encoded) or one more, adapted tokens, hidden].

    Raises:
        RuntimeFailure: the engine failed.
    """
    with Stopwatch(timings, "encode"):
        # Values at padding never reach the network, because the adapter masks them.
        encoder = SequenceEncoder(bundle, runtime)
        context, mask = encoder.padded(encoded, bundle.config.prompt_length)
    if adds_empty:
        # A mask of zeros is no prompt, which is not the same as an empty prompt's end token.
        context = np.concatenate([context, np.zeros_like(context[:1])])
        mask = np.concatenate([mask, np.zeros_like(mask[:1])])
    with Stopwatch(timings, "adapt"):
        repeated = None if conditions is None else np.tile(conditions, (len(context), 1))
        return runtime.adapt(context, mask, repeated)


def branch_weights(
    shares: Float64[np.ndarray, " parts"], guidance: Float32[np.ndarray, " sides"]
) -> Float32[np.ndarray, " branches"]:
    """Weights of every branch in one row: the scale split over the parts, then the rest.

    Args:
        shares: float64 [parts], sum 1.
        guidance: float32 [2] or [1], of a row of ``Table.steps``.

    Returns:
        float32 [parts + 1] or [parts], in the order of ``branch_tokens``.
    """
    return np.concatenate([guidance[0] * shares, guidance[1:]]).astype(np.float32)


def student_conditions(
    bundle: Bundle, table: Table, omega: float, negative: str | None
) -> Float32[np.ndarray, " 4"] | None:
    """Conditions of a few-step student; the same in every row, so its adapter runs once.

    Args:
        bundle: of a base model or a student.
        table: source of h, t_min and t_max.
        omega: guidance scale, in place of the table's.
        negative: the negative prompt, for which a student has no branch.

    Returns:
        float32 [4], ``table.CONDITION_COLUMNS``; None for a base model.

    Raises:
        UsageError: the table is for the other kind of model or its conditions change from row to
            row, omega is below 1, or there is a negative prompt.
    """
    if (bundle.config.student is None) == table.is_conditioned:
        kind, solver = ("base model", "euler") if table.is_conditioned else ("student", "mean-flow")
        raise UsageError(
            f"table {table.name} does not fit {bundle.path}, a {kind}; use solver {solver}"
        )
    if not table.is_conditioned:
        return None
    if negative is not None:
        raise UsageError("a few-step student runs one branch and takes no negative prompt; omit it")
    if not 1.0 <= omega <= float(np.finfo(np.float32).max):
        raise UsageError(
            f"guidance of a student must be at least 1 (none) and a float32, got {omega!r}"
        )
    conditions = table.conditions()
    conditions[:, CONDITION_COLUMNS.index("omega")] = omega
    if (conditions != conditions[0]).any():
        raise UsageError(
            f"table {table.name}: h, t_min and t_max change from row to row, but the text adapter "
            "runs once an image; use equal steps"
        )
    return conditions[0].astype(np.float32)


def tokenize(bundle: Bundle, texts: Sequence[str], *, stacklevel: int = 2) -> list[Encoded]:
    """Tokenize, and warn once for each text that is truncated.

    Args:
        bundle: source of the tokenizer.
        texts: any number.
        stacklevel: the line that warnings name: 1 in this function, 2 in its caller and so on.

    Raises:
        UsageError: a text with a NUL character or broken Unicode.
    """
    encoded = bundle.tokenizer().encode(list(texts))
    warn_truncated(encoded, stacklevel=stacklevel + 1)
    return encoded


def warn_truncated(encoded: Sequence[Encoded], *, stacklevel: int = 2) -> None:
    """Warn of each truncated text; ``stacklevel`` as in ``tokenize``."""
    for item in encoded:
        if item.notice is not None:
            warnings.warn(item.notice, PromptTruncatedWarning, stacklevel=stacklevel)
