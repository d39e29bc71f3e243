"""What happens at a server, told as named events to whoever observes; without observers, nothing.

All in the reactor's thread. Nothing here runs for a packet: counts are read off the sessions, once
in a while and when a flow ends.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import count
from typing import Any, Final

from twisted.logger import Logger

from pyf.station.session import Session
from pyf.station.watch import Alarm
from pyf.transport import (
    AuthenticationFailed,
    BadFlowEnding,
    ClientError,
    DeadlineExceeded,
    FlowCancelled,
    Packet,
    RemoteProtocolError,
    StationError,
)

__all__ = ["NAMES", "Event", "LiveFlow", "Observed", "Observer", "log_events", "shown"]

INTERVAL: Final = 1.0
"""Seconds between two looks at the open flows, while some are open and somebody observes."""

STALLED_AFTER: Final = 5.0
"""Seconds without any progress after which a flow counts as stalled."""

HISTORY: Final = 120
"""Looks of which the throughput is remembered."""

NAMES: Final = {
    "connection_opened": "a client has connected",
    "connection_closed": "a connection has ended, after `seconds`",
    "flow_opened": "a handler is started for a flow",
    "flow_refused": "no handler was free for a flow",
    "flow_stalled": "nothing has moved for 5 seconds; `side` is who is waited for",
    "flow_resumed": "something moves again, after `seconds` of standing still",
    "flow_cancelled": "a flow has ended before its time, as `outcome` and `error` say",
    "flow_finished": "a flow is over and its handler has returned: `outcome`, counts, `seconds`",
}
"""The name of each event, and what it says."""

_ENDINGS: Final[dict[type[StationError], str]] = {
    FlowCancelled: "cancelled",
    DeadlineExceeded: "deadline",
    ClientError: "client_failed",
    BadFlowEnding: "lost",
    RemoteProtocolError: "breach",
    AuthenticationFailed: "refused",
}

OUTCOMES: Final = ("success", "error", *_ENDINGS.values())
"""How a flow can end: by its handler's word, or before its time."""

SECRET_WORDS: Final = (
    *("auth", "authorization", "authentication", "authtkt", "bearer", "tkt", "ticket"),
    *("password", "passwd", "passphrase", "passcode", "pwd", "pin", "otp"),
    *("secret", "token", "jwt", "cookie", "credential", "signature"),
    *("apikey", "api key", "access key", "private key", "encryption key", "signing key"),
    *("account key", "client key", "master key", "session key", "shared key", "ssh key"),
    *("session id", "sessionid", "sid"),
)
"""Words of a field's name that make its value a secret: ``user_password``, ``apiKey``, ``X-Auth``.
Whole ones, or their plurals: a ``primary_key``, an ``author`` and a ``keyboard`` are none."""

_SECRET: Final = re.compile(rf"(?<![a-z])(?:{'|'.join(SECRET_WORDS)})s?(?![a-z])")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^a-zA-Z0-9]+")
_MASK: Final = "•••"
_DEPTH: Final = 4

_log: Final = Logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at a server. Counts are as they were then.

    *flow* counts the flows of this server from 1, and is 0 where the event is of a connection;
    *connection* likewise. *received* and *consumed* are packets of the flow, *messages* what went
    back; *seconds* is how long the connection, the flow or the standstill has lasted.
    """

    name: str
    connection: int
    peer: str
    flow: int = 0
    header: Packet | None = None
    received: int = 0
    consumed: int = 0
    messages: int = 0
    seconds: float = 0.0
    side: str = ""
    outcome: str = ""
    error: str = ""


Observer = Callable[[Event], object]
"""Called with each event, in the reactor's thread. What it raises is logged, and harms nobody."""


