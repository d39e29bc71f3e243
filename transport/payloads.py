"""What the frames that carry no packets say: numbers and a map of fields, to bytes and back.

Fields that a decoder doesn't know are ignored; those that are absent count as None.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from pyf.transport import codec, frames
from pyf.transport.census import Bounds
from pyf.transport.codec import BOUNDS
from pyf.transport.errors import RemoteProtocolError
from pyf.transport.limits import (
    ASSUMED_PING_INTERVAL,
    INITIAL_BYTES,
    INITIAL_PACKETS,
    LONGEST_PING_INTERVAL,
    MAX_FRAME,
    MAX_TEXT,
    Limits,
)
from pyf.transport.packet import Packet

SOFTWARE = "pyf.station"
"""What a HELLO of ours says of its sender."""

MAX_LENGTH = 2**64 - 1
"""Packets that a flow can have at the most: its END counts them in 64 bits."""

STATUSES = frozenset({"success", "error", "refused", "cancelled", "deadline"})
"""What a RESULT may say."""

# The types that a field may have; none listed: any.
_Schema = dict[str, tuple[type, ...]]
_NONE = type(None)
_HELLO: _Schema = {
    "max_packet": (int,),
    "max_header": (int,),
    "window_packets": (int,),
    "window_bytes": (int,),
    "min_ping_interval": (float, _NONE),
    "required": (list, _NONE),
    "software": (str, _NONE),
}
_OPEN: _Schema = {
    "header": (dict, _NONE),
    "timeout": (float, _NONE),
    "waits": (bool, _NONE),
    "length_hint": (int, _NONE),
}
_ABORT: _Schema = {"error_class": (str,)}
_ERROR: _Schema = {
    "code": (str, _NONE),
    "error_class": (str, _NONE),
    "error_id": (str, _NONE),
    "message": (str, _NONE),
    "traceback": (str, _NONE),
}
_RESULT: _Schema = {"status": (str,), "value": (), **_ERROR}
_GO_AWAY: _Schema = {"code": (str,), "message": (str,)}


class Hello(NamedTuple):
    """What a HELLO says."""

    max_packet: int
    max_header: int
    window_packets: int
    window_bytes: int
    min_ping_interval: float
    software: str


class Open(NamedTuple):
    """What an OPEN says."""

    header: Packet | None
    timeout: float | None
    waits: bool
    length_hint: int | None


class Result(NamedTuple):
    """What a RESULT says."""

    consumed: int
    messages: int
    status: str
    value: Any
    error: dict[str, Any]


def encode_hello(limits: Limits) -> bytes:
    """Return the payload of a HELLO."""
    fields = {
        "max_packet": limits.max_packet,
        "max_header": limits.max_header,
        "window_packets": limits.window_packets,
        "window_bytes": limits.window_bytes,
        "min_ping_interval": float(limits.min_ping_interval),
        "required": [],
        "software": SOFTWARE,
    }
    head = frames.HELLO.pack(frames.MAGIC, frames.VERSION, frames.VERSION)
    return head + codec.encode_packet(fields)


def decode_hello(payload: bytes, bounds: Bounds = BOUNDS) -> Hello:
    """Return what a HELLO says; raises RemoteProtocolError if we cannot talk with its sender."""
    magic, least, most = frames.HELLO.unpack_from(payload)
    if magic != frames.MAGIC:
        text = f"the peer does not speak this protocol: its magic is {magic!r}"
        raise RemoteProtocolError(text, code="not_this_protocol")
    if not least <= frames.VERSION <= most:
        text = f"the peer speaks versions {least} to {most}, this side {frames.VERSION}"
        raise RemoteProtocolError(text, code="version")
    fields = _decode_fields(payload, frames.HELLO.size, _HELLO, bounds)
    if required := fields.pop("required"):
        names = ", ".join(name for name in required if isinstance(name, str))
        text = f"the peer requires features that this side lacks: {names[:MAX_TEXT]}"
        raise RemoteProtocolError(text, code="required_feature")
    sizes = ("max_packet", "max_header", "window_bytes")
    if fields["window_packets"] < INITIAL_PACKETS or any(fields[s] < INITIAL_BYTES for s in sizes):
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
) -> bytes:
    """Return the payload of an OPEN.

    Raises ValueError for a *timeout* that is no duration, or a *length_hint* that is no length.
    """
    if timeout is not None:
        timeout = float(timeout)
        if not 0 <= timeout < inf:
            raise ValueError(f"a timeout of {timeout} seconds")
    fields = {"header": header, "timeout": timeout, "waits": waits}
    if length_hint is not None:
        if not 0 <= length_hint <= MAX_LENGTH:
            raise ValueError(f"a length of {length_hint} packets")
        fields["length_hint"] = length_hint
    return codec.encode_packet(fields)


def decode_open(payload: bytes, bounds: Bounds = BOUNDS) -> Open:
    """Return what an OPEN says; raises RemoteProtocolError."""
    header, timeout, waits, length_hint = _decode_fields(payload, 0, _OPEN, bounds).values()
    if timeout is not None and not 0 <= timeout < inf:
        raise RemoteProtocolError(f"a timeout of {timeout} seconds", code="malformed_value")
    if length_hint is not None and not 0 <= length_hint <= MAX_LENGTH:
        raise RemoteProtocolError("a length that no flow can have", code="malformed_value")
    header = None if header is None else Packet(header)
    return Open(header, timeout, waits is not False, length_hint)


def encode_abort(count: int, error_class: str) -> bytes:
    """Return the payload of an ABORT."""
    return frames.END.pack(count) + codec.encode_packet({"error_class": _text(error_class)})


def decode_abort(payload: bytes, bounds: Bounds = BOUNDS) -> tuple[int, str]:
    """Return the count and the error class of an ABORT; raises RemoteProtocolError."""
    (count,) = frames.END.unpack_from(payload)
    return count, _decode_fields(payload, frames.END.size, _ABORT, bounds)["error_class"]


def encode_result(consumed: int, messages: int, status: str, facts: dict[str, Any]) -> bytes:
    """Return the payload of a RESULT; raises UnsupportedValue."""
    fields = codec.encode_packet({"status": status, **facts})
    return frames.RESULT.pack(consumed, messages) + fields


def decode_result(payload: bytes, bounds: Bounds = BOUNDS) -> Result:
    """Return what a RESULT says; raises RemoteProtocolError."""
    consumed, messages = frames.RESULT.unpack_from(payload)
    fields = _decode_fields(payload, frames.RESULT.size, _RESULT, bounds)
    status, value = fields.pop("status"), fields.pop("value")
    if status not in STATUSES:
        text = f"a result may not be {status[:80]!r}"
        raise RemoteProtocolError(text, code="malformed_value")
    return Result(consumed, messages, status, value, fields)


def encode_go_away(last_flow: int, code: str, message: str) -> bytes:
    """Return the payload of a GOAWAY."""
    fields = codec.encode_packet({"code": _text(code), "message": _text(message)})
    return frames.GOAWAY.pack(last_flow) + fields


def decode_go_away(payload: bytes, bounds: Bounds = BOUNDS) -> tuple[int, str, str]:
    """Return last flow, code and message of a GOAWAY; raises RemoteProtocolError."""
    (last_flow,) = frames.GOAWAY.unpack_from(payload)
    fields = _decode_fields(payload, frames.GOAWAY.size, _GO_AWAY, bounds)
    return last_flow, fields["code"], fields["message"]


def _text(text: str) -> str:
    """Return *text* as it fits a control frame, whatever its length and characters."""
    return text[:MAX_TEXT].encode(errors="backslashreplace").decode()


def _decode_fields(payload: bytes, start: int, schema: _Schema, bounds: Bounds) -> dict[str, Any]:
    """Return the fields of *schema*, and in its order, from the map that begins at *start*."""
    fields = codec.decode(memoryview(payload)[start:], bounds)
    if type(fields) is not dict:
        raise RemoteProtocolError("a map of fields is something else", code="malformed_value")
    found = {name: fields.get(name) for name in schema}
    for name, kinds in schema.items():
        if kinds and type(found[name]) not in kinds:
            text = f"the field {name!r} may not be a {type(found[name]).__name__}"
            raise RemoteProtocolError(text, code="malformed_value")
    return found
