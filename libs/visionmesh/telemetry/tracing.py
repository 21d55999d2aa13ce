"""Recording spans without disturbing the one who records.

A stage hands over plain tuples after the fact; each sink has a bounded buffer and a thread of its
own. A sink that is slow or gone loses spans, which are counted, and nothing else happens.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Protocol

from visionmesh.settings import TracingSettings
from visionmesh.telemetry.context import Context, is_sampled, new_span_id, new_trace_id
from visionmesh.telemetry.kept import SpanFiles
from visionmesh.telemetry.spans import Recorded

CAPACITY = 16_384
"""Spans that wait for one sink: about 15 s of 120 images per second, about 15 MB."""

BATCH = 128
"""Spans per write: encoding them for OTLP holds the interpreter's lock for a few milliseconds."""

INTERVAL = timedelta(milliseconds=250)
"""How long a span may lie in the buffer before its sink is woken."""

GRACE = timedelta(seconds=2)
"""How long `Tracing.close` waits for the sinks to take what is left."""


class Sink(Protocol):
    """Where spans go. Both methods are called from threads other than the event loop's."""

    def write(self, spans: Sequence[Recorded]) -> bool:
        """Take the spans; `False` if they are lost."""

    def close(self) -> None:
        """Let go of everything, also of a `write` that waits."""


class Pump:
    """Carries spans from a bounded buffer to one sink, in a thread."""

    def __init__(self, *, sink: Sink, capacity: int = CAPACITY) -> None:
        self._sink = sink
        self._capacity = capacity
        self._buffer: deque[Recorded] = deque()
        self._overflown = 0
        self._lost = 0
        self._stopping = Event()
        self._thread = Thread(target=self._run, name=type(sink).__name__, daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many records never reached the sink; one holds the spans of an image in a stage."""
        return self._overflown + self._lost

    def put(self, span: Recorded) -> None:
        if len(self._buffer) < self._capacity:
            self._buffer.append(span)
        else:
            self._overflown += 1

    def close(self, *, grace: timedelta) -> None:
        """Write what is left, for at most ``grace``, then give up; at most as long again."""
        self._stopping.set()
        self._thread.join(grace.total_seconds())
        left = len(self._buffer)
        self._buffer.clear()
        self._overflown += left
        self._sink.close()
        # A write that was cut short is counted by its own thread.
        self._thread.join(grace.total_seconds())

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL.total_seconds()):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        while batch := self._take():
            if not self._sink.write(batch):
                self._lost += len(batch)

    def _take(self) -> list[Recorded]:
        batch: list[Recorded] = []
        while self._buffer and len(batch) < BATCH:
            batch.append(self._buffer.popleft())
        return batch


class Tracing:
    """The spans of one process: to a collector by OTLP, to files of an embedded mesh, or to both.

    Parameters
    ----------
    settings
        Where to, and which share of the traces that no producer decided about.
    service
        ``service.name``: the stage.
    node
        The host's name in the mesh.
    state_dir
        The state folder of an embedded mesh, where `visionmesh.telemetry.kept.read_trace` finds
        the spans; `None` keeps none.
    environment
        Where ``OTEL_EXPORTER_OTLP_ENDPOINT`` is looked for; the process's own by default.
    """

    def __init__(
        self,
        *,
        settings: TracingSettings,
        service: str,
        node: str,
        state_dir: Path | None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._share = settings.sample
        sinks: list[Sink] = []
        endpoint = settings.otlp_endpoint or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        if endpoint:
            # The SDK and its exporter take 12 MB, which a service without a collector saves.
            from visionmesh.telemetry.otlp import OtlpSink  # noqa: PLC0415

            sinks.append(OtlpSink(endpoint=endpoint, service=service, node=node))
        if state_dir is not None and settings.keep_bytes > 0:
            sinks.append(
                SpanFiles(state_dir=state_dir, service=service, keep_bytes=settings.keep_bytes)
            )
        self._pumps = [Pump(sink=sink) for sink in sinks]

    @property
    def dropped(self) -> int:
        """How many records were lost so far, over all sinks."""
        return sum(pump.dropped for pump in self._pumps)

    @property
    def recording(self) -> bool:
        """Whether there is a sink."""
        return bool(self._pumps)

    def begin(self, producer: Context | None) -> Context:
        """Return the context of a new root span, in the producer's trace if there is one.

        The producer's decision whether to sample is kept; without one, the settings decide, and
        nothing is sampled where there is no sink. Where no root would be recorded, a producer's
        own context is returned: what follows the mesh is to name a span that there is.
        """
        if producer is not None:
            recorded = producer.sampled and self.recording
            return producer._replace(span_id=new_span_id()) if recorded else producer
        trace_id = new_trace_id()
        wanted = is_sampled(trace_id, share=self._share)
        return Context(trace_id, new_span_id(), wanted and self.recording)

    def record(self, span: Recorded) -> None:
        """Take a span of a sampled trace; about a microsecond, never blocks, never raises."""
        for pump in self._pumps:
            pump.put(span)

    def close(self, *, grace: timedelta = GRACE) -> None:
        """Write what is left, for at most ``grace`` per sink; blocks, so call it in a thread."""
        for pump in self._pumps:
            pump.close(grace=grace)
