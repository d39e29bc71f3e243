"""What encoded values would cost as objects, told from their heads alone: before they are any.

One byte can become a dict, four can announce four gigabytes. A frame that is too short to do harm
is not looked at, so ordinary traffic pays nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from pyf.transport.compiled import compiled
from pyf.transport.errors import PacketTooLarge, RemoteProtocolError
from pyf.transport.limits import GROWTH, KIB, MAX_NESTING, MAX_NUMBER, MIB, Limits

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

_NUMBERS = (1, 2)
"""The tags of integers beyond 64 bits and Decimals."""

QUICK_BYTES = 16 * KIB
"""Bytes of values that are decoded in 10 ms, whatever they are."""
QUICK_VALUES = 16384
"""How many are decoded in 10 ms, in QUICK_LENGTH bytes at the most; in more, where each may take
longer, half as many are."""
QUICK_LENGTH = 128 * KIB
"""Bytes of two frames as senders close them."""
QUICK_COPY = 4 * MIB
"""Bytes that are copied in 10 ms."""
QUICK_NUMBER = KIB
"""Bytes of a number that takes no longer to make than many others."""

SPARSE = 128
"""Bytes for each value, on average, from which on values are few."""
SPARSE_WEIGHT = 6
"""Bytes of memory for each encoded byte of those: half of GROWTH, and more than texts take."""


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


class Finding(IntEnum):
    """What a walk over values comes to: a bound that they pass, or none."""

    ALONE = 0
    """There is one value and nothing else."""
    MORE = 1
    """Something is missing, or follows."""
    ANNOUNCED = 2
    NUMBER = 3
    MANY = 4
    WEIGHT = 5
    DEEP = 6


class Walk:
    """Goes over encoded values by the *forms* of their heads, without making any.

    Called with the data and what it may cost (memory, objects, bytes of a number), it returns what
    it found; and, where that passes a bound, the limit and the actual value.
    """

    def __init__(self, forms: Sequence[_Form]) -> None:
        self._forms = forms

    def __call__(
        self, data: bytes | memoryview, memory: int, objects: int, number: int
    ) -> tuple[int, int, int]:
        """Return a Finding, limit and actual value."""
        at = weight = count = 0
        end = len(data)
        left, outer = 1, list[int]()
        while left and at < end:
            size, cost, width, content, rate, items, inside, tagged = self._forms[data[at]]
            if width:
                length = int.from_bytes(data[at + 1 : at + 1 + width], "big")
                size += content * length
                cost += rate * length
                inside = items * length
            if at + size + inside > end:
                return Finding.ANNOUNCED, end - at, size + inside
            digits = size - 2 - width
            if tagged and digits > number and data[at + 1 + width] in _NUMBERS:
                return Finding.NUMBER, number, digits
            at += size
            count += 1
            weight += cost
            if count > objects:
                return Finding.MANY, objects, count
            if weight > memory:
                return Finding.WEIGHT, memory, weight
            left -= 1
            if inside:
                outer.append(left)
                left = inside
                if len(outer) > MAX_NESTING:
                    return Finding.DEEP, MAX_NESTING, len(outer)
            while not left and outer:
                left = outer.pop()
        return (Finding.MORE if left or at != end else Finding.ALONE), 0, 0


_walk: Walk = getattr(compiled("pyf.transport._census"), "Walk", Walk)(_FORMS)


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
    if not QUICK_BYTES < len(data) <= QUICK_COPY:
        return len(data) > QUICK_COPY
    values = QUICK_VALUES if len(data) <= QUICK_LENGTH else QUICK_VALUES // 2
    objects = min(values, bounds.objects)
    return _walk(data, bounds.memory, objects, QUICK_NUMBER)[0] > Finding.MORE


def is_sparse(data: bytes) -> bool:
    """Return whether *data* is one value and nothing else, with few values in it for its bytes."""
    size = len(data)
    return _walk(data, SPARSE_WEIGHT * size, size // SPARSE, QUICK_NUMBER)[0] == Finding.ALONE


def take_census(data: bytes | memoryview, bounds: Bounds) -> bool:
    """Do as ``check`` does, however short *data* is."""
    kind, limit, actual = _walk(data, bounds.memory, bounds.objects, bounds.number)
    if kind <= Finding.MORE:
        return kind == Finding.ALONE
    text, code, option = _REFUSALS[Finding(kind)]
    option = option or bounds.option
    text = text.format(limit=limit, actual=actual, growth=GROWTH, option=option)
    raise RemoteProtocolError(text, code=code, limit=limit, actual=actual, option=option)


class _Refusal(NamedTuple):
    """What is said of a bound that was passed."""

    text: str
    code: str
    option: str = ""
    """That of the bounds, where it is empty."""


_REFUSALS: dict[Finding, _Refusal] = {
    Finding.ANNOUNCED: _Refusal(
        "a value cannot be decoded: it announces {actual} bytes, but {limit} are left in its frame"
        " (Limits.max_packet)",
        code="malformed_value",
        option="max_packet",
    ),
    Finding.NUMBER: _Refusal(
        "a number of {actual} bytes, where {limit} are allowed (MAX_NUMBER)",
        code="malformed_value",
        option="MAX_NUMBER",
    ),
    Finding.MANY: _Refusal(
        "a frame holds more than {limit} values (Limits.max_objects)",
        code="too_many_values",
        option="max_objects",
    ),
    Finding.WEIGHT: _Refusal(
        "the values of a frame would take more than {limit} bytes of memory, {growth} times"
        " Limits.{option}",
        code="too_many_values",
    ),
    Finding.DEEP: _Refusal(
        "a value cannot be decoded: it is nested deeper than {limit} levels (MAX_NESTING)",
        code="malformed_value",
        option="MAX_NESTING",
    ),
}
