"""`services.postprocess.nms.suppress` on a GPU, for all images of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from services.postprocess.gpu.launching import blocks, launch
from visionmesh.contracts import TensorMeta
from visionmesh.gpu.gpu import DeviceArray, Gpu

_SOURCE = Path(__file__).with_suffix(".cu")
_WORD = 64


class Suppression:
    """Finds the boxes that no better one of their class covers.

    It costs three launches for any number of images, and every pair of candidates is compared at
    once: 1,000 of them are 500,000 comparisons of some 20 operations in double precision, where the
    CPU needs 14 ms of a core. A photo's few dozens cost it a quarter of a millisecond, which is
    still more than an image's part of the launches, so no number is too small.
    """

    def __init__(self, *, gpu: Gpu) -> None:
        self._rank = gpu.kernel(_SOURCE, "rank_boxes")
        self._find = gpu.kernel(_SOURCE, "find_covered")
        self._keep = gpu.kernel(_SOURCE, "keep_boxes")

    def __call__(self, arrays: Mapping[str, DeviceArray], *, agnostic: bool) -> None:
        """Enqueue it on the current stream.

        Reads ``corners`` (N, K, 4) float32, ``scores`` (N, K) float32, ``labels`` (N, K) int32,
        ``least`` (N, C) float32, the least score of each class, ``iou`` (N,) float64 and how many
        candidates there are in ``states``; writes ``kept`` (N, K) int32 and how many there. What
        `scratch` describes is overwritten.
        """
        images, most = arrays["scores"].shape
        words, classes = -(-most // _WORD), arrays["least"].shape[1]
        launch(
            self._rank,
            (blocks(most), images),
            arrays,
            "scores labels least states ranked covering",
            most,
            classes,
        )
        launch(
            self._find,
            (blocks(most), words, images),
            arrays,
            "corners labels ranked states iou covered covering",
            *(most, words, int(agnostic)),
        )
        launch(
            self._keep,
            (images,),
            arrays,
            "covered ranked covering coverers kept states",
            *(most, words),
            threads=1,
        )


def scratch(images: int, most: int) -> tuple[TensorMeta, ...]:
    """Return what `Suppression` needs for itself."""
    table = (images, most)
    return (
        TensorMeta(name="ranked", dtype="int32", shape=table),
        TensorMeta(name="covering", dtype="int32", shape=table),
        TensorMeta(name="coverers", dtype="int32", shape=table),
        TensorMeta(name="covered", dtype="uint64", shape=(images, -(-most // _WORD), most)),
    )