class LiveFlow:
    """One flow that is open, or whose handler runs on. For the reactor's thread."""

    def __init__(self, number: int, connection: int, session: Session, now: float) -> None:
        self.number: int = number
        self.connection: int = connection
        self.session: Session = session
        self.opened: float = now
        self.rate: float = 0.0
        """Packets received per second, at the last look."""
        self.stalled: str = ""
        """Who is waited for, where nothing has moved for STALLED_AFTER seconds."""
        self.over: bool = False
        self.returned: bool = False
        self.moved: float = now
        """When something moved last, as far as looks tell."""
        self._seen = self.counts
        self._looked = now

    @property
    def counts(self) -> tuple[int, int, int]:
        """Packets received, packets consumed, messages sent."""
        session = self.session
        return session.received, session.consumed, session.sent

    @property
    def outcome(self) -> str:
        """How the flow has ended, one of OUTCOMES; empty while it goes on."""
        ending = self.session.ending
        if ending is None:
            return self.session.status or ""
        return next((name for kind, name in _ENDINGS.items() if isinstance(ending, kind)), "lost")

    def look(self, now: float) -> None:
        """Note what has moved since the last look."""
        before, self._seen = self._seen, self.counts
        seconds, self._looked = now - self._looked, now
        if seconds > 0:
            self.rate = (self._seen[0] - before[0]) / seconds
        if self._seen != before:
            self.moved = now


class Observed:
    """The connections and flows of a server as its observers see them."""

    def __init__(self, reactor: Callable[[], Any], clock: Callable[[], float]) -> None:
        self.observers: list[Observer] = []
        self.history: deque[tuple[float, float]] = deque(maxlen=HISTORY)
        """Moments, and packets received per second just before them, of all flows together."""
        self.outcomes: Counter[str] = Counter()
        """How many flows have ended in which way."""
        self._reactor = reactor
        self.clock: Callable[[], float] = clock
        self._connections: dict[Any, tuple[int, float]] = {}
        self._flows: dict[Session, LiveFlow] = {}
        self._connection_numbers = count(1)
        self._flow_numbers = count(1)
        # Under the lock: a flow is counted either while it goes on, or once it is over.
        self._lock = threading.Lock()
        self._finished = (0, 0, 0)
        self._seen = (0, 0.0)
        self._timer: Alarm | None = None

    @property
    def flows(self) -> list[LiveFlow]:
        """The flows that are open, or whose handler runs on; callable from any thread."""
        return list(self._flows.values())

    @property
    def connections(self) -> int:
        """Connections that are served now."""
        return len(self._connections)

    @property
    def totals(self) -> tuple[int, int, int]:
        """Packets received, packets consumed and messages sent since observing began.

        Callable from any thread.
        """
        with self._lock:
            finished, flows = self._finished, self.flows
        columns = zip(finished, *(flow.counts for flow in flows), strict=True)
        received, consumed, messages = map(sum, columns)
        return received, consumed, messages

    @property
    def stuck(self) -> int:
        """Handlers that run on though their flow was ended; callable from any thread."""
        return sum(flow.session.cancelled for flow in self.flows)

    # What the server tells

    def connected(self, connection: Any) -> None:
        """Note a connection that is served from now on."""
        number = next(self._connection_numbers)
        self._connections[connection] = number, self.clock()
        self._tell("connection_opened", connection=number, peer=text_of(connection.peer))

    def disconnected(self, connection: Any) -> None:
        """Note that a connection has ended."""
        if connection in self._connections:
            number, began = self._connections.pop(connection)
            facts: dict[str, Any] = {"connection": number, "peer": text_of(connection.peer)}
            self._tell("connection_closed", **facts, seconds=self.clock() - began)

    def opened(self, session: Session) -> None:
        """Note a flow whose handler is about to start."""
        number, _ = self._connections.get(session.carrier, (0, 0.0))
        flow = LiveFlow(next(self._flow_numbers), number, session, self.clock())
        self._flows[session] = flow
        session.on_end = self._over
        if self._timer is None:
            self._seen = sum(self.totals[:1]), self.clock()
            self._set_timer()
        self._tell_of("flow_opened", flow)

    def refused(self, session: Session) -> None:
        """Note a flow for which no handler was free."""
        number, _ = self._connections.get(session.carrier, (0, 0.0))
        flow = self._flows.pop(session, None)
        self.outcomes["refused"] += 1
        refused = flow or LiveFlow(0, number, session, self.clock())
        self._tell_of("flow_refused", refused, outcome="refused")
        self._rest()

    def returned(self, session: Session) -> None:
        """Note that the handler of a flow has returned."""
        if flow := self._flows.get(session):
            flow.returned = True
            self._settle(flow)

    def _over(self, session: Session) -> None:
        if flow := self._flows.get(session):
            flow.over = True
            if session.ending is not None:
                error = f"{type(session.ending).__name__}: {session.ending}"
                self._tell_of("flow_cancelled", flow, outcome=flow.outcome, error=error)
            self._settle(flow)

    def _settle(self, flow: LiveFlow) -> None:
        if not flow.over or not flow.returned:
            return
        received, consumed, messages = flow.counts
        done = self._finished
        with self._lock:
            self._finished = done[0] + received, done[1] + consumed, done[2] + messages
            del self._flows[flow.session]
        self.outcomes[flow.outcome] += 1
        self._tell_of("flow_finished", flow, outcome=flow.outcome)
        self._rest()

    # The look at the open flows

    def _set_timer(self) -> None:
        self._timer = Alarm(self._reactor(), self.clock, INTERVAL, self._look)

    def _rest(self) -> None:
        if not self._flows and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._remember(self.clock())

    def _look(self) -> None:
        now = self.clock()
        self._set_timer()
        self._remember(now)
        for flow in self.flows:
            since = flow.moved
            flow.look(now)
            if flow.stalled and flow.moved > since:
                side, flow.stalled = flow.stalled, ""
                self._tell_of("flow_resumed", flow, side=side, seconds=now - since)
            elif not flow.stalled and now - flow.moved >= STALLED_AFTER:
                flow.stalled = flow.session.awaited
                seconds = now - flow.moved
                self._tell_of("flow_stalled", flow, side=flow.stalled, seconds=seconds)

    def _remember(self, now: float) -> None:
        before, then = self._seen
        total = self.totals[0]
        if now > then:
            self.history.append((now, (total - before) / (now - then)))
            self._seen = total, now

    # Telling

    def _tell_of(self, name: str, flow: LiveFlow, **facts: Any) -> None:
        received, consumed, messages = flow.counts
        known: dict[str, Any] = {
            "connection": flow.connection,
            "peer": text_of(flow.session.carrier.peer),
            "flow": flow.number,
            "header": flow.session.header,
            "received": received,
            "consumed": consumed,
            "messages": messages,
            "seconds": self.clock() - flow.opened,
        }
        self._tell(name, **(known | facts))

    def _tell(self, name: str, **facts: Any) -> None:
        event = Event(name=name, **facts)
        for observer in self.observers:
            try:
                observer(event)
            except Exception:  # noqa: BLE001 - what observes must not break what is observed
                _log.failure("an observer failed at {name}", name=name)


