"""One machine for both ends of a connection: bytes in give events, calls give bytes out.

It does no I/O, knows no clock and starts no thread. It is not safe for threads: its owner calls it from one
thread at a time, writes what ``data_to_send()`` returns, in that order, and nothing else.

After a RemoteProtocolError, write ``data_to_send()`` once more (it tells the peer why) and close.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from pyf.transport import codec, frames
from pyf.transport.errors import (
    FlowRefused,
    LocalProtocolError,
    PacketTooLarge,
    RemoteProtocolError,
)
from pyf.transport.events import (
    ConnectionClosed,
    CreditReceived,
    Event,
    FlowAbandoned,
    FlowAborted,
    FlowEnded,
    FlowOpened,
    GoAwayReceived,
    HelloReceived,
    PacketsReceived,
    PongReceived,
    ResultReceived,
)
from pyf.transport.frames import Frame, FrameParser, FrameType
from pyf.transport.limits import (
    BATCH_BYTES,
    BATCH_PACKETS,
    INITIAL_BYTES,
    INITIAL_PACKETS,
    KIB,
    MAX_SKIPPED,
    Limits,
)
from pyf.transport.packet import Packet
from pyf.transport.states import (
    SENDERS,
    ConnectionState,
    FlowState,
    Role,
    advance_connection,
    advance_flow,
)
from pyf.transport.window import ReceiveWindow, SendWindow

SOFTWARE = "pyf.station"

_NONE = type(None)
_HELLO_FIELDS: dict[str, tuple[type, ...]] = {
    "max_packet": (int,),
    "max_header": (int,),
    "window_packets": (int,),
    "window_bytes": (int,),
    "required": (list, _NONE),
    "software": (str, _NONE),
}
_OPEN_FIELDS: dict[str, tuple[type, ...]] = {"header": (dict, _NONE), "timeout": (float, _NONE)}
_ERROR_FIELDS: dict[str, tuple[type, ...]] = {
    "code": (str, _NONE),
    "error_class": (str, _NONE),
    "error_id": (str, _NONE),
    "message": (str, _NONE),
    "traceback": (str, _NONE),
}
_STATUSES = frozenset({"success", "error", "refused", "cancelled", "deadline"})


@dataclass(slots=True)
class _Flow:
    """What the machine knows of one flow."""

    id: int
    state: FlowState
    send: SendWindow
    receive: ReceiveWindow


class Connection:
    """One end of a connection, in the given *role*, with the bounds it keeps."""

    def __init__(self, role: Role, limits: Limits | None = None) -> None:
        self.role = role
        self.limits = limits or Limits()
        self.state = ConnectionState.AWAITING_HELLO
        self._batch_frame = FrameType.DATA if role is Role.CLIENT else FrameType.MESSAGE
        self._parser = FrameParser(
            max_batch=max(self.limits.max_packet, BATCH_BYTES) + frames.BATCH.size,
            max_open=self.limits.max_header + KIB,
        )
        self._flows: dict[int, _Flow] = {}
        self._last_flow = 0
        self._out: list[bytes] = []
        self._eof = False
        self._leaving = False
        self._skipped = 0
        # Until the peer's HELLO comes, what every peer can be trusted to take.
        self._peer_max_packet = INITIAL_BYTES
        self._peer_max_header = INITIAL_BYTES
        self._peer_window = (INITIAL_PACKETS, INITIAL_BYTES)
        if role is Role.CLIENT:
            self._send_hello()

    # What goes out

    def data_to_send(self) -> list[bytes]:
        """Return the buffers to write now, in order, and forget them."""
        out, self._out = self._out, []
        return out

    def open_flow(self, header: dict[str, Any] | None = None, timeout: float | None = None) -> int:
        """Open a flow and return its number. Without *header*, its first packet is the header.

        Raises FlowRefused where the peer takes no more flows, PacketError if *header* cannot travel.
        """
        if self.state is not ConnectionState.READY and self._leaving_or_closed():
            raise FlowRefused("the server is draining: it takes no new flows", code="draining")
        if header is not None:
            size = len(frames.encode_fields(header))
            if size > self._peer_max_header:
                raise _too_large(size, self._peer_max_header, "max_header")
        fields = {"header": header, "timeout": None if timeout is None else float(timeout)}
        flow = self._add_flow(self._last_flow + 1)
        self._send(flow, FrameType.OPEN, frames.encode_fields(fields))
        return flow.id

    def send_packets(self, flow_id: int, pending: deque[bytes]) -> int:
        """Send from the left of *pending* what the credit allows, and return how many packets that was.

        Other threads may append to *pending* meanwhile. Raises PacketTooLarge for a packet, which is then
        no longer in *pending*, that the peer does not take.
        """
        flow = self._flow(flow_id)
        total = 0
        while pending:
            batch = self._take(flow.send, pending)
            if not batch:
                break
            packets = b"".join(batch) if len(batch) > 1 else batch[0]
            flow.state = advance_flow(flow.state, self._batch_frame)
            first = flow.send.sent_packets
            self._out += frames.encode_batch(self._batch_frame, flow_id, first, len(batch), packets)
            flow.send.spend(len(batch), len(packets))
            total += len(batch)
        return total

    def end(self, flow_id: int) -> None:
        """Say that the flow is whole (client)."""
        flow = self._flow(flow_id)
        self._send(flow, FrameType.END, frames.END.pack(flow.send.sent_packets))

    def abort(self, flow_id: int, error_class: str) -> None:
        """Say that the generator failed (client)."""
        flow = self._flow(flow_id)
        fields = frames.encode_fields({"error_class": error_class})
        self._send(flow, FrameType.ABORT, frames.END.pack(flow.send.sent_packets), fields)

    def cancel(self, flow_id: int) -> None:
        """Give the flow up (client)."""
        self._send(self._flow(flow_id), FrameType.CANCEL)

    def finish(self, flow_id: int, consumed: int, status: str, **facts: Any) -> None:
        """Say the last word on a flow (server): a *status* of ResultReceived, and its value or error facts.

        Raises PacketError, with nothing sent, if the value cannot travel.
        """
        flow = self._flow(flow_id)
        fields = frames.encode_fields({"status": status, **facts})
        if len(fields) > self._peer_max_packet:
            raise _too_large(len(fields), self._peer_max_packet, "max_packet")
        counts = frames.RESULT.pack(consumed, flow.send.sent_packets)
        self._send(flow, FrameType.RESULT, counts, fields)

    def consume(self, flow_id: int, packets: int, size: int) -> None:
        """Count *packets* of *size* bytes as taken by the user; credit follows by itself. A closed flow is no error."""
        flow = self._flows.get(flow_id)
        if (
            flow is not None
            and flow.receive.consume(packets, size)
            and not self._done_receiving(flow)
        ):
            credit = frames.CREDIT.pack(flow.receive.consumed_packets, *flow.receive.grant())
            self._send(flow, FrameType.CREDIT, credit)

    def ping(self, token: int) -> None:
        """Ask the peer for a PONG with the same *token*."""
        self._out += frames.encode_frame(FrameType.PING, 0, token.to_bytes(8, "big"))

    def go_away(self, code: str, message: str) -> None:
        """Tell the peer that no flow beyond those it has opened will be served, and why. Once is enough."""
        if not self._leaving:
            self._leaving = True
            reason = frames.encode_fields({"code": code, "message": message})
            self._out += frames.encode_frame(
                FrameType.GOAWAY, 0, frames.GOAWAY.pack(self._last_flow), reason
            )

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
        return bool(self._parser.pending)

    # What comes in

    def receive_data(self, data: bytes) -> None:
        """Store what the transport read."""
        if self.state is not ConnectionState.CLOSED:
            self._parser.receive_data(data)

    def receive_eof(self) -> None:
        """Note that nothing more will come."""
        self._eof = True

    def next_event(self) -> Event | None:
        """Return the next event, or None if more bytes are needed; raises RemoteProtocolError."""
        while self.state is not ConnectionState.CLOSED:
            try:
                frame = self._parser.next_frame()
                if frame is None:
                    break
                event = self._receive(frame)
            except RemoteProtocolError as error:
                self.fail(error)
                raise
            if event is not None:
                return event
        if self._eof and self.state is not ConnectionState.CLOSED:
            self.state = ConnectionState.CLOSED
            return ConnectionClosed(mid_frame=self.mid_frame)
        return None

    def fail(self, error: RemoteProtocolError) -> None:
        """Take the peer's breach, found here or where its packets are decoded: tell it, and take nothing more."""
        if self.state is not ConnectionState.CLOSED:
            self._leaving = False
            self.go_away(error.code, str(error))
            self.state = ConnectionState.CLOSED

    def _receive(self, frame: Frame) -> Event | None:
        if not isinstance(frame.type, FrameType):
            self._skipped += 1
            if self._skipped > MAX_SKIPPED:
                text = f"more than {MAX_SKIPPED} frames of unknown types"
                raise RemoteProtocolError(
                    text, code="flood", limit=MAX_SKIPPED, actual=self._skipped
                )
            return None
        if self.role.peer not in SENDERS[frame.type]:
            text = f"{frame.type.name} is not for the {self.role.peer.value} to send"
            raise RemoteProtocolError(text, code="unexpected_frame")
        try:
            self.state = advance_connection(self.state, frame.type)
            return _RECEIVERS[frame.type](self, frame)
        except LocalProtocolError as error:
            raise RemoteProtocolError(str(error), code=error.code) from None

    def _receive_hello(self, frame: Frame) -> Event:
        magic, least, most = frames.HELLO.unpack_from(frame.payload)
        if magic != frames.MAGIC or not least <= frames.VERSION <= most:
            raise RemoteProtocolError(
                f"the peer speaks versions {least} to {most} of {magic!r}, this side version {frames.VERSION} of {frames.MAGIC!r}",
                code="version",
            )
        fields = frames.decode_fields(memoryview(frame.payload)[frames.HELLO.size :], _HELLO_FIELDS)
        if fields["required"]:
            raise RemoteProtocolError(
                f"the peer requires {fields['required']!r}"[:200], code="required_feature"
            )
        window = (fields["window_packets"], fields["window_bytes"])
        if (
            window < (INITIAL_PACKETS, 0)
            or window[1] < INITIAL_BYTES
            or min(fields["max_packet"], fields["max_header"]) < 1
        ):
            raise RemoteProtocolError(
                "the peer's HELLO announces limits below the least allowed", code="malformed_value"
            )
        self._parser.allowed = ()
        self._peer_max_packet, self._peer_max_header = fields["max_packet"], fields["max_header"]
        self._peer_window = window
        for flow in self._flows.values():
            flow.send.widen(*window)
        if self.role is Role.SERVER:
            self._send_hello()
        return HelloReceived(max_packet=fields["max_packet"], software=fields["software"] or "")

    def _receive_open(self, frame: Frame) -> Event | None:
        if frame.flow <= self._last_flow:
            text = f"flow {frame.flow} is opened after flow {self._last_flow}"
            raise RemoteProtocolError(text, code="flow_number")
        fields = frames.decode_fields(frame.payload, _OPEN_FIELDS)
        flow = self._add_flow(frame.flow)
        flow.state = advance_flow(flow.state, FrameType.OPEN)
        if self._leaving:
            self.finish(flow.id, 0, "refused", code="draining", message="the server is draining")
            return None
        if len(self._flows) > self.limits.max_flows:
            message = f"the server takes {self.limits.max_flows} flows on one connection (its Limits.max_flows)"
            self.finish(flow.id, 0, "refused", code="too_many_flows", message=message)
            return None
        header = None if fields["header"] is None else Packet(fields["header"])
        return FlowOpened(flow_id=flow.id, header=header, timeout=fields["timeout"])

    def _receive_packets(self, frame: Frame) -> Event | None:
        batch = frames.decode_batch(frame.payload)
        flow, wanted = self._advance(frame)
        if batch.first != flow.receive.received_packets:
            text = (
                f"packet {batch.first} came where packet {flow.receive.received_packets} was next"
            )
            raise RemoteProtocolError(text, code="sequence")
        if batch.packets == 1 and batch.size > self.limits.max_packet:
            raise RemoteProtocolError(
                f"a packet of {batch.size} bytes, where {self.limits.max_packet} are allowed",
                code="frame_length",
                limit=self.limits.max_packet,
                actual=batch.size,
                option="max_packet",
            )
        flow.receive.receive(batch.packets, batch.size)
        return PacketsReceived(flow_id=flow.id, batch=batch) if wanted else None

    def _receive_end(self, frame: Frame) -> Event | None:
        (count,) = frames.END.unpack(frame.payload)
        flow, wanted = self._advance(frame)
        self._check_count(count, flow)
        return FlowEnded(flow_id=flow.id, count=count) if wanted else None

    def _receive_abort(self, frame: Frame) -> Event | None:
        (count,) = frames.END.unpack_from(frame.payload)
        fields = frames.decode_fields(
            memoryview(frame.payload)[frames.END.size :], {"error_class": (str,)}
        )
        flow, wanted = self._advance(frame)
        self._check_count(count, flow)
        return (
            FlowAborted(flow_id=flow.id, count=count, error_class=fields["error_class"])
            if wanted
            else None
        )

    def _receive_cancel(self, frame: Frame) -> Event | None:
        if self._gone(frame):
            return None
        flow, wanted = self._advance(frame)
        return FlowAbandoned(flow_id=flow.id) if wanted else None

    def _receive_result(self, frame: Frame) -> Event | None:
        consumed, messages = frames.RESULT.unpack_from(frame.payload)
        body = memoryview(frame.payload)[frames.RESULT.size :]
        fields = frames.decode_fields(body, {"status": (str,), **_ERROR_FIELDS})
        if fields["status"] not in _STATUSES:
            raise RemoteProtocolError(
                f"a result may not be {fields['status'][:80]!r}", code="malformed_value"
            )
        flow, wanted = self._advance(frame)
        self._check_count(messages, flow)
        if consumed > flow.send.sent_packets:
            text = f"the handler consumed {consumed} packets of {flow.send.sent_packets} sent"
            raise RemoteProtocolError(text, code="count")
        if not wanted:
            return None
        return ResultReceived(
            flow_id=flow.id,
            consumed=consumed,
            status=fields["status"],
            value=codec.decode(body).get("value"),
            error={name: fields[name] for name in _ERROR_FIELDS},
        )

    def _receive_credit(self, frame: Frame) -> Event | None:
        if self._gone(frame):
            return None
        consumed, packets, size = frames.CREDIT.unpack(frame.payload)
        flow, wanted = self._advance(frame)
        if consumed > flow.send.sent_packets:
            text = f"the peer consumed {consumed} packets of {flow.send.sent_packets} sent"
            raise RemoteProtocolError(text, code="count")
        flow.send.grant(packets, size)
        return CreditReceived(flow_id=flow.id, consumed=consumed) if wanted else None

    def _receive_ping(self, frame: Frame) -> Event | None:
        self._out += frames.encode_frame(FrameType.PONG, 0, frame.payload)
        return None

    def _receive_pong(self, frame: Frame) -> Event:
        return PongReceived(token=int.from_bytes(frame.payload, "big"))

    def _receive_go_away(self, frame: Frame) -> Event:
        (last_flow,) = frames.GOAWAY.unpack_from(frame.payload)
        body = memoryview(frame.payload)[frames.GOAWAY.size :]
        fields = frames.decode_fields(body, {"code": (str,), "message": (str,)})
        return GoAwayReceived(last_flow=last_flow, **fields)

    # What they share

    def _send_hello(self) -> None:
        fields = {
            "max_packet": self.limits.max_packet,
            "max_header": self.limits.max_header,
            "window_packets": self.limits.window_packets,
            "window_bytes": self.limits.window_bytes,
            "required": [],
            "software": SOFTWARE,
        }
        head = frames.HELLO.pack(frames.MAGIC, frames.VERSION, frames.VERSION)
        self._out += frames.encode_frame(FrameType.HELLO, 0, head, frames.encode_fields(fields))

    def _send(self, flow: _Flow, type: FrameType, *payload: bytes) -> None:
        flow.state = advance_flow(flow.state, type)
        self._out += frames.encode_frame(type, flow.id, *payload)
        self._forget_closed(flow)

    def _advance(self, frame: Frame) -> tuple[_Flow, bool]:
        """Apply a received frame to its flow; return it, and whether this side still wants such frames."""
        flow = self._flows.get(frame.flow)
        if flow is None:
            text = f"{FrameType(frame.type).name} on flow {frame.flow}, which is not open"
            raise RemoteProtocolError(text, code="unknown_flow")
        wanted = not self._done_receiving(flow)
        flow.state = advance_flow(flow.state, FrameType(frame.type))
        self._forget_closed(flow)
        return flow, wanted

    def _done_receiving(self, flow: _Flow) -> bool:
        given_up = FlowState.ANSWERED if self.role is Role.SERVER else FlowState.ABANDONED
        return flow.state in (given_up, FlowState.CLOSED)

    def _gone(self, frame: Frame) -> bool:
        """Whether a frame is for a flow that closed while the frame was on its way."""
        return frame.flow not in self._flows and 0 < frame.flow <= self._last_flow

    def _add_flow(self, number: int) -> _Flow:
        windows = (self.limits.window_packets, self.limits.window_bytes)
        flow = _Flow(
            number, FlowState.IDLE, SendWindow(*self._peer_window), ReceiveWindow(*windows)
        )
        self._flows[number] = flow
        self._last_flow = number
        return flow

    def _forget_closed(self, flow: _Flow) -> None:
        if flow.state is FlowState.CLOSED:
            del self._flows[flow.id]

    def _flow(self, flow_id: int) -> _Flow:
        try:
            return self._flows[flow_id]
        except KeyError:
            raise LocalProtocolError(f"flow {flow_id} is not open", code="unknown_flow") from None

    def _leaving_or_closed(self) -> bool:
        return self._leaving or self.state in (ConnectionState.DRAINING, ConnectionState.CLOSED)

    def _take(self, window: SendWindow, pending: deque[bytes]) -> list[bytes]:
        """Take from *pending* the packets of the next frame: as many as credit and batch size allow, maybe none."""
        count = min(len(pending), BATCH_PACKETS, window.open_packets)
        batch = [pending.popleft() for _ in range(count)]
        room = min(window.open_bytes, BATCH_BYTES)
        if sum(map(len, batch)) > room:
            fitting = bisect_right(list(accumulate(map(len, batch))), room)
            if not fitting:
                size = len(batch[0])
                if (
                    size > self._peer_max_packet
                    and self.state is not ConnectionState.AWAITING_HELLO
                ):
                    raise _too_large(size, self._peer_max_packet, "max_packet")
                fitting = size <= self._peer_max_packet and window.fits(1, size)
            pending.extendleft(reversed(batch[fitting:]))
            del batch[fitting:]
        return batch

    def _check_count(self, count: int, flow: _Flow) -> None:
        received = flow.receive.received_packets
        if count != received:
            raise RemoteProtocolError(
                f"the peer counts {count} packets where {received} came", code="count"
            )


def _too_large(size: int, limit: int, option: str) -> PacketTooLarge:
    return PacketTooLarge(
        f"a packet of {size} bytes, where the peer takes {limit} (its Limits.{option})",
        size=size,
        limit=limit,
        option=option,
    )


_RECEIVERS: dict[FrameType, Callable[[Connection, Frame], Event | None]] = {
    FrameType.HELLO: Connection._receive_hello,
    FrameType.OPEN: Connection._receive_open,
    FrameType.DATA: Connection._receive_packets,
    FrameType.MESSAGE: Connection._receive_packets,
    FrameType.END: Connection._receive_end,
    FrameType.ABORT: Connection._receive_abort,
    FrameType.CANCEL: Connection._receive_cancel,
    FrameType.RESULT: Connection._receive_result,
    FrameType.CREDIT: Connection._receive_credit,
    FrameType.PING: Connection._receive_ping,
    FrameType.PONG: Connection._receive_pong,
    FrameType.GOAWAY: Connection._receive_go_away,
}
