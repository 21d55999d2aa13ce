from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from services.postprocess.features import FeaturesError, pack, unpack

_DTYPES = st.one_of(
    arrays.floating_dtypes(sizes=(16, 32, 64)),
    arrays.integer_dtypes(),
    arrays.unsigned_integer_dtypes(),
    arrays.boolean_dtypes(),
)
_ARRAYS = arrays.arrays(_DTYPES, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0))
_FEATURES = st.dictionaries(st.text(max_size=20), _ARRAYS, max_size=4)


@given(_FEATURES)
def test_arrays_come_back_as_they_were(features: dict[str, NDArray[Any]]) -> None:
    back = unpack(pack(features))
    assert list(back) == list(features)
    for name, array in features.items():
        assert back[name].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(back[name], array, strict=False)
        assert back[name].shape == array.shape


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    for data in (garbage, b"VF1" + garbage, b"VF1" + zlib.compress(b"\1" + garbage)):
        with pytest.raises(FeaturesError):
            unpack(data)


@given(_FEATURES.filter(bool), st.data())
def test_cut_features_are_refused(features: dict[str, NDArray[Any]], data: st.DataObject) -> None:
    packed = pack(features)
    with pytest.raises(FeaturesError):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(_FEATURES, st.data())
def test_a_damaged_byte_is_noticed_or_means_nothing(
    features: dict[str, NDArray[Any]], data: st.DataObject
) -> None:
    packed = bytearray(pack(features))
    # The first five bytes are the magic and zlib's header, which has bits that mean nothing here.
    packed[data.draw(st.integers(5, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack(bytes(packed))
    except FeaturesError:
        return
    # A bit that only fills up the last byte of the compressed data.
    assert pack(found) == pack(features)


def test_features_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(FeaturesError):
        unpack(b"VF1" + zlib.compress(bytes(100 << 20)))


def test_what_is_not_a_number_is_not_packed() -> None:
    with pytest.raises(FeaturesError, match="names"):
        pack({"names": np.array(["cat"])})