def text_of(peer: Any) -> str:
    """Return the address of a client as text."""
    host, port = getattr(peer, "host", None), getattr(peer, "port", None)
    return str(getattr(peer, "name", peer)) if host is None else f"{host}:{port}"


def shown(header: Any, length: int = 200) -> str:
    """Return a header as people may see it: one line, escaped, cut at *length* characters.

    What belongs to a field whose name has one of SECRET_WORDS in it is masked.
    """
    text = repr(_masked(header, _DEPTH)) if header is not None else ""
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def is_secret(name: object) -> bool:
    """Whether what a field of this name holds is for nobody's eyes; see SECRET_WORDS."""
    return _SECRET.search(_HUMP.sub(" ", str(name)).lower()) is not None


def _masked(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        return {
            key: _MASK if is_secret(key) else _masked(each, depth - 1)
            for key, each in list(value.items())[: 20 if depth else 0]
        }
    if isinstance(value, list):
        return [_masked(each, depth - 1) for each in value[: 20 if depth else 0]]
    return value[:200] if isinstance(value, str | bytes) else value


_FORMATS: Final = {
    "connection": "{name} {connection} from {peer}",
    "flow": "{name} {flow} from {peer} {header_text}",
}
_EXTRAS: Final = {
    "flow_stalled": ": waiting for the {side} for {seconds:.1f} s",
    "flow_resumed": ": the {side} was waited for, for {seconds:.1f} s",
    "flow_cancelled": ": {outcome} ({error})",
    "flow_finished": ": {outcome} after {received} packets, {consumed} consumed, {messages}"
    " messages, in {seconds:.3f} s",
}


def log_events(event: Event) -> None:
    """Write *event* to Twisted's log, at level info, each of its facts as a field of its own."""
    # No copy in depth: its handler may be changing the header.
    facts = {field.name: getattr(event, field.name) for field in fields(event)}
    facts["header_text"] = shown(facts.pop("header"))
    kind = event.name.partition("_")[0]
    _log.info(_FORMATS[kind] + _EXTRAS.get(event.name, ""), **facts)
