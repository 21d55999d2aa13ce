"""The candidates of detectors, found, ranked, decoded and suppressed where the outputs lie.

YOLOv8s says 84 values of 8,400 boxes: in half precision 1.4 MB of an image, which stay on the
device, and which NumPy, without arithmetic of that precision, would read for 4 ms. What travels is
at most 1,000 candidates of 28 bytes, all images' in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.postprocess.decoders import Array, Arrays
from services.postprocess.decoders.candidates import BOX, MAX_CANDIDATES, to_features
from services.postprocess.gpu.launching import blocks, launch
from services.postprocess.gpu.protocol import DeviceArrays, Reduced
from services.postprocess.gpu.suppression import Suppression, scratch
from services.postprocess.gpu.workspace import Workspace, Workspaces
from visionmesh.contracts import Answer, Params, Placement, TensorMeta
from visionmesh.errors import Reject
from visionmesh.gpu.gpu import DeviceArray

MAX_LISTED = 16_384
"""Boxes of one image that may score enough. They are ranked by comparing each with each; a network
that is sure of more, which is noise, is left to the CPU."""

_SOURCE = Path(__file__).with_name("candidates.cu")
_LISTED, _CHOSEN, _WRONG, _, _KEPT = range(5)
"""What an image's five states count, as in the kernels."""
_STATES = 5
_TABLE = 2
"""Dimensions of an output."""
_UP, _HOME = 4, slice(3, 8)
"""How many of a batch's arrays go up, and which come home; the states do both."""


class BoxDecoder(Protocol):
    """What is asked of a `Detector` whose boxes are all in one output."""

    floor: float

    @property
    def nms(self) -> str: ...

    def output(self, outputs: Arrays) -> Array: ...

    def iou(self, params: Params) -> float: ...

    def least(self, params: Params, classes: Array) -> Array: ...

    def answer(
        self, features: Arrays, params: Params, placement: Placement, width: int, height: int
    ) -> Answer: ...

    def answer_kept(
        self,
        features: Arrays,
        params: Params,
        placement: Placement,
        width: int,
        height: int,
        *,
        kept: Array,
    ) -> Answer: ...


