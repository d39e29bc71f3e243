"""Packets whose large values are sent apart, bytes without a copy of them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from struct import Struct
from typing import Any, Final, cast

from pyf.transport import census
from pyf.transport.census import Bounds
from pyf.transport.codec import encode_packet
from pyf.transport.limits import (
    BATCH_BYTES,
    KIB,
    LARGE,
    LARGE_BATCH_BYTES,
    SPARSE_BATCH_BYTES,
)

_HEAD16: Final = Struct(">BH")
_HEAD32: Final = Struct(">BI")
_SHORT: Final = 1 << 16
_APART: Final[dict[type, tuple[int, int, Callable[[Any], bytes]]]] = {
    bytes: (0xC5, 0xC6, bytes),
    str: (0xDA, 0xDB, str.encode),
}
"""What values may be large, how a short one and a long one begin, and what follows that."""
SMALL: Final = 16
"""The part of a packet, one in so many, that may be beside its large values in a large frame."""
_MARK: Final = os.urandom(16)
"""Stands for a large value while the rest of its packet is encoded."""
_MARKED: Final = bytes((0xC4, len(_MARK))) + _MARK


class Pieces:
    """An encoded packet as buffers to be written in a row; its length is that of all of them."""

    __slots__ = ("_size", "buffers", "small")

    def __init__(self, buffers: list[bytes]) -> None:
        self.buffers: list[bytes] = buffers
        """Every second one is a large value."""
        self.small: int = sum(map(len, buffers[::2]))
        """Bytes beside the large values."""
        self._size = self.small + sum(map(len, buffers[1::2]))

    def __len__(self) -> int:
        return self._size


Encoded = bytes | Pieces
"""One packet, encoded."""


class Run(ABC):
    """Small packets, encoded one behind the other: a frame of them is one piece of memory.

    Its length is that of those that nobody has taken: no more than any peer takes in one packet.
    Only compiled code makes runs, which adds to one in a single step, whoever else has it. In
    Python nobody does: there each packet is bytes of its own.
    """

    packets: int
    """How many there are that nobody has taken."""
    next_size: int
    """Bytes of the first of them, if there is one."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, packets: int, size: int) -> tuple[int, bytes]:
        """Take the first ones, so many or of so many bytes at the most; return how many, and them.

        From then on nothing is added to this run.
        """


Pending = deque[Any]
"""Packets that wait to be sent, each Encoded or in a Run: a deque of bytes alone will do."""


def packets_in(pending: Pending) -> int:
    """Return how many packets wait in *pending*, which other threads may append to meanwhile."""
    return len(pending)


def batch_bytes(packet: Encoded | Run) -> int:
    """Return the bytes at which a frame is closed whose packets are like *packet*, or better.

    Of many small values, a large frame could become more objects than the peer allows. A run is
    not like anything.
    """
    if isinstance(packet, Run):
        return 0
    if isinstance(packet, Pieces):
        return LARGE_BATCH_BYTES if SMALL * packet.small <= len(packet) else BATCH_BYTES
    sparse = len(packet) >= KIB and census.is_sparse(packet)
    return SPARSE_BATCH_BYTES if sparse else BATCH_BYTES


def encode_pieces(packet: dict[str, Any]) -> Encoded:
    """Return *packet* as ``encode_packet`` does, but in pieces if it has large values.

    These are bytes, which are not copied, and texts. It takes longer than ``encode_packet`` where
    there are none, and raises the same.
    """
    large = []
    rest = {}
    try:
        for key, value in packet.items():
            if type(value) in _APART and len(value) >= LARGE:
                short, long, encode = _APART[type(value)]
                data = encode(value)
                large.append((_head(short, long, len(data)), data))
                rest[key] = _MARK
            else:
                rest[key] = value
    except (AttributeError, UnicodeEncodeError):
        return encode_packet(packet)  # What is no dict, or no text, is told of as a whole.
    if large:
        texts = encode_packet(rest).split(_MARKED)
        # The mark may be a value as well, though nobody knows it.
        if len(texts) == len(large) + 1:
            return Pieces(_woven(texts, large))
    return encode_packet(packet)


def _head(short: int, long: int, size: int) -> bytes:
    return _HEAD16.pack(short, size) if size < _SHORT else _HEAD32.pack(long, size)


def _woven(rest: list[bytes], values: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the buffers of *values*, each with its head, between those of the *rest*."""
    buffers: list[bytes] = []
    for between, (head, data) in zip(rest, values, strict=False):
        buffers += (between + head, data)
    if rest[-1]:
        buffers.append(rest[-1])
    return buffers


def weigh(buffers: list[bytes], bounds: Bounds) -> None:
    """Raise PacketTooLarge if a peer with the same *bounds* would not make objects of a packet.

    *buffers* is all of it, every second one a large value.
    """
    if sum(map(len, buffers[::2])) > bounds.harmless:
        census.weigh(b"".join(buffers), bounds)


def in_a_row(packets: list[Encoded]) -> tuple[list[bytes], int]:
    """Return the buffers of *packets*, those that are not in pieces joined, and their size."""
    with suppress(TypeError):  # Some are in pieces.
        joined = b"".join(cast("list[bytes]", packets))
        return [joined], len(joined)
    return flatten(packets), sum(map(len, packets))


def flatten(packets: Iterable[Encoded]) -> list[bytes]:
    """Return the buffers of all *packets*."""
    return [
        buffer
        for packet in packets
        for buffer in (packet.buffers if isinstance(packet, Pieces) else (packet,))
    ]
