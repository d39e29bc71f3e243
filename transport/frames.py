"""Bytes to frames and back: ``u32 length | u8 type | u32 flow | payload``, all big-endian.

The length counts the payload alone. It is held against the limit of the frame's type as soon as the
frame's first nine bytes have come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

from pyf.transport import codec, speed
from pyf.transport.census import Bounds
from pyf.transport.errors import RemoteProtocolError
from pyf.transport.limits import HEADER_ROOM, MAX_CONTROL, MAX_HELLO
from pyf.transport.packet import Packet

MAGIC = b"PyF!"
VERSION = 1

OPTIONAL = 0x80
"""Types with this bit set may be skipped by a peer that doesn't know them."""


class FrameType(IntEnum):
    """The frames, by the byte that names them."""

    HELLO = 0x01
    OPEN = 0x02
    DATA = 0x03
    END = 0x04
    ABORT = 0x05
    CANCEL = 0x06
    MESSAGE = 0x07
    RESULT = 0x08
    CREDIT = 0x09
    PING = 0x0A
    PONG = 0x0B
    GOAWAY = 0x0C
    STOP = 0x0D
    OPENED = 0x0E
    RESUME = 0x0F
    RESUMED = 0x10
    REJECT = 0x11
    ACK = 0x12


OF_CONNECTION = frozenset({FrameType.HELLO, FrameType.PING, FrameType.PONG, FrameType.GOAWAY})
"""Those that belong to no flow."""


class Frame(NamedTuple):
    """One frame as it came; *type* is a plain int where this version knows no such type."""

    type: int
    flow: int
    payload: bytes


HEADER = Struct(">IBI")
BATCH = Struct(">QBI")
"""First sequence number, then the head of a MessagePack array: marker and number of packets."""
ARRAY32 = 0xDD
HELLO = Struct(">4sBB")
END = Struct(">Q")
RESULT = Struct(">QQ")
"""Packets consumed, messages sent."""
CREDIT = Struct(">QQQ")
"""Packets consumed, limit in packets, limit in bytes."""
GOAWAY = Struct(">I")
"""The last flow that will be served."""

# How an alert and a handshake of TLS begin, in every version of it.
_TLS = (b"\x15\x03", b"\x16\x03")
_KNOWN = {int(frame): frame for frame in FrameType}

# Shortest and longest payload; for what carries packets, the limits of the receiver say more.
_LENGTHS: dict[FrameType, tuple[int, int]] = {
    FrameType.HELLO: (HELLO.size + 1, MAX_HELLO),
    FrameType.END: (END.size, END.size),
    FrameType.ABORT: (END.size + 1, MAX_CONTROL),
    FrameType.CANCEL: (0, 0),
    FrameType.CREDIT: (CREDIT.size, CREDIT.size),
    FrameType.PING: (8, 8),
    FrameType.PONG: (8, 8),
    FrameType.GOAWAY: (GOAWAY.size + 1, MAX_CONTROL),
    FrameType.STOP: (0, 0),
    FrameType.OPENED: (1, MAX_CONTROL),
    FrameType.RESUME: (1, MAX_CONTROL),
    FrameType.RESUMED: (1, MAX_CONTROL),
    FrameType.REJECT: (1, MAX_CONTROL),
    FrameType.ACK: (0, 0),
}

# The limit of the receiver that a frame was too long for.
_OPTIONS: dict[FrameType | None, str] = {
    FrameType.OPEN: "max_header",
    FrameType.DATA: "max_packet",
    FrameType.MESSAGE: "max_packet",
    FrameType.RESULT: "max_packet",
}


def encode_frame(type: FrameType, flow: int, *payload: bytes) -> list[bytes]:
    """Return a frame as buffers to be written in a row; the payload is not copied."""
    return [HEADER.pack(sum(map(len, payload)), type, flow), *payload]


def encode_batch(type: FrameType, flow: int, first: int, count: int, packets: bytes) -> list[bytes]:
    """Return the frame of a batch of *count* encoded packets, the first having number *first*."""
    head = HEADER.pack(BATCH.size + len(packets), type, flow) + BATCH.pack(first, ARRAY32, count)
    return [head, packets]


