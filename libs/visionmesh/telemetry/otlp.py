"""Spans on their way to an OpenTelemetry collector."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from visionmesh.telemetry import spans

logger = logging.getLogger(__name__)

_KINDS = {
    spans.SpanKind.INTERNAL: SpanKind.INTERNAL,
    spans.SpanKind.SERVER: SpanKind.SERVER,
    spans.SpanKind.PRODUCER: SpanKind.PRODUCER,
    spans.SpanKind.CONSUMER: SpanKind.CONSUMER,
}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)
_ERROR = Status(StatusCode.ERROR)


class OtlpSink:
    """Sends spans by OTLP over HTTP; says once when the collector is gone and once when it is back.

    Headers, certificates, compression and the timeout come from the ``OTEL_EXPORTER_OTLP_…``
    variables.

    Parameters
    ----------
    endpoint
        The collector's base URL, as in ``OTEL_EXPORTER_OTLP_ENDPOINT``.
    service, node
        ``service.name`` and ``visionmesh.node`` of the resource.
    """

    def __init__(self, *, endpoint: str, service: str, node: str) -> None:
        # The exporter logs every attempt at a collector that is gone; `write` says it once.
        logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)
        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        host = socket.gethostname()
        self._resource = Resource.create(
            {
                "service.name": service,
                "service.namespace": "visionmesh",
                "service.version": version("visionmesh"),
                "service.instance.id": f"{host}-{os.getpid()}",
                "host.name": host,
                "visionmesh.node": node,
            }
        )
        self._scope = InstrumentationScope("visionmesh", version("visionmesh"))
        self._reached = True

    def write(self, batch: Sequence[spans.Recorded]) -> bool:
        result = self._exporter.export([self._convert(span) for span in spans.unfold(batch)])
        reached = result is SpanExportResult.SUCCESS
        if reached != self._reached:
            self._reached = reached
            if reached:
                logger.info("The collector at %s takes spans again.", self._endpoint)
            else:
                logger.warning("The collector at %s takes no spans; dropping.", self._endpoint)
        return reached

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # it is unannotated there

    def _convert(self, span: spans.Span) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace_id, span.span_id, span.tracestate),
            parent=_context(span.trace_id, span.parent_id) if span.parent_id else None,
            resource=self._resource,
            attributes=span.attributes,
            links=[Link(_context(*link)) for link in span.links],
            kind=_KINDS[span.kind],
            status=_UNSET if span.ok else _ERROR,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str, tracestate: str = "") -> SpanContext:
    state = TraceState.from_header([tracestate]) if tracestate else None
    return SpanContext(int(trace_id, 16), int(span_id, 16), False, _SAMPLED, state)
