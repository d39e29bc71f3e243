"""Packets as lines of JSON, and back: for pipes, ``jq`` and people.

What JSON lacks is an object with one key, which names the type: ``{"$decimal": "1.50"}``. The table
below is all of them; an object of a packet that looks like one is written as ``$map``.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any, Final
from uuid import UUID

from pyf.transport import Packet

__all__ = ["dumps", "loads", "read"]

EXACT_INT: Final = 2**63
"""Integers from here on are written as ``$int``: other readers of JSON would round them."""


def _moment(value: datetime | time) -> Any:
    return [value.isoformat(), 1] if value.fold else value.isoformat()


def _read_moment(kind: type[datetime | time]) -> Callable[[Any], Any]:
    def read(value: Any) -> datetime | time:
        text, fold = value if isinstance(value, list) else (value, 0)
        return kind.fromisoformat(text).replace(fold=fold)

    return read


# By the name of the tag: the type, how it is written, how it is read.
TAGS: Final[dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "$int": (int, hex, lambda text: int(text, 0)),
    "$float": (float, str, float),
    "$decimal": (Decimal, str, Decimal),
    "$bytes": (
        bytes,
        lambda value: b64encode(value).decode("ascii"),
        lambda text: b64decode(text, validate=True),
    ),
    "$datetime": (datetime, _moment, _read_moment(datetime)),
    "$date": (date, date.isoformat, date.fromisoformat),
    "$time": (time, _moment, _read_moment(time)),
    "$timedelta": (
        timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
    "$uuid": (UUID, str, UUID),
    "$map": (dict, lambda value: [[key, _plain(item)] for key, item in value.items()], dict),
}
_TAG_OF: Final = {kind: (tag, write) for tag, (kind, write, _) in TAGS.items()}


def _plain(value: Any) -> Any:
    """Return what the json module writes for *value* and reads back as it was."""
    if isinstance(value, dict):
        if len(value) == 1 and next(iter(value)) in TAGS:
            return _tagged(value, dict)
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    kind = type(value)
    plain = (
        kind not in _TAG_OF
        or (kind is int and -EXACT_INT <= value < EXACT_INT)
        or (kind is float and isfinite(value))
    )
    return value if plain else _tagged(value, kind)


def _tagged(value: Any, kind: type) -> dict[str, Any]:
    tag, write = _TAG_OF[kind]
    return {tag: write(value)}


def dumps(packet: dict[str, Any]) -> str:
    """Return *packet* as one line of JSON, without the end of the line.

    Raises TypeError for a value that cannot travel in a packet either.
    """
    return json.dumps(_plain(packet), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def loads(line: str | bytes) -> Packet:
    """Return the packet of a line; raises ValueError, with the reason, for one that holds none."""
    try:
        packet = json.loads(
            line,
            object_pairs_hook=_object,
            parse_float=_float,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} (column {error.pos + 1})") from None
    if not isinstance(packet, dict):
        raise ValueError(f"a packet is a JSON object, not {type(packet).__name__}")  # noqa: TRY004
    return Packet(packet)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) == 1 and (tag := pairs[0][0]) in TAGS:
        try:
            return TAGS[tag][2](pairs[0][1])
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"{tag} holds no such value ({error})") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _float(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        _no_constant(text)
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON: write it as $float or $decimal")


def read(lines: Iterable[bytes], name: str = "line") -> Iterator[Packet]:
    """Yield the packet of each line; empty lines are skipped.

    Raises ValueError that begins with *name* and the number of the line.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield loads(line.decode("utf-8-sig").rstrip())
            except ValueError as error:
                raise ValueError(f"{name}:{number}: {error}") from None
