"""What a server does, as metrics for Prometheus: the extra ``metrics``."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import Any, Final

from pyf.station.observe import OUTCOMES, Event
from pyf.station.server import FlowServer

__all__ = ["Metrics"]

BUCKETS: Final = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 86400)
"""Seconds: a flow may be one packet, or last for days."""

_COUNTERS: Final = (
    ("packets_received", "Packets of flows that have come."),
    ("packets_consumed", "Packets that handlers have taken."),
    ("messages_sent", "Messages of handlers that have left."),
)
_GAUGES: Final = {
    "connections": "Clients that are connected.",
    "handlers": "Handlers that have not returned.",
    "stuck": "Those of them whose flow has been ended, so that nobody waits for them.",
    "draining": "Whether the server takes no more clients.",
}


class Metrics:
    """The metrics of *server*, registered with Prometheus's *registry*, its default one if none.

    Numbers are read when somebody asks, also those of flows that still go on; only how long flows
    last is noted as each is finished. Make it before the server listens. Raises ImportError where
    prometheus-client is missing.
    """

    def __init__(self, server: FlowServer, registry: Any = None) -> None:
        import prometheus_client

        self._server = server
        self._observed = server.observe(self._event)
        registry = prometheus_client.REGISTRY if registry is None else registry
        registry.register(self)
        self._seconds = prometheus_client.Histogram(
            "pyf_station_flow_seconds",
            "How long flows lasted, until their handler had returned.",
            ["outcome"],
            buckets=BUCKETS,
            registry=registry,
        )

    def collect(self) -> Iterator[Any]:
        """Return the numbers of now, for Prometheus's library. Callable from any thread."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        server, observed = self._server, self._observed
        for (name, text), value in zip(_COUNTERS, observed.totals, strict=True):
            yield CounterMetricFamily(f"pyf_station_{name}", text, value=value)
        values = (observed.connections, server.handlers, observed.stuck, server.stopping)
        for (name, text), value in zip(_GAUGES.items(), values, strict=True):
            yield GaugeMetricFamily(f"pyf_station_{name}", text, value=float(value))
        finished = CounterMetricFamily(
            "pyf_station_flows", "Flows that have ended, by outcome.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            finished.add_metric([outcome], observed.outcomes[outcome])
        yield finished
        flows = observed.flows
        opened = GaugeMetricFamily(
            "pyf_station_flows_open", "Flows that are open, by who is waited for.", labels=["side"]
        )
        stalled = GaugeMetricFamily(
            "pyf_station_flows_stalled", "Those of them in which nothing moves.", labels=["side"]
        )
        sides = Tally(flow.session.awaited for flow in flows)
        still = Tally(flow.stalled for flow in flows)
        for side in ("client", "handler"):
            opened.add_metric([side], sides[side])
            stalled.add_metric([side], still[side])
        yield from (opened, stalled)

    def _event(self, event: Event) -> None:
        if event.name == "flow_finished":
            self._seconds.labels(event.outcome).observe(event.seconds)


def exposition(server: FlowServer) -> Callable[[], tuple[str, bytes]] | None:
    """Return what gives the content type and the text of *server*'s metrics.

    They have a registry of their own. None where prometheus-client is missing.
    """
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    except ImportError:
        return None
    registry = CollectorRegistry()
    Metrics(server, registry)
    return lambda: (CONTENT_TYPE_LATEST, generate_latest(registry))
