"""What the frames that carry no packets say: numbers and a map of fields, to bytes and back.

Fields that a decoder doesn't know are ignored; those that are absent count as None.
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

from pyf.transport import frames, speed
from pyf.transport.census import Bounds
from pyf.transport.codec import BOUNDS, Schema
from pyf.transport.errors import RemoteProtocolError
from pyf.transport.limits import (
    ASSUMED_PING_INTERVAL,
    INITIAL_BYTES,
    INITIAL_PACKETS,
    LONGEST_PING_INTERVAL,
    MAX_FRAME,
    MAX_NAME,
    MAX_TEXT,
    MAX_WINDOW,
    Limits,
)
from pyf.transport.packet import Packet
from pyf.transport.resume import Ticket

SOFTWARE = "pyf.station"
"""What a HELLO of ours says of its sender."""

MAX_LENGTH = 2**64 - 1
"""Packets that a flow can have at the most: its END counts them in 64 bits."""

STATUSES = frozenset({"success", "error", "refused", "cancelled", "deadline"})
"""What a RESULT may say."""

_NONE = type(None)


class _AnyType(Container[object]):
    def __contains__(self, _: object) -> bool:
        return True


_HELLO: Schema = {
    "max_packet": (int,),
    "max_header": (int,),
    "window_packets": (int,),
    "window_bytes": (int,),
    "min_ping_interval": (float, _NONE),
    "first_packet": (int, _NONE),
    "required": (list, _NONE),
    "software": (str, _NONE),
}
_OPEN: Schema = {
    "header": (dict, _NONE),
    "timeout": (float, _NONE),
    "waits": (bool, _NONE),
    "length_hint": (int, _NONE),
    "resume": (int, _NONE),
    "name": (str, _NONE),
}
_OPENED: Schema = {
    "boot_id": (bytes,),
    "session_id": (bytes,),
    "token": (bytes,),
    "ttl": (float,),
    "window": (int,),
    "start": (int, _NONE),
}
_RESUME: Schema = {
    "boot_id": (bytes,),
    "session_id": (bytes,),
    "token": (bytes,),
    "received_back": (int,),
    "first_available": (int,),
}
_RESUMED: Schema = {
    "next_sequence": (int,),
    "received_back": (int,),
    "token": (bytes,),
    "generation": (int,),
}
_REJECT: Schema = {"code": (str,), "message": (str, _NONE), "final": (bool,)}
_ABORT: Schema = {"error_class": (str,)}
_ERROR: Schema = {
    "code": (str, _NONE),
    "error_class": (str, _NONE),
    "error_id": (str, _NONE),
    "message": (str, _NONE),
    "traceback": (str, _NONE),
}
_RESULT: Schema = {"status": (str,), "value": _AnyType(), **_ERROR}
_GO_AWAY: Schema = {"code": (str,), "message": (str,)}


class Hello(NamedTuple):
    """What a HELLO says."""

    max_packet: int
    max_header: int
    window_packets: int
    window_bytes: int
    min_ping_interval: float
    first_packet: int | None
    software: str


class Open(NamedTuple):
    """What an OPEN says."""

    header: Packet | None
    timeout: float | None
    waits: bool
    length_hint: int | None
    resume: int | None
    name: str | None


class Resume(NamedTuple):
    """What a RESUME says."""

    boot_id: bytes
    session_id: bytes
    token: bytes
    received_back: int
    first_available: int


class Resumed(NamedTuple):
    """What a RESUMED says."""

    next_sequence: int
    received_back: int
    token: bytes
    generation: int


class Reject(NamedTuple):
    """What a REJECT says."""

    code: str
    message: str
    final: bool


class Result(NamedTuple):
    """What a RESULT says."""

    consumed: int
    messages: int
    status: str
    value: Any
    error: dict[str, Any]


def encode_hello(limits: Limits, first_packet: int | None = None) -> bytes:
    """Return the payload of a HELLO; *first_packet* bytes are taken before the first CREDIT."""
    fields: dict[str, Any] = {
        "max_packet": limits.max_packet,
        "max_header": limits.max_header,
        "window_packets": limits.window_packets,
        "window_bytes": limits.window_bytes,
        "min_ping_interval": float(limits.min_ping_interval),
        "required": [],
        "software": SOFTWARE,
    }
    if first_packet is not None:
        fields["first_packet"] = first_packet
    head = frames.HELLO.pack(frames.MAGIC, frames.VERSION, frames.VERSION)
    return head + speed.encode_packet(fields)


@lru_cache(maxsize=16)  # Peers of one kind all say the same.
def decode_hello(payload: bytes, bounds: Bounds = BOUNDS) -> Hello:
    """Return what a HELLO says; raises RemoteProtocolError if we cannot talk with its sender."""
    magic, least, most = frames.HELLO.unpack_from(payload)
    if magic != frames.MAGIC:
        text = f"the peer does not speak this protocol: its magic is {magic!r}"
        raise RemoteProtocolError(text, code="not_this_protocol")
    if not least <= frames.VERSION <= most:
        text = f"the peer speaks versions {least} to {most}, this side {frames.VERSION}"
        raise RemoteProtocolError(text, code="version")
    fields = _decode_fields(payload[frames.HELLO.size :], _HELLO, bounds)
    if required := fields.pop("required"):
        names = ", ".join(name for name in required if isinstance(name, str))
        text = f"the peer requires features that this side lacks: {names[:MAX_TEXT]}"
        raise RemoteProtocolError(text, code="required_feature")
    sizes = ("max_packet", "max_header", "window_bytes")
    first = fields["first_packet"]
    if (
        fields["window_packets"] < INITIAL_PACKETS
        or any(fields[s] < INITIAL_BYTES for s in sizes)
        or (first is not None and first < INITIAL_BYTES)
    ):
        text = "the peer's HELLO announces limits below the least allowed"
        raise RemoteProtocolError(text, code="malformed_value")
    if fields["min_ping_interval"] is None:
        fields["min_ping_interval"] = ASSUMED_PING_INTERVAL
    if not 0 < fields["min_ping_interval"] <= LONGEST_PING_INTERVAL:
        text = f"the peer takes a PING every {fields['min_ping_interval']} seconds"
        raise RemoteProtocolError(text, code="malformed_value")
    for name in ("max_packet", "max_header"):
        fields[name] = min(fields[name], MAX_FRAME)
    return Hello(**{**fields, "software": fields["software"] or ""})


def encode_open(
    header: dict[str, Any] | None,
    timeout: float | None,
    waits: bool,
    length_hint: int | None = None,
    resume: int | None = None,
    name: str | None = None,
) -> bytes:
    """Return the payload of an OPEN.

    Raises ValueError for a *timeout* that is no duration, a *length_hint* that is no length, less
    than INITIAL_BYTES to *resume* with, or a *name* of more than MAX_NAME characters.
    """
    fields: dict[str, Any] = {"header": header, "timeout": timeout, "waits": waits}
    if timeout is not None:
        fields["timeout"] = timeout = float(timeout)
        if not 0 <= timeout < inf:
            raise ValueError(f"a timeout of {timeout} seconds")
    if length_hint is not None:
        if not 0 <= length_hint <= MAX_LENGTH:
            raise ValueError(f"a length of {length_hint} packets")
        fields["length_hint"] = length_hint
    if resume is not None:
        fields["resume"] = resume
        if not INITIAL_BYTES <= resume <= MAX_WINDOW:
            raise ValueError(f"to keep {resume} bytes, where at least {INITIAL_BYTES} are needed")
    if name is not None:
        fields["name"] = name
        if not 0 < len(name) <= MAX_NAME:
            raise ValueError(f"a flow's name has 1 to {MAX_NAME} characters, not {len(name)}")
    return speed.encode_packet(fields)


def decode_open(payload: bytes, bounds: Bounds = BOUNDS) -> Open:
    """Return what an OPEN says; raises RemoteProtocolError."""
    fields = _decode_fields(payload, _OPEN, bounds)
    header, timeout, waits, length_hint, resume, name = fields.values()
    if timeout is not None and not 0 <= timeout < inf:
        raise RemoteProtocolError(f"a timeout of {timeout} seconds", code="malformed_value")
    if length_hint is not None and not 0 <= length_hint <= MAX_LENGTH:
        raise RemoteProtocolError("a length that no flow can have", code="malformed_value")
    if resume is not None and not INITIAL_BYTES <= resume <= MAX_WINDOW:
        raise RemoteProtocolError(f"a client that keeps {resume} bytes", code="malformed_value")
    if name is not None and not 0 < len(name) <= MAX_NAME:
        text = f"a flow's name of {len(name)} characters"
        raise RemoteProtocolError(text, code="malformed_value")
    packet = None if header is None else Packet(header)
    return Open(packet, timeout, waits is not False, length_hint, resume, name)


def encode_opened(ticket: Ticket) -> bytes:
    """Return the payload of an OPENED."""
    return speed.encode_packet(ticket._asdict())


def decode_opened(payload: bytes) -> Ticket:
    """Return what an OPENED says; raises RemoteProtocolError."""
    fields = _decode_fields(payload, _OPENED)
    fields["start"] = fields["start"] or 0
    ticket = Ticket(**fields)
    _check_numbers(ticket.start)
    if not (0 < ticket.ttl < inf and INITIAL_BYTES <= ticket.window <= MAX_WINDOW):
        text = f"a session of {ticket.ttl} seconds and {ticket.window} bytes"
        raise RemoteProtocolError(text, code="malformed_value")
    return ticket


def encode_resume(ticket: Ticket, received_back: int, first_available: int) -> bytes:
    """Return the payload of a RESUME."""
    head = ticket.boot_id, ticket.session_id, ticket.token
    return speed.encode_packet(Resume(*head, received_back, first_available)._asdict())


def decode_resume(payload: bytes) -> Resume:
    """Return what a RESUME says; raises RemoteProtocolError."""
    request = Resume(**_decode_fields(payload, _RESUME))
    _check_numbers(request.received_back, request.first_available)
    return request


def encode_resumed(next_sequence: int, received_back: int, token: bytes, generation: int) -> bytes:
    """Return the payload of a RESUMED."""
    return speed.encode_packet(Resumed(next_sequence, received_back, token, generation)._asdict())


def decode_resumed(payload: bytes) -> Resumed:
    """Return what a RESUMED says; raises RemoteProtocolError."""
    answer = Resumed(**_decode_fields(payload, _RESUMED))
    _check_numbers(answer.next_sequence, answer.received_back, answer.generation)
    return answer


def encode_reject(code: str, message: str, final: bool) -> bytes:
    """Return the payload of a REJECT."""
    return speed.encode_packet({"code": code, "message": _text(message), "final": final})


def decode_reject(payload: bytes) -> Reject:
    """Return what a REJECT says; raises RemoteProtocolError."""
    fields = _decode_fields(payload, _REJECT)
    return Reject(fields["code"], fields["message"] or "", fields["final"])


def encode_abort(count: int, error_class: str) -> bytes:
    """Return the payload of an ABORT."""
    return frames.END.pack(count) + speed.encode_packet({"error_class": _text(error_class)})


def decode_abort(payload: bytes, bounds: Bounds = BOUNDS) -> tuple[int, str]:
    """Return the count and the error class of an ABORT; raises RemoteProtocolError."""
    (count,) = frames.END.unpack_from(payload)
    return count, _decode_fields(payload[frames.END.size :], _ABORT, bounds)["error_class"]


def encode_outcome(status: str, facts: dict[str, Any]) -> bytes:
    """Return the fields of a RESULT; raises UnsupportedValue."""
    return speed.encode_packet({"status": status, **facts})


def encode_result(consumed: int, messages: int, outcome: bytes) -> bytes:
    """Return the payload of a RESULT with the fields of *outcome*."""
    return frames.RESULT.pack(consumed, messages) + outcome


def decode_result(payload: bytes, bounds: Bounds = BOUNDS) -> Result:
    """Return what a RESULT says; raises RemoteProtocolError."""
    consumed, messages = frames.RESULT.unpack_from(payload)
    outcome = decode_outcome(memoryview(payload)[frames.RESULT.size :], bounds)
    return Result(consumed, messages, *outcome)


def decode_outcome(
    data: bytes | memoryview, bounds: Bounds = BOUNDS
) -> tuple[str, Any, dict[str, Any]]:
    """Return status, value and error facts of a RESULT; raises RemoteProtocolError."""
    fields = _decode_fields(data, _RESULT, bounds)
    status, value = fields.pop("status"), fields.pop("value")
    if status not in STATUSES:
        text = f"a result may not be {status[:80]!r}"
        raise RemoteProtocolError(text, code="malformed_value")
    return status, value, fields


def encode_go_away(last_flow: int, code: str, message: str) -> bytes:
    """Return the payload of a GOAWAY."""
    fields = speed.encode_packet({"code": _text(code), "message": _text(message)})
    return frames.GOAWAY.pack(last_flow) + fields


def decode_go_away(payload: bytes, bounds: Bounds = BOUNDS) -> tuple[int, str, str]:
    """Return last flow, code and message of a GOAWAY; raises RemoteProtocolError."""
    (last_flow,) = frames.GOAWAY.unpack_from(payload)
    fields = _decode_fields(payload[frames.GOAWAY.size :], _GO_AWAY, bounds)
    return last_flow, fields["code"], fields["message"]


def _check_numbers(*numbers: int) -> None:
    for number in numbers:
        if not 0 <= number <= MAX_WINDOW:
            raise RemoteProtocolError(f"a count of {number}", code="malformed_value")


def _text(text: str) -> str:
    """Return *text* as it fits a control frame, whatever its length and characters."""
    return text[:MAX_TEXT].encode(errors="backslashreplace").decode()


def _decode_fields(
    data: bytes | memoryview, schema: Schema, bounds: Bounds = BOUNDS
) -> dict[str, Any]:
    """Return the fields of *schema*, and in its order, from the map in *data*."""
    found = speed.decode_fields(data, schema, bounds)
    if found is None:
        fields = speed.decode(data, bounds)
        text = "a map of fields is something else"
        if type(fields) is dict:
            types = {name: type(fields.get(name)) for name in schema}
            name = next(name for name in schema if types[name] not in schema[name])
            text = f"the field {name!r} may not be a {types[name].__name__}"
        raise RemoteProtocolError(text, code="malformed_value")
    return found
