"""From the replies of the mesh to the outputs that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.ingest.callers import Reply
from services.ingest.oip.describe import RESULTS
from services.ingest.oip.request import InferRequest, OutputWish, fault
from services.ingest.oip.tensors import Tensor
from visionmesh.contracts import Want
from visionmesh.errors import Refused
from visionmesh.models.record import VersionRecord


def wishes(
    request: InferRequest, version: VersionRecord, *, prepared: bool
) -> tuple[OutputWish, ...]:
    """Return what is wanted: unless it is said, `RESULTS`, of a network's own input its outputs.

    Raises `Reject` (invalid_request) if there is no such output.
    """
    own = [output.name for output in version.outputs]
    if not request.outputs:
        names = own if prepared else [RESULTS]
        return tuple(OutputWish(name=name, binary=request.options.binary) for name in names)
    for wish in request.outputs:
        if wish.name != RESULTS and wish.name not in own:
            there = ", ".join((*own, RESULTS))
            raise fault(f"There is no output {wish.name!r}; there are {there}.")
        if wish.name == RESULTS and wish.classification:
            raise fault(f"{RESULTS} has no classification: it is JSON.")
    return request.outputs


def want(wishes: Sequence[OutputWish]) -> Want:
    """Return what the images must be asked for, so that the outputs can be given."""
    of_results = {wish.name == RESULTS for wish in wishes}
    if len(of_results) > 1:
        return Want.BOTH
    return Want.RESULT if True in of_results else Want.TENSORS


def require_ok(replies: Sequence[Reply]) -> None:
    """Raise `Refused` with the error of the first image that has one."""
    for reply in replies:
        error = None if reply.ok else reply.result().error
        if error is not None:
            raise Refused(error.code, error.message)


def outputs(
    replies: Sequence[Reply], wishes: Sequence[OutputWish], version: VersionRecord
) -> list[Tensor]:
    """Return the outputs, of all images one behind the other."""
    return [_output(replies, wish, version) for wish in wishes]


def _output(replies: Sequence[Reply], wish: OutputWish, version: VersionRecord) -> Tensor:
    if wish.name == RESULTS:
        return Tensor.of_texts(RESULTS, (len(replies),), (reply.body for reply in replies))
    arrays = [reply.tensors[wish.name] for reply in replies]
    if len({array.shape for array in arrays}) > 1:
        raise fault(f"{wish.name} has another shape for each image: send them one by one.")
    array = arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
    if wish.classification:
        return classify(wish, array, version.labels)
    return Tensor.of_array(wish.name, array)


def classify(wish: OutputWish, array: NDArray[Any], labels: Sequence[str]) -> Tensor:
    """Return the elements of the highest values of each image, as ``value:index:label``.

    ``array`` is ``(N, …)``; labels are given where there is one for each of an image's elements.
    """
    flat = array.reshape(len(array), -1)
    count = min(wish.classification, flat.shape[1])
    best = np.argsort(-flat.astype(np.float64), axis=1, kind="stable")[:, :count]
    named = [f":{label}" for label in labels] if len(labels) == flat.shape[1] else None
    texts = [
        f"{float(row[place]):f}:{place}{named[place] if named else ''}".encode()
        for row, places in zip(flat, best, strict=True)
        for place in places
    ]
    return Tensor.of_texts(wish.name, (len(array), count), texts)
