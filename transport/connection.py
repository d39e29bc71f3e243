"""One machine for both ends of a connection: bytes in give events, calls give bytes out.

It does no I/O, knows no clock and starts no thread. It is not safe for threads: its owner calls it
from one thread at a time, writes what ``data_to_send()`` returns, in that order, and nothing else.

After a RemoteProtocolError, write ``data_to_send()`` once more (it tells the peer why) and close.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pyf.transport import census, fastpath, frames, payloads, speed
from pyf.transport.continuation import Continuation
from pyf.transport.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    packet_too_large,
)
from pyf.transport.events import (
    ConnectionClosed,
    CreditReceived,
    Event,
    FlowAbandoned,
    FlowAborted,
    FlowEnded,
    FlowOpened,
    FlowStopped,
    GoAwayReceived,
    HelloReceived,
    PacketsReceived,
    PongReceived,
    read_result,
)
from pyf.transport.frames import OF_CONNECTION, Frame, FrameType
from pyf.transport.limits import (
    INITIAL_BYTES,
    MAX_SKIPPED,
    Limits,
)
from pyf.transport.pieces import Pending
from pyf.transport.states import (
    ConnectionState,
    FlowState,
    Role,
    advance_connection,
)


class Connection(Continuation):
    """One end of a connection, in the given *role*, with the bounds it keeps.

    Given a *clock*, a monotonic one, it also holds the peer to what it may do in a time. A server
    that has to know the client of each flow first takes them for *strangers*: their packets are
    small until it has called ``widen``.
    """

    state: ConnectionState

    def __init__(
        self,
        role: Role,
        limits: Limits | None = None,
        clock: Callable[[], float] | None = None,
        *,
        strangers: bool = False,
    ) -> None:
        super().__init__(role, limits, clock, strangers=strangers)
        if role is Role.CLIENT:
            self._send_hello()

    # What goes out

    def data_to_send(self) -> list[bytes]:
        """Return the buffers to write now, in order, and forget them."""
        out, self._out = self._out, []
        return out

    @property
    def speaks(self) -> bool:
        """Whether there is anything to write now."""
        return bool(self._out)

    def open_flow(
        self,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        waits: bool = True,
        length_hint: int | None = None,
        resume: int | None = None,
        name: str | None = None,
    ) -> int:
        """Open a flow and return its number. Without *header*, its first packet is the header.

        *timeout* is what the client gives the whole call, in seconds. A client that doesn't wait
        for the result (*waits*) may close the connection behind its END. *length_hint* is how many
        packets the flow will probably have. With *resume*, bytes of packets that are kept at the
        most, the flow can go on over another connection once the server has answered with a
        session; *name* says which flow it is across sessions.

        Raises FlowRefused where no more flows can be opened, PacketError if *header* cannot travel
        (before the peer's HELLO, one of more than ``INITIAL_BYTES`` cannot), ValueError for a
        timeout that is negative or not finite, or a length that is negative.
        """
        self._check_opening(FrameType.OPEN)
        if header is not None:
            encoded = speed.encode_packet(header)
            if (size := len(encoded)) > self._peer_max_header:
                raise packet_too_large(size, self._peer_max_header, "max_header")
            census.weigh(encoded, self._bounds)
        payload = payloads.encode_open(header, timeout, waits, length_hint, resume, name)
        flow = self._add_flow(self._last_flow + 1)
        flow.has_header = header is not None
        if resume is not None:
            flow.keep(resume)
        self._send(flow, FrameType.OPEN, payload)
        return flow.id

    def send_packets(self, flow_id: int, pending: Pending) -> int:
        """Send from the left of *pending* what the credit allows; return how many packets that was.

        Other threads may append to *pending* meanwhile. Raises PacketTooLarge for a packet that the
        peer does not take; it is then no longer in *pending*, and those before it have been sent.
        """
        if len(pending) == 1 and fastpath.send_packet(self, flow_id, pending):
            return 1
        return self._send_batches(self._flow(flow_id), pending, self._peer_max_packet)

    def end(self, flow_id: int) -> None:
        """Say that the flow is whole (client)."""
        flow = self._flow(flow_id)
        self._send(flow, FrameType.END, frames.END.pack(flow.send.sent_packets))

    def abort(self, flow_id: int, error_class: str) -> None:
        """Say that the generator failed (client)."""
        flow = self._flow(flow_id)
        payload = payloads.encode_abort(flow.send.sent_packets, error_class)
        self._send(flow, FrameType.ABORT, payload)

    def cancel(self, flow_id: int) -> None:
        """Give the flow up (client)."""
        self._send(self._flow(flow_id), FrameType.CANCEL)

    def stop(self, flow_id: int) -> None:
        """Ask for no more packets of a flow (server). Where none are to come, this is harmless."""
        flow = self._flows.get(flow_id)
        if flow is not None and flow.state is FlowState.STREAMING:
            self._send(flow, FrameType.STOP)

    def finish(self, flow_id: int, consumed: int, status: str, **facts: Any) -> None:
        """Say the last word on a flow (server): a *status* of RESULT, and its value or error facts.

        Raises PacketError, with nothing sent, if the value cannot travel.
        """
        if status not in payloads.STATUSES:
            text = f"{status!r} is no result of flow {flow_id}"
            raise LocalProtocolError(text, code="malformed_value")
        self.conclude(flow_id, consumed, payloads.encode_outcome(status, facts))

    def conclude(self, flow_id: int, consumed: int, outcome: bytes) -> None:
        """Say the last word on a flow (server), as ``finish`` does; *outcome* is encoded."""
        flow = self._flow(flow_id)
        if consumed > flow.receive.received_packets:
            came = flow.receive.received_packets
            text = f"one behind {consumed} of {came} packets is no result of flow {flow_id}"
            raise LocalProtocolError(text, code="malformed_value")
        if (size := len(outcome)) > self._peer_max_packet:
            raise packet_too_large(size, self._peer_max_packet, "max_packet")
        payload = payloads.encode_result(consumed, flow.send.sent_packets, outcome)
        self._send(flow, FrameType.RESULT, payload)

    def consume(self, flow_id: int, packets: int, size: int) -> bool:
        """Count *packets* of *size* bytes as taken by the user; credit follows by itself.

        Return whether there is a CREDIT to send. A flow that has been closed meanwhile is no error.
        """
        flow = self._flows.get(flow_id)
        if flow is None or not flow.receive.consume(packets, size) or flow.state in self._deaf:
            return False
        self._send_credit(flow)
        return True

    def widen(self, flow_id: int, packets: int, size: int) -> None:
        """Grant credit for windows of *packets* and *size* bytes, larger than HELLO announced.

        Its packets may have any size from now on. A flow that has been closed meanwhile is no
        error.
        """
        flow = self._flows.get(flow_id)
        if flow is not None:
            flow.trusted = True
            self._trusted.add(flow_id)
            flow.receive.widen(packets, size)
            if flow.state not in self._deaf:
                self._send_credit(flow)

    def ping(self, token: int) -> None:
        """Ask the peer for a PONG with the same *token*."""
        self._out += frames.encode_frame(FrameType.PING, 0, token.to_bytes(8, "big"))

    def go_away(self, code: str, message: str) -> None:
        """Tell the peer that flows beyond those it has opened won't be served. Once is enough."""
        if not self._leaving:
            if not self._hello_sent:
                self._send_hello()
            self._send_go_away(code, message)

    # What is known

    def flow_state(self, flow_id: int) -> FlowState:
        """Return the state of a flow."""
        if flow := self._flows.get(flow_id):
            return flow.state
        return FlowState.CLOSED if 0 < flow_id <= self._last_flow else FlowState.IDLE

    def sent(self, flow_id: int) -> int:
        """Return the number of packets sent on an open flow."""
        return self._flow(flow_id).send.sent_packets

    def room(self, flow_id: int) -> tuple[int, int]:
        """Return how many packets, and how many bytes of them, may be sent on an open flow now."""
        send = self._flow(flow_id).send
        return max(send.open_packets, 0), max(send.open_bytes, 0)

    def room_for(self, flow_id: int, size: int) -> int:
        """Return how many packets of *size* bytes each may be sent on an open flow now."""
        return self._flow(flow_id).send.room_for(size)

    @property
    def open_flows(self) -> list[int]:
        """The flows on which a last word is still to be said, by either side."""
        return list(self._flows)

    @property
    def idle(self) -> bool:
        """Whether no flow is open."""
        return not self._flows

    @property
    def mid_frame(self) -> bool:
        """Whether part of a frame has come, and the rest has not."""
        return bool(self.received_of_frame)

    @property
    def received_of_frame(self) -> int:
        """How many bytes have come of a frame whose rest has not."""
        return self._parser.pending

    @property
    def frames_received(self) -> int:
        """How many whole frames have come."""
        return self._parser.frames

    # What comes in

    def receive_data(self, data: bytes) -> None:
        """Store what the transport read."""
        if not (fastpath.store(self, data) or self.state is ConnectionState.CLOSED):
            self._parser.receive_data(data)

    def get_buffer(self) -> memoryview | None:
        """Return where to read the rest of a large frame to; None where it is for ``receive_data``.

        It is good until the next call of the machine.
        """
        return None if self.state is ConnectionState.CLOSED else self._parser.get_buffer()

    def buffer_updated(self, size: int) -> bool:
        """Take *size* bytes that the transport read to the start of the buffer.

        Return whether a frame is whole now: before, there is no event.
        """
        return self._parser.buffer_updated(size)

    def receive_eof(self) -> None:
        """Note that nothing more will come."""
        self._eof = True

    def next_event(self) -> Event | None:
        """Return the next event, or None if more bytes are needed; raises RemoteProtocolError."""
        if (event := fastpath.receive(self)) is not None:
            return event or None
        while self.state is not ConnectionState.CLOSED:
            try:
                parser = self._parser
                frame = fastpath.next_frame(parser) or parser.next_frame()
                if frame is None:
                    break
                found = self._receive(frame)
            except RemoteProtocolError as error:
                self.fail(error)
                raise
            if found is not None:
                return found
        if self._eof and self.state is not ConnectionState.CLOSED:
            self.state = ConnectionState.CLOSED
            return ConnectionClosed(mid_frame=self.mid_frame)
        return None

    def fail(self, error: RemoteProtocolError) -> None:
        """Take the peer's breach, found here or where its packets are decoded.

        The peer is told; nothing more is taken from it.
        """
        if self.state is not ConnectionState.CLOSED:
            self._send_go_away(error.code, str(error))
            self.state = ConnectionState.CLOSED

    def _receive(self, frame: Frame) -> Event | None:
        kind = frame.type
        if self._budget is not None:
            self._budget.spend(frame)
        if not isinstance(kind, FrameType):
            self._skip()
            return None
        if self._fenced and self._fences(frame.flow) and kind not in OF_CONNECTION:
            return None
        if kind not in self._taken:
            text = f"{kind.name} is not for the {self.role.peer.value} to send"
            raise RemoteProtocolError(text, code="unexpected_frame")
        try:
            self.state = advance_connection(self.state, kind)
            receive = self._RECEIVERS.get(kind) or self._CONTINUATIONS[kind]
            return receive(self, frame)
        except LocalProtocolError as error:
            raise RemoteProtocolError(str(error), code=error.code) from None

    def _skip(self) -> None:
        self._skipped += 1
        if self._skipped > MAX_SKIPPED:
            raise RemoteProtocolError(
                f"more than {MAX_SKIPPED} frames of unknown types",
                code="flood",
                limit=MAX_SKIPPED,
                actual=self._skipped,
            )

    def _receive_hello(self, frame: Frame) -> Event:
        hello = payloads.decode_hello(frame.payload, self._bounds)
        self._parser.allowed = ()
        self._peer_known = True
        self._peer_max_packet, self._peer_max_header = hello.max_packet, hello.max_header
        self._peer_window = (hello.window_packets, hello.window_bytes)
        self._peer_first = hello.first_packet
        for flow in self._flows.values():
            flow.send.widen(*self._peer_window)
        if not self._hello_sent:
            self._send_hello()
        return HelloReceived(
            max_packet=hello.max_packet,
            min_ping_interval=hello.min_ping_interval,
            software=hello.software,
        )

    def _receive_open(self, frame: Frame) -> Event | None:
        facts = payloads.decode_open(frame.payload, self._bounds)
        flow = self._opened(frame)
        if refusal := self._refusal():
            code, text = refusal
            self.finish(flow.id, 0, "refused", code=code, message=text)
            return None
        return speed.frozen(
            FlowOpened,
            flow_id=flow.id,
            header=facts.header,
            timeout=facts.timeout,
            waits=facts.waits,
            length_hint=facts.length_hint,
            resume=facts.resume,
            name=facts.name,
        )

    def _receive_packets(self, frame: Frame) -> Event | None:
        batch = frames.decode_batch(frame.payload, self._packet_bounds)
        flow, wanted = self._advance(frame)
        news = flow.without_overlap(batch)
        if news is None:
            return None
        flow.receive.receive(news.packets, news.size)
        if not wanted or flow.state in self._deaf:
            return None
        return PacketsReceived(flow_id=flow.id, batch=news)

    def _receive_end(self, frame: Frame) -> Event | None:
        (count,) = frames.END.unpack(frame.payload)
        flow, wanted = self._advance(frame)
        flow.receive.check_count(count)
        wanted &= flow.hear(FrameType.END)
        return FlowEnded(flow_id=flow.id, count=count) if wanted else None

    def _receive_abort(self, frame: Frame) -> Event | None:
        count, error_class = payloads.decode_abort(frame.payload, self._bounds)
        flow, wanted = self._advance(frame)
        flow.receive.check_count(count)
        if not (wanted and flow.hear(FrameType.ABORT)):
            return None
        return FlowAborted(flow_id=flow.id, count=count, error_class=error_class)

    def _receive_cancel(self, frame: Frame) -> Event | None:
        if self._gone(frame):
            return None
        flow, wanted = self._advance(frame)
        wanted &= flow.hear(FrameType.CANCEL)
        return FlowAbandoned(flow_id=flow.id) if wanted else None

    def _receive_result(self, frame: Frame) -> Event | None:
        consumed, messages = frames.RESULT.unpack_from(frame.payload)
        event = read_result(frame.flow, frame.payload, self._packet_bounds)
        flow, wanted = self._advance(frame)
        flow.receive.check_count(messages)
        flow.send.check_consumed(consumed)
        if flow.kept is not None:
            self._out += frames.encode_frame(FrameType.ACK, flow.id)
        return event if wanted else None

    def _receive_credit(self, frame: Frame) -> Event | None:
        if self._gone(frame):
            return None
        consumed, packets, size = frames.CREDIT.unpack(frame.payload)
        flow, wanted = self._advance(frame)
        flow.grant(consumed, packets, size)
        flow.trusted |= self.role is Role.CLIENT
        return CreditReceived(flow_id=flow.id, consumed=consumed) if wanted else None

    def _receive_stop(self, frame: Frame) -> Event | None:
        flow, _ = self._advance(frame)
        return FlowStopped(flow_id=flow.id) if flow.state is FlowState.STOPPED else None

    def _receive_ping(self, frame: Frame) -> Event | None:
        self._out += frames.encode_frame(FrameType.PONG, 0, frame.payload)
        return None

    def _receive_pong(self, frame: Frame) -> Event:
        return PongReceived(token=int.from_bytes(frame.payload, "big"))

    def _receive_go_away(self, frame: Frame) -> Event:
        last_flow, code, message = payloads.decode_go_away(frame.payload, self._bounds)
        return GoAwayReceived(last_flow=last_flow, code=code, message=message)

    _RECEIVERS: ClassVar[dict[FrameType, Callable[[Connection, Frame], Event | None]]] = {
        FrameType.HELLO: _receive_hello,
        FrameType.OPEN: _receive_open,
        FrameType.DATA: _receive_packets,
        FrameType.MESSAGE: _receive_packets,
        FrameType.END: _receive_end,
        FrameType.ABORT: _receive_abort,
        FrameType.CANCEL: _receive_cancel,
        FrameType.RESULT: _receive_result,
        FrameType.CREDIT: _receive_credit,
        FrameType.PING: _receive_ping,
        FrameType.PONG: _receive_pong,
        FrameType.GOAWAY: _receive_go_away,
        FrameType.STOP: _receive_stop,
    }

    def _send_hello(self) -> None:
        self._hello_sent = True
        self._out += frames.encode_frame(FrameType.HELLO, 0, self._hello())

    def _hello(self) -> bytes:
        return payloads.encode_hello(self.limits, INITIAL_BYTES if self._strangers else None)

    def _send_go_away(self, code: str, message: str) -> None:
        self._leaving = True
        payload = payloads.encode_go_away(self._last_flow, code, message)
        self._out += frames.encode_frame(FrameType.GOAWAY, 0, payload)
