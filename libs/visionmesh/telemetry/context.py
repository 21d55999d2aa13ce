"""The W3C trace context that an image carries through the mesh."""

from __future__ import annotations

import re
from os import urandom
from typing import NamedTuple

# https://www.w3.org/TR/trace-context/#traceparent-header: lower case only, ids not all zero,
# version ff is forbidden, and later versions may append fields behind a dash.
_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})"
    r"-(?P<trace>(?!0{32})[0-9a-f]{32})"
    r"-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-.*)?"
)
_TRACESTATE = re.compile(r"[\t\x20-\x7e]{1,512}")
"""As much as should be passed on at least; what it says is the business of those who wrote it."""
_SAMPLED = 0x01
_LOW_64_BITS = (1 << 64) - 1


class Context(NamedTuple):
    """Where in which trace something happens; ids are lower-case hexadecimal digits."""

    trace_id: str
    """32 digits."""
    span_id: str
    """16 digits."""
    sampled: bool


def new_trace_id() -> str:
    """Return 32 random hexadecimal digits."""
    return urandom(16).hex()


def new_span_id() -> str:
    """Return 16 random hexadecimal digits."""
    return urandom(8).hex()


def parse_traceparent(header: str | None) -> Context | None:
    """Return what a ``traceparent`` header says, or `None` if it is absent or invalid."""
    match = _TRACEPARENT.fullmatch(header) if header is not None else None
    if match is None or (match["version"] == "00" and match["more"] is not None):
        return None
    return Context(match["trace"], match["span"], bool(int(match["flags"], 16) & _SAMPLED))


def kept_tracestate(header: str | None) -> str | None:
    """Return a ``tracestate`` header that can be passed on, or `None`."""
    return header if header is not None and _TRACESTATE.fullmatch(header) else None


def format_traceparent(context: Context) -> str:
    """Return the ``traceparent`` header, version 00, of ``context``."""
    return f"00-{context.trace_id}-{context.span_id}-{'01' if context.sampled else '00'}"


def is_sampled(trace_id: str, *, share: float) -> bool:
    """Say whether a trace belongs to the ``share`` (0 to 1) that is kept.

    Every process answers alike, because only the low 64 bits of the id decide, as in
    OpenTelemetry's `TraceIdRatioBased` sampler.
    """
    return (int(trace_id, 16) & _LOW_64_BITS) < round(share * (1 << 64))
