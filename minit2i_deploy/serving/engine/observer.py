"""What the engine counts; metrics are one observer, tests another."""

from __future__ import annotations


class Observer:
    """Is told what happens on the engine's thread; does nothing by itself."""

    def call_done(self, model: str, *, num_images: int, num_sequences: int, seconds: float) -> None:
        """A call of the network is over."""

    def texts_done(self, model: str, *, num_texts: int, seconds: float) -> None:
        """A call of the text encoder is over."""

    def image_ended(self, model: str, state: str, seconds: float) -> None:
        """An image ended: done, failed, cancelled or expired, this long after its submission."""
