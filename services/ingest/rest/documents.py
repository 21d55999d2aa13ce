"""What our own REST interface says of itself, for routes that read their requests themselves.

Declared parameters would cost every request of an image 300 calls more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from services.ingest.forms import status_of
from visionmesh.contracts import ErrorInfo, Frozen, Params, Priority
from visionmesh.errors import Code, Reject
from visionmesh.faults import first_fault

Q = TypeVar("Q", bound=BaseModel)

BINARY = {"type": "string", "format": "binary"}
NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
PARAMS: dict[str, Any] = Params.model_json_schema()["properties"]
_TEXT = {"type": "string"}
_LATER = frozenset({429, 503})
_CLOUD_EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "specversion": {"type": "string", "pattern": r"^1\."},
        "id": {"type": "string", "minLength": 1, "maxLength": 256},
        "source": _TEXT,
        "data_base64": {"type": "string", "format": "byte"},
    },
    "required": ["data_base64"],
}
"""What is read of one; its other attributes are nobody's business here."""
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Vm-Params": ("Parameters as a JSON object.", {}),
    "Vm-Deadline": ("After it no one needs the result.", {"format": "date-time"}),
    "Vm-Priority": ("Before others, or not.", {"enum": [*Priority]}),
    "ce-id": ("Of the image; by default a new one.", {"minLength": 1, "maxLength": 256}),
    "traceparent": ("The W3C context of the caller's span.", {}),
    "tracestate": ("Its state.", {}),
}
_ALWAYS = (
    Code.UNAUTHORIZED,
    Code.FORBIDDEN,
    Code.REQUEST_TIMEOUT,
    Code.PAYLOAD_TOO_LARGE,
    Code.MESH_FULL,
    Code.INTERNAL,
)
"""Of any request: keys, limits, and what nobody thought of."""


class ErrorDocument(Frozen):
    """Any answer that is no success."""

    error: ErrorInfo


def errors(*codes: Code, model: Any = ErrorDocument) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the answers with these ``codes``, and of those of any route."""
    by_status: dict[int, list[Code]] = {}
    for code in (*codes, *_ALWAYS):
        by_status.setdefault(status_of(code), []).append(code)
    return {status: _answer(status, found, model) for status, found in sorted(by_status.items())}


def of_images(*, most: int, query: type[BaseModel] = Params, cloud: bool = False) -> dict[str, Any]:
    """Return the documentation of a body with ``most`` images, and of what comes beside it.

    ``cloud`` says that it may be a CloudEvent, too.
    """
    structured = {"application/cloudevents+json": {"schema": _CLOUD_EVENT}} if cloud else {}
    return {
        "parameters": [
            in_path("model", pattern=NAME),
            *in_query(query),
            *(
                {
                    "name": name,
                    "in": "header",
                    "required": False,
                    "description": text,
                    "schema": _TEXT | schema,
                }
                for name, (text, schema) in _HEADERS.items()
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": BINARY},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {**PARAMS, "image": BINARY},
                        "required": ["image"],
                    }
                },
                "application/json": {"schema": _json(most)},
                **structured,
            },
        },
    }


def _json(most: int) -> dict[str, Any]:
    params = {"type": "object", "properties": PARAMS, "additionalProperties": False}
    one = {
        "oneOf": [
            {
                "type": "object",
                "properties": {name: {"type": "string", **about}, "params": params},
                "required": [name],
                "additionalProperties": False,
            }
            for name, about in (("data", {"format": "byte"}), ("url", {"format": "uri"}))
        ]
    }
    if most == 1:
        return one
    return {"oneOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": most}]}


def in_path(name: str, **schema: object) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", **schema}}


def in_query(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the fields of ``model`` as parameters of the query."""
    schema = model.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _plain(field),
            "description": field.get("description", ""),
        }
        for name, field in schema["properties"].items()
    ]


def read_query(model: type[Q], query: Mapping[str, str]) -> Q:
    """Return a query as ``model``; raise `Reject` (invalid_request) if it is none."""
    try:
        return model.model_validate(dict(query))
    except ValidationError as error:
        raise Reject(Code.INVALID_REQUEST, f"{first_fault(error)}.") from error


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a field's schema without `null`, which a query cannot say."""
    options: Sequence[Mapping[str, Any]] = schema.get("anyOf", (schema,))
    first = next(option for option in options if option.get("type") != "null")
    return {key: value for key, value in first.items() if key not in {"title", "description"}}


def _answer(status: int, codes: Sequence[Code], model: Any) -> dict[str, Any]:
    named = ", ".join(f"`{code}`" for code in dict.fromkeys(codes))
    answer: dict[str, Any] = {"model": model, "description": named}
    if status in _LATER:
        seconds = {"type": "string", "pattern": "^[0-9]+$"}
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": seconds}}
    return answer
