"""One image between two rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.request import Request
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.step_inputs import ImageStep
from minit2i_deploy.text.conditioning import adapted_tokens
from minit2i_deploy.text.encoder import encode_ahead


@dataclass(kw_only=True, slots=True, weakref_slot=True, eq=False)
class ImageState:
    """One image between two rows, in numpy.

    Args:
        request: of this image alone.
        fresh_noise: unit noise of a row, float32 [1, 3, H, W], or None where it draws none.
        tokens: float32 [branches, adapted tokens, hidden].
        x: float32 [3, H, W], the state.
        h: float32 [3, H, W], the history.
        before: float32 [3, H, W], the state before the last row.
        index: of the next row.
    """

    request: Request
    fresh_noise: Callable[[Row], np.ndarray | None]
    tokens: Float32[np.ndarray, "branches adapted hidden"]
    x: Float32[np.ndarray, "3 height width"]
    h: Float32[np.ndarray, "3 height width"]
    before: Float32[np.ndarray, "3 height width"]
    index: int = 0

    @classmethod
    def start(
        cls,
        bundle: Bundle,
        request: Request,
        tokens: Float32[np.ndarray, "branches adapted hidden"],
    ) -> ImageState:
        """The state before the first row.

        Raises:
            UsageError: the request's noise does not fit the bundle.
        """
        x = request.start(bundle)[0]
        return cls(
            request=request,
            fresh_noise=lambda row: request.fresh_noise(bundle, row),
            tokens=tokens,
            x=x,
            h=np.zeros_like(x),
            before=x,
        )

    @property
    def row(self) -> Row:
        """The next row."""
        return self.request.rows[self.index]

    @property
    def estimate(self) -> Float32[np.ndarray, "3 height width"]:
        """The last row's guided estimate of the clean image; there must have been one."""
        slope = self.request.rows[self.index - 1].slope
        # Values that overflow fail this image, after the row, and warn of nothing.
        with np.errstate(all="ignore"):
            # h' = y + s x
            return self.h - np.float32(slope) * self.before if slope else self.h

    def step(self) -> ImageStep:
        """What the next row takes."""
        noise = self.fresh_noise(self.row)
        h = self.h if noise is None else noise[0]
        known = self.request.edit.known
        return ImageStep(x=self.x, h=h, tokens=self.tokens, row=self.row, known=known)

    def detach(self) -> None:
        """Let the states be copies: a part of a call's outputs would keep all of them in memory."""
        self.x, self.h, self.before = self.x.copy(), self.h.copy(), self.before.copy()

    def result(self) -> Float32[np.ndarray, "3 height width"]:
        """The finished image: float32 [3, H, W], with the pixels in it that an edit leaves."""
        return self.request.edit.finish(self.x[None])[0]

    def finish(
        self,
        x: Float32[np.ndarray, "3 height width"],
        h: Float32[np.ndarray, "3 height width"],
    ) -> None:
        """Finish the row that ``step`` began.

        Args:
            x: float32 [3, H, W], the next state.
            h: float32 [3, H, W], the next history.
        """
        self.before, self.x, self.h = self.x, x, h
        self.index += 1


def prompt_tokens(
    bundle: Bundle, runtime: Runtime, request: Request
) -> Float32[np.ndarray, "branches adapted hidden"]:
    """Tokens of every branch of a request of one text; they do not depend on its seeds.

    Nothing is said of a prompt that is truncated: who answers the request says it.

    Args:
        bundle: source of tokenizer and sizes.
        runtime: runs encoder and adapter.
        request: its first prompt is a text.

    Returns:
        float32 [branches, adapted tokens, hidden].

    Raises:
        UsageError: a text with a NUL character or broken Unicode.
        RuntimeFailure: the engine failed.
    """
    negative = request.negative if request.guided else None
    texts = [str(request.prompts[0]), *([] if negative is None else [negative])]
    # Each alone, so that the last bits of a sequence do not depend on the other texts.
    encode_ahead(bundle, runtime, texts)
    return adapted_tokens(
        bundle,
        runtime,
        bundle.tokenizer().encode(texts),
        adds_empty=request.guided and negative is None,
        timings={},
        conditions=request.conditions,
    )
