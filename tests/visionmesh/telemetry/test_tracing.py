import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status as WireStatus

from visionmesh.settings import TracingSettings
from visionmesh.telemetry.context import Context, is_sampled, new_span_id, new_trace_id
from visionmesh.telemetry.kept import KeptSpan, read_trace
from visionmesh.telemetry.spans import Recorded, Span, SpanKind, SpanName, messaging
from visionmesh.telemetry.tracing import Pump, Tracing


class Collector(ThreadingHTTPServer):
    """An OTLP endpoint that keeps what it is sent, and answers ``status``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[ResourceSpans] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def spans(self) -> list[WireSpan]:
        return [
            span for each in self.received for scope in each.scope_spans for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.status == 200 and self.path == "/v1/traces":
            self.server.received.extend(ExportTraceServiceRequest.FromString(body).resource_spans)
        self.send_response(self.server.status if self.path == "/v1/traces" else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(collector: Collector) -> Iterator[Collector]:
    thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with serving(Collector()) as collector:
        yield collector


def open_tracing(*, endpoint: str | None = None, state_dir: Path | None = None) -> Tracing:
    return Tracing(
        settings=TracingSettings(otlp_endpoint=endpoint),
        service="infer",
        node="edge-1",
        state_dir=state_dir,
        environment={},
    )


def make_span() -> Span:
    now = time.time_ns()
    return Span(SpanName.ENGINE, new_trace_id(), new_span_id(), new_span_id(), now, now + 5_000_000)


def eventually(predicate: Callable[[], bool], *, within: timedelta = timedelta(seconds=10)) -> None:
    deadline = time.monotonic() + within.total_seconds()
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def values(attributes: Sequence[KeyValue]) -> dict[str, object]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes
    }


def test_a_collector_receives_the_span_as_it_was_recorded(collector: Collector) -> None:
    link = (new_trace_id(), new_span_id())
    span = make_span()._replace(
        kind=SpanKind.CONSUMER,
        attributes=messaging("receive", "EVENTS", more={"messaging.batch.message_count": 6}),
        links=(link,),
        ok=False,
        tracestate="rojo=00f067aa0ba902b7,congo=t61",
    )
    with closing(open_tracing(endpoint=collector.url)) as tracing:
        tracing.record(span)
        eventually(lambda: bool(collector.spans))
    (wire,) = collector.spans
    assert (wire.name, wire.trace_id.hex(), wire.span_id.hex()) == span[:1] + span[1:3]
    assert wire.trace_state == span.tracestate
    assert wire.parent_span_id.hex() == span.parent_id
    assert (wire.start_time_unix_nano, wire.end_time_unix_nano) == (span.start_ns, span.end_ns)
    assert wire.kind == WireSpan.SPAN_KIND_CONSUMER
    assert wire.status.code == WireStatus.STATUS_CODE_ERROR
    assert [(each.trace_id.hex(), each.span_id.hex()) for each in wire.links] == [link]
    assert values(wire.attributes) == {
        "messaging.system": "nats",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "EVENTS",
        "messaging.batch.message_count": 6,
    }


def test_the_resource_says_which_process_of_which_service_it_was(collector: Collector) -> None:
    with closing(open_tracing(endpoint=collector.url)) as tracing:
        tracing.record(make_span())
    resource = values(collector.received[0].resource.attributes)
    assert resource["service.name"] == "infer"
    assert resource["service.namespace"] == "visionmesh"
    assert resource["visionmesh.node"] == "edge-1"
    assert {"service.version", "service.instance.id", "host.name"} <= resource.keys()


def test_closing_sends_what_is_left_and_loses_nothing(collector: Collector) -> None:
    sent = [make_span() for _ in range(1000)]
    with closing(open_tracing(endpoint=collector.url)) as tracing:
        for span in sent:
            tracing.record(span)
    assert {wire.span_id.hex() for wire in collector.spans} == {span.span_id for span in sent}
    assert tracing.dropped == 0


def test_the_endpoint_may_come_from_the_environment(collector: Collector) -> None:
    tracing = Tracing(
        settings=TracingSettings(),
        service="infer",
        node="edge-1",
        state_dir=None,
        environment={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url + "/"},
    )
    with closing(tracing):
        tracing.record(make_span())
    assert len(collector.spans) == 1


def test_a_collector_that_is_gone_costs_spans_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Collector()
    gone.server_close()
    tracing = open_tracing(endpoint=gone.url, state_dir=tmp_path)
    sent = [make_span() for _ in range(300)]
    began = time.monotonic()
    for span in sent:
        tracing.record(span)
    recorded = time.monotonic() - began
    with caplog.at_level(logging.INFO):
        tracing.close(grace=timedelta(milliseconds=300))
    assert recorded < 0.5
    assert time.monotonic() - began < 5
    assert tracing.dropped == 300
    assert read_trace(tmp_path, sent[-1].trace_id) == [KeptSpan("infer", sent[-1])]
    assert not [each for each in caplog.records if each.name.startswith("opentelemetry")]


def test_a_collector_that_comes_back_is_used_again(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 400  # not worth a retry
    with closing(open_tracing(endpoint=collector.url)) as tracing:
        tracing.record(make_span())
        tracing.record(make_span())
        eventually(lambda: tracing.dropped == 2)
        collector.status = 200
        tracing.record(make_span())
        eventually(lambda: len(collector.spans) == 1)
    said = [each.getMessage() for each in caplog.records if each.name.startswith("visionmesh")]
    assert len([line for line in said if "takes no spans" in line]) == 1


class Stuck:
    """A sink that takes nothing until it is closed."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.closed = threading.Event()

    def write(self, _: Sequence[Recorded]) -> bool:
        self.entered.set()
        self.closed.wait()
        return False

    def close(self) -> None:
        self.closed.set()


