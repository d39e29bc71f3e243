"""Values and packets as MessagePack, and back, with nothing lost on the way.

MessagePack has no date, no Decimal and no integer beyond 64 bits; these travel as extension types
(``_EXTENSIONS`` below, specified in the wire specification). No class is ever named on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Hashable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from itertools import repeat
from operator import call
from secrets import token_bytes
from struct import Struct
from typing import Any, TypeVar, cast
from uuid import UUID

import ormsgpack

from pyf.transport import census
from pyf.transport.census import Bounds
from pyf.transport.errors import RemoteProtocolError, UnsupportedValue
from pyf.transport.limits import MAX_NUMBER, Limits
from pyf.transport.packet import Packet

_call: Any = call  # Its type has too many variables for pyright.
_T = TypeVar("_T")

MAX_DEPTH = 255
"""Dicts and lists inside each other in one map, itself included: where ormsgpack stops."""

_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_TIMEDELTA = Struct(">iII")
_WORD = 64
_FOLD = (b"\x00", b"\x01")
_FINE_OFFSET = re.compile(r"([+-])(\d\d):(\d\d):(\d\d)\.(\d{6})$")
_FINEST = len("00+00:00:00.000000")


@dataclass(frozen=True, slots=True)
class _Extension:
    tag: int
    type: type
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


# Behind what is decoded, in one array with it: if it comes out as the second value, nothing else
# was there. No peer can guess it.
_TOKEN = token_bytes(16)
_PAIR, _SEAL = b"\x92", ormsgpack.packb(_TOKEN)
BOUNDS = census.bounds(Limits(), "max_packet")
"""What values may cost by default."""


def _encode_int(value: int) -> bytes:
    return _of_size(value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _of_size(data: bytes) -> bytes:
    if len(data) > MAX_NUMBER:
        raise ValueError(f"it takes {len(data)} bytes, where a number may have {MAX_NUMBER}")
    return data


def _encode_moment(value: datetime | time) -> bytes:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise ValueError("its time zone gives no offset")
    return _FOLD[value.fold] + value.isoformat().encode("ascii")


def _decode_moment(kind: type[datetime | time]) -> Callable[[bytes], datetime | time]:
    def decode_moment(data: bytes) -> datetime | time:
        text = data[1:].decode("ascii")
        value = kind.fromisoformat(text)
        if data[:1] != _FOLD[0]:
            value = value.replace(fold=_FOLD.index(data[:1]))
        if len(text) >= _FINEST and (offset := _FINE_OFFSET.search(text)):
            # CPython takes an offset of less than a second for UTC.
            sign, *parts = offset.groups()
            hours, minutes, seconds, micros = map(int, parts)
            exact = timedelta(hours=hours, minutes=minutes, seconds=seconds, microseconds=micros)
            value = value.replace(tzinfo=timezone(-exact if sign == "-" else exact))
        return value

    return decode_moment


_EXTENSIONS = (
    _Extension(
        1, int, _encode_int, lambda data: int.from_bytes(_of_size(data), "big", signed=True)
    ),
    _Extension(
        2,
        Decimal,
        lambda value: _of_size(str(value).encode("ascii")),
        lambda data: Decimal(_of_size(data).decode("ascii")),
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

# What an instance of a subclass is by value, whatever that subclass makes of int() or str().
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, bytes.__bytes__),
    (bytearray, bytes),
)
_NATIVE = (type(None), str, int, float, bytes)
_NUMPY_ITEMS = frozenset({bool, int, float, datetime, date, timedelta})


def _replace(value: Any) -> Any:
    """Return what stands for *value*, of a type that MessagePack lacks; TypeError if nothing."""
    if extension := _BY_TYPE.get(type(value)):
        return ormsgpack.Ext(extension.tag, extension.encode(value))
    for base, plain in _BASES:
        if isinstance(value, base):
            return plain(value)
    if isinstance(value, tuple):
        return list(value)
    if type(value).__module__ == "numpy" and isinstance(value, Hashable):
        return _numpy_item(value)
    raise TypeError


def _numpy_item(value: Any) -> Any:
    item = value.item()
    # NumPy counts nanoseconds, months and years in plain ints, which would lose their meaning.
    if type(item) not in _NUMPY_ITEMS or (type(item) is int and value.dtype.kind in "mM"):
        raise TypeError
    return item


def encode_packet(packet: dict[str, Any]) -> bytes:
    """Return *packet* as one MessagePack map.

    Raises TypeError if *packet* is not a dict, UnsupportedValue if something in it does not travel.
    """
    if not isinstance(packet, dict):
        raise _no_packet(packet)
    try:
        # By position: naming the arguments takes longer than the work.
        return ormsgpack.packb(packet, _replace, _OPTIONS)
    except (TypeError, ValueError):
        pass  # the slow way finds out why
    plain = _plain(packet, "", 1)
    _raise_if_interrupted(lambda: ormsgpack.packb(packet, _replace, _OPTIONS))
    return ormsgpack.packb(plain, _replace, _OPTIONS)


def _no_packet(value: object) -> TypeError:
    error = TypeError(f"a flow is made of Packets or dicts, not of {_name(type(value))}")
    vars(error)["value"] = value  # for who knows what else a flow may be made of
    return error


def encode_each(
    gate: list[Callable[[dict[str, Any]], _T]], source: Iterator[dict[str, Any]], room: int
) -> Iterator[_T]:
    """Return an iterator of the packets of *source*, each encoded by the next function in *gate*.

    The gate is asked before the source: once another thread has emptied it, no packet is lost. It
    is emptied here at the packet that fills *room*, so many bytes.
    """
    # A packet is encoded as it comes: its source may change it and yield it again.
    for data in map(_call, gate, source):
        room -= len(data)
        if room <= 0:
            gate.clear()
        yield data


def _raise_if_interrupted(attempt: Callable[[], object]) -> None:
    """Raise KeyboardInterrupt if *attempt*, which has failed once, succeeds.

    ormsgpack forgets what its hooks raise, also if it was a signal handler that raised in one:
    Ctrl-C would pass for a bad value.
    """
    try:
        attempt()
    except (TypeError, ValueError):
        return
    raise KeyboardInterrupt


def _plain(value: Any, path: str, depth: int) -> Any:
    """Return *value* as the encoder takes it; raises UnsupportedValue with the path of what fails.

    Slow and thorough: for packets that the encoder alone has refused.
    """
    if isinstance(value, Enum):
        return _plain(value.value, path, depth)
    if not isinstance(value, dict | list | tuple):
        return _plain_leaf(value, path)
    if depth > MAX_DEPTH:
        what = f"is nested deeper than {MAX_DEPTH} levels, or holds itself"
        raise _unsupported(value, f"{path[:80]}...", what)
    if isinstance(value, dict):
        items = [(_plain_key(key, path), item) for key, item in value.items()]
        prefix = f"{path}." if path else ""
        return {key: _plain(item, f"{prefix}{key}", depth + 1) for key, item in items}
    return [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]


def _plain_leaf(value: Any, path: str) -> Any:
    try:
        if isinstance(value, memoryview):
            return value.tobytes()
        if isinstance(value, str):
            str.encode(value)
        if isinstance(value, int) and value.bit_length() > _WORD:
            return _replace(int.__int__(value))
        return value if isinstance(value, _NATIVE) else _replace(value)
    except UnicodeEncodeError:
        what = "holds a lone surrogate, which UTF-8 cannot carry"
        raise _unsupported(value, path, what) from None
    except TypeError:
        raise _unsupported(value, path, "cannot travel") from None
    except Exception as reason:
        raise _unsupported(value, path, f"cannot travel: {reason}") from reason


def _plain_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise _unsupported(key, path or "the packet", "has a key that is not a str")
    try:
        str.encode(key)
    except UnicodeEncodeError:
        raise _unsupported(key, path or "the packet", "has a key with a lone surrogate") from None
    return str.__str__(key)


def _name(kind: type) -> str:
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _unsupported(value: Any, path: str, what: str) -> UnsupportedValue:
    name = _name(type(value))
    return UnsupportedValue(f"{path!r} {what} (type {name})", path=path, value_type=name)


def breathe() -> None:
    """Do nothing, in Python: where another thread waits for its turn, it gets that meanwhile."""


def _restore(tag: int, data: bytes) -> Any:
    return _BY_TAG[tag].decode(data)


def decode(data: bytes | memoryview, bounds: Bounds = BOUNDS) -> Any:
    """Return the one value in *data*, which may cost what *bounds* say.

    Raises RemoteProtocolError for anything else.
    """
    # Where the census has found that nothing follows the value, it needs no seal, nor a copy.
    alone = census.check(data, bounds)
    sealed = data if alone else b"".join((_PAIR, data, _SEAL))
    try:
        value = ormsgpack.unpackb(sealed, ext_hook=_restore)
    except ValueError as error:
        reason = str(error)
    else:
        if alone:
            return value
        if value[1] == _TOKEN:
            return value[0]
        text = "something follows a value that is to stand alone"
        raise RemoteProtocolError(text, code="malformed_value")
    _raise_if_interrupted(lambda: ormsgpack.unpackb(sealed, ext_hook=_restore))
    census.take_census(data, bounds)
    raise RemoteProtocolError(f"a value cannot be decoded: {reason}", code="malformed_value")


Schema = dict[str, Container[object]]
"""The types that each field of a map may have; None's is among them where it may be absent."""


