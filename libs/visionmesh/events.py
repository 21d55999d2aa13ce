"""Image events as producers publish them: CloudEvents 1.0 over NATS, or a bare image.

Binary mode: the body is the encoded image, the attributes are headers (``ce-id``, …). Structured
mode: ``Content-Type: application/cloudevents+json``, the image in ``data_base64``. Bare: a body and
no headers; the event's id is then the content's hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from visionmesh.contracts import Params, Priority, TensorMeta, Want
from visionmesh.errors import Code, Reject
from visionmesh.subjects import is_token, name_fault

TYPE = "io.visionmesh.image"
STRUCTURED = "application/cloudevents+json"
MAX_ID = 256

_EXTENSIONS = {"vmdeadline": "Vm-Deadline", "vmpriority": "Vm-Priority", "vmparams": "Vm-Params"}
"""Attributes of the structured mode, whose names have neither dash nor capital, as headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One image and what its producer asks for."""

    id: str
    source: str
    model: str
    image: bytes
    params: Params = field(default_factory=Params)
    priority: Priority = Priority.NORMAL
    deadline_ns: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    tensor: TensorMeta | None = None
    """Of ``image`` where that is not encoded: of pixels (its name is `PIXELS` then), or of the
    network's own input for one image."""
    want: Want = Want.RESULT

    def headers(self) -> dict[str, str]:
        """Return the headers of the binary mode."""
        headers = {
            "ce-specversion": "1.0",
            "ce-id": self.id,
            "ce-source": self.source,
            "ce-type": TYPE,
            "ce-time": datetime.now(UTC).isoformat(),
        }
        if self.params != Params():
            headers["Vm-Params"] = self.params.model_dump_json(exclude_none=True)
        if self.priority is not Priority.NORMAL:
            headers["Vm-Priority"] = self.priority
        if self.deadline_ns is not None:
            deadline = datetime.fromtimestamp(self.deadline_ns / 1e9, UTC)
            headers["Vm-Deadline"] = deadline.isoformat()
        if self.traceparent is not None:
            headers["traceparent"] = self.traceparent
        if self.tracestate is not None:
            headers["tracestate"] = self.tracestate
        return headers


def content_id(image: bytes) -> str:
    """Return the id of an event that names none."""
    return hashlib.sha256(image).hexdigest()


def parse(*, model: str, source: str, headers: Mapping[str, str], body: bytes) -> Event:
    """Read an event of any of the three modes.

    Raises
    ------
    Reject
        With the code of the part that is wrong: invalid_name (the source), invalid_event,
        invalid_id, invalid_deadline, invalid_params, empty_body.
    """
    if not is_token(source):
        raise Reject(Code.INVALID_NAME, name_fault("source", source))
    plain = {key.lower(): value for key, value in headers.items()}
    if plain.get("content-type", "").startswith(STRUCTURED):
        plain, body = _unfold(body)
    if not body:
        raise Reject(Code.EMPTY_BODY, "The event has no body: publish the encoded image itself.")
    return Event(
        id=parse_id(plain["ce-id"]) if "ce-id" in plain else content_id(body),
        source=source,
        model=model,
        image=body,
        params=parse_params(plain.get("vm-params")),
        priority=parse_priority(plain.get("vm-priority")),
        deadline_ns=parse_deadline(plain.get("vm-deadline")),
        traceparent=plain.get("traceparent"),
        tracestate=plain.get("tracestate"),
    )


def id_of(*, headers: Mapping[str, str], body: bytes) -> str:
    """Return the id of an event, also of one that `parse` refuses, so that it can be answered."""
    plain = {key.lower(): value for key, value in headers.items()}
    with suppress(Reject):
        if plain.get("content-type", "").startswith(STRUCTURED):
            plain = _headers_of(_document(body))
        if "ce-id" in plain:
            return parse_id(plain["ce-id"])
    return content_id(body)


def parse_id(text: str) -> str:
    """Return ``text`` if it can be an event's id; raise `Reject` (invalid_id) if not."""
    if not text or len(text) > MAX_ID or not text.isprintable():
        raise Reject(
            Code.INVALID_ID, f"ce-id must have 1 to {MAX_ID} printable characters, best a UUID."
        )
    return text


def parse_deadline(text: str | None) -> int | None:
    """Return an RFC 3339 time as Unix nanoseconds; raise `Reject` (invalid_deadline)."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise Reject(
            Code.INVALID_DEADLINE,
            f"{text[:40]!r} is no RFC 3339 time with a zone, such as 2030-01-31T12:00:00Z.",
        )
    return int(time.timestamp() * 1e9)


def parse_params(
    text: str | bytes | None, query: Mapping[str, str] = MappingProxyType({})
) -> Params:
    """Return the parameters in a JSON object and in a URL's query; those of the query win.

    Raises `Reject` (invalid_params) if one is unknown, no number or out of its bounds.
    """
    try:
        # Strictly, as true would be taken for 1 otherwise; a query has nothing but text.
        asked = Params.model_validate_json(text, strict=True) if text else Params()
        if not query:
            return asked
        named = Params.model_validate(dict(query)).model_dump(exclude_none=True)
    except ValidationError as error:
        raise Reject(Code.INVALID_PARAMS, _fault_in_params(error)) from error
    return asked.model_copy(update=named)


def _fault_in_params(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "Vm-Params"
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no such parameter; allowed are {', '.join(Params.model_fields)}."
    return f"{where}: {first['msg']}."


def parse_priority(text: str | None) -> Priority:
    """Return the priority; raise `Reject` (invalid_event) if ``text`` is none."""
    if text is None:
        return Priority.NORMAL
    try:
        return Priority(text)
    except ValueError as error:
        allowed = ", ".join(Priority)
        raise Reject(Code.INVALID_EVENT, f"Vm-Priority must be one of {allowed}.") from error


def _unfold(body: bytes) -> tuple[dict[str, str], bytes]:
    """Return the attributes of a structured event as headers, and its image."""
    document = _document(body)
    if not isinstance(document.get("data_base64"), str):
        raise Reject(
            Code.INVALID_EVENT, "A structured event is a JSON object with the image in data_base64."
        )
    try:
        image = base64.b64decode(document["data_base64"], validate=True)
    except ValueError as error:  # of base64, and of text that is not ASCII
        raise Reject(Code.INVALID_EVENT, f"data_base64 is not base64: {error}.") from error
    return _headers_of(document), image


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Reject(Code.INVALID_EVENT, f"The structured event is no JSON: {error}.") from error
    if not isinstance(document, dict):
        raise Reject(Code.INVALID_EVENT, "A structured event is a JSON object.")
    return document


def _headers_of(document: dict[str, Any]) -> dict[str, str]:
    headers = {}
    for key, value in document.items():
        if key in {"data", "data_base64"} or value is None:
            continue
        text = value if isinstance(value, str) else to_json(value).decode()
        if key in {"traceparent", "tracestate"}:
            headers[key] = text
        else:
            headers[_EXTENSIONS.get(key, f"ce-{key}").lower()] = text
    return headers
