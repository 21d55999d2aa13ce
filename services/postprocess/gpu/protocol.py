"""What a decoder's first step is where the outputs lie in a GPU's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from services.postprocess.decoders import Array
from visionmesh.contracts import Answer, Params, Placement
from visionmesh.gpu.gpu import DeviceArray

DeviceArrays = Mapping[str, DeviceArray]


class Reduced(NamedTuple):
    """What came home of one image."""

    features: dict[str, Array]
    """As the decoder's own `reduce` returns them."""
    kept: Array | None
    """(K,) intp: the candidates that suppression left with the image's parameters, best first;
    `None` where it is still to be done."""


class DeviceReducer(Protocol):
    """`Decoder` for many images of one model at once; its methods block, and suit any thread."""

    def reduce(
        self, outputs: Sequence[DeviceArrays], params: Sequence[Params]
    ) -> Sequence[Reduced | None]:
        """Return what the decoder makes of each image's outputs, all of the same shapes.

        `None` says that the decoder itself must see them: they are not what this can reduce, or
        not as they should be, and then it says why. When this returns they are read no more.

        Raises
        ------
        GpuError
            If the device failed.
        """

    def answer(
        self, reduced: Reduced, params: Params, placement: Placement, width: int, height: int
    ) -> Answer:
        """Return the decoder's answer, as its own `answer` does with the same ``params``."""
