"""Who may send which frame, and when: the legal moves, as tables. What is absent is illegal.

The same tables serve the side that sends and the side that receives, for each applies the frames
in the order in which it sees them. The wire specification prints these tables.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from pyf.transport.errors import LocalProtocolError
from pyf.transport.frames import FrameType


class Named(Enum):
    """An enumeration whose members are looked up for each frame: hashed as any object, in C."""

    if TYPE_CHECKING:

        def __hash__(self) -> int: ...

    else:
        __hash__ = object.__hash__


class Role(Named):
    """The two ends of a connection."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class ConnectionState(Named):
    """Where a connection stands, seen by the side that receives."""

    AWAITING_HELLO = "awaiting hello"
    """Nothing has come yet."""
    REFUSED = "refused"
    """The peer has sent a GOAWAY in place of its HELLO."""
    READY = "ready"
    """Both sides may open and serve flows."""
    DRAINING = "draining"
    """The peer has sent a GOAWAY; the flows that are open go on."""
    CLOSED = "closed"
    """Nothing is taken any more: the peer has closed its side, or broken the protocol."""


class FlowState(Named):
    """Where a flow stands."""

    IDLE = "idle"
    """Not opened yet."""
    RESUMING = "resuming"
    """The client wants a flow of another connection to go on here; no answer yet."""
    STREAMING = "streaming"
    """The client sends packets, the server may answer."""
    STOPPED = "stopped"
    """The server takes no more packets, and may still answer; those that came are dropped."""
    ENDED = "ended"
    """The client has sent its END; the server may still answer."""
    ANSWERED = "answered"
    """The server has sent its RESULT; what the client sent meanwhile is dropped."""
    ABANDONED = "abandoned"
    """The client has given up (ABORT or CANCEL); what the server sent meanwhile is dropped."""
    CLOSED = "closed"
    """Both sides have said their last word."""


SENDERS: dict[FrameType, frozenset[Role]] = {
    FrameType.HELLO: frozenset(Role),
    FrameType.OPEN: frozenset({Role.CLIENT}),
    FrameType.DATA: frozenset({Role.CLIENT}),
    FrameType.END: frozenset({Role.CLIENT}),
    FrameType.ABORT: frozenset({Role.CLIENT}),
    FrameType.CANCEL: frozenset({Role.CLIENT}),
    FrameType.MESSAGE: frozenset({Role.SERVER}),
    FrameType.RESULT: frozenset({Role.SERVER}),
    FrameType.CREDIT: frozenset(Role),
    FrameType.PING: frozenset(Role),
    FrameType.PONG: frozenset(Role),
    FrameType.GOAWAY: frozenset(Role),
    FrameType.STOP: frozenset({Role.SERVER}),
    FrameType.OPENED: frozenset({Role.SERVER}),
    FrameType.RESUME: frozenset({Role.CLIENT}),
    FrameType.RESUMED: frozenset({Role.SERVER}),
    FrameType.REJECT: frozenset({Role.SERVER}),
    FrameType.ACK: frozenset({Role.CLIENT}),
}
"""Who may send a frame at all."""

_C, _F = ConnectionState, FrameType

_ANY_TIME = (_F.PING, _F.PONG)
_ON_FLOWS = (
    *(_F.DATA, _F.END, _F.ABORT, _F.CANCEL, _F.MESSAGE, _F.RESULT, _F.CREDIT),
    *(_F.OPENED, _F.RESUMED, _F.REJECT, _F.ACK, _F.STOP),
)

CONNECTION_MOVES: dict[tuple[ConnectionState, FrameType], ConnectionState] = {
    (_C.AWAITING_HELLO, _F.HELLO): _C.READY,
    (_C.AWAITING_HELLO, _F.GOAWAY): _C.REFUSED,
    (_C.REFUSED, _F.GOAWAY): _C.REFUSED,
    (_C.READY, _F.OPEN): _C.READY,
    (_C.READY, _F.RESUME): _C.READY,
    **{(_C.READY, frame): _C.READY for frame in (*_ON_FLOWS, *_ANY_TIME)},
    (_C.READY, _F.GOAWAY): _C.DRAINING,
    **{(_C.DRAINING, frame): _C.DRAINING for frame in (*_ON_FLOWS, *_ANY_TIME)},
    (_C.DRAINING, _F.GOAWAY): _C.DRAINING,
}
"""Connection state and received frame give the next connection state."""

