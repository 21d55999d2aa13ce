"""The bodies of requests, read as Ollama reads them: what is not known is ignored."""

from __future__ import annotations

import asyncio
import binascii
import re
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from visionmesh.contracts import Params
from visionmesh.documents import WIDE, is_wide
from visionmesh.errors import Code, Reject

LARGE = 256 << 10
"""Bytes from which on reading would hold up the event loop noticeably."""
MAX_IMAGES = 64
"""Of one request."""

_ZERO = re.compile(r"-?0+(\.0*)?(ns|us|µs|ms|s|m|h)?")
_INVALID = frozenset({"json_invalid", "model_type"})


class Body(BaseModel):
    """What all requests have."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str = Field("", validation_alias=AliasChoices("model", "name"), max_length=512)
    stream: bool = True


class Asked(Body):
    """What requests for answers have."""

    options: dict[str, Any] | None = None
    format: dict[str, Any] | Literal["", "json"] | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None

    @property
    def params(self) -> Params:
        """What the options say of images; raise `Reject` (invalid_params) if that is wrong."""
        return params_of(self.options or {})

    @property
    def unloads(self) -> bool:
        """Say whether the model is to leave the memory at once."""
        alive = self.keep_alive
        return alive == 0 or (isinstance(alive, str) and _ZERO.fullmatch(alive) is not None)


class Generate(Asked):
    prompt: str | None = None
    suffix: str | None = None
    images: list[str] | None = None


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    role: str
    content: str | None = None
    images: list[str] | None = None


class Chat(Asked):
    messages: list[Message] | None = None
    tools: list[Any] | None = None

    @property
    def images(self) -> list[str]:
        """Those of the last message of the user that has some."""
        seen = (one.images for one in reversed(self.messages or []) if one.role == "user")
        return next((images for images in seen if images), [])


class Embed(Asked):
    input: str | list[str] = ""
    dimensions: int | None = Field(None, ge=1)


class Embeddings(Asked):
    prompt: str = ""


class Create(Body):
    from_: str = Field("", alias="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    quantize: str | None = None
    parameters: dict[str, Any] | None = None


class Copy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str = Field(max_length=512)
    destination: str = Field(max_length=512)


T = TypeVar("T", bound=BaseModel)


async def read(request: Request, kind: type[T]) -> T:
    """Return the body as a ``kind``.

    Raises
    ------
    Reject
        (invalid_request) if it is missing or no such thing; and what reading the body raises.
    """
    body = b"".join([part async for part in request.stream()])
    if not body:
        raise Reject(Code.INVALID_REQUEST, "missing request body")
    if is_wide(body):
        raise Reject(Code.INVALID_REQUEST, WIDE)
    try:
        if len(body) < LARGE:
            return kind.model_validate_json(body)
        return await asyncio.to_thread(kind.model_validate_json, body)
    except ValidationError as error:
        raise Reject(Code.INVALID_REQUEST, _first(error)) from error


def params_of(options: dict[str, Any]) -> Params:
    """Return what options say of images; the others, such as a temperature, are ignored."""
    known = {name: options[name] for name in Params.model_fields if options.get(name) is not None}
    try:
        return Params.model_validate(known)
    except ValidationError as error:
        raise Reject(Code.INVALID_PARAMS, f"options.{_first(error)}") from error


async def decode(images: list[str], *, max_bytes: int) -> list[bytes]:
    """Return the bytes of images in base64.

    Raises
    ------
    Reject
        (invalid_request) if one is no base64, or there are too many; (payload_too_large).
    """
    if len(images) > MAX_IMAGES:
        why = f"A request has at most {MAX_IMAGES} images; send the others in another one."
        raise Reject(Code.INVALID_REQUEST, why)
    if max(map(len, images), default=0) > max_bytes // 3 * 4 + 4:
        raise Reject(Code.PAYLOAD_TOO_LARGE, f"An image has at most {max_bytes:,} bytes.")
    if sum(map(len, images)) < LARGE:
        return _decode(images)
    return await asyncio.to_thread(_decode, images)


def _decode(images: list[str]) -> list[bytes]:
    decoded = []
    for number, image in enumerate(images):
        try:
            decoded.append(binascii.a2b_base64(image, strict_mode=True))
        except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
            why = f"image {number} is not in base64: {error}"
            raise Reject(Code.INVALID_REQUEST, why) from error
    return decoded


def _first(error: ValidationError) -> str:
    """Return what is wrong first, without what was sent: that may be a whole image."""
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] in _INVALID:
        return f"the body is no JSON object that can be read: {first['msg']}"
    where = ".".join(str(part)[:50] for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
