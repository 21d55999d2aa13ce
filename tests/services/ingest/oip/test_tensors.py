"""Tensors are read as they were written, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.utils import serialize_byte_tensor

from services.ingest.oip.tensors import (
    BYTES,
    DTYPES,
    Tensor,
    from_binary,
    from_json,
    read_shape,
)
from visionmesh.errors import Code, Reject

ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: arrays.arrays(DTYPES[name], arrays.array_shapes(max_dims=4, max_side=4))
)


@given(ARRAYS)
def test_numbers_come_back_from_binary(array: np.ndarray) -> None:
    sent = Tensor.of_array("t", array)
    assert sent.to_binary() == array.tobytes()
    back = from_binary("t", sent.datatype, sent.shape, sent.to_binary())
    np.testing.assert_array_equal(back.array, array)
    assert back.datatype == sent.datatype


@given(ARRAYS)
def test_numbers_come_back_from_json(array: np.ndarray) -> None:
    sent = Tensor.of_array("t", array)
    for data in (sent.to_json(), array.tolist()):
        read = json.loads(json.dumps(data))
        back = from_json("t", sent.datatype, sent.shape, read)
        np.testing.assert_array_equal(back.array, array)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_are_laid_out_as_the_stock_client_does(texts: list[bytes]) -> None:
    sent = Tensor.of_texts("t", (len(texts),), texts)
    stock = serialize_byte_tensor(np.array([*texts, None], dtype=object)[:-1])
    assert sent.to_binary() == (stock.item() if stock.size else b"")
    assert from_binary("t", BYTES, (len(texts),), sent.to_binary()) == sent


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", (2,), b"1234567"),
        ("FP32", (2,), b"123456789"),
        ("FP32", (1 << 30, 1 << 30, 1 << 30), b""),
        ("BF16", (1,), b"12"),
        ("float32", (1,), b"1234"),
        (BYTES, (1,), b"\x05\0\0\0abc"),
        (BYTES, (1,), b"\x03\0\0"),
        (BYTES, (1,), b"\xff\xff\xff\xffabc"),
        (BYTES, (2,), b"\x03\0\0\0abc"),
        (BYTES, (1,), b"\x01\0\0\0a\x01\0\0\0b"),
        (BYTES, (1,), bytes(4000)),
    ],
)
def test_binary_that_does_not_fit_is_refused(
    datatype: str, shape: tuple[int, ...], raw: bytes
) -> None:
    with pytest.raises(Reject) as refused:
        from_binary("t", datatype, shape, raw)
    assert refused.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", (2,), [1.0]),
        ("FP32", (2,), [1.0, "2"]),
        ("FP32", (2,), [1.0, None]),
        ("FP32", (2,), [1.0, True]),
        ("FP32", (2, 1), [[1.0], 2.0]),
        ("FP32", (1,), {"0": 1}),
        ("FP32", (1,), None),
        ("FP32", (1,), "1"),
        ("FP32", (1,), [10**400]),
        ("UINT8", (1,), [256]),
        ("UINT8", (1,), [-1]),
        ("UINT8", (1,), [1.5]),
        ("INT64", (1,), [1 << 63]),
        ("BOOL", (1,), [1]),
        (BYTES, (1,), [1]),
        (BYTES, (1,), ["a", "b"]),
        ("FP32", (1,), [[[[[[[[[[[[1.0]]]]]]]]]]]]),
    ],
)
def test_json_that_does_not_fit_is_refused(
    datatype: str, shape: tuple[int, ...], data: object
) -> None:
    with pytest.raises(Reject) as refused:
        from_json("t", datatype, shape, data)
    assert refused.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize(
    "shape", [None, 3, "12", [], [1] * 9, [-1], [1.0], [True], [1 << 31], [None]]
)
def test_what_is_no_shape_is_refused(shape: object) -> None:
    with pytest.raises(Reject, match="shape"):
        read_shape("t", shape)
