"""Values and packets as MessagePack, and back, with nothing lost on the way.

MessagePack has no date, no Decimal and no integer beyond 64 bits; these travel as extension types
(``_EXTENSIONS`` below, specified in the wire specification). No class is ever named on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from struct import Struct
from typing import Any, cast
from uuid import UUID

import ormsgpack

from pyf.transport.errors import RemoteProtocolError, UnsupportedValue
from pyf.transport.packet import Packet

MAX_DEPTH = 254
"""Dicts and lists inside each other in one packet, the packet included."""

_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_TIMEDELTA = Struct(">iII")
_FOLD = (b"\x00", b"\x01")


@dataclass(frozen=True, slots=True)
class _Extension:
    tag: int
    type: type
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _encode_int(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _encode_moment(value: datetime | time) -> bytes:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise ValueError("its time zone gives no offset")
    return _FOLD[value.fold] + value.isoformat().encode("ascii")


def _decode_moment(kind: type[datetime] | type[time]) -> Callable[[bytes], datetime | time]:
    def decode(data: bytes) -> datetime | time:
        value = kind.fromisoformat(data[1:].decode("ascii"))
        return value.replace(fold=_FOLD.index(data[:1]))

    return decode


_EXTENSIONS = (
    _Extension(1, int, _encode_int, lambda data: int.from_bytes(data, "big", signed=True)),
    _Extension(
        2,
        Decimal,
        lambda value: str(value).encode("ascii"),
        lambda data: Decimal(data.decode("ascii")),
    ),
    _Extension(3, datetime, _encode_moment, _decode_moment(datetime)),
    _Extension(
        4,
        date,
        lambda value: value.isoformat().encode("ascii"),
        lambda data: date.fromisoformat(data.decode("ascii")),
    ),
    _Extension(5, time, _encode_moment, _decode_moment(time)),
    _Extension(
        6,
        timedelta,
        lambda value: _TIMEDELTA.pack(value.days, value.seconds, value.microseconds),
        lambda data: timedelta(*_TIMEDELTA.unpack(data)),
    ),
    _Extension(7, UUID, lambda value: value.bytes, lambda data: UUID(bytes=data)),
)
_BY_TYPE = {extension.type: extension for extension in _EXTENSIONS}
_BY_TAG = {extension.tag: extension for extension in _EXTENSIONS}

# What a value of a subclass, or of a type of our own making, is before it travels.
_BASES = (bool, int, float, str, bytes)


def _replace(value: Any) -> Any:
    """Return what stands for *value*, of a type that MessagePack lacks; TypeError if nothing does."""
    if extension := _BY_TYPE.get(type(value)):
        return ormsgpack.Ext(extension.tag, extension.encode(value))
    if isinstance(value, Enum):
        return value.value
    if (
        type(value).__module__ == "numpy"
        and hasattr(value, "item")
        and not hasattr(value, "__len__")
    ):
        value = value.item()
        if type(value) in _BASES:
            return value
    for base in _BASES:
        if isinstance(value, base):
            return base(value)
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(type(value))


def encode_packet(packet: dict[str, Any]) -> bytes:
    """Return *packet* as one MessagePack map.

    Raises TypeError if *packet* is not a dict, UnsupportedValue if something in it does not travel.
    """
    if not isinstance(packet, dict):
        raise TypeError(f"a flow is made of Packets or dicts, not of {_name(type(packet))}")
    try:
        # By position: naming the arguments takes longer than the work.
        return ormsgpack.packb(packet, _replace, _OPTIONS)
    except (TypeError, ValueError):
        return ormsgpack.packb(_plain(packet, "", 1), _replace, _OPTIONS)


def _plain(value: Any, path: str, depth: int) -> Any:
    """Return *value* as the encoder takes it, or raise UnsupportedValue with the path of what no encoder takes."""
    if depth > MAX_DEPTH:
        raise _unsupported(
            value, path[:80], f"is nested deeper than {MAX_DEPTH} levels, or holds itself"
        )
    if isinstance(value, Enum):
        return _plain(value.value, path, depth)
    if isinstance(value, dict):
        return {
            _key(key, path): _plain(item, _join(path, key), depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, memoryview):
        return value.tobytes()
    try:
        ormsgpack.packb(value, _replace, _OPTIONS)
    except (TypeError, ValueError) as error:
        if isinstance(value, str):
            raise _unsupported(
                value, path, "holds a lone surrogate, which UTF-8 cannot carry"
            ) from None
        try:
            _replace(value)
        except ValueError as reason:
            raise _unsupported(value, path, f"cannot travel: {reason}") from error
        except TypeError:
            pass
        raise _unsupported(value, path, "cannot travel") from None
    return value


def _key(key: Any, path: str) -> str:
    if isinstance(key, Enum):
        key = key.value
    if not isinstance(key, str):
        raise _unsupported(key, path or "the packet", "has a key that is not a str")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise _unsupported(key, path or "the packet", "has a key with a lone surrogate") from None
    return str(key)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _name(kind: type) -> str:
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _unsupported(value: Any, path: str, what: str) -> UnsupportedValue:
    name = _name(type(value))
    return UnsupportedValue(
        f"{path!r} {what} (type {name})".encode("ascii", "backslashreplace").decode(),
        path=path,
        value_type=name,
    )


def _restore(tag: int, data: bytes) -> Any:
    return _BY_TAG[tag].decode(data)


def decode(data: bytes | memoryview) -> Any:
    """Return the one value in *data*; raises RemoteProtocolError for anything else."""
    try:
        return ormsgpack.unpackb(data, ext_hook=_restore)
    except ValueError as error:
        raise RemoteProtocolError(
            f"a value cannot be decoded: {error}", code="malformed_value"
        ) from None


def decode_packets(data: bytes | memoryview, count: int) -> Iterator[Packet]:
    """Return an iterator of the *count* packets in *data*, a MessagePack array of maps.

    All of it is decoded now; raises RemoteProtocolError unless it is what it claims to be.
    """
    packets = decode(data)
    if type(packets) is not list or len(packets) != count:
        raise RemoteProtocolError(
            f"a batch does not hold the {count} packets it announced", code="malformed_batch"
        )
    if set(map(type, packets)) - {dict}:
        raise RemoteProtocolError(
            "a batch holds something that is not a packet", code="malformed_batch"
        )
    return map(Packet, cast("list[dict[str, Any]]", packets))
