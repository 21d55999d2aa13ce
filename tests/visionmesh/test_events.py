from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionmesh.contracts import Params, Priority
from visionmesh.errors import Code, Reject
from visionmesh.events import STRUCTURED, Event, content_id, id_of, parse, parse_params


def read(headers: dict[str, str], body: bytes = b"image") -> Event:
    return parse(model="m", source="s", headers=headers, body=body)


def refused(headers: dict[str, str], body: bytes = b"image") -> Code:
    with pytest.raises(Reject) as caught:
        read(headers, body)
    return caught.value.code


def test_reads_what_the_client_writes() -> None:
    event = Event(
        id="event 1",
        source="s",
        model="m",
        image=b"image",
        params=Params(confidence=0.25, top_k=3),
        priority=Priority.HIGH,
        deadline_ns=1_900_000_000_000_000_000,
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        tracestate="vendor=1,other=2",
    )
    assert read(event.headers()) == event


@pytest.mark.parametrize("id", ["100%", "a b", "100%41", 'say "hi"', "Zürich/7", "日本", "a~b+c:d"])
def test_any_id_survives_its_header(id: str) -> None:
    headers = Event(id=id, source="s", model="m", image=b"image").headers()
    assert headers["ce-id"].isascii()
    assert " " not in headers["ce-id"]
    assert read(headers).id == id


@pytest.mark.parametrize(
    ("value", "id"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ('"in quotation marks"', "in quotation marks"),
        (r'"a \"quoted\" word"', 'a "quoted" word'),
        ("50%", "50%"),
    ],
)
def test_attributes_are_decoded_once(value: str, id: str) -> None:
    assert read({"ce-id": value}).id == id
    assert id_of(headers={"ce-id": value}, body=b"image") == id


def test_an_id_may_not_be_broken_lines_in_disguise() -> None:
    assert refused({"ce-id": "a%0D%0Ab"}) is Code.INVALID_ID
    assert refused({"ce-id": "%ff"}) is Code.INVALID_EVENT


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "application/cloudevents-batch+json"}, Code.UNSUPPORTED_MEDIA),
        ({"content-type": "application/cloudevents+avro"}, Code.UNSUPPORTED_MEDIA),
        ({"ce-specversion": "0.3"}, Code.INVALID_EVENT),
        ({"ce-specversion": "1.0", "content-type": "application/json"}, Code.UNSUPPORTED_MEDIA),
        ({"ce-specversion": "1.0", "content-type": "Text/HTML; x=y"}, Code.UNSUPPORTED_MEDIA),
    ],
)
def test_refuses_events_of_something_else(headers: dict[str, str], code: Code) -> None:
    assert refused(headers) is code


def test_refuses_a_structured_event_of_something_else() -> None:
    document = {"specversion": "1.0", "datacontenttype": "text/plain", "data_base64": "aW1hZ2U="}
    body = json.dumps(document).encode()
    assert refused({"content-type": STRUCTURED}, body) is Code.UNSUPPORTED_MEDIA
    body = json.dumps(document | {"datacontenttype": "image/png"}).encode()
    assert read({"content-type": f"{STRUCTURED}; charset=UTF-8"}, body).image == b"image"


def test_a_media_type_of_any_image_or_none_at_all_is_taken() -> None:
    for media in ("image/jpeg", "application/dicom", "application/octet-stream", ""):
        assert read({"ce-specversion": "1.0", "content-type": media}).image == b"image"


def test_takes_a_bare_image() -> None:
    event = read({})
    assert (event.id, event.image) == (content_id(b"image"), b"image")


def test_header_names_are_not_case_sensitive() -> None:
    assert read({"CE-ID": "x", "vm-priority": "high"}).priority is Priority.HIGH


