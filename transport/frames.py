"""Bytes to frames and back: ``u32 length | u8 type | u32 flow | payload``, all big-endian.

The length counts the payload alone. It is held against the limit of the frame's type as soon as the
frame's first nine bytes have come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple, cast

from pyf.transport import codec, speed
from pyf.transport.census import Bounds
from pyf.transport.errors import RemoteProtocolError
from pyf.transport.limits import (
    HEADER_ROOM,
    INITIAL_BYTES,
    KIB,
    LARGE,
    LARGE_BATCH_BYTES,
    MAX_CONTROL,
    MAX_HELLO,
)
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
    """Of a batch that was read into a buffer of its own, a memoryview of that."""


HEADER = Struct(">IBI")
BATCH = Struct(">QBI")
"""First sequence number, then the head of a MessagePack array: marker and number of packets."""
ARRAY32 = 0xDD
REACH = 7
"""How many times what has come of a large frame memory is made for what is still to come."""
SPARES = 2
"""Buffers that are kept from large frames for the next ones: memory that is new costs as much as
copying to it."""
SPARE_AGE = 64
"""Small frames in a row of those that come between large ones, after which no buffer is kept; any
other frame says sooner that nothing large is on its way."""
SPARE = HEADER.size + BATCH.size + LARGE_BATCH_BYTES
"""Bytes of the largest of them."""
STEP = 4 * KIB
"""Their sizes are multiples of this: frames of nearly the same size share them."""
HELLO = Struct(">4sBB")
END = Struct(">Q")
RESULT = Struct(">QQ")
"""Packets consumed, messages sent."""
CREDIT = Struct(">QQQ")
"""Packets consumed, limit in packets, limit in bytes."""
GOAWAY = Struct(">I")
"""The last flow that will be served."""

_HEAD, _BATCH = HEADER.size, BATCH.size
_unpack_head = HEADER.unpack_from
_BATCH_HEAD = Struct(HEADER.format + BATCH.format.strip(">"))

# How an alert and a handshake of TLS begin, in every version of it.
_TLS = (b"\x15\x03", b"\x16\x03")
_BATCHES = frozenset({FrameType.DATA, FrameType.MESSAGE})
_BETWEEN = _BATCHES | {FrameType.CREDIT}
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
    """Return a frame as buffers to be written in a row, none of them empty; nothing is copied."""
    return [HEADER.pack(sum(map(len, payload)), type, flow), *filter(None, payload)]


def encode_batch(
    type: FrameType, flow: int, first: int, count: int, *packets: bytes
) -> list[bytes]:
    """Return the frame of a batch of *count* encoded packets, the first having number *first*."""
    size = BATCH.size + sum(map(len, packets))
    return [_BATCH_HEAD.pack(size, type, flow, first, ARRAY32, count), *packets]


@dataclass(slots=True)
class Batch:
    """Packets that came in one frame, not decoded yet."""

    first: int
    """Sequence number of the first."""
    packets: int
    """How many there are."""
    payload: bytes
    """The frame's payload."""
    bounds: Bounds = codec.BOUNDS
    """What the packets may cost as objects."""
    heavy: bool = False
    """Whether it is known that to decode it takes long."""

    @property
    def size(self) -> int:
        """Bytes of the encoded packets."""
        return len(self.payload) - _BATCH

    def decode(self) -> Iterable[Packet]:
        """Return an iterator of the packets.

        Raises RemoteProtocolError if they are not what was announced.
        """
        return speed.unroll(self.decode_maps())[1]

    def decode_maps(self) -> list[dict[str, Any]]:
        """Return the packets, for a reader that makes Packets of those that are plain dicts.

        Raises RemoteProtocolError if they are not what was announced.
        """
        return speed.decode_maps(memoryview(self.payload)[8:], self.packets, self.bounds)

    def decode_quickly(self) -> list[dict[str, Any]] | None:
        """Return what ``decode_maps`` does, None where that takes long; and raise the same.

        Long is what could keep an event loop busy for more than a moment.
        """
        if self.heavy:
            return None
        packets = speed.decode_quickly(memoryview(self.payload)[8:], self.packets, self.bounds)
        self.heavy = packets is None
        return packets

    def without(self, count: int) -> Batch:
        """Return the batch without its first *count* packets, of which it has more.

        Raises RemoteProtocolError if they are not what was announced.
        """
        start = codec.skip(self.payload, BATCH.size, count)
        first, packets = self.first + count, self.packets - count
        head = BATCH.pack(first, ARRAY32, packets)
        rest = memoryview(self.payload)[start:]
        return Batch(first, packets, b"".join((head, rest)), self.bounds)


