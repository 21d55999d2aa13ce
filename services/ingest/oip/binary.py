"""Requests and answers over HTTP: a JSON header, and binary tensors one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from services.ingest.oip.request import (
    InferRequest,
    OutputWish,
    fault,
    read_name,
    read_options,
    read_wish,
    require_different,
)
from services.ingest.oip.tensors import Tensor, from_binary, read_shape
from services.ingest.oip.tensors import from_json as tensor_from_json
from visionmesh.errors import Code, Reject

MAX_JSON = 16 << 20
"""Bytes of the JSON of a request; while it is parsed nothing else is done."""
MAX_LISTS = 1 << 19
"""Lists and objects in JSON, each of which takes thirty times its two characters of memory."""
IMAGE = "image"
"""The input that a body without a header is."""


def read_header_length(text: str | None, size: int) -> int:
    """Return how many of ``size`` bytes are JSON: all if nothing is said."""
    if text is None:
        return size
    if not text.isascii() or not text.isdigit() or len(text) > len(str(size)) or int(text) > size:
        raise fault(
            f"Inference-Header-Content-Length is {text[:40]!r}; "
            f"it must be a number up to the {size} bytes of the body."
        )
    return int(text)


def read_object(raw: bytes, *, max_bytes: int = MAX_JSON) -> dict[str, Any]:
    """Return a JSON object; raise `Reject` (invalid_request, payload_too_large)."""
    if len(raw) > max_bytes or raw.count(b"[") + raw.count(b"{") > MAX_LISTS:
        raise Reject(
            Code.PAYLOAD_TOO_LARGE,
            f"At most {max_bytes:,} bytes of JSON with {MAX_LISTS:,} lists are taken: "
            "send tensors as binary data.",
        )
    try:
        document = from_json(raw)
    except ValueError as error:
        raise fault(f"The JSON cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise fault("The JSON must be an object.")
    return document


def parse(body: bytes, header_length: str | None) -> InferRequest:
    """Read a request.

    Parameters
    ----------
    body
        JSON, then the binary tensors in the order of the inputs that announce them.
    header_length
        ``Inference-Header-Content-Length``, the size of the JSON; 0: the body is one encoded image.

    Raises
    ------
    Reject
        (invalid_request, invalid_params, payload_too_large) if it is malformed in any way.
    """
    length = read_header_length(header_length, len(body))
    if length == 0 and header_length is not None:
        if not body:
            raise Reject(Code.EMPTY_BODY, "The body is empty: send the encoded image itself.")
        return _one_image(body)
    document = read_object(body[:length])
    options = read_options(object_in(document, "parameters"))
    inputs = _read_inputs(_objects(document, "inputs"), body[length:])
    if not inputs:
        raise fault("A request must have inputs.")
    outputs = tuple(
        read_wish(_name(one), object_in(one, "parameters"), binary=options.binary)
        for one in _objects(document, "outputs")
    )
    require_different("output", [wish.name for wish in outputs])
    id = document.get("id", "")
    if not isinstance(id, str):
        raise fault("The id must be a string.")
    return InferRequest(id=id, inputs=inputs, outputs=outputs, options=options)


def _one_image(body: bytes) -> InferRequest:
    options = read_options({"binary_data_output": True})
    return InferRequest(inputs=(Tensor.of_texts(IMAGE, (1,), [body]),), options=options)


def _read_inputs(inputs: Sequence[dict[str, Any]], sections: bytes) -> tuple[Tensor, ...]:
    """Read the inputs, those in binary from ``sections``, of which nothing must be left over."""
    tensors, place = [], 0
    require_different("input", [_name(one) for one in inputs])
    for one in inputs:
        name, datatype = _name(one), one.get("datatype")
        if not isinstance(datatype, str):
            raise fault(f"The input {name!r} has no datatype.")
        shape = read_shape(name, one.get("shape"))
        size = _section_size(name, object_in(one, "parameters"))
        if size is None:
            tensors.append(tensor_from_json(name, datatype, shape, one.get("data")))
            continue
        if "data" in one:
            raise fault(f"The input {name!r} has its data twice, in JSON and in binary.")
        if size > len(sections) - place:
            raise fault(f"The input {name!r} ends behind the body: {size} bytes are announced.")
        tensors.append(from_binary(name, datatype, shape, sections[place : place + size]))
        place += size
    if place != len(sections):
        raise fault(f"The body has {len(sections) - place} bytes more than its inputs.")
    return tuple(tensors)


def _section_size(name: str, parameters: dict[str, Any]) -> int | None:
    left = dict(parameters)
    size = left.pop("binary_data_size", None)
    if any(key.startswith("shared_memory") for key in left):
        raise fault("There is no shared memory of client and server: send the data itself.")
    if left:
        raise fault(f"The input {name!r} has an unknown parameter: {next(iter(left))!r}.")
    if size is not None and (type(size) is not int or size < 0):
        raise fault(f"binary_data_size of the input {name!r} must be a whole number.")
    return size


def write(
    head: dict[str, Any], outputs: Sequence[Tensor], wishes: Sequence[OutputWish]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the size of its JSON if binary tensors follow."""
    documents, sections = [], []
    for output, wish in zip(outputs, wishes, strict=True):
        document: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.shape,
        }
        if wish.binary:
            section = output.to_binary()
            sections.append(section)
            document["parameters"] = {"binary_data_size": len(section)}
        else:
            document["data"] = output.to_json()
        documents.append(document)
    header = to_json({**head, "outputs": documents}, inf_nan_mode="constants")
    if not sections:
        return header, None
    return b"".join((header, *sections)), len(header)


def _name(document: dict[str, Any]) -> str:
    return read_name(document.get("name"))


def object_in(document: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the object under a key, empty if there is none; raise `Reject` if it is another."""
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise fault(f"{key} must be an object.")
    return value


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise fault(f"{key} must be a list of objects.")
    return value