def decode_fields(
    data: bytes | memoryview, schema: Schema, bounds: Bounds = BOUNDS
) -> dict[str, Any] | None:
    """Return the fields of *schema*, and in its order, from the map in *data*.

    None where that is no map, or a field has another type. Raises RemoteProtocolError as ``decode``
    does.
    """
    fields = decode(data, bounds)
    if type(fields) is not dict:
        return None
    found = {}
    for name, types in schema.items():
        value = found[name] = fields.get(name)
        if type(value) not in types:
            return None
    return found


# What follows the first byte of a value: bytes that are always there, bytes of a length, values for
# each unit of that length (none: it counts bytes), values that are always there.
_FOLLOWING: dict[int, tuple[int, int, int, int]] = {
    **dict.fromkeys((*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3), (0, 0, 0, 0)),
    **{0x80 + n: (0, 0, 0, 2 * n) for n in range(16)},
    **{0x90 + n: (0, 0, 0, n) for n in range(16)},
    **{0xA0 + n: (n, 0, 0, 0) for n in range(32)},
    **{0xC4 + n: (0, 1 << n, 0, 0) for n in range(3)},
    **{0xC7 + n: (1, 1 << n, 0, 0) for n in range(3)},
    **{0xCA + n: (4 << n, 0, 0, 0) for n in range(2)},
    **{0xCC + n: (1 << n, 0, 0, 0) for n in range(4)},
    **{0xD0 + n: (1 << n, 0, 0, 0) for n in range(4)},
    **{0xD4 + n: (1 + (1 << n), 0, 0, 0) for n in range(5)},
    **{0xD9 + n: (0, 1 << n, 0, 0) for n in range(3)},
    **{0xDC + n: (0, 2 << n, 1, 0) for n in range(2)},
    **{0xDE + n: (0, 2 << n, 2, 0) for n in range(2)},
}


