"""Decoders' first step on a GPU, for outputs that lie there.

A reducer is a file of this folder and a line of `REDUCERS`. Outputs of other decoders come home as
they are: those of networks that suppress by themselves, of classifiers and of embeddings are a few
KB, and masks, maps of pixels and prototypes would have to travel in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from services.postprocess.decoders import Decoder
from services.postprocess.decoders.yolov5 import YoloV5
from services.postprocess.decoders.yolov8 import YoloV8
from services.postprocess.decoders.yolox import YoloX
from services.postprocess.gpu.protocol import DeviceArrays, DeviceReducer, Reduced
from services.postprocess.gpu.workspace import Workspaces
from services.postprocess.gpu.yolov5 import yolov5
from services.postprocess.gpu.yolov8 import yolov8
from services.postprocess.gpu.yolox import yolox

__all__ = [
    "REDUCERS",
    "DeviceArrays",
    "DeviceReducer",
    "Reduced",
    "Workspaces",
    "load_reducer",
]

REDUCERS: Mapping[type[Decoder], Callable[[Workspaces, Any], DeviceReducer]] = MappingProxyType(
    {YoloV5: yolov5, YoloV8: yolov8, YoloX: yolox}
)
"""By the decoder's class, so that a decoder of a user's own is never taken for another."""


def load_reducer(workspaces: Workspaces, decoder: Decoder) -> DeviceReducer | None:
    """Return what does the first step of ``decoder`` on a GPU; `None` if only the CPU does.

    Its kernels are compiled here, which may take a second.

    Raises
    ------
    GpuError
        If the device failed.
    """
    make = REDUCERS.get(type(decoder))
    return None if make is None else make(workspaces, decoder)
