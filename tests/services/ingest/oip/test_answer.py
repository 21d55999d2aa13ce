"""Outputs as they were asked for."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from services.ingest.callers import Reply
from services.ingest.oip.answer import classify, outputs, require_ok, want, wishes
from services.ingest.oip.request import InferRequest, OutputWish
from services.ingest.oip.tensors import Tensor
from visionmesh.contracts import ErrorInfo, Result, Status, TensorMeta, Want
from visionmesh.errors import Code, Refused, Reject
from visionmesh.models.record import VersionRecord
from visionmesh.models.spec import InputSpec, OutputSpec

VERSION = VersionRecord(
    sha256="",
    size_bytes=1,
    pushed_at=datetime(2026, 1, 1, tzinfo=UTC),
    input=InputSpec(width=4, height=4),
    output=OutputSpec(decoder="softmax"),
    batch=None,
    input_name="x",
    outputs=(TensorMeta(name="scores", dtype="float32", shape=(4,)),),
)


def asking(*names: str) -> InferRequest:
    given = Tensor.of_array("x", np.zeros((1, 3, 4, 4), np.float32))
    asked = tuple(OutputWish(name=name) for name in names)
    return InferRequest(inputs=(given,), outputs=asked)


@pytest.mark.parametrize(
    ("names", "prepared", "given", "wanted"),
    [
        ((), False, ["results"], Want.RESULT),
        ((), True, ["scores"], Want.TENSORS),
        (("results",), True, ["results"], Want.RESULT),
        (("scores",), False, ["scores"], Want.TENSORS),
        (("results", "scores"), False, ["results", "scores"], Want.BOTH),
    ],
)
def test_images_are_asked_for_what_the_outputs_need(
    names: tuple[str, ...], prepared: bool, given: list[str], wanted: Want
) -> None:
    asked = wishes(asking(*names), VERSION, prepared=prepared)
    assert [wish.name for wish in asked] == given
    assert want(asked) is wanted


def test_unknown_outputs_are_refused() -> None:
    with pytest.raises(Reject, match="there are scores, results"):
        wishes(asking("what"), VERSION, prepared=False)
    best = InferRequest(inputs=(), outputs=(OutputWish(name="results", classification=1),))
    with pytest.raises(Reject, match="no classification"):
        wishes(best, VERSION, prepared=False)


def test_the_best_classes_are_named_best_first() -> None:
    array = np.array([[1, 3, 2, 0], [9, 200, 7, 7]], np.uint8)
    wish = OutputWish(name="s", classification=3)
    named = classify(wish, array, ["a", "b", "c", "d"])
    assert named.shape == (2, 3)
    assert named.texts == (
        *(b"3.000000:1:b", b"2.000000:2:c", b"1.000000:0:a"),
        *(b"200.000000:1:b", b"9.000000:0:a", b"7.000000:2:c"),
    )
    many = classify(OutputWish(name="s", classification=9), array, ["a"])
    assert many.shape == (2, 4)
    assert many.texts[0] == b"3.000000:1"


def test_images_are_stacked_in_their_order() -> None:
    replies = [Reply(b"{}", ok=True, tensors={"scores": np.full(4, n, "f4")}) for n in (1, 2)]
    scores, results = outputs(
        replies, wishes(asking("scores", "results"), VERSION, prepared=False), VERSION
    )
    np.testing.assert_array_equal(scores.array, [[1] * 4, [2] * 4])
    assert (results.shape, results.texts) == ((2,), (b"{}", b"{}"))


def test_outputs_of_other_shapes_are_not_stacked() -> None:
    replies = [Reply(b"", ok=True, tensors={"scores": np.zeros(n, "f4")}) for n in (1, 2)]
    with pytest.raises(Reject, match="one by one"):
        outputs(replies, wishes(asking("scores"), VERSION, prepared=True), VERSION)


def test_one_image_at_fault_refuses_the_request() -> None:
    error = ErrorInfo(code=Code.BROKEN_IMAGE, message="It is cut off.")
    failed = Result(id="1", source="s", model="m", status=Status.ERROR, error=error)
    require_ok([Reply(b"{}", ok=True)])
    with pytest.raises(Refused, match="cut off") as refused:
        require_ok([Reply(b"{}", ok=True), Reply.of(failed)])
    assert refused.value.code is Code.BROKEN_IMAGE
