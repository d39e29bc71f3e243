"""A flow in a file: what a client would send, END included, so that a cut file is never taken for a short flow."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

from pyf.transport.codec import encode_packet
from pyf.transport.connection import Connection
from pyf.transport.errors import BadFlowEnding, ClientError, RemoteProtocolError
from pyf.transport.events import ConnectionClosed, Event, FlowAborted, FlowEnded, PacketsReceived
from pyf.transport.limits import BATCH_BYTES, BATCH_PACKETS, Limits
from pyf.transport.packet import Packet
from pyf.transport.states import Role

# A file takes everything at once: nobody waits for credit.
_ENDLESS = Limits(window_packets=2**62, window_bytes=2**62)


def encode_packet_flow(packets: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the bytes of a recorded flow, in pieces of at most a batch or one packet.

    *packets* are Packets or dicts, taken lazily; the first is the header, as on the wire.
    Raises UnsupportedValue, PacketTooLarge or TypeError for one that cannot travel; what was written
    until then reads as a cut flow.
    """
    writer, reader = Connection(Role.CLIENT, _ENDLESS), Connection(Role.SERVER, _ENDLESS)
    hello = b"".join(writer.data_to_send())
    reader.receive_data(hello)
    reader.next_event()
    writer.receive_data(b"".join(reader.data_to_send()))
    writer.next_event()
    flow = writer.open_flow()
    yield hello + b"".join(writer.data_to_send())
    source = iter(packets)
    pending: deque[bytes] = deque()
    while True:
        pending.extend(map(encode_packet, islice(source, BATCH_PACKETS)))
        if not pending:
            break
        writer.send_packets(flow, pending)
        yield b"".join(writer.data_to_send())
    writer.end(flow)
    yield b"".join(writer.data_to_send())


def decode_packet_flow(source: Iterable[bytes] | BinaryIO) -> Iterator[Packet]:
    """Yield the packets of a recorded flow, from pieces of bytes of any size or a file opened in binary mode.

    Raises BadFlowEnding if the source ends before the flow does, RemoteProtocolError if it is not a recorded
    flow or goes on after its end, ClientError if what was recorded is a client's failure.
    """
    chunks = iter(partial(source.read, BATCH_BYTES), b"") if hasattr(source, "read") else source
    connection = Connection(Role.SERVER, _ENDLESS)
    received = 0
    ended = False
    for event in _events(connection, chunks):
        if ended and not (isinstance(event, ConnectionClosed) and not event.mid_frame):
            raise RemoteProtocolError(
                "the recorded flow goes on after its end", code="trailing_data"
            )
        match event:
            case PacketsReceived(batch=batch):
                packets = batch.decode()
                connection.consume(event.flow_id, batch.packets, batch.size)
                connection.data_to_send()
                received += batch.packets
                yield from packets
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


def _events(connection: Connection, chunks: Iterable[bytes]) -> Iterator[Event]:
    for chunk in chunks:
        connection.receive_data(chunk)
        while event := connection.next_event():
            yield event
    connection.receive_eof()
    while event := connection.next_event():
        yield event
