"""Bytes to frames and back: ``u32 length | u8 type | u32 flow | payload``, all big-endian.

The length counts the payload alone. It is held against the limit of the frame's type before any of the
payload is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

from pyf.transport import codec
from pyf.transport.errors import RemoteProtocolError
from pyf.transport.limits import MAX_CONTROL, MAX_HELLO
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


class Frame(NamedTuple):
    """One frame as it came; *type* is a plain int where this version knows no such type."""

    type: int
    flow: int
    payload: bytes


HEADER = Struct(">IBI")
BATCH = Struct(">QBI")
"""First sequence number, then the head of a MessagePack array: its marker and the number of packets."""
ARRAY32 = 0xDD
HELLO = Struct(">4sBB")
END = Struct(">Q")
RESULT = Struct(">QQ")
"""Packets consumed, messages sent."""
CREDIT = Struct(">QQQ")
"""Packets consumed, limit in packets, limit in bytes."""
GOAWAY = Struct(">I")
"""The last flow that will be served."""

_KNOWN = {int(frame): frame for frame in FrameType}

# Shortest and longest payload. What carries packets is bounded by the limits of the side that receives.
_LENGTHS: dict[FrameType, tuple[int, int]] = {
    FrameType.HELLO: (HELLO.size + 1, MAX_HELLO),
    FrameType.END: (END.size, END.size),
    FrameType.ABORT: (END.size + 1, MAX_CONTROL),
    FrameType.CANCEL: (0, 0),
    FrameType.CREDIT: (CREDIT.size, CREDIT.size),
    FrameType.PING: (8, 8),
    FrameType.PONG: (8, 8),
    FrameType.GOAWAY: (GOAWAY.size + 1, MAX_CONTROL),
}


def encode_frame(type: FrameType, flow: int, *payload: bytes) -> list[bytes]:
    """Return a frame as buffers to be written in a row; the payload is not copied."""
    return [HEADER.pack(sum(map(len, payload)), type, flow), *payload]


def encode_batch(type: FrameType, flow: int, first: int, count: int, packets: bytes) -> list[bytes]:
    """Return the frame of a batch of *count* encoded packets, the first of which has number *first*."""
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

    @property
    def size(self) -> int:
        """Bytes of the encoded packets."""
        return len(self.payload) - BATCH.size

    def decode(self) -> Iterable[Packet]:
        """Return an iterator of the packets; raises RemoteProtocolError if they are not what was announced."""
        return codec.decode_packets(memoryview(self.payload)[8:], self.packets)


def decode_batch(payload: bytes) -> Batch:
    """Return the batch in *payload*, its packets still encoded; raises RemoteProtocolError."""
    first, marker, count = BATCH.unpack_from(payload)
    if marker != ARRAY32 or not 0 < count <= len(payload) - BATCH.size:
        raise RemoteProtocolError(
            f"a batch announces {count} packets, which it cannot hold", code="malformed_batch"
        )
    return Batch(first, count, payload)


def encode_fields(fields: dict[str, Any]) -> bytes:
    """Return *fields* as a MessagePack map."""
    return codec.encode_packet(fields)


def decode_fields(data: bytes | memoryview, expected: dict[str, tuple[type, ...]]) -> dict[str, Any]:
    """Return the map in *data*, holding the *expected* fields alone; one that is absent is None.

    Raises RemoteProtocolError for a value of another type, where None is expected only if it is listed.
    """
    fields = codec.decode(data)
    if type(fields) is not dict:
        raise RemoteProtocolError("a map of fields is something else", code="malformed_value")
    found = {name: fields.get(name) for name in expected}
    for name, kinds in expected.items():
        if type(found[name]) not in kinds:
            kind = type(found[name]).__name__
            raise RemoteProtocolError(
                f"the field {name!r} may not be a {kind}", code="malformed_value"
            )
    return found


class FrameParser:
    """Takes bytes in pieces of any size, gives frames.

    ``max_batch`` bounds the payload of a frame with packets or values, ``max_open`` that of an OPEN.
    """

    def __init__(self, max_batch: int, max_open: int) -> None:
        self._buffer = bytearray()
        self._limits = {
            **_LENGTHS,
            FrameType.OPEN: (1, max_open),
            FrameType.DATA: (BATCH.size + 1, max_batch),
            FrameType.MESSAGE: (BATCH.size + 1, max_batch),
            FrameType.RESULT: (RESULT.size + 1, max_batch),
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
            return None
        length, number, flow = HEADER.unpack_from(buffer)
        self._check(number, length)
        end = HEADER.size + length
        if len(buffer) < end:
            return None
        payload = bytes(memoryview(buffer)[HEADER.size : end])
        del buffer[:end]
        return Frame(_KNOWN.get(number, number), flow, payload)

    def _check(self, number: int, length: int) -> None:
        known = _KNOWN.get(number)
        if self.allowed and known not in self.allowed:
            raise RemoteProtocolError(
                f"the peer does not speak this protocol: its first bytes are {bytes(self._buffer[:12])!r}",
                code="not_this_protocol",
            )
        if known is None and not number & OPTIONAL:
            raise RemoteProtocolError(
                f"frame type {number:#04x} is not known", code="unknown_frame"
            )
        least, most = self._limits[known] if known else (0, MAX_CONTROL)
        if not least <= length <= most:
            name = known.name if known else f"{number:#04x}"
            raise RemoteProtocolError(
                f"a {name} frame of {length} bytes, where {least} to {most} are allowed",
                code="frame_length",
                limit=most if length > most else least,
                actual=length,
                option=self._option(known, length > most),
            )

    @staticmethod
    def _option(known: FrameType | None, too_long: bool) -> str:
        if too_long and known is FrameType.OPEN:
            return "max_header"
        if too_long and known in (FrameType.DATA, FrameType.MESSAGE, FrameType.RESULT):
            return "max_packet"
        return ""
