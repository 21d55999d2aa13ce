"""Pictures on a device become the inputs of a model: one kernel for a whole batch.

It does what `services.preprocess.resize.draw` does, to the same bits, with what
`services.preprocess.orientation.turn` and a change of colours would do before. Other than there, a
picture that was decoded as a whole may be much larger than what is wanted of it; `reduction` then
averages squares of its pixels on the way, as decoding it smaller would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.preprocess.formats.header import Color, Size
from services.preprocess.orientation import swaps_sides
from services.preprocess.resize import Plan, Side, side
from visionmesh.gpu import Gpu, Kernel
from visionmesh.gpu.gpu import DeviceArray
from visionmesh.models.spec import InputSpec

_SOURCE: Final = Path(__file__).with_name("fit.cu")
_ROWS: Final = 4
"""Pixels that a thread makes, as in the source."""
_BLOCK: Final = (32, 8)
_DTYPES: Final = {"uint8": 0, "float32": 1, "float16": 2}
_COLORS: Final = 3

_AXIS: Final = np.dtype(
    [("scale", "f8"), *((name, "i4") for name in ("first", "count", "size", "at"))], align=True
)
TABLE: Final = np.dtype(
    [
        ("pixels", "u8"),
        ("out", "u8"),
        ("across", _AXIS),
        ("down", _AXIS),
        *((name, "i4") for name in ("row", "column")),
        *((name, "i4") for name in ("samples", "luma", "swapped", "reduction", "inverse")),
        *((name, "i4") for name in ("wide", "high", "pad", "width", "height", "channels")),
        *((name, "i4") for name in ("out_row", "out_column", "out_channel")),
        ("factor", "f4", _COLORS),
        ("offset", "f4", _COLORS),
    ],
    align=True,
)
"""One row of what the kernel is told of a batch."""

_REDUCTIONS: Final = (8, 4, 3, 2)
"""The sizes nearest to those that libjpeg-turbo decodes to: 1/8, 2/8, 3/8, 4/8."""
_ANY_SIDE: Final = 0
"""The kernel for batches in which they differ; knowing the size it takes half the instructions."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A decoded picture in a device's memory, ``uint8``, not turned yet."""

    address: int
    width: int
    height: int
    row: int
    """Bytes from one row to the next."""
    column: int
    """Bytes from one pixel to the next; of more than three channels the first count."""
    order: Color
    orientation: int = 1

    @classmethod
    def of(cls, gpu: Gpu, pixels: DeviceArray, order: Color, orientation: int = 1) -> Stored:
        """Describe an array of the device, ``(H, W, C) uint8``; only its rows may lie apart."""
        height, width, channels = pixels.shape
        row = pixels.strides[0]
        return cls(gpu.address(pixels), width, height, row, channels, order, orientation)

    @property
    def upright(self) -> Size:
        """Height and width once it is turned."""
        swaps = swaps_sides(self.orientation)
        return (self.width, self.height) if swaps else (self.height, self.width)


class Fit(NamedTuple):
    """One picture, and the input that is to be made of it."""

    stored: Stored
    spec: InputSpec
    place: Plan
    out: int
    """The address of as many elements as the input has."""
    reduction: int = 1


def reduction(upright: Size, place: Plan) -> int:
    """Return on which side of squares to average a picture of (height, width) for ``place``.

    At least what is wanted is left of it, as where JPEG is decoded to a part of its size.
    """
    height, width = upright
    fitting = (n for n in _REDUCTIONS if width >= n * place.width and height >= n * place.height)
    return next(fitting, 1)


class Fitter:
    """The kernel on one device.

    Bytes that must move, per picture: each pixel of the input is written once, and each pixel of
    the picture that counts is read once; see the source for 1080p to 640 by 640.
    """

    def __init__(self, *, gpu: Gpu) -> None:
        self._gpu = gpu

    def write(
        self, fits: Sequence[Fit], table: NDArray[np.uint8], *, normalised: bool = False
    ) -> None:
        """Write what the kernel is told of ``fits`` into the `nbytes` of ``table``."""
        table.view(TABLE)[:] = [_row(fit, own=normalised) for fit in fits]

    def launch(self, fits: Sequence[Fit], table: DeviceArray, *, normalised: bool = False) -> None:
        """Have the current stream make the inputs of ``fits`` by their ``table`` on the device.

        They are pixels, ``(H, W, C) uint8`` in the order of ``spec.color``; or ``normalised`` to
        the network's own, ``(pixel * scale - mean) / std`` in layout and dtype of ``spec``, the
        dtype of all being the same.
        """
        dtype = fits[0].spec.dtype if normalised else "uint8"
        width = max(fit.spec.width for fit in fits)
        height = max(fit.spec.height for fit in fits)
        across, down = _BLOCK
        grid = -(-width // across), -(-height // (down * _ROWS)), len(fits)
        sides = {fit.reduction for fit in fits}
        kernel = self._kernel(dtype, sides.pop() if len(sides) == 1 else _ANY_SIDE)
        kernel(grid, _BLOCK, (table,))

    def compile(self) -> None:
        """Compile what `launch` will need for pixels, so that no image waits for it."""
        for squares in (1, *_REDUCTIONS, _ANY_SIDE):
            self._kernel("uint8", squares)

    def _kernel(self, dtype: str, squares: int) -> Kernel:
        return self._gpu.kernel(_SOURCE, "fit", DTYPE=_DTYPES[dtype], SIDE=squares)

    @staticmethod
    def nbytes(pictures: int) -> int:
        """Return the bytes of the table for so many."""
        return pictures * TABLE.itemsize


def _row(fit: Fit, *, own: bool = False) -> tuple[object, ...]:
    """Return a row of `TABLE`; ``own``: for the network's own input."""
    stored, spec, place, out, squares = fit
    high, wide = stored.upright
    first, column, row = _turned(stored)
    across = side(-(-wide // squares), place.width, place.x, spec.width)
    down = side(-(-high // squares), place.height, place.y, spec.height)
    samples = 1 if stored.order == "GRAY" else _COLORS
    grey = spec.channels == 1
    swapped = stored.order == "BGR" if grey else stored.order != spec.color
    planar = own and spec.layout == "NCHW"
    steps = (1, spec.width * spec.height) if planar else (spec.channels, 1)
    std = np.array(spec.std)
    return (
        *(stored.address + first, out, _axis(across), _axis(down), row, column),
        *(samples, grey and samples > 1, swapped, squares, -(-65536 // squares**2), wide, high),
        *(spec.pad, spec.width, spec.height, spec.channels, spec.width * steps[0], *steps),
        np.broadcast_to(spec.scale / std, _COLORS),
        np.broadcast_to(-np.array(spec.mean) / std, _COLORS),
    )


def _axis(along: Side) -> tuple[float, int, int, int, int]:
    # Divided twice, as OpenCV does: the result may differ in its last bit.
    return (1 / (along.size / along.used), *along)


def _turned(stored: Stored) -> tuple[int, int, int]:
    """Return the offset of the upright picture's first pixel, and its steps across and down."""
    column, row = stored.column, stored.row
    last_column, last_row = column * (stored.width - 1), row * (stored.height - 1)
    return {
        1: (0, column, row),
        2: (last_column, -column, row),
        3: (last_column + last_row, -column, -row),
        4: (last_row, column, -row),
        5: (0, row, column),
        6: (last_row, -row, column),
        7: (last_row + last_column, -row, -column),
        8: (last_column, row, -column),
    }[stored.orientation]
