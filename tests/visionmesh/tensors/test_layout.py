"""Arrays in a payload."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visionmesh.contracts import TensorMeta
from visionmesh.errors import Reject
from visionmesh.tensors import arrays, describe, plan

DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64")
some_arrays = st.dictionaries(
    st.text(min_size=1, max_size=5),
    hnp.arrays(
        dtype=st.sampled_from(DTYPES), shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)
    ),
    max_size=4,
)


@given(some_arrays)
def test_arrays_come_back_as_they_were_put(given_arrays: dict[str, np.ndarray]) -> None:
    metas = describe(given_arrays)
    _, total = plan(metas)
    payload = bytearray(total)
    for name, array in arrays(memoryview(payload), metas).items():
        array[...] = given_arrays[name]
    found = arrays(memoryview(bytes(payload)), metas)
    assert list(found) == list(given_arrays)
    for name, array in found.items():
        assert array.dtype == given_arrays[name].dtype
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, given_arrays[name])


@given(some_arrays)
def test_each_array_is_aligned_and_behind_the_one_before(
    given_arrays: dict[str, np.ndarray],
) -> None:
    offsets, total = plan(describe(given_arrays))
    end = 0
    for offset, array in zip(offsets, given_arrays.values(), strict=True):
        assert offset % 64 == 0
        assert end <= offset < end + 64
        end = offset + array.nbytes
    assert total == end


def test_no_bytes_are_copied() -> None:
    payload = bytearray(4)
    arrays(memoryview(payload), [TensorMeta(name="x", dtype="uint8", shape=(2, 2))])["x"][1, 1] = 7
    assert payload == b"\0\0\0\x07"


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("uint8", (17,)),
        ("float64", (3,)),
        ("uint8", (1 << 62, 1 << 62)),
        ("uint8", (-1,)),
        ("uint8", (-4, -4)),
        ("uint8", (1,) * 9),
        ("object", (1,)),
        ("O", (1,)),
        (">f4", (1,)),
        ("V16", (1,)),
        ("nonsense", (1,)),
    ],
)
def test_metas_that_lie_are_rejected(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(Reject):
        arrays(memoryview(bytes(16)), [TensorMeta(name="x", dtype=dtype, shape=shape)])