def test_takes_the_structured_mode() -> None:
    document = {
        "specversion": "1.0",
        "id": "e1",
        "data_base64": base64.b64encode(b"image").decode(),
        "vmparams": {"iou": 0.5},
        "vmdeadline": "2030-01-31T12:00:00Z",
        "tracestate": "vendor=1",
    }
    event = read({"Content-Type": STRUCTURED}, json.dumps(document).encode())
    assert (event.id, event.image, event.params.iou) == ("e1", b"image", 0.5)
    assert event.tracestate == "vendor=1"
    assert event.deadline_ns == int(datetime(2030, 1, 31, 12, tzinfo=UTC).timestamp()) * 10**9


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[]", b"{}", b'{"data_base64": "*"}', b'{"data_base64":1}', b"[" * 10_000),
        b'{"data_base64": "eA==", "a": NaN}',
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
    ids=len,
)
def test_refuses_broken_structured_events(body: bytes) -> None:
    assert refused({"content-type": STRUCTURED}, body) is Code.INVALID_EVENT


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"ce-id": ""}, Code.INVALID_ID),
        ({"ce-id": "x" * 257}, Code.INVALID_ID),
        ({"ce-id": "a\tb"}, Code.INVALID_ID),
        ({"vm-deadline": "tomorrow"}, Code.INVALID_DEADLINE),
        ({"vm-deadline": "9999-12-31T23:59:59-01:00"}, Code.INVALID_DEADLINE),
        ({"vm-deadline": "0001-01-01T00:00:00+01:00"}, Code.INVALID_DEADLINE),
        ({"vm-deadline": "2030-01-31T12:00:00"}, Code.INVALID_DEADLINE),
        ({"vm-params": "{"}, Code.INVALID_PARAMS),
        ({"vm-params": "[1]"}, Code.INVALID_PARAMS),
        ({"vm-params": '{"confidence": 2}'}, Code.INVALID_PARAMS),
        ({"vm-params": '{"confidense": 0.2}'}, Code.INVALID_PARAMS),
        ({"vm-params": '{"confidence": true}'}, Code.INVALID_PARAMS),
        ({"vm-params": '{"top_k": true}'}, Code.INVALID_PARAMS),
        ({"vm-priority": "urgent"}, Code.INVALID_EVENT),
    ],
)
def test_refuses_what_is_wrong_by_its_code(headers: dict[str, str], code: Code) -> None:
    assert refused(headers) is code


def test_an_unknown_parameter_is_answered_with_those_that_there_are() -> None:
    for headers, query in (({"vm-params": '{"size": 3}'}, {}), ({}, {"size": "3"})):
        with pytest.raises(Reject) as caught:
            parse_params(headers.get("vm-params"), query)
        assert caught.value.message == (
            "size: there is no such parameter; allowed are confidence, iou, top_k, max_detections."
        )


@pytest.mark.parametrize("source", ["BAD", "a b", "x" * 64, ""])
def test_refuses_a_source_that_is_no_token(source: str) -> None:
    with pytest.raises(Reject) as caught:
        parse(model="m", source=source, headers={}, body=b"x")
    assert caught.value.code is Code.INVALID_NAME


def test_refuses_an_empty_body() -> None:
    assert refused({"ce-id": "x"}, b"") is Code.EMPTY_BODY


def read_or_reject(headers: dict[str, str], body: bytes) -> Event | Reject:
    try:
        return read(headers, body)
    except Reject as error:
        return error


names = st.sampled_from(["ce-id", "vm-params", "vm-deadline", "vm-priority", "content-type", "x"])
values: st.SearchStrategy[Any] = st.text(max_size=30) | st.just(STRUCTURED)


@given(st.dictionaries(names, values), st.binary(max_size=60))
def test_any_event_is_read_or_rejected(headers: dict[str, str], body: bytes) -> None:
    outcome = read_or_reject(headers, body)
    if isinstance(outcome, Reject):
        assert outcome.message.endswith((".", "…"))
    else:
        assert outcome.image


@pytest.mark.parametrize(
    ("headers", "body", "id"),
    [
        ({"CE-ID": "7", "vm-params": "{"}, b"image", "7"),
        ({"ce-id": "7"}, b"", "7"),
        ({"content-type": STRUCTURED}, b'{"id": "7"}', "7"),
        ({"content-type": STRUCTURED}, b'{"id": ""}', content_id(b'{"id": ""}')),
        ({"content-type": STRUCTURED}, b"[7]", content_id(b"[7]")),
        ({"content-type": STRUCTURED}, b"{", content_id(b"{")),
        ({"ce-id": "x" * 300}, b"image", content_id(b"image")),
    ],
)
def test_an_event_that_is_refused_keeps_the_id_that_can_be_read(
    headers: dict[str, str], body: bytes, id: str
) -> None:
    refused(headers, body)
    assert id_of(headers=headers, body=body) == id


TRACED = "-".join(("a" * 32, "b" * 16, "01"))


@pytest.mark.parametrize(
    ("parent", "state", "sent"),
    [
        (f"00-{TRACED}", "a=b", (f"00-{TRACED}", "a=b")),
        (f"01-{TRACED}-" + "x" * 100_000, None, (f"00-{TRACED}", None)),
        (f"00-{TRACED}", "a=" + "b" * 100_000, (f"00-{TRACED}", None)),
        ("0" * 100_000, "a=b", (None, None)),
        (None, "a=b", (None, None)),
    ],
    ids=["usual", "later version", "long state", "no context", "state alone"],
)
def test_only_a_trace_context_that_is_one_goes_on(
    parent: str | None, state: str | None, sent: tuple[str | None, str | None]
) -> None:
    document = {"id": "1", "traceparent": parent, "tracestate": state, "data_base64": "QUJD"}
    event = parse(
        model="cats", source="gate", headers={"Content-Type": STRUCTURED},
        body=json.dumps(document).encode(),
    )  # fmt: skip
    headers = event.headers()
    assert (headers.get("traceparent"), headers.get("tracestate")) == sent
