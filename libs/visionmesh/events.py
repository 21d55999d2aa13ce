"""Image events as producers publish them: CloudEvents 1.0 over NATS or HTTP, or a bare image.

Binary mode: the body is the encoded image, the attributes are headers (``ce-id``, …) whose values
are percent-encoded. Structured mode: ``Content-Type: application/cloudevents+json``, the image in
``data_base64``. Bare: a body and no headers; the event's id is then the content's hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from visionmesh.contracts import Params, Priority, TensorMeta, Want
from visionmesh.documents import WIDE, is_wide
from visionmesh.errors import Code, Reject
from visionmesh.faults import first_fault
from visionmesh.subjects import is_token, name_fault
from visionmesh.telemetry.context import format_traceparent, kept_tracestate, parse_traceparent

TYPE = "io.visionmesh.image"
STRUCTURED = "application/cloudevents+json"
_CLOUDEVENTS = "application/cloudevents"
MAX_ID = 256
_FIRST_YEAR, _LAST_YEAR = 1970, 9998
"""Of deadlines: beyond, zones lead out of the calendar."""
_SPOKEN = "1."
"""How the versions of CloudEvents begin that are read here."""
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What stands for itself in the value of a header, as the HTTP binding of CloudEvents has it."""
_QUOTED = re.compile(r'"(.*)"', re.DOTALL)
_NO_IMAGE = re.compile(r"(text|multipart|audio|video)/.*|.*[/+](json|xml)")
"""Media types that say of themselves that they are something else."""

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
        """Return the headers of the binary mode; a trace context that is none is left out."""
        headers = {
            "ce-specversion": "1.0",
            "ce-id": header_value(self.id),
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
        if (context := parse_traceparent(self.traceparent)) is not None:
            # Written anew: those of later versions may be of any length.
            headers["traceparent"] = format_traceparent(context)
            if (state := kept_tracestate(self.tracestate)) is not None:
                headers["tracestate"] = state
        return headers


def header_value(text: str) -> str:
    """Return ``text`` as CloudEvents' bindings have it in a header: percent-encoded."""
    return quote(text, safe=_PRINTABLE)


def content_id(image: bytes) -> str:
    """Return the id of an event that names none."""
    return hashlib.sha256(image).hexdigest()


def parse(*, model: str, source: str, headers: Mapping[str, str], body: bytes) -> Event:
    """Read an event of any of the three modes.

    Raises
    ------
    Reject
        With the code of the part that is wrong: invalid_name (the source), invalid_event,
        unsupported_media, invalid_id, invalid_deadline, invalid_params, empty_body.
    """
    if not is_token(source):
        raise Reject(Code.INVALID_NAME, name_fault("source", source))
    attributes, image = unfold(headers, body)
    return compose(model=model, source=source, attributes=attributes, image=image)


def unfold(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
    """Return the attributes of an event as headers, their names in lower case, and its image.

    Raises
    ------
    Reject
        (invalid_event, unsupported_media) if it is no CloudEvent of one image.
    """
    plain = _plain(headers)
    media = plain.get("content-type", "").strip().lower()
    if media.startswith(STRUCTURED):
        plain, body = _unfold(body)
        media = plain.get("ce-datacontenttype", "")
    elif media.startswith(_CLOUDEVENTS):
        why = (
            f"Of CloudEvents' formats {STRUCTURED} is read, one event at a time, not {media[:60]}."
        )
        raise Reject(Code.UNSUPPORTED_MEDIA, why)
    if (version := plain.get("ce-specversion")) is not None:
        if not version.startswith(_SPOKEN):
            why = f"CloudEvents 1.0 are read, not those of version {version[:20]!r}."
            raise Reject(Code.INVALID_EVENT, why)
        if _NO_IMAGE.fullmatch(media.partition(";")[0].strip().lower()):
            why = f"The event says that it holds {media[:60]}, which is no image."
            raise Reject(Code.UNSUPPORTED_MEDIA, why)
    return plain, body


def compose(*, model: str, source: str, attributes: Mapping[str, str], image: bytes) -> Event:
    """Return the event of ``image`` and what `unfold` found beside it; raise as `parse` does."""
    plain = attributes
    if not image:
        raise Reject(Code.EMPTY_BODY, "The event has no body: publish the encoded image itself.")
    return Event(
        id=parse_id(plain["ce-id"]) if "ce-id" in plain else content_id(image),
        source=source,
        model=model,
        image=image,
        params=parse_params(plain.get("vm-params")),
        priority=parse_priority(plain.get("vm-priority")),
        deadline_ns=parse_deadline(plain.get("vm-deadline")),
        traceparent=plain.get("traceparent"),
        tracestate=plain.get("tracestate"),
    )


def id_of(*, headers: Mapping[str, str], body: bytes) -> str:
    """Return the id of an event, also of one that `parse` refuses, so that it can be answered."""
    with suppress(Reject):
        plain = _plain(headers)
        if plain.get("content-type", "").strip().lower().startswith(STRUCTURED):
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
    if time is None or time.tzinfo is None or not _FIRST_YEAR <= time.year <= _LAST_YEAR:
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
    where, what, is_unknown = first_fault(error)
    if is_unknown:
        what = f"there is no such parameter; allowed are {', '.join(Params.model_fields)}"
    return f"{where or 'Vm-Params'}: {what}."


def parse_priority(text: str | None) -> Priority:
    """Return the priority; raise `Reject` (invalid_event) if ``text`` is none."""
    if text is None:
        return Priority.NORMAL
    try:
        return Priority(text)
    except ValueError as error:
        allowed = ", ".join(Priority)
        raise Reject(Code.INVALID_EVENT, f"Vm-Priority must be one of {allowed}.") from error


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers by their names in lower case, with the values of attributes decoded."""
    plain = {key.lower(): value for key, value in headers.items()}
    for key, value in plain.items():
        if key.startswith("ce-"):
            plain[key] = _decoded(key, value)
    return plain


def _decoded(key: str, value: str) -> str:
    """Read a header's value: perhaps in quotation marks, then percent-encoded UTF-8."""
    if (quoted := _QUOTED.fullmatch(value)) is not None:
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise Reject(Code.INVALID_EVENT, f"{key} is not percent-encoded UTF-8.") from error


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
    if is_wide(body):
        raise Reject(Code.INVALID_EVENT, WIDE)
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
