"""References of images, with everything that a test does not care about filled in."""

from __future__ import annotations

import itertools
import time
from typing import Any

from visionmesh.contracts import Reference, Result, Status
from visionmesh.telemetry.context import Context, format_traceparent, new_span_id, new_trace_id

_numbers = itertools.count()


def make_reference(**changes: Any) -> Reference:
    """Return the reference of an image that no other call returns."""
    fields: dict[str, Any] = {
        "id": f"event-{next(_numbers)}",
        "source": "source",
        "model": "model",
        "version": 1,
        "sha256": "0" * 64,
        "received_ns": time.time_ns(),
    }
    return Reference(**(fields | changes))


def make_result(reference: Reference, **changes: Any) -> Result:
    """Return a result of the image."""
    fields: dict[str, Any] = {"status": Status.OK, "version": reference.version}
    names = {"id": reference.id, "source": reference.source, "model": reference.model}
    return Result(**(names | fields | changes))


def new_traceparent() -> str:
    """Return the context of a sampled image."""
    return format_traceparent(Context(new_trace_id(), new_span_id(), sampled=True))