class BoxReducer:
    """Reduces float32 or float16 outputs to what `decoder.reduce` finds in them.

    With ``objectness`` an output is (A, 5 + C), else (4 + C, A). ``frame`` is what makes boxes of
    its values: (4,) factors to input pixels, or column, row and stride of each cell, (A, 3).
    """

    def __init__(
        self, *, workspaces: Workspaces, decoder: BoxDecoder, objectness: bool, frame: Array
    ) -> None:
        self._workspaces = workspaces
        self._decoder = decoder
        self._objectness = objectness
        self._suppresses = decoder.nms in {"per_class", "agnostic"}
        gpu = workspaces.gpu
        macros = {"OBJECTNESS": int(objectness), "GRID": int(frame.ndim == _TABLE)}
        self._kernels = {
            np.dtype(dtype): [
                gpu.kernel(_SOURCE, name, HALF=int(dtype is np.float16), **macros)
                for name in ("list_boxes", "choose_boxes", "decode_boxes")
            ]
            for dtype in (np.float32, np.float16)
        }
        self._suppression = Suppression(gpu=gpu)
        with workspaces.borrow():
            self._frame: DeviceArray = gpu.xp.asarray(np.ascontiguousarray(frame, np.float32))

    def reduce(
        self, outputs: Sequence[DeviceArrays], params: Sequence[Params]
    ) -> Sequence[Reduced | None]:
        try:
            heads = [self._decoder.output(one) for one in outputs]
        except Reject:
            return [None] * len(outputs)
        if heads[0].dtype not in self._kernels or not heads[0].size:
            return [None] * len(outputs)
        with self._workspaces.borrow() as workspace:
            home = self.enqueue(workspace, heads, params)
            workspace.stream.synchronize()
            return [self._reduced(home, image) for image in range(len(heads))]

    def enqueue(
        self, workspace: Workspace, heads: Sequence[DeviceArray], params: Sequence[Params]
    ) -> Arrays:
        """Enqueue all that is to be done, and return what will come home."""
        if self._objectness:
            boxes, values = heads[0].shape
            classes = values - BOX - 1
        else:
            values, boxes = heads[0].shape
            classes = values - BOX
        metas = _arrays(len(heads), boxes, classes)
        device, up, home = workspace.lay_out(metas, up=_UP, home=_HOME)
        self._fill(up, heads, params)
        workspace.upload()
        self._find(device, boxes, heads[0].dtype)
        if self._suppresses:
            self._suppression(device, agnostic=self._decoder.nms == "agnostic")
        workspace.download()
        return home

    def _fill(self, up: Arrays, heads: Sequence[DeviceArray], params: Sequence[Params]) -> None:
        """Write what the kernels must know of each image."""
        up["outputs"][:] = [self._workspaces.gpu.address(head) for head in heads]
        up["iou"][:] = [self._decoder.iou(one) for one in params]
        classes = np.arange(up["least"].shape[1])
        for least, one in zip(up["least"], params, strict=True):
            least[:] = self._decoder.least(one, classes)
        up["states"][:] = 0

    def _find(self, device: DeviceArrays, boxes: int, dtype: np.dtype[Any]) -> None:
        """Enqueue the kernels that find the candidates."""
        images, most = device["scores"].shape
        room, classes = device["keys"].shape[1], device["least"].shape[1]
        gate = np.float32(dtype.type(self._decoder.floor))
        # A product of two scores is compared in single precision, a score in its own.
        floor = np.float32(self._decoder.floor) if self._objectness else gate
        find, choose, decode = self._kernels[dtype]
        launch(
            find,
            (blocks(boxes), images),
            device,
            "outputs keys listed states",
            *(boxes, classes, room, gate, floor),
        )
        launch(
            choose,
            (blocks(room), images),
            device,
            "keys listed chosen chosen_labels states",
            *(room, most),
        )
        launch(
            decode,
            (blocks(most), images),
            {**device, "frame": self._frame},
            "outputs chosen chosen_labels states frame corners scores labels",
            *(boxes, classes, most),
        )

    def _reduced(self, home: Arrays, image: int) -> Reduced | None:
        """Return what came home of an image, as arrays of its own; `None` if it is not sound."""
        state: NDArray[np.int32] = home["states"][image]
        count = state[_CHOSEN]
        if state[_WRONG] or state[_LISTED] > MAX_LISTED:
            return None
        try:
            features = to_features(
                home["corners"][image, :count].copy(),
                home["scores"][image, :count],
                home["labels"][image, :count],
            )
        except Reject:
            return None
        if not self._suppresses:
            return Reduced(features, partial(self._decoder.answer, features))
        kept = home["kept"][image, : state[_KEPT]].astype(np.intp)
        return Reduced(features, partial(self._decoder.answer_kept, features, kept=kept))


def _arrays(images: int, boxes: int, classes: int) -> tuple[TensorMeta, ...]:
    """Return what a batch needs, in the order of `_UP` and `_HOME`."""
    room, most = min(boxes, MAX_LISTED), min(boxes, MAX_CANDIDATES)
    described = {
        "outputs": ("uint64", (images,)),
        "iou": ("float64", (images,)),
        "least": ("float32", (images, classes)),
        "states": ("int32", (images, _STATES)),
        "corners": ("float32", (images, most, BOX)),
        "scores": ("float32", (images, most)),
        "labels": ("int32", (images, most)),
        "kept": ("int32", (images, most)),
        "keys": ("uint64", (images, room)),
        "listed": ("int32", (images, room)),
        "chosen": ("uint64", (images, most)),
        "chosen_labels": ("int32", (images, most)),
    }
    metas = (
        TensorMeta(name=name, dtype=dtype, shape=shape)
        for name, (dtype, shape) in described.items()
    )
    return (*metas, *scratch(images, most))