_S = FlowState

FLOW_MOVES: dict[tuple[FlowState, FrameType], FlowState] = {
    (_S.IDLE, _F.OPEN): _S.STREAMING,
    (_S.IDLE, _F.RESUME): _S.RESUMING,
    (_S.RESUMING, _F.RESUMED): _S.STREAMING,
    (_S.RESUMING, _F.REJECT): _S.CLOSED,
    (_S.STREAMING, _F.OPENED): _S.STREAMING,
    (_S.STREAMING, _F.DATA): _S.STREAMING,
    (_S.STREAMING, _F.MESSAGE): _S.STREAMING,
    (_S.STREAMING, _F.CREDIT): _S.STREAMING,
    (_S.STREAMING, _F.END): _S.ENDED,
    (_S.STREAMING, _F.ABORT): _S.ABANDONED,
    (_S.STREAMING, _F.CANCEL): _S.ABANDONED,
    (_S.STREAMING, _F.STOP): _S.STOPPED,
    (_S.STREAMING, _F.RESULT): _S.ANSWERED,
    (_S.STOPPED, _F.DATA): _S.STOPPED,
    (_S.STOPPED, _F.MESSAGE): _S.STOPPED,
    (_S.STOPPED, _F.CREDIT): _S.STOPPED,
    (_S.STOPPED, _F.END): _S.ENDED,
    (_S.STOPPED, _F.ABORT): _S.ABANDONED,
    (_S.STOPPED, _F.CANCEL): _S.ABANDONED,
    (_S.STOPPED, _F.RESULT): _S.ANSWERED,
    (_S.ENDED, _F.STOP): _S.ENDED,
    (_S.ENDED, _F.OPENED): _S.ENDED,
    (_S.ENDED, _F.MESSAGE): _S.ENDED,
    (_S.ENDED, _F.CREDIT): _S.ENDED,
    (_S.ENDED, _F.CANCEL): _S.ABANDONED,
    (_S.ENDED, _F.RESULT): _S.CLOSED,
    (_S.ANSWERED, _F.ACK): _S.ANSWERED,
    (_S.ANSWERED, _F.DATA): _S.ANSWERED,
    (_S.ANSWERED, _F.CREDIT): _S.ANSWERED,
    (_S.ANSWERED, _F.END): _S.CLOSED,
    (_S.ANSWERED, _F.ABORT): _S.CLOSED,
    (_S.ANSWERED, _F.CANCEL): _S.CLOSED,
    (_S.ABANDONED, _F.STOP): _S.ABANDONED,
    (_S.ABANDONED, _F.OPENED): _S.ABANDONED,
    (_S.ABANDONED, _F.MESSAGE): _S.ABANDONED,
    (_S.ABANDONED, _F.CREDIT): _S.ABANDONED,
    (_S.ABANDONED, _F.RESULT): _S.CLOSED,
}
"""Flow state and frame, sent or received, give the next flow state."""


def advance_connection(state: ConnectionState, frame: FrameType) -> ConnectionState:
    """Return the state after *frame*; raises LocalProtocolError if it is not allowed in *state*."""
    try:
        return CONNECTION_MOVES[state, frame]
    except KeyError:
        text = f"{frame.name} is not allowed while the connection is {state.value}"
        raise LocalProtocolError(text, code="unexpected_frame") from None


def advance_flow(state: FlowState, frame: FrameType) -> FlowState:
    """Return the state after *frame*; raises LocalProtocolError if it is not allowed in *state*."""
    try:
        return FLOW_MOVES[state, frame]
    except KeyError:
        text = f"{frame.name} is not allowed while the flow is {state.value}"
        raise LocalProtocolError(text, code="unexpected_frame") from None