def test_a_full_buffer_drops_the_newest_and_counts_them() -> None:
    sink = Stuck()
    pump = Pump(sink=sink, capacity=10)
    pump.put(make_span())
    assert sink.entered.wait(5)
    for _ in range(15):
        pump.put(make_span())
    assert pump.dropped == 5
    pump.close(grace=timedelta(0))
    eventually(lambda: pump.dropped == 16)


def test_spans_are_kept_without_waiting_for_the_end(tmp_path: Path) -> None:
    span = make_span()
    with closing(open_tracing(state_dir=tmp_path)) as tracing:
        tracing.record(span)
        eventually(lambda: read_trace(tmp_path, span.trace_id) == [KeptSpan("infer", span)])


def test_a_producer_s_trace_goes_on_in_a_new_span(tmp_path: Path) -> None:
    producer = Context(new_trace_id(), new_span_id(), True)
    with closing(open_tracing(state_dir=tmp_path)) as tracing:
        root = tracing.begin(producer)
    assert (root.trace_id, root.sampled) == (producer.trace_id, True)
    assert root.span_id != producer.span_id


def test_a_producer_who_does_not_sample_is_passed_on(tmp_path: Path) -> None:
    producer = Context(new_trace_id(), new_span_id(), False)
    with closing(open_tracing(state_dir=tmp_path)) as tracing:
        assert tracing.begin(producer) == producer


def test_without_a_producers_decision_the_share_decides(tmp_path: Path) -> None:
    settings = TracingSettings(sample=0.5)
    tracing = Tracing(
        settings=settings, service="ingest", node="n", state_dir=tmp_path, environment={}
    )
    with closing(tracing):
        roots = [tracing.begin(None) for _ in range(200)]
    assert [root.sampled for root in roots] == [
        is_sampled(root.trace_id, share=0.5) for root in roots
    ]
    assert {root.sampled for root in roots} == {True, False}


def test_where_nobody_takes_spans_a_producer_s_context_is_passed_on() -> None:
    before = threading.active_count()
    producer = Context(new_trace_id(), new_span_id(), True)
    with closing(open_tracing()) as tracing:
        assert tracing.begin(producer) == producer
        assert not tracing.begin(None).sampled
        assert threading.active_count() == before
