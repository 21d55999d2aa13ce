"""The protocol's messages over gRPC: ``open_inference.proto``, without generated code.

They live in a pool of their own: in one process with other code for the same messages, such as that
of a client, names would clash; and generated code is good for one major release of protobuf only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from services.ingest.oip.inference import Answer
from services.ingest.oip.request import (
    InferRequest,
    fault,
    read_name,
    read_options,
    read_wish,
    require_different,
)
from services.ingest.oip.tensors import (
    BYTES,
    Tensor,
    from_binary,
    from_numbers,
    from_texts,
    read_shape,
)

SERVICE = "inference.GRPCInferenceService"
DESCRIPTORS = "open_inference.binpb"
"""What ``protoc --descriptor_set_out`` makes of ``open_inference.proto``."""

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Fields of ``InferTensorContents`` by datatype; what is missing comes in raw form only."""


class Messages:
    """Makes and reads the messages."""

    def __init__(self) -> None:
        self.pool = descriptor_pool.DescriptorPool()
        told = (files("services.ingest.oip") / DESCRIPTORS).read_bytes()
        for file in descriptor_pb2.FileDescriptorSet.FromString(told).file:
            self.pool.Add(file)
        self.service = self.pool.FindServiceByName(SERVICE)

    def type_of(self, name: str) -> Any:
        """Return the class of a message, by its name in the package."""
        descriptor = self.pool.FindMessageTypeByName(f"inference.{name}")
        return message_factory.GetMessageClass(descriptor)

    def of_document(self, name: str, document: Mapping[str, Any]) -> Message:
        """Return a message with the fields of ``document``."""
        message: Message = json_format.ParseDict(document, self.type_of(name)())
        return message

    def of_answer(self, answer: Answer) -> Message:
        """Return the message of an answer, outputs in raw form."""
        message = self.type_of("ModelInferResponse")(**answer.head)
        for output in answer.outputs:
            message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
            message.raw_output_contents.append(output.to_binary())
        return message


def read_request(message: Any) -> InferRequest:
    """Read a ``ModelInferRequest``; raise `Reject` (invalid_request, invalid_params)."""
    raws: Sequence[bytes] = message.raw_input_contents
    if not message.inputs:
        raise fault("A request must have inputs.")
    require_different("input", [one.name for one in message.inputs])
    if raws and len(raws) != len(message.inputs):
        raise fault(f"{len(message.inputs)} inputs and {len(raws)} raw_input_contents came.")
    outputs = tuple(
        read_wish(read_name(one.name), parameters(one.parameters), binary=True)
        for one in message.outputs
    )
    require_different("output", [wish.name for wish in outputs])
    return InferRequest(
        id=message.id,
        inputs=tuple(
            _input(one, raws[place] if raws else None) for place, one in enumerate(message.inputs)
        ),
        outputs=outputs,
        options=read_options(parameters(message.parameters)),
    )


def parameters(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by name; raise `Reject` (invalid_request) if one has no value."""
    values = {}
    for name, parameter in told.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise fault(f"The parameter {name!r} has no value.")
        values[name] = getattr(parameter, choice)
    return values


def _input(told: Any, raw: bytes | None) -> Tensor:
    name, datatype = read_name(told.name), told.datatype
    if told.parameters:
        first = next(iter(told.parameters))
        if first.startswith("shared_memory"):
            raise fault(
                "There is no shared memory between client and server: send the data itself."
            )
        raise fault(f"The input {name!r} has an unknown parameter: {first!r}.")
    shape = read_shape(name, list(told.shape))
    contents = [field.name for field, _ in told.contents.ListFields()]
    if raw is not None:
        if contents:
            raise fault(f"The input {name!r} has its data twice: raw, and in its contents.")
        return from_binary(name, datatype, shape, raw)
    field = _CONTENTS.get(datatype)
    if field is None or (contents and contents != [field]):
        raise fault(
            f"The input {name!r} of {datatype[:40]} wants {field or 'raw_input_contents'}, "
            f"not {', '.join(contents) or 'nothing'}."
        )
    values = getattr(told.contents, field)
    if datatype == BYTES:
        return from_texts(name, shape, values)
    return from_numbers(name, datatype, shape, values)