def skip(data: bytes, start: int, count: int) -> int:
    """Return where the value behind *count* values begins, the first of which is at *start*.

    Raises RemoteProtocolError where they are not within *data*.
    """
    while count and start < len(data) and (following := _FOLLOWING.get(data[start])):
        always, width, each, values = following
        start += 1
        length = int.from_bytes(data[start : start + width], "big")
        count += values + length * each - 1
        start += width + always + (0 if each else length)
    if count or start > len(data):
        raise RemoteProtocolError("a batch does not hold its packets", code="malformed_batch")
    return start


def decode_maps(
    data: bytes | memoryview, count: int, bounds: Bounds = BOUNDS
) -> list[dict[str, Any]]:
    """Return the *count* packets in *data*, a MessagePack array of maps, as dicts.

    Raises RemoteProtocolError unless it is what it claims to be, and costs no more than *bounds*
    say.
    """
    packets = decode(data, bounds)
    if type(packets) is not list or len(packets) != count:
        raise RemoteProtocolError(
            f"a batch does not hold the {count} packets it announced", code="malformed_batch"
        )
    if set(map(type, packets)) - {dict}:
        raise RemoteProtocolError(
            "a batch holds something that is not a packet", code="malformed_batch"
        )
    return cast("list[dict[str, Any]]", packets)


def decode_quickly(
    data: bytes | memoryview, count: int, bounds: Bounds = BOUNDS
) -> list[dict[str, Any]] | None:
    """Do as ``decode_maps`` does; return None where that could keep an event loop for too long."""
    return None if census.is_heavy(data, bounds) else decode_maps(data, count, bounds)


def unroll(maps: list[dict[str, Any]]) -> tuple[Iterator[Any], Iterator[Packet]]:
    """Return an iterator that says in its length hint how many of *maps* are left, and one that
    makes a Packet of each, unless they are Packets already.

    Each dict is freed as its Packet is made: no more than one of them is there twice.
    """
    if maps and type(maps[0]) is Packet:
        made = iter(cast("list[Packet]", maps))
        return made, made
    maps.reverse()
    left = repeat(maps, len(maps))
    return left, map(Packet, map(list.pop, left))
