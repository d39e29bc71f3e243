"""Packets whose large values are sent as they are, without a copy of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from struct import Struct
from typing import Any, Final

import ormsgpack

from pyf.transport.codec import encode_packet
from pyf.transport.limits import LARGE

_MAP32: Final = Struct(">BI")
_BIN16: Final = Struct(">BH")
_BIN32: Final = Struct(">BI")
_SHORT: Final = 1 << 16
_FEW: Final = 1 << 4


class Pieces:
    """An encoded packet as buffers to be written in a row; its length is that of all of them."""

    __slots__ = ("_size", "buffers")

    def __init__(self, buffers: list[bytes]) -> None:
        self.buffers: list[bytes] = buffers
        self._size = sum(map(len, buffers))

    def __len__(self) -> int:
        return self._size


Encoded = bytes | Pieces
"""One packet, encoded."""

Pending = deque[Any]
"""Packets that wait to be sent, each Encoded: a deque of bytes alone will do."""


def encode_pieces(packet: dict[str, Any]) -> Encoded:
    """Return *packet* as ``encode_packet`` does, but in pieces if it has large bytes values.

    They are not copied. It takes longer than ``encode_packet`` where there are none, and raises the
    same.
    """
    # What cannot travel, or is no dict, is told of as a whole.
    with suppress(AttributeError, TypeError, ValueError):
        if any(map(_is_large, packet, packet.values())):
            return Pieces(_buffers(packet))
    return encode_packet(packet)


def _is_large(key: object, value: object) -> bool:
    return type(value) is bytes and len(value) >= LARGE and type(key) is str


def _buffers(packet: dict[str, Any]) -> list[bytes]:
    buffers: list[bytes] = []
    text = _map_head(len(packet))
    small: dict[str, Any] = {}
    for key, value in packet.items():
        if _is_large(key, value):
            size = len(value)
            head = _BIN16.pack(0xC5, size) if size < _SHORT else _BIN32.pack(0xC6, size)
            buffers += (text + _items(small) + ormsgpack.packb(key) + head, value)
            text, small = b"", {}
        else:
            small[key] = value
    if small:
        buffers.append(_items(small))
    return buffers


def _items(small: dict[str, Any]) -> bytes:
    return encode_packet(small)[len(_map_head(len(small))) :] if small else b""


def _map_head(count: int) -> bytes:
    if count < _FEW:
        return bytes((0x80 + count,))
    return b"\xde" + count.to_bytes(2, "big") if count < _SHORT else _MAP32.pack(0xDF, count)


def flatten(packets: Iterable[Encoded]) -> list[bytes]:
    """Return the buffers of all *packets*."""
    return [
        buffer
        for packet in packets
        for buffer in (packet.buffers if isinstance(packet, Pieces) else (packet,))
    ]