class Batch(NamedTuple):
    """Packets that came in one frame, not decoded yet."""

    first: int
    """Sequence number of the first."""
    packets: int
    """How many there are."""
    payload: bytes
    """The frame's payload."""
    bounds: Bounds = codec.BOUNDS
    """What the packets may cost as objects."""

    @property
    def size(self) -> int:
        """Bytes of the encoded packets."""
        return len(self.payload) - BATCH.size

    def decode(self) -> Iterable[Packet]:
        """Return an iterator of the packets.

        Raises RemoteProtocolError if they are not what was announced.
        """
        return codec.unroll(self.decode_maps())[1]

    def decode_maps(self) -> list[dict[str, Any]]:
        """Return the packets, for a reader that makes Packets of those that are plain dicts.

        Raises RemoteProtocolError if they are not what was announced.
        """
        return speed.decode_maps(memoryview(self.payload)[8:], self.packets, self.bounds)

    def without(self, count: int) -> Batch:
        """Return the batch without its first *count* packets, of which it has more.

        Raises RemoteProtocolError if they are not what was announced.
        """
        start = codec.skip(self.payload, BATCH.size, count)
        first, packets = self.first + count, self.packets - count
        head = BATCH.pack(first, ARRAY32, packets)
        return self._replace(first=first, packets=packets, payload=head + self.payload[start:])


def decode_batch(payload: bytes, bounds: Bounds = codec.BOUNDS) -> Batch:
    """Return the batch in *payload*, its packets still encoded; raises RemoteProtocolError."""
    first, marker, count = BATCH.unpack_from(payload)
    if marker != ARRAY32 or not 0 < count <= len(payload) - BATCH.size:
        raise RemoteProtocolError(
            f"a batch announces {count} packets, which it cannot hold", code="malformed_batch"
        )
    return Batch(first, count, payload, bounds)


class FrameParser:
    """Takes bytes in pieces of any size, gives frames.

    *max_packet* bounds the packets of a batch and the value of a RESULT, *max_header* an OPEN.
    """

    def __init__(self, max_packet: int, max_header: int) -> None:
        self._buffer = bytearray()
        self.frames: int = 0
        """How many frames it has given."""
        self._limits = {
            **_LENGTHS,
            FrameType.OPEN: (1, max_header + HEADER_ROOM),
            FrameType.DATA: (BATCH.size + 1, max_packet + BATCH.size),
            FrameType.MESSAGE: (BATCH.size + 1, max_packet + BATCH.size),
            FrameType.RESULT: (RESULT.size + 1, max_packet + RESULT.size),
        }
        self.allowed: Collection[FrameType] = (FrameType.HELLO, FrameType.GOAWAY)
        """Frames that may come now: before the first HELLO, no other is worth buffering."""

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Store *data*."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None; raises RemoteProtocolError if none can ever be."""
        buffer = self._buffer
        if len(buffer) < HEADER.size:
            if self.allowed and buffer[:1] > b"\0":
                raise self._stranger()  # What may come first is shorter than 2**24 bytes.
            return None
        length, number, flow = HEADER.unpack_from(buffer)
        kind = _KNOWN.get(number)
        self._check(kind, number, length)
        end = HEADER.size + length
        if len(buffer) < end:
            return None
        payload = bytes(memoryview(buffer)[HEADER.size : end])
        del buffer[:end]
        self.frames += 1
        return Frame(number if kind is None else kind, flow, payload)

    def _check(self, kind: FrameType | None, number: int, length: int) -> None:
        if self.allowed and kind not in self.allowed:
            raise self._stranger()
        if kind is None and not number & OPTIONAL:
            text = f"frame type {number:#04x} is not known"
            raise RemoteProtocolError(text, code="unknown_frame")
        least, most = (0, MAX_CONTROL) if kind is None else self._limits[kind]
        if not least <= length <= most:
            name = f"{number:#04x}" if kind is None else kind.name
            raise RemoteProtocolError(
                f"a {name} frame of {length} bytes, where {least} to {most} are allowed",
                code="frame_length",
                limit=most if length > most else least,
                actual=length,
                option=_OPTIONS.get(kind, "") if length > most else "",
            )

    def _stranger(self) -> RemoteProtocolError:
        start = bytes(self._buffer[:12])
        what = f"does not speak this protocol: its first bytes are {start!r}"
        if start[:2] in _TLS:
            what = "speaks TLS, and this side does not: give tls=... to both or to neither"
        return RemoteProtocolError(f"the peer {what}", code="not_this_protocol")
