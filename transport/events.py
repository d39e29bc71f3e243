"""What a connection tells its owner: frozen events, one class for each thing that can happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyf.transport import census, payloads, speed
from pyf.transport.census import Bounds
from pyf.transport.frames import RESULT, Batch
from pyf.transport.packet import Packet
from pyf.transport.resume import Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something the peer did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEvent(Event):
    """Something the peer did on one flow."""

    flow_id: int
    """The flow, by the number its client gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloReceived(Event):
    """The peer has introduced itself: sending is no longer bound to the initial credit."""

    max_packet: int
    """Largest packet, in bytes, that the peer takes."""
    min_ping_interval: float
    """Seconds that the peer wants between two PINGs, at least."""
    software: str
    """Name and version that the peer gives itself; for logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowOpened(FlowEvent):
    """A client has opened a flow."""

    header: Packet | None
    """The header, or None where the flow's first packet is the header."""
    timeout: float | None
    """Seconds that the client gives the whole call, or None."""
    waits: bool
    """Whether the client waits for the result; if not, it may close behind its END."""
    length_hint: int | None = None
    """Packets that the flow will probably have, where the client knows; nothing relies on it."""
    resume: int | None = None
    """Bytes of packets that the client keeps, for the flow to go on over another connection; None
    where it does not ask for that."""
    name: str | None = None
    """Which flow it is, across sessions; None where it is a new one each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketsReceived(FlowEvent):
    """Packets came: DATA at the server, MESSAGE at the client."""

    batch: Batch
    """The packets, to be decoded where they are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEnded(FlowEvent):
    """The client has sent all of its flow; nothing is missing."""

    count: int
    """Packets in the flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowAborted(FlowEvent):
    """The client's generator failed."""

    count: int
    """Packets that were sent before it did."""
    error_class: str
    """Name of the exception's class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowAbandoned(FlowEvent):
    """The client has given the flow up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStopped(FlowEvent):
    """The server takes no more packets of the flow; its result is still to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReceived(FlowEvent):
    """The server's last word on a flow."""

    consumed: int
    """Packets that the handler had taken."""
    status: str
    """``"success"``, ``"error"``, ``"refused"``, ``"cancelled"`` or ``"deadline"``."""
    value: Any
    """What the handler succeeded with."""
    error: dict[str, Any]
    """Facts of a failure: code, error_class, error_id, message, traceback; None if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateResult(FlowEvent):
    """The server's last word on a flow, not decoded yet, where that takes long."""

    payload: bytes
    """That of the frame."""
    bounds: Bounds
    """What it may cost as objects."""

    def decode(self) -> ResultReceived:
        """Return the result; raises RemoteProtocolError if it is none."""
        return decode_result(self.flow_id, self.payload, self.bounds)


def read_result(flow_id: int, payload: bytes, bounds: Bounds) -> ResultReceived | LateResult:
    """Return what a RESULT says, but decoded later where that could keep an event loop busy.

    Raises RemoteProtocolError.
    """
    if census.is_heavy(memoryview(payload)[RESULT.size :], bounds):
        return LateResult(flow_id=flow_id, payload=payload, bounds=bounds)
    return decode_result(flow_id, payload, bounds)


def decode_result(flow_id: int, payload: bytes, bounds: Bounds) -> ResultReceived:
    """Return what a RESULT says; raises RemoteProtocolError."""
    consumed, _, status, value, error = payloads.decode_result(payload, bounds)
    return speed.frozen(
        ResultReceived,
        flow_id=flow_id,
        consumed=consumed,
        status=status,
        value=value,
        error=error,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditReceived(FlowEvent):
    """More may be sent."""

    consumed: int
    """Packets that the peer's user has taken so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PongReceived(Event):
    """The answer to a PING of ours."""

    token: int
    """The number that the PING carried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoAwayReceived(Event):
    """The peer takes no new flows, and says why."""

    last_flow: int
    """The last flow that the peer will serve."""
    code: str
    """``"draining"``, or the code of a protocol error."""
    message: str
    """The reason, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClosed(Event):
    """The peer has closed its side."""

    mid_frame: bool
    """Whether a frame was cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened(FlowEvent):
    """The flow can go on over another connection."""

    ticket: Ticket
    """What to come back with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested(FlowEvent):
    """A client wants a flow of another connection to go on here."""

    boot_id: bytes
    """The run of the server that has opened the session."""
    session_id: bytes
    """The session."""
    token: bytes
    """The secret that shows that the session is the client's."""
    received_back: int
    """Messages that the client has received."""
    first_available: int
    """Number of the first packet that the client still has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowResumed(FlowEvent):
    """The flow goes on, under the number that it has on this connection."""

    token: bytes
    """The token for the next time."""
    generation: int
    """How many connections have carried the flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRejected(FlowEvent):
    """The flow does not go on here."""

    code: str
    """Why: a code of the wire specification."""
    message: str
    """Why, for people."""
    final: bool
    """Whether it never will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultAcknowledged(FlowEvent):
    """The client has the result: it need not be kept. The flow may be one that closed long ago."""
