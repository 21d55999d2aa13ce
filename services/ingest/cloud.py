"""CloudEvents by HTTP: an event in either mode, or a bare image, of one request."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping

from visionmesh.errors import Code, Reject
from visionmesh.events import Event, compose, unfold
from visionmesh.subjects import is_token, name_fault

UNNAMED = "http"
"""The source of events that name none."""

_BETWEEN = re.compile(r"[^a-z0-9]+")
_READABLE = 50
"""Characters of a source's URI that its name keeps."""


def read(
    *, model: str, headers: Mapping[str, str], body: bytes, source: str | None = None
) -> Event:
    """Return the event in a request; one that names no id gets a new one.

    ``source`` beats the event's own, whose URI becomes a name as `source_name` says.

    Raises
    ------
    Reject
        As `visionmesh.events.parse`.
    """
    if source is not None and not is_token(source):
        raise Reject(Code.INVALID_NAME, name_fault("source", source))
    attributes, image = unfold(headers, body)
    attributes.setdefault("ce-id", uuid.uuid4().hex)
    name = source or source_name(attributes.get("ce-source", "")) or UNNAMED
    return compose(model=model, source=name, attributes=attributes, image=image)


def source_name(uri: str) -> str:
    """Return the name of the source with this URI: itself if it is a name, else one like it.

    Different URIs have different names, for ids are unique within their source only.
    """
    if not uri or is_token(uri):
        return uri
    readable = _BETWEEN.sub("-", uri.lower()).strip("-")[:_READABLE].rstrip("-")
    number = hashlib.sha256(uri.encode()).hexdigest()[:8]
    return f"{readable}-{number}" if readable else number
