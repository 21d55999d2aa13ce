"""What a request of our own REST interface brings: images, and what is asked of each."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from services.ingest.gateway import AT_ONCE
from services.ingest.limits import load_of
from services.ingest.presence import while_present
from services.ingest.urls import OF_ONE_REQUEST, Count, Urls
from visionmesh.contracts import Frozen, Params
from visionmesh.documents import WIDE, is_wide
from visionmesh.errors import Code, Reject
from visionmesh.events import Event, parse_deadline, parse_id, parse_params, parse_priority
from visionmesh.subjects import is_token, name_fault
from visionmesh.tasks import end

LARGE = 256 << 10
"""Bytes of JSON from which on reading it would hold up the event loop noticeably."""
SOURCE = "http"
"""Of images that name none."""


class ImageData(Frozen):
    """An image in the request itself."""

    data: str
    """In base64."""
    params: Params = Params()


class ImageUrl(Frozen):
    """An image that the mesh fetches."""

    url: str
    params: Params = Params()


Named = ImageData | ImageUrl
NAMED: TypeAdapter[Named | list[Named]] = TypeAdapter(Named | list[Named])


class Image(NamedTuple):
    """One image, and the parameters that were given with it alone."""

    content: bytes
    params: Mapping[str, Any] = {}


class Asked(NamedTuple):
    """The images of a request; ``several``: their results come in a list, be it of one."""

    images: list[Image]
    several: bool = False


async def read_asked(request: Request, urls: Urls) -> Asked:
    """Read the images in a body: one as it is, those of a form, or those that JSON names.

    Raises
    ------
    Reject
        (unsupported_media) if the body is compressed as a whole; (invalid_event, empty_body) if a
        form is none or has no file; (invalid_request) if JSON is not as it must be;
        (url_refused); and what reading the body raises.
    Refused
        (mesh_full) if too many images of other requests are being fetched.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        why = f"Send the body as it is, without Content-Encoding {encoding!r}."
        raise Reject(Code.UNSUPPORTED_MEDIA, why)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _of_form(request)
    if kind == "application/json":
        return await _of_json(request, urls)
    return Asked([Image(await request.body())])


def events_of(
    request: Request,
    model: str,
    asked: Asked,
    *,
    query: Mapping[str, str] | None = None,
    source: str | None = None,
) -> list[Event]:
    """Return the images as events; parameters in the query win, then an image's own, then others.

    ``query`` is that of the request where only some of it are parameters.

    Raises
    ------
    Reject
        With the code of the header or parameter that is wrong.
    """
    headers = request.headers
    id = parse_id(headers["ce-id"]) if "ce-id" in headers else uuid.uuid4().hex
    winning = parse_params(None, request.query_params if query is None else query)
    if source is not None and not is_token(source):
        raise Reject(Code.INVALID_NAME, name_fault("source", source))
    return [
        Event(
            id=parse_id(f"{id}-{number}") if asked.several else id,
            source=source or SOURCE,
            model=model,
            image=image.content,
            params=_merged(parse_params(headers.get("vm-params"), image.params), winning),
            priority=parse_priority(headers.get("vm-priority")),
            deadline_ns=parse_deadline(headers.get("vm-deadline")),
            traceparent=headers.get("traceparent"),
            tracestate=",".join(headers.getlist("tracestate")) or None,
        )
        for number, image in enumerate(asked.images, 1)
    ]


def _merged(params: Params, winning: Params) -> Params:
    return params.model_copy(update=winning.model_dump(exclude_none=True))


async def _of_form(request: Request) -> Asked:
    try:
        async with request.form(max_files=AT_ONCE) as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            images = [Image(await file.read(), fields) for file in files]
    except HTTPException as error:
        why = f"The form cannot be read: {error.detail}"
        raise Reject(Code.INVALID_EVENT, why) from error
    if not images:
        raise Reject(Code.EMPTY_BODY, "The form has no file: send the image as a file part.")
    return Asked(images, several=len(images) > 1)


async def _of_json(request: Request, urls: Urls) -> Asked:
    body = await request.body()
    reading = _read(body) if len(body) < LARGE else await asyncio.to_thread(_read, body)
    named = reading if isinstance(reading, list) else [reading]
    images = [one for one in named if isinstance(one, Image)]
    if len(images) < len(named):
        fetching = _fetched(named, urls, load_of(request.scope).add)
        images = await while_present(request.receive, fetching)
    return Asked(images, several=isinstance(reading, list))


async def _fetched(named: Sequence[Image | ImageUrl], urls: Urls, count: Count) -> list[Image]:
    """Return all images, in their order; the first that cannot be fetched ends the rest."""
    places = asyncio.Semaphore(OF_ONE_REQUEST)

    async def image(one: Image | ImageUrl) -> Image:
        if isinstance(one, Image):
            return one
        async with places:
            return _image(await urls.fetch(one.url, count=count), one.params)

    fetching = [asyncio.create_task(image(one)) for one in named]
    try:
        return await asyncio.gather(*fetching)
    finally:
        await end(fetching)


def _read(body: bytes) -> Image | ImageUrl | list[Image | ImageUrl]:
    """Return the images that JSON holds, and those that it names."""
    reading = _parse(body)
    if not isinstance(reading, list):
        return _held(reading)
    if not 1 <= len(reading) <= AT_ONCE:
        why = f"A list has 1 to {AT_ONCE} images, this one {len(reading)}."
        raise Reject(Code.INVALID_REQUEST, why)
    return [_held(one) for one in reading]


def _held(one: Named) -> Image | ImageUrl:
    return one if isinstance(one, ImageUrl) else _image(_decoded(one.data), one.params)


def _image(content: bytes, params: Params) -> Image:
    return Image(content, params.model_dump(exclude_none=True))


def _parse(body: bytes) -> Named | list[Named]:
    if is_wide(body):
        raise Reject(Code.INVALID_REQUEST, WIDE)
    try:
        return NAMED.validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        # Where the members of the union are named, only what they have is of use.
        where = ".".join(str(part) for part in first["loc"] if str(part)[:1].islower())
        raise Reject(
            Code.INVALID_REQUEST,
            'The body must be JSON such as {"data": "…base64…"} or {"url": "https://…"}, with '
            f"params if wanted, or a list of these. {where}: {first['msg']}.",
        ) from error


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:  # also of text that is not ASCII
        raise Reject(Code.INVALID_REQUEST, f"data is not base64: {error}.") from error
