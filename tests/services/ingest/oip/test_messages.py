"""The messages over gRPC are those of the protocol, and what they lack is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from grpc_tools import protoc
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

from services.ingest.oip import messages
from services.ingest.oip.inference import Answer
from services.ingest.oip.messages import DESCRIPTORS, Messages, read_request
from services.ingest.oip.request import OutputWish
from services.ingest.oip.tensors import Tensor
from visionmesh.errors import Code, Reject

FOLDER = Path(messages.__file__).parent
OURS = Messages()
Fields = dict[str, tuple[int, int, int]]


def compiled(file: Path) -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes())


def test_the_descriptors_are_compiled_from_the_proto(tmp_path: Path) -> None:
    out = tmp_path / "set"
    command = ["protoc", f"-I{FOLDER}", f"--descriptor_set_out={out}", "open_inference.proto"]
    assert protoc.main(command) == 0
    assert compiled(out) == compiled(FOLDER / DESCRIPTORS)


def fields(message: Any, prefix: str = "") -> Fields:
    """Return number, type and label by the path of a field."""
    found = {
        f"{prefix}{message.name}.{field.name}": (field.number, field.type, field.label)
        for field in message.field
    }
    for nested in message.nested_type:
        found |= fields(nested, f"{prefix}{message.name}.")
    return found


def file_of(descriptor: Any) -> Any:
    return descriptor_pb2.FileDescriptorProto.FromString(descriptor.serialized_pb)


def test_all_fields_are_those_of_the_stock_client() -> None:
    stock: Fields = {}
    for module in (service_pb2, model_config_pb2):
        for message in file_of(module.DESCRIPTOR).message_type:
            stock |= fields(message)
    (file,) = compiled(FOLDER / DESCRIPTORS).file
    ours: Fields = {}
    for message in file.message_type:
        ours |= fields(message)
    assert ours == {name: stock[name] for name in ours}
    methods = {
        method.name: (
            method.input_type,
            method.output_type,
            method.client_streaming,
            method.server_streaming,
        )
        for method in file_of(service_pb2.DESCRIPTOR).service[0].method
    }
    for method in file.service[0].method:
        assert methods[method.name] == (
            method.input_type,
            method.output_type,
            method.client_streaming,
            method.server_streaming,
        )


def request(**changes: Any) -> Any:
    own = {"name": "a", "datatype": "FP32", "shape": [2], **changes}
    return service_pb2.ModelInferRequest(inputs=[own])


def received(stock: Any) -> Any:
    return OURS.type_of("ModelInferRequest").FromString(stock.SerializeToString())


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT64", "int64_contents", [-(1 << 63), 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT64", "uint64_contents", [0, (1 << 64) - 1]),
        ("FP32", "fp32_contents", [0.5, -1.0]),
        ("FP64", "fp64_contents", [0.1, 0.2]),
    ],
)
def test_numbers_may_come_in_their_contents(datatype: str, field: str, values: list[Any]) -> None:
    read = read_request(received(request(datatype=datatype, contents={field: values})))
    array = read.inputs[0].array
    assert array is not None
    assert array.tolist() == values


def test_raw_contents_are_read_in_the_order_of_the_inputs() -> None:
    sent = request()
    sent.inputs.add(name="b", datatype="BYTES", shape=[1])
    sent.raw_input_contents.extend([np.array([1, 2], np.float32).tobytes(), b"\x01\0\0\0x"])
    first, second = read_request(received(sent)).inputs
    np.testing.assert_array_equal(first.array, [1, 2])
    assert second.texts == (b"x",)


def test_parameters_are_read() -> None:
    sent = request(contents={"fp32_contents": [1, 2]})
    sent.id = "7"
    sent.parameters["timeout"].int64_param = 2_000_000
    sent.parameters["confidence"].double_param = 0.5
    sent.outputs.add(name="x").parameters["classification"].int64_param = 3
    read = read_request(received(sent))
    assert read.id == "7"
    assert read.options.timeout is not None
    assert read.options.params.confidence == 0.5
    assert read.outputs == (OutputWish(name="x", binary=True, classification=3),)


def _faults() -> dict[str, Any]:
    contents = {"fp32_contents": [1, 2]}
    raw = request(contents=contents)
    raw.raw_input_contents.append(bytes(8))
    more = request()
    more.raw_input_contents.extend([bytes(8), bytes(8)])
    valueless = request(contents=contents)
    valueless.parameters["timeout"].SetInParent()
    return {
        "no inputs": service_pb2.ModelInferRequest(),
        "no data": request(),
        "too little": request(contents={"fp32_contents": [1]}),
        "another field": request(contents={"fp64_contents": [1, 2]}),
        "two fields": request(contents={"fp32_contents": [1, 2], "int_contents": [1]}),
        "out of bounds": request(datatype="UINT8", contents={"uint_contents": [1, 256]}),
        "halves": request(datatype="FP16", contents={"fp32_contents": [1, 2]}),
        "raw and contents": raw,
        "more raw than inputs": more,
        "a negative size": request(shape=[-2], contents=contents),
        "no shape": request(shape=[], contents=contents),
        "shared memory": request(
            parameters={"shared_memory_region": {"string_param": "r"}}, contents=contents
        ),
        "no name": request(name="", contents=contents),
        "a parameter without a value": valueless,
    }


@pytest.mark.parametrize("fault", _faults())
def test_what_is_malformed_is_refused(fault: str) -> None:
    with pytest.raises(Reject) as refused:
        read_request(received(_faults()[fault]))
    assert refused.value.code is Code.INVALID_REQUEST


def valid() -> bytes:
    sent = request(parameters={"p": {"bool_param": True}})
    sent.outputs.add(name="x").parameters["classification"].int64_param = 3
    sent.raw_input_contents.append(bytes(8))
    raw: bytes = sent.SerializeToString()
    return raw


@given(st.data())
def test_any_bytes_are_a_request_or_refused(data: st.DataObject) -> None:
    raw = bytearray(valid())
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError, Reject):
        read_request(OURS.type_of("ModelInferRequest").FromString(bytes(raw)))


def test_the_stock_client_reads_an_answer() -> None:
    scores = np.array([[1, 2]], np.float16)
    tensors = [Tensor.of_array("scores", scores), Tensor.of_texts("results", (1,), [b"{}"])]
    answer = Answer(model="m", version="3", id="7", outputs=tensors, wishes=())
    read = service_pb2.ModelInferResponse.FromString(OURS.of_answer(answer).SerializeToString())
    assert (read.model_name, read.model_version, read.id) == ("m", "3", "7")
    assert [(one.name, one.datatype, list(one.shape)) for one in read.outputs] == [
        ("scores", "FP16", [1, 2]),
        ("results", "BYTES", [1]),
    ]
    assert list(read.raw_output_contents) == [scores.tobytes(), b"\x02\0\0\0{}"]
