"""A flow in a file: what a client would send, its END included.

So a file that was cut is never taken for a short flow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO

from pyf.transport.connection import Connection
from pyf.transport.errors import BadFlowEnding, ClientError, RemoteProtocolError
from pyf.transport.events import (
    ConnectionClosed,
    Event,
    FlowAborted,
    FlowEnded,
    FlowOpened,
    PacketsReceived,
)
from pyf.transport.limits import BATCH_BYTES, BATCH_PACKETS, MAX_WINDOW, Limits
from pyf.transport.packet import Packet
from pyf.transport.speed import encode_packet
from pyf.transport.states import Role

# A file takes everything at once: nobody waits for credit.
_ENDLESS = Limits(window_packets=MAX_WINDOW, window_bytes=MAX_WINDOW)


def encode_packet_flow(packets: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the bytes of a recorded flow, in pieces of at most a batch and one packet.

    *packets* are Packets or dicts, taken lazily; the first is the header, as on the wire.
    Raises UnsupportedValue, PacketTooLarge or TypeError for one that cannot travel; what was
    yielded until then reads as a cut flow.
    """
    writer, reader = Connection(Role.CLIENT, _ENDLESS), Connection(Role.SERVER, _ENDLESS)
    hello = b"".join(writer.data_to_send())
    reader.receive_data(hello)
    reader.next_event()
    writer.receive_data(b"".join(reader.data_to_send()))
    writer.next_event()
    flow = writer.open_flow()
    yield hello + b"".join(writer.data_to_send())
    pending: deque[bytes] = deque()
    size = 0
    for packet in packets:
        encoded = encode_packet(packet)
        pending.append(encoded)
        size += len(encoded)
        if size >= BATCH_BYTES or len(pending) >= BATCH_PACKETS:
            writer.send_packets(flow, pending)
            yield b"".join(writer.data_to_send())
            size = 0
    writer.send_packets(flow, pending)
    writer.end(flow)
    yield b"".join(writer.data_to_send())


def decode_packet_flow(source: Iterable[bytes] | BinaryIO) -> Iterator[Packet]:
    """Yield the packets of a recorded flow, its header first.

    *source* gives bytes in pieces of any size, or is a file opened in binary mode.
    Raises BadFlowEnding if the source ends before the flow does, RemoteProtocolError if it is not
    a recorded flow or goes on after its end, ClientError if the client failed that was recorded.
    """
    flow = received = 0
    ended = False
    for event in _events(source):
        if ended and not (isinstance(event, ConnectionClosed) and not event.mid_frame):
            text = "the recorded flow goes on after its end"
            raise RemoteProtocolError(text, code="trailing_data")
        match event:
            case FlowOpened(flow_id=flow_id, header=header):
                if flow:
                    text = "a second flow begins in the recorded one"
                    raise RemoteProtocolError(text, code="second_flow")
                flow = flow_id
                if header is not None:
                    yield header
            case PacketsReceived(batch=batch):
                received += batch.packets
                yield from batch.decode()
            case FlowEnded():
                ended = True
            case FlowAborted(error_class=error_class, count=count):
                text = f"the recorded client failed with {error_class} after {count} packets"
                raise ClientError(text, error_class=error_class, sent=count)
            case _:
                pass
    if not ended:
        text = f"the recorded flow was cut: it has no END after {received} packets"
        raise BadFlowEnding(text, received=received)


def _events(source: Iterable[bytes] | BinaryIO) -> Iterator[Event]:
    connection = Connection(Role.SERVER, _ENDLESS)
    read = getattr(source, "read", None)
    for chunk in iter(partial(read, BATCH_BYTES), b"") if read else source:
        connection.receive_data(chunk)
        while event := connection.next_event():
            yield event
        connection.data_to_send()
    connection.receive_eof()
    while event := connection.next_event():
        yield event
