"""How pixels become the network's input: normalise, and bring into the network's layout."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from visionmesh.models.spec import InputSpec


def affine(spec: InputSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what each channel is multiplied by, and what is added then: both (C,)."""
    mean, std = np.array(spec.mean), np.array(spec.std)
    factor, offset = (np.broadcast_to(v, spec.channels) for v in (spec.scale / std, -mean / std))
    return factor.astype(np.float32), offset.astype(np.float32)


class PixelWriter:
    """Writes images into a batch as ``(pixel * scale - mean) / std`` per channel.

    What is in the network's own layout and dtype already is written as it is.

    Used by one thread at a time: it keeps the planes of the image at hand.
    """

    def __init__(self, spec: InputSpec) -> None:
        height, width, channels = spec.height, spec.width, spec.channels
        # With one channel both layouts are the same bytes.
        self._planar = spec.layout == "NCHW" and channels > 1
        self._rows = (channels, height, width) if self._planar else (height, width * channels)
        self._dtype = np.dtype(spec.dtype)
        planar_shape = (channels, height, width)
        self._pixels = (height, width, channels)
        self._shape = planar_shape if spec.layout == "NCHW" else self._pixels
        self._planes = np.empty(planar_shape, np.uint8)
        # Sums and products in float16 would lose digits.
        self._wide = np.empty(self._rows, np.float32) if spec.dtype == "float16" else None
        self._factor, self._offset = self._affine(spec)

    def batch(self, size: int) -> NDArray[Any]:
        """Return a batch of zeros for ``size`` images, in the network's layout and dtype."""
        return np.zeros((size, *self._shape), self._dtype)

    def takes(self, image: NDArray[Any]) -> bool:
        """Say whether ``image`` is pixels of the right size, or the network's own input."""
        own = image.shape == self._shape and image.dtype == self._dtype
        return own or self._is_pixels(image)

    def _is_pixels(self, image: NDArray[Any]) -> bool:
        return image.shape == self._pixels and image.dtype == np.uint8

    def write(self, image: NDArray[Any], target: NDArray[Any]) -> None:
        """Write ``image``, for which `takes` holds, into ``target``, one entry of a batch."""
        if not self._is_pixels(image):
            np.copyto(target, image)
            return
        work = target.reshape(self._rows) if self._wide is None else self._wide
        if not self._planar:
            np.copyto(work, image.reshape(self._rows))
        elif work.dtype == np.uint8:
            cv2.split(image, list(work))
        else:
            # A copy that transposes and converts at once takes more than twice as long.
            cv2.split(image, list(self._planes))
            np.copyto(work, self._planes)
        if self._factor is not None:
            np.multiply(work, self._factor, out=work)
        if self._offset is not None:
            np.add(work, self._offset, out=work)
        if self._wide is not None:
            np.copyto(target, self._wide.reshape(target.shape), casting="same_kind")

    def _affine(self, spec: InputSpec) -> tuple[NDArray[np.float32] | None, ...]:
        """Return what to multiply by and what to add; `None` for what would change nothing."""
        if spec.dtype == "uint8":
            return None, None
        factor, offset = affine(spec)
        return self._term(spec, factor, idle=1.0), self._term(spec, offset, idle=0.0)

    def _term(
        self, spec: InputSpec, per_channel: NDArray[np.float32], *, idle: float
    ) -> NDArray[np.float32] | None:
        if (per_channel == idle).all():
            return None
        return per_channel[:, None, None] if self._planar else np.tile(per_channel, spec.width)