def _check_first(length: int) -> None:
    most = INITIAL_BYTES + BATCH.size
    if length > most:
        raise RemoteProtocolError(
            f"a DATA frame of {length} bytes, where {most} are allowed before the flow's first"
            " CREDIT (INITIAL_BYTES)",
            code="frame_length",
            limit=most,
            actual=length,
            option="INITIAL_BYTES",
        )


def decode_batch(payload: bytes, bounds: Bounds = codec.BOUNDS) -> Batch:
    """Return the batch in *payload*, its packets still encoded; raises RemoteProtocolError."""
    first, marker, count = BATCH.unpack_from(payload)
    if marker != ARRAY32 or not 0 < count <= len(payload) - BATCH.size:
        raise RemoteProtocolError(
            f"a batch announces {count} packets, which it cannot hold", code="malformed_batch"
        )
    return Batch(first, count, payload, bounds)


@lru_cache(maxsize=16)  # Every connection of a server has the same.
def _lengths(max_packet: int, max_header: int) -> Mapping[FrameType, tuple[int, int]]:
    """Return the shortest and the longest payload of each frame."""
    return {
        **_LENGTHS,
        FrameType.OPEN: (1, max_header + HEADER_ROOM),
        FrameType.DATA: (BATCH.size + 1, max_packet + BATCH.size),
        FrameType.MESSAGE: (BATCH.size + 1, max_packet + BATCH.size),
        FrameType.RESULT: (RESULT.size + 1, max_packet + RESULT.size),
    }


