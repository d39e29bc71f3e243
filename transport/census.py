"""What encoded values would cost as objects, told from their heads alone: before they are any.

One byte can become a dict, four can announce four gigabytes. A frame that is too short to do harm
is not looked at, so ordinary traffic pays nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pyf.transport.errors import PacketTooLarge, RemoteProtocolError
from pyf.transport.limits import GROWTH, KIB, MAX_NESTING, MAX_NUMBER, Limits

# Bytes of CPython's objects, with the pointer in the list or dict that holds them.
_SHARED = 8
_SMALL = 40
_CONTAINER = 72
_ENTRY = 46
_FIRST_ENTRIES = 120
_TEXT = 64
_EXTENSION = 120

_DEAREST = _CONTAINER + _CONTAINER + _FIRST_ENTRIES
"""The most that one encoded byte can cost: a map, and the Packet that it is copied to."""

_BIG_INTEGER, _DECIMAL = 1, 2

QUICK_BYTES = 64 * KIB
"""Bytes of values that are decoded in 30 ms, whatever they are."""
QUICK_VALUES = 8192
"""How many are decoded in 10 ms, however long they are, and counted in 5."""
QUICK_NUMBER = KIB
"""Bytes of a number that takes no longer to make than many others."""


class Bounds(NamedTuple):
    """What the values of one frame may cost."""

    memory: int
    """Bytes as objects."""
    objects: int
    """How many of them, keys included."""
    harmless: int
    """Encoded bytes that cannot pass either."""
    option: str
    """The limit that *memory* follows."""
    number: int = MAX_NUMBER
    """Encoded bytes of an integer beyond 64 bits, or a Decimal."""


def bounds(limits: Limits, option: str) -> Bounds:
    """Return the bounds of frames whose length *option* limits."""
    memory = GROWTH * getattr(limits, option)
    harmless = min(memory // _DEAREST, limits.max_objects)
    return Bounds(memory, limits.max_objects, harmless, option)


class _Form(NamedTuple):
    """What a head byte says of the value that it begins."""

    size: int
    """Bytes of the value, as far as they are known from this byte."""
    weight: int
    """What it costs, likewise."""
    width: int = 0
    """Bytes of the length that follows, if any."""
    content: int = 0
    """Encoded bytes for each unit of that length; none where it counts values."""
    rate: int = 0
    """What each unit of that length costs."""
    items: int = 0
    """Values inside, for each unit of that length."""
    inside: int = 0
    """Values inside, where this byte says it."""
    tagged: bool = False
    """Whether a tag follows the length: an extension type."""


def _map(count: int) -> _Form:
    cost = max(_FIRST_ENTRIES, _ENTRY * count) if count else 0
    return _Form(1, _CONTAINER + cost, inside=2 * count)


def _forms() -> list[_Form]:
    forms = [_Form(1, _SHARED)] * 256
    forms[0xE0:] = [_Form(1, _SMALL)] * 32
    forms[0x80:0x90] = [_map(count) for count in range(16)]
    forms[0x90:0xA0] = [_Form(1, _CONTAINER, inside=count) for count in range(16)]
    forms[0xA0:0xC0] = [_Form(1 + length, _TEXT + 4 * length) for length in range(32)]
    for power in range(3):
        width = 2**power
        forms[0xC4 + power] = _Form(1 + width, _TEXT, width, 1, 1)
        forms[0xC7 + power] = _Form(2 + width, _EXTENSION, width, 1, 3, tagged=True)
        forms[0xD9 + power] = _Form(1 + width, _TEXT, width, 1, 4)
    for power in range(2):
        width = 2 * 2**power
        forms[0xDC + power] = _Form(1 + width, _CONTAINER, width, items=1)
        forms[0xDE + power] = _Form(1 + width, _CONTAINER + _FIRST_ENTRIES, width, 0, _ENTRY, 2)
    for power in range(4):
        forms[0xCC + power] = forms[0xD0 + power] = _Form(1 + 2**power, _SMALL)
    forms[0xCA], forms[0xCB] = _Form(5, _SMALL), _Form(9, _SMALL)
    for power in range(5):
        forms[0xD4 + power] = _Form(2 + 2**power, _EXTENSION + 3 * 2**power, tagged=True)
    return forms


_FORMS = _forms()


def check(data: bytes | memoryview, bounds: Bounds) -> bool:
    """Raise RemoteProtocolError, with the facts, if the values in *data* cost more than *bounds*.

    Return whether *data* is known to be one value and nothing else. What is malformed otherwise is
    left to the decoder.
    """
    return len(data) > bounds.harmless and take_census(data, bounds)


def weigh(data: bytes, bounds: Bounds) -> None:
    """Raise PacketTooLarge where a peer with the same *bounds* would not take *data*."""
    try:
        check(data, bounds)
    except RemoteProtocolError as error:
        facts: dict[str, Any] = {"size": error.actual, "limit": error.limit}
        raise PacketTooLarge(f"too large: {error}", **facts, option=error.option) from None


def is_heavy(data: bytes | memoryview, bounds: Bounds) -> bool:
    """Return whether decoding *data* could keep an event loop busy for more than a moment."""
    if len(data) <= QUICK_BYTES:
        return False
    try:
        take_census(data, bounds._replace(objects=QUICK_VALUES, number=QUICK_NUMBER))
    except RemoteProtocolError:
        return True
    return False


def take_census(data: bytes | memoryview, bounds: Bounds) -> bool:
    """Do as ``check`` does, however short *data* is."""
    at = weight = count = 0
    end = len(data)
    left, outer = 1, list[int]()
    while left and at < end:
        size, cost, width, content, rate, items, inside, tagged = _FORMS[data[at]]
        if width:
            length = int.from_bytes(data[at + 1 : at + 1 + width], "big")
            size += content * length
            cost += rate * length
            inside = items * length
        if at + size + inside > end:
            raise _announced(at + size + inside - end, end - at)
        if tagged:
            _check_number(data, at + 1 + width, size - 2 - width, bounds.number)
        at += size
        count += 1
        weight += cost
        if count > bounds.objects:
            raise _too_many(count, bounds)
        if weight > bounds.memory:
            raise _too_heavy(weight, bounds)
        left -= 1
        if inside:
            outer.append(left)
            left = inside
            if len(outer) > MAX_NESTING:
                raise _too_deep(len(outer))
        while not left and outer:
            left = outer.pop()
    return not left and at == end


def _check_number(data: bytes | memoryview, tag_at: int, size: int, most: int) -> None:
    if size > most and data[tag_at] in (_BIG_INTEGER, _DECIMAL):
        text = f"a number of {size} bytes, where {most} are allowed (MAX_NUMBER)"
        raise RemoteProtocolError(
            text, code="malformed_value", limit=most, actual=size, option="MAX_NUMBER"
        )


def _announced(missing: int, there: int) -> RemoteProtocolError:
    text = (
        f"a value cannot be decoded: it announces {missing + there} bytes, but {there} are left in"
        " its frame (Limits.max_packet)"
    )
    return RemoteProtocolError(
        text, code="malformed_value", limit=there, actual=missing + there, option="max_packet"
    )


def _too_many(count: int, bounds: Bounds) -> RemoteProtocolError:
    text = f"a frame holds more than {bounds.objects} values (Limits.max_objects)"
    return RemoteProtocolError(
        text, code="too_many_values", limit=bounds.objects, actual=count, option="max_objects"
    )


def _too_heavy(weight: int, bounds: Bounds) -> RemoteProtocolError:
    text = (
        f"the values of a frame would take more than {bounds.memory} bytes of memory,"
        f" {GROWTH} times Limits.{bounds.option}"
    )
    return RemoteProtocolError(
        text, code="too_many_values", limit=bounds.memory, actual=weight, option=bounds.option
    )


def _too_deep(depth: int) -> RemoteProtocolError:
    text = f"a value cannot be decoded: it is nested deeper than {MAX_NESTING} levels (MAX_NESTING)"
    return RemoteProtocolError(
        text, code="malformed_value", limit=MAX_NESTING, actual=depth, option="MAX_NESTING"
    )
