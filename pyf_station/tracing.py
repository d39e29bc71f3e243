"""One trace over client and server, by OpenTelemetry: the extra ``tracing``.

The trace context travels in the header's field ``traceparent``, as the W3C writes it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from pyf.station.intercept import Interception

__all__ = ["Tracing"]


class Tracing:
    """An interceptor, for either side: a span around each flow.

    At the server it is the current span while the handler runs, and continues the client's trace
    where the header tells of one. *provider* is OpenTelemetry's global one if not given. Raises
    ImportError where opentelemetry-api is missing.
    """

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("pyf.station", tracer_provider=provider)

    @contextmanager
    def __call__(self, call: Interception) -> Generator[None]:
        """Run *call* inside a span."""
        server = call.side == "server"
        span = self._tracer.start_span(
            "pyf.station flow",
            context=extract(_texts(call.header)) if server else None,
            kind=SpanKind.SERVER if server else SpanKind.CLIENT,
        )
        try:
            if server:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    yield
            else:
                # Not the current one: between two packets, it is the caller's code that runs.
                call.map_header(lambda header: _injected(span, header))
                yield
        except GeneratorExit:
            span.set_attribute("pyf.station.cancelled", True)
            raise
        except BaseException as error:
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        else:
            if call.status == "error":
                span.set_status(Status(StatusCode.ERROR))
        finally:
            span.set_attribute("pyf.station.packets", call.packets)
            span.set_attribute("pyf.station.messages", call.messages)
            span.end()


def _texts(header: Any) -> dict[str, str]:
    """Return what a peer's header can tell of a trace."""
    fields = ("traceparent", "tracestate", "baggage")
    return {name: header[name] for name in fields if isinstance((header or {}).get(name), str)}


def _injected(span: Span, header: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, str] = {}
    inject(fields, context=trace.set_span_in_context(span))
    return {**header, **fields}
