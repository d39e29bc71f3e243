"""One trace over both sides, in the header, with spans that tell how a flow ended."""

import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pyf.station import ServerError, StationClient
from pyf.station.tracing import Tracing

WAIT = 30.0


class Exporter(InMemorySpanExporter):
    """
    Knows when the handler's span is there: a moment after the client has its result, maybe.
    """

    def __init__(self):
        super().__init__()
        self.served = threading.Event()

    def export(self, spans):
        result = super().export(spans)
        if any(span.kind is SpanKind.SERVER for span in spans):
            self.served.set()
        return result


@pytest.fixture
def spans():
    return Exporter()


@pytest.fixture
def provider(spans):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider


def in_thread(flow, client):
    return [trace.get_current_span().get_span_context().trace_id % 2**63, sum(1 for _ in flow)]


async def coroutine(flow, client):
    count = 0
    async for _ in flow:
        count += 1
    return [trace.get_current_span().get_span_context().trace_id % 2**63, count]


def finished(spans):
    assert spans.served.wait(WAIT)
    by_kind = {span.kind: span for span in spans.get_finished_spans()}
    return by_kind[SpanKind.CLIENT], by_kind[SpanKind.SERVER]


@pytest.fixture
def client(serve, provider):
    def make(handler):
        port = serve(handler, interceptors=[Tracing(provider)])
        return StationClient("127.0.0.1", port, True, interceptors=[Tracing(provider)])

    return make


@pytest.mark.parametrize("handler", [in_thread, coroutine])
@pytest.mark.parametrize("header", [None, {"table": "prices"}])
def test_one_trace_spans_client_and_server(client, provider, spans, handler, header):
    """
    Caller, client and handler are of one trace, in this order; the handler's span is its current.
    """
    with provider.get_tracer("mine").start_as_current_span("caller") as caller:
        trace_id, _ = client(handler).send([{"n": 1}, {"n": 2}], header=header)
        assert trace.get_current_span() is caller
    ours, theirs = finished(spans)
    assert theirs.parent.span_id == ours.context.span_id
    assert ours.parent.span_id == caller.get_span_context().span_id
    assert theirs.context.trace_id == ours.context.trace_id
    assert trace_id == ours.context.trace_id % 2**63
    assert ours.attributes["pyf.station.packets"] == 2


def test_a_failure_is_in_both_spans(client, spans, logged_errors):
    """
    Each with the exception that its side sees.
    """

    def fails(flow, client):
        raise ValueError("no")

    with pytest.raises(ServerError):
        client(fails).send([{"n": 1}])
    logged_errors.claim(ValueError)
    ours, theirs = finished(spans)
    assert (ours.status.status_code, theirs.status.status_code) == (StatusCode.ERROR,) * 2
    assert [span.events[0].attributes["exception.type"] for span in (ours, theirs)] == [
        "pyf.transport.errors.ServerError",
        "ValueError",
    ]


def test_an_error_that_is_reported_is_one_of_the_span(client, spans):
    """
    And a header that is no trace context is none.
    """
    with pytest.raises(ServerError):
        client(lambda flow, client: client.error("no")).send([], header={"traceparent": 7})
    _, theirs = finished(spans)
    assert theirs.status.status_code is StatusCode.ERROR


def test_a_call_that_is_given_up_is_no_error(client, spans):
    """
    It is marked as cancelled.
    """
    call = client(in_thread).call({"n": n} for n in range(9))
    next(call)
    call.close()
    (ours,) = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CLIENT]
    assert ours.attributes["pyf.station.cancelled"]
    assert ours.status.status_code is StatusCode.UNSET
