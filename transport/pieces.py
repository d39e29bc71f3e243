"""Packets whose large values are sent as they are, without a copy of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from struct import Struct
from typing import Any, Final, cast

from pyf.transport import census
from pyf.transport.census import Bounds
from pyf.transport.codec import encode_packet
from pyf.transport.limits import KIB, LARGE

_MAP32: Final = Struct(">BI")
_BIN16: Final = Struct(">BH")
_BIN32: Final = Struct(">BI")
_SHORT: Final = 1 << 16
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

Pending = deque[Any]
"""Packets that wait to be sent, each Encoded: a deque of bytes alone will do."""


def is_bulk(packet: Encoded) -> bool:
    """Return whether *packet* is large values, and next to nothing beside them."""
    return isinstance(packet, Pieces) and packet.small <= KIB


def encode_pieces(packet: dict[str, Any]) -> Encoded:
    """Return *packet* as ``encode_packet`` does, but in pieces if it has large bytes values.

    They are not copied. It takes longer than ``encode_packet`` where there are none, and raises the
    same.
    """
    large = []
    rest = {}
    # What is no dict is told of as a whole.
    with suppress(AttributeError):
        for key, value in packet.items():
            if type(value) is bytes and len(value) >= LARGE:
                large.append(value)
                rest[key] = _MARK
            else:
                rest[key] = value
    if large:
        texts = encode_packet(rest).split(_MARKED)
        # The mark may be a value as well, though nobody knows it.
        if len(texts) == len(large) + 1:
            return Pieces(_woven(texts, large))
    return encode_packet(packet)


def _woven(texts: list[bytes], values: list[bytes]) -> list[bytes]:
    """Return the buffers of *values*, between the *texts* around them."""
    buffers: list[bytes] = []
    for text, value in zip(texts, values, strict=False):
        size = len(value)
        head = _BIN16.pack(0xC5, size) if size < _SHORT else _BIN32.pack(0xC6, size)
        buffers += (text + head, value)
    if texts[-1]:
        buffers.append(texts[-1])
    return buffers


def weigh(packet: Encoded, bounds: Bounds) -> None:
    """Raise PacketTooLarge if a peer with the same *bounds* would not make objects of *packet*."""
    size = packet.small if isinstance(packet, Pieces) else len(packet)
    if size > bounds.harmless:
        census.weigh(b"".join(flatten([packet])), bounds)


def in_a_row(packets: list[Encoded]) -> tuple[list[bytes], int]:
    """Return the buffers of *packets*, those that are not in pieces joined, and their size."""
    if len(packets) == 1:
        (packet,) = packets
        return [packet] if isinstance(packet, bytes) else packet.buffers, len(packet)
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
