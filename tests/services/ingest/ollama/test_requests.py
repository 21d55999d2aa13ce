"""What is read of the bodies of requests, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from services.ingest.ollama.requests import Chat, Create, Generate, decode, params_of, read
from visionmesh.contracts import Params
from visionmesh.errors import Code, Reject

LIMIT = 1 << 16
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = (
    "model",
    "name",
    "images",
    "options",
    "format",
    "keep_alive",
    "stream",
    "messages",
    "think",
)


def request_of(*parts: bytes) -> Request:
    left = list(parts)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def refusal(work: Awaitable[object]) -> Reject | None:
    try:
        await work
    except Reject as error:
        return error
    return None


async def test_a_body_is_read_in_pieces() -> None:
    body = json.dumps({"name": "trees", "prompt": "p", "more": 1}).encode()
    asked = await read(request_of(body[:5], body[5:]), Generate)
    assert (asked.model, asked.prompt, asked.stream) == ("trees", "p", True)


@given(st.binary())
async def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    error = await refusal(read(request_of(body), Generate))
    assert error is None or error.code is Code.INVALID_REQUEST


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
async def test_any_json_is_read_or_refused_with_a_short_text(value: dict[str, Any]) -> None:
    async def understand(kind: type[Generate] | type[Chat] | type[Create]) -> None:
        asked = await read(request_of(json.dumps(value).encode()), kind)
        if isinstance(asked, Generate | Chat):
            assert asked.unloads in (True, False)
            assert asked.params is not None

    for kind in (Generate, Chat, Create):
        error = await refusal(understand(kind))
        assert error is None or len(error.message) < 500


@pytest.mark.parametrize("alive", [0, 0.0, "0", "0s", "-0", "0.0m", "0ms"])
def test_nothing_is_no_time_to_stay(alive: float | str) -> None:
    assert Generate(model="trees", keep_alive=alive).unloads


@pytest.mark.parametrize("alive", [None, -1, 5, "5m", "10s", "", "s", "0x"])
def test_all_else_is_a_time_to_stay(alive: float | str | None) -> None:
    assert not Generate(model="trees", keep_alive=alive).unloads


def test_options_for_language_models_are_ignored() -> None:
    asked = {"temperature": 0, "num_ctx": 4096, "confidence": 0.5, "top_k": None}
    assert params_of(asked) == Params(confidence=0.5)


def test_the_images_are_those_of_the_last_message_of_the_user_that_has_some() -> None:
    messages = [
        {"role": "user", "images": ["a"]},
        {"role": "user", "images": ["b", "c"]},
        {"role": "assistant", "content": "2 cats", "images": ["d"]},
        {"role": "user", "content": "Sure?"},
    ]
    assert Chat.model_validate({"messages": messages}).images == ["b", "c"]


@given(st.lists(st.binary(), max_size=4))
async def test_images_come_back_from_base64(images: list[bytes]) -> None:
    sent = [base64.b64encode(image).decode() for image in images]
    assert await decode(sent, max_bytes=LIMIT) == images


@given(st.text())
async def test_any_text_is_an_image_or_refused(text: str) -> None:
    with suppress(Reject):
        (image,) = await decode([text], max_bytes=LIMIT)
        assert base64.b64encode(image).decode() == text


async def test_an_image_that_is_too_large_is_not_decoded() -> None:
    with pytest.raises(Reject) as refused:
        await decode(["A" * 1000], max_bytes=600)
    assert refused.value.code is Code.PAYLOAD_TOO_LARGE
