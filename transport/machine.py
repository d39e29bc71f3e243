"""What a connection's machine does with each of its flows, whatever the frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyf.transport import census, fastpath, frames
from pyf.transport.budget import Budget
from pyf.transport.errors import (
    FlowRefused,
    LocalProtocolError,
    RemoteProtocolError,
    packet_too_large,
)
from pyf.transport.frames import Frame, FrameParser, FrameType
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS, MAX_REFUSED, Limits, limits_of
from pyf.transport.pieces import Pending, weigh
from pyf.transport.resume import LAST_WORDS, FlowMachine
from pyf.transport.states import SENDERS, ConnectionState, FlowState, Role, advance_flow
from pyf.transport.window import ReceiveWindow, SendWindow

MAX_FLOW = 2**32 - 1
"""The last number that a flow can have."""


# What a side may be sent.
TAKEN: dict[Role, frozenset[FrameType]] = {
    role: frozenset(kind for kind, senders in SENDERS.items() if role.peer in senders)
    for role in Role
}

# What a side has given up; and where, beyond that, it takes no packets.
GIVEN_UP: dict[Role, tuple[FlowState, ...]] = {
    Role.CLIENT: (FlowState.ABANDONED, FlowState.CLOSED),
    Role.SERVER: (FlowState.ANSWERED, FlowState.CLOSED),
}
DEAF: dict[Role, tuple[FlowState, ...]] = {
    Role.CLIENT: GIVEN_UP[Role.CLIENT],
    Role.SERVER: (FlowState.STOPPED, *GIVEN_UP[Role.SERVER]),
}


class Machine:
    """The flows of one end of a connection, in the given *role*, with the bounds it keeps.

    Where they are of *strangers*, their packets are small until they are known.
    """

    def __init__(
        self,
        role: Role,
        limits: Limits | None,
        clock: Callable[[], float] | None,
        *,
        strangers: bool = False,
    ) -> None:
        self.role: Role = role
        self.limits: Limits = limits_of(limits)
        self.state: ConnectionState = ConnectionState.AWAITING_HELLO
        self._batch_frame = FrameType.DATA if role is Role.CLIENT else FrameType.MESSAGE
        self._taken = TAKEN[role]
        self._given_up = GIVEN_UP[role]
        self._deaf = DEAF[role]
        self._parser = FrameParser(self.limits.max_packet, self.limits.max_header)
        self._strangers = strangers
        self._trusted: set[int] = set()
        if strangers:
            self._parser.known = self._trusted
        self._bounds = census.bounds(self.limits, "max_header")
        self._packet_bounds = census.bounds(self.limits, "max_packet")
        self._flows: dict[int, FlowMachine] = {}
        self._fenced = 0  # up to here, what is not open is over, or goes on elsewhere
        self._last_flow = 0
        self._out: list[bytes] = []
        self._eof = False
        self._hello_sent = False
        self._leaving = False
        self._skipped = 0
        self._budget = None if clock is None else Budget(clock)
        # Until the peer's HELLO comes, what every peer can be trusted to take.
        self._peer_known = False
        self._peer_max_packet = INITIAL_BYTES
        self._peer_max_header = INITIAL_BYTES
        self._peer_first: int | None = None
        self._peer_window = (INITIAL_PACKETS, INITIAL_BYTES)

    def drop_input(self) -> None:
        """Forget the part of a frame that has come: the rest never will."""
        self._parser = FrameParser(self.limits.max_packet, self.limits.max_header)

    def _send(self, flow: FlowMachine, type: FrameType, payload: bytes = b"") -> None:
        if fastpath.send(self, flow, type, payload):
            return
        self._check_sender(type)
        flow.state = advance_flow(flow.state, type)
        if flow.kept is not None and type in LAST_WORDS:
            flow.kept.last_words.append((type, payload))
        self._out += frames.encode_frame(type, flow.id, payload)
        self._forget_closed(flow)

    def _send_credit(self, flow: FlowMachine) -> None:
        credit = frames.CREDIT.pack(flow.receive.consumed_packets, *flow.receive.grant())
        self._send(flow, FrameType.CREDIT, credit)

    def _check_opening(self, type: FrameType) -> None:
        self._check_sender(type)
        if (
            self._leaving
            or self.state not in (ConnectionState.AWAITING_HELLO, ConnectionState.READY)
            or self._last_flow == MAX_FLOW
        ):
            raise FlowRefused("the connection is closing: it takes no new flow", code="draining")

    def _check_sender(self, type: FrameType) -> None:
        if self.role not in SENDERS[type]:
            text = f"{type.name} is not for the {self.role.value} to send"
            raise LocalProtocolError(text, code="unexpected_frame")

    def _advance(self, frame: Frame) -> tuple[FlowMachine, bool]:
        """Apply a received frame to its flow; return it, and whether its user still cares."""
        kind: Any = frame.type
        flow = self._flows.get(frame.flow)
        if flow is None:
            text = f"{kind.name} on flow {frame.flow}, which is not open"
            raise RemoteProtocolError(text, code="unknown_flow")
        wanted = flow.state not in self._given_up
        flow.state = advance_flow(flow.state, kind)
        if flow.state is FlowState.CLOSED:
            self._forget_closed(flow)
        return flow, wanted

    def _gone(self, frame: Frame) -> bool:
        """Whether a frame is for a flow that closed while the frame was on its way."""
        return frame.flow not in self._flows and 0 < frame.flow <= self._last_flow

    def _add_flow(self, number: int) -> FlowMachine:
        receive = ReceiveWindow(self.limits.window_packets, self.limits.window_bytes)
        send = SendWindow(*self._peer_window)
        trusted = self.role is Role.SERVER and not self._strangers
        flow = FlowMachine(number, FlowState.IDLE, send, receive, trusted=trusted)
        self._flows[number] = flow
        self._last_flow = number
        return flow

    def _forget_closed(self, flow: FlowMachine) -> None:
        if flow.state is FlowState.CLOSED:
            del self._flows[flow.id]
            self._trusted.discard(flow.id)

    def _flow(self, flow_id: int) -> FlowMachine:
        try:
            return self._flows[flow_id]
        except KeyError:
            raise LocalProtocolError(f"flow {flow_id} is not open", code="unknown_flow") from None

    def _send_batches(self, flow: FlowMachine, pending: Pending, most: int) -> int:
        """Send from the left of *pending* what the credit allows; return how many packets."""
        send = flow.send
        total = 0
        while pending:
            count, buffers, size = send.take(pending, self._largest(flow, most))
            if not count:
                self._check_size(flow, pending, most)
                break
            if count == 1 and self.role is Role.CLIENT:
                # What a server sends was weighed in its handler's thread.
                weigh(buffers, self._packet_bounds)
            flow.state = advance_flow(flow.state, self._batch_frame)
            first = send.sent_packets
            frame = frames.encode_batch(self._batch_frame, flow.id, first, count, *buffers)
            self._out += frame
            send.spend(count, size)
            if flow.kept is not None:
                flow.kept.add(count, buffers, size)
            total += count
        return total

    def _largest(self, flow: FlowMachine, most: int) -> int:
        """Return how large a packet may be now, where any may have *most* bytes."""
        first = self._peer_first
        return most if flow.trusted or first is None else min(first, most)

    def _check_size(self, flow: FlowMachine, pending: Pending, most: int) -> None:
        """Raise PacketTooLarge if it is not for want of credit that nothing can be sent."""
        size, option = len(pending[0]), "max_packet"
        if not (flow.has_header or flow.send.sent_packets):
            # Without its header no flow is ever known.
            most, option = self._largest(flow, most), "max_header"
        if size > most and self._peer_known and flow.send.open_packets > 0:
            pending.popleft()
            raise packet_too_large(size, most, option)

    def _opened(self, frame: Frame) -> FlowMachine:
        """Return the new flow of a frame that opens one."""
        kind: Any = frame.type
        if frame.flow <= self._last_flow:
            text = f"flow {frame.flow} is opened after flow {self._last_flow}"
            raise RemoteProtocolError(text, code="flow_number")
        flow = self._add_flow(frame.flow)
        flow.state = advance_flow(flow.state, kind)
        return flow

    def _refusal(self) -> tuple[str, str] | None:
        """Return code and sentence where the flow that was just added is one too many."""
        limit, count = self.limits.max_flows, len(self._flows)
        if count > limit + MAX_REFUSED:
            text = f"{count} flows are open, where the server takes {limit} (its Limits.max_flows)"
            raise RemoteProtocolError(
                text, code="flood", limit=limit, actual=count, option="max_flows"
            )
        if self._leaving:
            return "draining", "the server is draining: it takes no new flow"
        if count > limit:
            text = f"the server takes {limit} flows on one connection (its Limits.max_flows)"
            return "too_many_flows", text
        return None
