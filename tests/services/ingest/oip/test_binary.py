"""Whatever the body and its header's length: it is a request, or it is refused."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.oip.binary import IMAGE, MAX_JSON, MAX_LISTS, parse, write
from services.ingest.oip.request import InferRequest, OutputWish
from services.ingest.oip.tensors import Tensor
from visionmesh.contracts import Params, Priority
from visionmesh.errors import Code, Reject

TEXTS = st.text(max_size=8) | st.sampled_from(["image", "FP32", "BYTES", "UINT8", "data"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
PARAMETERS = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "priority", "timeout", "sequence_id"])
    | TEXTS,
    st.integers(-1, 20) | VALUES,
    max_size=3,
)
INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "name": TEXTS,
        "datatype": st.sampled_from(["FP32", "BYTES", "UINT8", "BOOL"]) | VALUES,
        "shape": st.lists(st.integers(0, 3), max_size=3) | VALUES,
        "data": VALUES,
        "parameters": PARAMETERS | VALUES,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(INPUTS, max_size=3) | VALUES},
    optional={
        "id": VALUES,
        "outputs": st.lists(st.fixed_dictionaries({"name": TEXTS}), max_size=2) | VALUES,
        "parameters": PARAMETERS | VALUES,
    },
)


def read(body: bytes, header_length: str | None) -> InferRequest | Reject:
    try:
        return parse(body, header_length)
    except Reject as error:
        return error


@given(st.binary(max_size=200), st.none() | st.integers(-2, 300).map(str) | st.text(max_size=5))
def test_any_bytes_are_a_request_or_refused(body: bytes, header_length: str | None) -> None:
    read(body, header_length)


@given(DOCUMENTS, st.binary(max_size=40), st.integers(-3, 3))
def test_any_document_is_a_request_or_refused(
    document: dict[str, Any], sections: bytes, lie: int
) -> None:
    head = json.dumps(document).encode()
    read(head + sections, str(len(head) + lie))


def request(**changes: Any) -> dict[str, Any]:
    own = {"name": "a", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    return {"inputs": [own | changes]}


BYTES_4 = np.float32(2.5).tobytes()


def sent(document: object, sections: bytes = BYTES_4) -> tuple[bytes, str]:
    head = json.dumps(document).encode()
    return head + sections, str(len(head))


def test_a_request_is_read() -> None:
    document = request() | {
        "id": "7",
        "outputs": [
            {"name": "x", "parameters": {"binary_data": True, "classification": 3}},
            {"name": "y"},
        ],
        "parameters": {"priority": 1, "timeout": 5_000_000, "top_k": 3, "confidence": 0.5},
    }
    read = parse(*sent(document))
    assert read.id == "7"
    (tensor,) = read.inputs
    assert (tensor.name, tensor.shape, tensor.array) == ("a", (1,), np.array([2.5], np.float32))
    assert read.outputs == (
        OutputWish(name="x", binary=True, classification=3),
        OutputWish(name="y", binary=False),
    )
    assert read.options.params == Params(top_k=3, confidence=0.5)
    assert read.options.priority is Priority.HIGH
    assert read.options.timeout is not None
    assert read.options.timeout.total_seconds() == 5


def test_a_body_without_a_header_is_an_image() -> None:
    read = parse(b"\xff\xd8", "0")
    assert read.inputs == (Tensor.of_texts(IMAGE, (1,), [b"\xff\xd8"]),)
    assert read.options.binary


@pytest.mark.parametrize(
    ("document", "sections"),
    [
        pytest.param([], BYTES_4, id="a list"),
        pytest.param({}, b"", id="no inputs"),
        pytest.param(request(), BYTES_4[:3], id="a truncated section"),
        pytest.param(request(), BYTES_4 + b"x", id="bytes left over"),
        pytest.param(request(parameters={"binary_data_size": 1 << 62}), BYTES_4, id="a size"),
        pytest.param(request(parameters={"binary_data_size": -4}), BYTES_4, id="a negative size"),
        pytest.param(request(parameters={"binary_data_size": True}), b"1", id="no size"),
        pytest.param(request(data=[1]), BYTES_4, id="data twice"),
        pytest.param(request(shape=[2]), BYTES_4, id="another shape"),
        pytest.param(request(datatype="FP64"), BYTES_4, id="another datatype"),
        pytest.param(request(datatype=3), BYTES_4, id="no datatype"),
        pytest.param(request(name=""), BYTES_4, id="no name"),
        pytest.param(request(name="x" * 300), BYTES_4, id="a long name"),
        pytest.param(request(parameters={"shared_memory_region": "r"}), b"", id="shared memory"),
        pytest.param({"inputs": request()["inputs"] * 2}, BYTES_4 * 2, id="a name twice"),
        pytest.param(request() | {"id": 7}, BYTES_4, id="an id that is no text"),
        pytest.param(request() | {"outputs": [{"name": "x"}] * 2}, BYTES_4, id="an output twice"),
        pytest.param(
            request() | {"outputs": [{"name": "x", "parameters": {"classification": -1}}]},
            BYTES_4,
            id="less than no classes",
        ),
        pytest.param(
            request() | {"outputs": [{"name": "x", "parameters": {"colour": 1}}]},
            BYTES_4,
            id="an unknown parameter of an output",
        ),
        pytest.param(request() | {"parameters": {"timeout": 1.5}}, BYTES_4, id="no timeout"),
        pytest.param(request() | {"parameters": {"timeout": 10**30}}, BYTES_4, id="an aeon"),
        pytest.param(request() | {"parameters": {"sequence_id": 5}}, BYTES_4, id="a sequence"),
        pytest.param(request() | {"parameters": {"confidence": 2}}, BYTES_4, id="out of bounds"),
        pytest.param(request() | {"parameters": {"warmth": 2}}, BYTES_4, id="unknown parameter"),
    ],
)
def test_what_is_malformed_is_refused(document: object, sections: bytes) -> None:
    with pytest.raises(Reject) as refused:
        parse(*sent(document, sections))
    assert refused.value.code in {Code.INVALID_REQUEST, Code.INVALID_PARAMS}
    assert len(refused.value.message) < 400


@pytest.mark.parametrize("length", ["-1", "+4", " 4", "4.0", "٤", "", "1" * 5000, "999999"])
def test_a_header_length_that_lies_is_refused(length: str) -> None:
    with pytest.raises(Reject, match="Inference-Header-Content-Length"):
        parse(sent(request())[0], length)


def test_deep_json_is_refused() -> None:
    for body in (b"[" * 10_000, b'{"inputs":' * 10_000, b'{"a":' + b"[" * 10_000):
        with pytest.raises(Reject):
            parse(body, None)


def test_too_much_json_is_refused_unread() -> None:
    for body in (b" " * (MAX_JSON + 1), b'{"inputs":[' + b"[]," * MAX_LISTS + b"1]}"):
        with pytest.raises(Reject) as refused:
            parse(body, None)
        assert refused.value.code is Code.PAYLOAD_TOO_LARGE


def test_a_large_tensor_is_not_copied_often() -> None:
    nbytes = 8 << 20
    document = request(datatype="UINT8", shape=[nbytes], parameters={"binary_data_size": nbytes})
    body, length = sent(document, bytes(nbytes))
    gc.collect()
    tracemalloc.start()
    parse(body, length)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * nbytes


def test_an_answer_has_its_binary_tensors_behind_the_json() -> None:
    scores = Tensor.of_array("scores", np.array([[1, np.nan]], np.float32))
    results = Tensor.of_texts("results", (1,), ["é".encode()])
    wishes = [OutputWish(name="scores", binary=False), OutputWish(name="results", binary=True)]
    body, length = write({"id": "7"}, [scores, results], wishes)
    assert length is not None
    head = json.loads(body[:length])
    assert head["id"] == "7"
    assert str(head["outputs"][0]["data"]) == "[1.0, nan]"
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 6}
    assert body[length:] == b"\x02\0\0\0" + "é".encode()
