"""What an edit begins with and keeps: arguments of ``generate``, checked and as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.edit_record import EditRecord, values_digest
from minit2i_deploy.io.image_input import to_network
from minit2i_deploy.solvers.row import Known
from minit2i_deploy.solvers.step_inputs import CANNOT_EDIT

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Edit:
    """An image to begin with, pixels that stay, or both.

    Args:
        init: float32 [batch, 3, H, W], -1 black to 1 white; None begins with noise.
        strength: 0 leaves the first image as it is, 1 leaves nothing of it.
        known: pixels that stay, or None.
    """

    init: Float32[np.ndarray, "batch 3 height width"] | None = None
    strength: float = 1.0
    known: Known | None = None

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        count: int,
        *,
        init_image: Image | np.ndarray | None = None,
        strength: float | None = None,
        known: Image | np.ndarray | None = None,
        mask: np.ndarray | None = None,
    ) -> Edit:
        """Check arguments of ``generate`` and repeat single images for the batch.

        Args:
            bundle: has the size of images.
            count: images of the batch.
            init_image: image to begin with, a Pillow image of the bundle's size or float32
                [3, H, W] or [batch, 3, H, W], -1 black to 1 white; with ``strength``.
            strength: how much of that image is new: 0 gives it back, 1 is text-to-image.
            known: image whose pixels stay where the mask is 0, as ``init_image``; with ``mask``.
            mask: float32 [H, W] or [batch, 1, H, W], 1 where the image is new, 0 where it stays.

        Raises:
            UsageError: arguments that do not fit together or the bundle.
        """
        if (init_image is None) != (strength is None):
            raise UsageError("init_image and strength belong together; give both or neither")
        if (known is None) != (mask is None):
            raise UsageError("known and mask belong together; give both or neither")
        if strength is not None:
            check_strength(strength)
        if known is not None and not bundle.manifest.can_edit:
            raise UsageError(f"{bundle.path}: {CANNOT_EDIT}")
        shape = (count, *bundle.config.image_shape)
        return cls(
            init=None if init_image is None else _images("init_image", init_image, shape),
            strength=1.0 if strength is None else float(strength),
            known=None if known is None else _known(known, mask, shape),
        )

    def record(self, index: int = 0) -> EditRecord | None:
        """What a record says of an image's edit; None where there is none."""
        if self.init is None and self.known is None:
            return None
        known = self.known
        return EditRecord(
            init_image=None if self.init is None else values_digest(self.init[index]),
            strength=None if self.init is None else self.strength,
            known=None if known is None else values_digest(known.image[index]),
            mask=None if known is None else values_digest(known.mask[index]),
        )

    def begin(
        self, noise: Float32[np.ndarray, "batch 3 height width"]
    ) -> Float32[np.ndarray, "batch 3 height width"]:
        """The start state at t = 1 - strength: t * image + (1 - t) * noise.

        Args:
            noise: float32 [batch, 3, H, W], of the bundle's deviation.
        """
        if self.init is None:
            return noise
        t = 1.0 - self.strength
        return np.float32(t) * self.init + np.float32(self.strength) * noise

    def finish(
        self, x: Float32[np.ndarray, "batch 3 height width"]
    ) -> Float32[np.ndarray, "batch 3 height width"]:
        """The final state with the known pixels in it, whatever the table ends on."""
        if self.known is None:
            return x
        return np.where(self.known.mask == 1, self.known.image, x)


NO_EDIT: Final = Edit()


def check_strength(strength: object) -> None:
    """Refuse a strength outside 0..1.

    Raises:
        UsageError: it is, or is no number.
    """
    if not isinstance(strength, Real) or not 0.0 <= float(strength) <= 1.0:
        raise UsageError(
            f"strength must be from 0 (the image as it is) to 1 (a new one), got {strength!r}"
        )


def _known(image: Any, mask: Any, shape: tuple[int, ...]) -> Known:
    is_open = _array("mask", mask, (shape[0], 1, *shape[2:]))
    if is_open.min() < 0 or is_open.max() > 1:
        raise UsageError("mask must hold values from 0 (stays) to 1 (new)")
    if not is_open.any() or (is_open == 1).all():
        which = "0, so nothing" if not is_open.any() else "1, so everything"
        raise UsageError(f"mask is all {which} would be new; mark a part of the image")
    return Known(image=_images("known", image, shape), mask=1 - is_open)


def _images(name: str, image: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A Pillow image of the right size, or float32 values from -1 to 1."""
    return _array(name, to_network(image.convert("RGB")) if _is_pillow(image) else image, shape)


def _is_pillow(image: object) -> bool:
    return hasattr(image, "convert")


def _array(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value, np.float32)
    missing = len(shape) - array.ndim
    array = array.reshape((1,) * max(missing, 0) + array.shape)
    if (
        array.ndim != len(shape)
        or array.shape[1:] != shape[1:]
        or array.shape[0] not in (1, shape[0])
    ):
        raise UsageError(
            f"{name} must have the shape {list(shape)}, or that of one image, got "
            f"{list(np.shape(value))}; scale it to the bundle's size"
        )
    if not np.isfinite(array).all():
        raise UsageError(f"{name} must be finite, got NaN or infinity")
    return np.ascontiguousarray(np.broadcast_to(array, shape))