class FrameParser:
    """Takes bytes in pieces of any size, gives frames.

    *max_packet* bounds the packets of a batch and the value of a RESULT, *max_header* an OPEN.
    """

    def __init__(self, max_packet: int, max_header: int) -> None:
        # What has come and is not parsed, from a place in the first chunk on.
        self._chunks: deque[bytes | bytearray] = deque()
        self._at = 0
        self.pending: int = 0
        """Bytes of a frame that is not whole yet."""
        self._needed = HEADER.size
        # Where a large frame is put together, before what is in the chunks.
        self._buffer: bytearray | None = None
        # Where those before were, and how many frames have needed none since.
        self._spares: deque[bytearray] = deque(maxlen=SPARES)
        self._spare_age = 0
        self.frames: int = 0
        """How many frames it has given."""
        self._limits = _lengths(max_packet, max_header)
        self.known: Container[int] | None = None
        """The flows whose DATA may have any length; None where all may. Others keep to
        INITIAL_BYTES of packets."""
        self.allowed: Collection[FrameType] = (FrameType.HELLO, FrameType.GOAWAY)
        """Frames that may come now: before the first HELLO, no other is worth buffering."""

    def get_buffer(self) -> memoryview | None:
        """Return where the rest of a large frame is to be read to; None where it is not worth it.

        So it is not copied. Memory that is new is for no more than REACH times what has come: a
        peer has to send something for what it takes.
        """
        if self._buffer is None:
            if self._needed < LARGE:
                return None
            come, missing = self.pending, self._needed - self.pending
            if missing < LARGE or (room := self._room(self._needed, come)) is None:
                return None
            room[:come] = b"".join(self._cut(come))
            self._buffer = room
            self.pending = come
        return memoryview(self._buffer)[self.pending : self._needed]

    def buffer_updated(self, size: int) -> bool:
        """Take *size* bytes that have been read to the start of the buffer.

        Return whether the frame is whole now.
        """
        self.pending += size
        return self.pending == self._needed

    def receive_data(self, data: bytes) -> None:
        """Store *data*."""
        if self._buffer is not None:
            data = self._fill(data)
        self.pending += len(data)
        if not self._chunks or len(data) >= LARGE:
            if data:
                self._chunks.append(data)
        elif data:
            # A byte that comes alone must not cost an object of its own.
            self._growing().extend(data)

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None; raises RemoteProtocolError if none can ever be."""
        if self.pending < self._needed:
            if self.allowed and self._peek(1) > b"\0":
                raise self._stranger()  # What may come first is shorter than 2**24 bytes.
            return None
        if self._buffer is not None:
            return self._from_buffer(self._buffer)
        chunk, at = self._chunks[0], self._at
        whole = len(chunk) - at
        if whole >= _HEAD:
            length, number, flow = _unpack_head(chunk, at)
        else:
            length, number, flow = _unpack_head(self._peek(_HEAD))
        kind = _KNOWN.get(number)
        self._check(kind, number, length)
        if self.known is not None and kind is FrameType.DATA and flow not in self.known:
            _check_first(length)
        end = _HEAD + length
        if self.pending < end:
            self._needed = end
            return None
        self._needed = _HEAD
        if self._spares:
            self._let_go(number)
        self.frames += 1
        if end > whole:
            self._cut(_HEAD)
            payload = b"".join(self._cut(length))
        else:
            part = chunk[at + _HEAD : at + end]
            payload = part if isinstance(part, bytes) else bytes(part)
            self._advance(end)
        return Frame(number if kind is None else kind, flow, payload)

    def _room(self, size: int, come: int) -> bytearray | None:
        """Return a buffer for *size* bytes, of which some have *come*.

        One of those before, if nobody looks at it any more; None where too few have come for a new
        one.
        """
        for spare in self._spares:
            if len(spare) >= size:
                with suppress(BufferError):  # One that is looked at refuses to change its size.
                    spare.append(spare.pop())
                    return spare
        if size - come > REACH * come:
            return None
        room = bytearray(size + -size % STEP)
        if size <= SPARE:
            self._spares.append(room)
        return room

    def _let_go(self, number: int) -> None:
        """Keep no spare any longer, if a small frame of this type says that none will be needed."""
        self._spare_age += 1
        if number not in _BETWEEN or self._spare_age >= SPARE_AGE:
            self._spares.clear()

    def _fill(self, data: bytes) -> bytes:
        """Copy *data* to where it belongs in the buffer; return what goes beyond that."""
        if rest := self.get_buffer():
            size = min(len(data), len(rest))
            rest[:size] = data[:size]
            self.buffer_updated(size)
            data = data[size:]
        return data

    def _from_buffer(self, buffer: bytearray) -> Frame:
        """Return the frame that fills *buffer*."""
        payload = memoryview(buffer)[HEADER.size : self._needed]
        self._buffer = None
        self._spare_age = 0
        self.pending -= self._needed
        self._needed = HEADER.size
        self.frames += 1
        _, number, flow = HEADER.unpack_from(buffer)
        kind = _KNOWN.get(number)
        content = cast("bytes", payload) if kind in _BATCHES else bytes(payload)
        return Frame(number if kind is None else kind, flow, content)

    def _growing(self) -> bytearray:
        """Return the last chunk as one that can grow."""
        chunks = self._chunks
        tail = chunks[-1]
        if len(chunks) == 1 and self._at:
            tail = chunks[0] = bytearray(memoryview(tail)[self._at :])
            self._at = 0
        elif not isinstance(tail, bytearray):
            tail = chunks[-1] = bytearray(tail)
        return tail

    def _peek(self, size: int) -> bytes:
        """Return the next *size* bytes, or as many as there are."""
        found = b""
        at = self._at
        for chunk in self._chunks:
            found += chunk[at : at + size - len(found)]
            at = 0
            if len(found) == size:
                break
        return found

    def _advance(self, size: int) -> None:
        """Go on behind the next *size* bytes, all of which are in the first chunk."""
        self.pending -= size
        self._at += size
        if self._at == len(self._chunks[0]):
            self._chunks.popleft()
            self._at = 0

    def _cut(self, size: int) -> list[memoryview]:
        """Return the next *size* bytes as they lie in several chunks, and go on behind them."""
        pieces: list[memoryview] = []
        while size:
            piece = memoryview(self._chunks[0])[self._at :][:size]
            self._advance(len(piece))
            size -= len(piece)
            pieces.append(piece)
        return pieces

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
        start = self._peek(12)
        what = f"does not speak this protocol: its first bytes are {start!r}"
        if start[:2] in _TLS:
            what = "speaks TLS, and this side does not: give tls=... to both or to neither"
        return RemoteProtocolError(f"the peer {what}", code="not_this_protocol")
