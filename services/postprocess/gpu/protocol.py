"""What a decoder's first step is where the outputs lie in a GPU's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from services.postprocess.decoders import Arrays
from visionmesh.contracts import Answer, Params, Placement
from visionmesh.gpu.gpu import DeviceArray

DeviceArrays = Mapping[str, DeviceArray]


class Reduced(NamedTuple):
    """What came home of one image."""

    features: Arrays
    """As the decoder's own `reduce` returns them."""
    answer: Callable[[Params, Placement, int, int], Answer]
    """The decoder's `answer` to these features, with the parameters that the device was told."""


class DeviceReducer(Protocol):
    """`Decoder.reduce` for many images of one model at once."""

    def reduce(
        self, outputs: Sequence[DeviceArrays], params: Sequence[Params]
    ) -> Sequence[Reduced | None]:
        """Return what the decoder makes of each image's outputs, all of the same shapes.

        `None` says that the decoder itself must see them: they are not what this can reduce, or
        not as they should be, and then it says why. Blocks, in any thread; when it returns the
        outputs are read no more.

        Raises
        ------
        GpuError
            If the device failed.
        """
