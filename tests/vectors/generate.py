"""Make the vectors from nothing but docs/protocol.md: no import of ours, no MessagePack library.

    python tests/vectors/generate.py            print what is not current, and fail
    python tests/vectors/generate.py --write    make it current

Numbers in comments are sections of the specification.
"""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

# 4. Values, written as section 13 says.


def sized(head: dict[int, int], length: int) -> bytes:
    """The shortest MessagePack head: *head* gives its first byte by the width of the length."""
    for width, code in head.items():
        if length < 256**width:
            return bytes([code]) + length.to_bytes(width, "big")
    raise ValueError(length)


def integer(number: int) -> bytes:
    if -(2**63) <= number < 2**64:
        if -32 <= number < 128:
            return struct.pack("B" if number >= 0 else "b", number)
        for code, form in (
            zip(b"\xcc\xcd\xce\xcf", "BHIQ", strict=True)
            if number >= 0
            else zip(b"\xd0\xd1\xd2\xd3", "bhiq", strict=True)
        ):
            try:
                return struct.pack(f">B{form}", code, number)
            except struct.error:
                continue
    size = abs(number).bit_length() // 8 + 1
    return extension(1, number.to_bytes(size, "big", signed=True))


def text(value: str) -> bytes:
    data = value.encode("utf-8")
    if len(data) < 32:
        return bytes([0xA0 + len(data)]) + data
    return sized({1: 0xD9, 2: 0xDA, 4: 0xDB}, len(data)) + data


def extension(tag: int, data: bytes) -> bytes:
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}
    if len(data) in fixed:
        return bytes([fixed[len(data)], tag]) + data
    return sized({1: 0xC7, 2: 0xC8, 4: 0xC9}, len(data)) + bytes([tag]) + data


def array(items: list[bytes]) -> bytes:
    few = len(items) < 16
    head = bytes([0x90 + len(items)]) if few else sized({2: 0xDC, 4: 0xDD}, len(items))
    return head + b"".join(items)


def mapping(pairs: list[tuple[str, bytes]]) -> bytes:
    few = len(pairs) < 16
    head = bytes([0x80 + len(pairs)]) if few else sized({2: 0xDE, 4: 0xDF}, len(pairs))
    return head + b"".join(text(key) + value for key, value in pairs)


def binary(data: bytes) -> bytes:
    return sized({1: 0xC4, 2: 0xC5, 4: 0xC6}, len(data)) + data


PLAIN = {None: b"\xc0", False: b"\xc2", True: b"\xc3"}
# By the first member of the object that stands for a value.
PACKERS: dict[str, Callable[[Any], bytes]] = {
    "int": lambda value: integer(int(value["int"])),
    "float": lambda value: b"\xcb" + bytes.fromhex(value["float"]),
    "bytes": lambda value: binary(bytes.fromhex(value["bytes"])),
    "list": lambda value: array(list(map(pack, value["list"]))),
    "map": lambda value: mapping([(key, pack(item)) for key, item in value["map"]]),
    "decimal": lambda value: extension(2, value["decimal"].encode("ascii")),
    "datetime": lambda value: extension(3, folded(value["datetime"], value["fold"])),
    "date": lambda value: extension(4, value["date"].encode("ascii")),
    "time": lambda value: extension(5, folded(value["time"], value["fold"])),
    "timedelta": lambda value: extension(6, struct.pack(">iII", *value["timedelta"])),
    "uuid": lambda value: extension(7, bytes.fromhex(value["uuid"])),
}


def folded(moment: str, fold: int) -> bytes:
    return bytes([fold]) + moment.encode("ascii")


def pack(value: Any) -> bytes:
    if isinstance(value, dict):
        return PACKERS[next(iter(value))](value)
    return text(value) if isinstance(value, str) else PLAIN[value]


def number(value: int) -> dict[str, str]:
    return {"int": str(value)}


def record(**fields: Any) -> dict[str, Any]:
    return {"map": [[name, value] for name, value in fields.items()]}


EDGES = sorted(
    {
        sign * 2**bits + change
        for bits in (5, 7, 8, 15, 16, 31, 32, 63, 64, 71, 200)
        for sign in (1, -1)
        for change in (-1, 0, 1)
    }
    | {0, -1}
)
VALUES: list[tuple[str, Any]] = [
    ("nil", None),
    ("true", True),
    ("false", False),
    *((f"int {edge}", number(edge)) for edge in EDGES),
    ("float 0.0", {"float": "0000000000000000"}),
    ("float -0.0", {"float": "8000000000000000"}),
    ("float 1.5", {"float": "3ff8000000000000"}),
    ("float inf", {"float": "7ff0000000000000"}),
    ("float -inf", {"float": "fff0000000000000"}),
    ("float nan", {"float": "7ff8000000000000"}),
    ("float smallest", {"float": "0000000000000001"}),
    ("empty str", ""),
    ("str of all planes", "aé€\U0001f600\x00"),
    *((f"str of {size}", "x" * size) for size in (31, 32, 255, 256)),
    *((f"bytes of {size}", {"bytes": "ab" * size}) for size in (0, 1, 255, 256)),
    ("empty list", {"list": []}),
    *((f"list of {size}", {"list": [None] * size}) for size in (1, 15, 16)),
    ("nested lists", {"list": [{"list": [{"list": []}, True]}]}),
    ("empty map", {"map": []}),
    ("map in order", record(b=number(1), a=record(z=None, y="x"))),
    ("map of 16", {"map": [[f"k{place}", number(place)] for place in range(16)]}),
    *(
        (f"decimal {digits}", {"decimal": digits})
        for digits in ("0", "-0.00", "1.00", "1E+5", "-1.5E-30", "Infinity", "-Infinity")
    ),
    *((f"decimal {digits}", {"decimal": digits}) for digits in ("NaN", "-NaN12", "sNaN")),
    ("datetime naive", {"datetime": "2024-02-29T23:59:59", "fold": 0}),
    ("datetime with microseconds", {"datetime": "0001-01-01T00:00:00.000001", "fold": 0}),
    ("datetime in UTC", {"datetime": "2024-07-01T12:00:00+00:00", "fold": 0}),
    ("datetime with offset", {"datetime": "2024-07-01T12:00:00.500000-03:30", "fold": 0}),
    (
        "datetime with an odd offset",
        {"datetime": "2024-07-01T12:00:00+01:02:03.000004", "fold": 0},
    ),
    ("datetime, the second of two", {"datetime": "2024-10-27T02:30:00+01:00", "fold": 1}),
    ("date", {"date": "2024-02-29"}),
    ("first date", {"date": "0001-01-01"}),
    ("time", {"time": "23:59:59.999999", "fold": 0}),
    ("time with offset and fold", {"time": "02:30:00-01:00", "fold": 1}),
    ("timedelta", {"timedelta": [1, 2, 3]}),
    ("negative timedelta", {"timedelta": [-1, 86399, 999999]}),
    ("longest timedelta", {"timedelta": [999999999, 86399, 999999]}),
    ("uuid", {"uuid": "00112233445566778899aabbccddeeff"}),
]
# Further forms of values that a receiver takes (4.1).
OTHER_FORMS: list[tuple[str, Any, bytes]] = [
    ("int in 64 bits", number(1), b"\xd3" + struct.pack(">q", 1)),
    ("unsigned int in 8 bits", number(1), b"\xcc\x01"),
    ("small int as extension", number(-1), extension(1, b"\xff")),
    ("long str of nothing", "", b"\xdb\x00\x00\x00\x00"),
    ("long list", {"list": [None]}, b"\xdd\x00\x00\x00\x01\xc0"),
    ("long map", record(a=None), b"\xdf\x00\x00\x00\x01\xa1a\xc0"),
    ("float in 32 bits", {"float": "3ff8000000000000"}, b"\xca" + struct.pack(">f", 1.5)),
    ("long extension", {"date": "2024-02-29"}, b"\xc9\x00\x00\x00\x0a\x042024-02-29"),
]


def values() -> list[dict[str, Any]]:
    exact = [
        {"name": name, "exact": True, "value": value, "hex": pack(value).hex()}
        for name, value in VALUES
    ]
    others = [
        {"name": name, "exact": False, "value": value, "hex": data.hex()}
        for name, value, data in OTHER_FORMS
    ]
    return exact + others


# 2. Frames and 5. flows.

TYPES = {
    "HELLO": 0x01,
    "OPEN": 0x02,
    "DATA": 0x03,
    "END": 0x04,
    "ABORT": 0x05,
    "CANCEL": 0x06,
    "MESSAGE": 0x07,
    "RESULT": 0x08,
    "CREDIT": 0x09,
    "PING": 0x0A,
    "PONG": 0x0B,
    "GOAWAY": 0x0C,
    "STOP": 0x0D,
    "OPENED": 0x0E,
    "RESUME": 0x0F,
    "RESUMED": 0x10,
    "REJECT": 0x11,
    "ACK": 0x12,
}


def frame(kind: str | int, flow: int, payload: bytes = b"") -> bytes:
    code = TYPES[kind] if isinstance(kind, str) else kind
    return struct.pack(">IBI", len(payload), code, flow) + payload


def hello(magic: bytes = b"PyF!", least: int = 1, most: int = 1, **changes: Any) -> bytes:
    fields = {
        "max_packet": number(16777216),
        "max_header": number(65536),
        "window_packets": number(32768),
        "window_bytes": number(4194304),
        "min_ping_interval": {"float": "3ff0000000000000"},
        "required": {"list": []},
        "software": "pyf.station",
        **changes,
    }
    return frame("HELLO", 0, magic + bytes([least, most]) + pack(record(**fields)))


def opening(
    flow: int, header: Any = None, timeout: Any = None, waits: Any = True, **more: Any
) -> bytes:
    return frame("OPEN", flow, pack(record(header=header, timeout=timeout, waits=waits, **more)))


def batch(kind: str, flow: int, first: int, *packets: Any) -> bytes:
    head = struct.pack(">QBI", first, 0xDD, len(packets))
    return frame(kind, flow, head + b"".join(map(pack, packets)))


def end(flow: int, count: int) -> bytes:
    return frame("END", flow, struct.pack(">Q", count))


def abort(flow: int, count: int, name: str) -> bytes:
    return frame("ABORT", flow, struct.pack(">Q", count) + pack(record(error_class=name)))


def result(flow: int, consumed: int, messages: int, **fields: Any) -> bytes:
    return frame("RESULT", flow, struct.pack(">QQ", consumed, messages) + pack(record(**fields)))


def credit(flow: int, consumed: int, packets: int, size: int) -> bytes:
    return frame("CREDIT", flow, struct.pack(">QQQ", consumed, packets, size))


def goaway(last: int, code: str, message: str) -> bytes:
    return frame("GOAWAY", 0, struct.pack(">I", last) + pack(record(code=code, message=message)))


def opened(flow: int, **fields: Any) -> bytes:
    return frame("OPENED", flow, pack(record(**fields)))


HEADER = record(action="import")
ROW = record(n=number(1))


def frames() -> list[dict[str, Any]]:
    five = {"float": "4014000000000000"}
    token = bytes.fromhex("0123456789abcdef")
    done = {"status": "success", "value": "Done"}
    busy = {"status": "refused", "code": "busy", "message": "later"}
    plain = {"header": None, "timeout": None, "waits": True}
    kept = {"resume": number(1048576), "name": "orders"}
    boot, session, secret = (
        {"bytes": text * count} for text, count in (("0b", 16), ("5e", 16), ("7c", 32))
    )
    minutes, window = {"float": "405e000000000000"}, number(1048576)
    head = {"boot_id": boot, "session_id": session, "token": secret}
    resuming: list[tuple[str, dict[str, Any]]] = [
        ("OPENED", {**head, "ttl": minutes, "window": window, "start": number(0)}),
        ("RESUME", {**head, "received_back": number(3), "first_available": number(5)}),
        (
            "RESUMED",
            {
                "next_sequence": number(7),
                "received_back": number(3),
                "token": secret,
                "generation": number(2),
            },
        ),
        ("REJECT", {"code": "unknown_session", "message": "gone", "final": True}),
    ]
    made: list[tuple[str, int, dict[str, Any], bytes]] = [
        ("HELLO", 0, {"least": 1, "most": 1, "max_packet": 16777216}, hello()),
        (
            "OPEN",
            1,
            {"header": HEADER, "timeout": five, "waits": False, "length_hint": None},
            opening(1, HEADER, five, waits=False),
        ),
        (
            "OPEN",
            2**32 - 1,
            {"header": None, "timeout": None, "waits": True, "length_hint": None},
            opening(2**32 - 1),
        ),
        (
            "OPEN",
            2,
            {"header": None, "timeout": None, "waits": True, "length_hint": number(10000)},
            opening(2, length_hint=number(10000)),
        ),
        (
            "OPEN",
            2,
            {**plain, "length_hint": None, **kept},
            frame("OPEN", 2, pack(record(**plain, **kept))),
        ),
        ("DATA", 1, {"first": 0, "packets": [ROW, HEADER]}, batch("DATA", 1, 0, ROW, HEADER)),
        ("MESSAGE", 1, {"first": 2**40, "packets": [ROW]}, batch("MESSAGE", 1, 2**40, ROW)),
        ("END", 1, {"count": 2**40}, end(1, 2**40)),
        ("ABORT", 1, {"count": 3, "error_class": "ValueError"}, abort(1, 3, "ValueError")),
        ("CANCEL", 1, {}, frame("CANCEL", 1)),
        ("STOP", 1, {}, frame("STOP", 1)),
        (
            "RESULT",
            1,
            {"consumed": 2, "messages": 1, "fields": record(**done)},
            result(1, 2, 1, **done),
        ),
        (
            "RESULT",
            1,
            {"consumed": 0, "messages": 0, "fields": record(**busy)},
            result(1, 0, 0, **busy),
        ),
        (
            "CREDIT",
            1,
            {"consumed": 16384, "packets": 49152, "bytes": 1500000},
            credit(1, 16384, 49152, 1500000),
        ),
        ("PING", 0, {"token": token.hex()}, frame("PING", 0, token)),
        ("PONG", 0, {"token": token.hex()}, frame("PONG", 0, token)),
        (
            "GOAWAY",
            0,
            {"last_flow": 7, "code": "draining", "message": "bye"},
            goaway(7, "draining", "bye"),
        ),
        *[(kind, 1, says, frame(kind, 1, pack(record(**says)))) for kind, says in resuming],
        ("ACK", 1, {}, frame("ACK", 1)),
    ]
    return [
        {"frame": kind, "flow": flow, "says": says, "hex": data.hex()}
        for kind, flow, says, data in made
    ]


def conversations() -> list[dict[str, Any]]:
    """Steps in order; each is all that one side sends before it hears the next."""
    whole = [
        ("client", hello() + opening(1, HEADER) + batch("DATA", 1, 0, ROW, ROW)),
        ("server", hello() + batch("MESSAGE", 1, 0, HEADER)),
        ("client", batch("DATA", 1, 2, ROW) + end(1, 3)),
        ("server", result(1, 3, 1, status="success", value=number(3))),
    ]
    early = [
        ("client", hello() + opening(1) + batch("DATA", 1, 0, ROW)),
        ("server", hello() + result(1, 1, 0, status="success", value=None)),
        ("client", end(1, 1)),
    ]
    failed = [
        ("client", hello() + opening(1) + batch("DATA", 1, 0, ROW)),
        ("server", hello()),
        ("client", abort(1, 1, "ValueError")),
        ("server", result(1, 0, 0, status="cancelled", code="cancelled")),
    ]
    draining = [
        ("client", hello() + opening(1)),
        ("server", hello() + goaway(1, "draining", "bye")),
        ("client", frame("CANCEL", 1)),
        ("server", result(1, 0, 0, status="cancelled", code="cancelled")),
    ]
    stopped = [
        ("client", hello() + opening(1) + batch("DATA", 1, 0, ROW)),
        ("server", hello() + frame("STOP", 1)),
        ("client", batch("DATA", 1, 1, ROW) + end(1, 2)),
        ("server", result(1, 1, 0, status="success", value="enough")),
    ]
    recorded = [("client", hello() + opening(1) + batch("DATA", 1, 0, ROW, ROW) + end(1, 2))]
    secret = {"bytes": "7c" * 32}
    session = record(
        boot_id={"bytes": "0b" * 16},
        session_id={"bytes": "5e" * 16},
        token=secret,
        ttl={"float": "405e000000000000"},
        window=number(1048576),
        start=number(0),
    )
    asking = record(
        **dict(session["map"][:3]),
        received_back=number(0),
        first_available=number(0),
    )
    resumed = record(
        next_sequence=number(2), received_back=number(0), token=secret, generation=number(2)
    )
    keeping = record(header=None, timeout=None, waits=True, resume=number(1048576))
    credited = credit(1, 0, 32768, 1048576)
    cut = [
        ("client", hello() + frame("OPEN", 1, pack(keeping))),
        ("server", hello() + frame("OPENED", 1, pack(session))),
        ("client", credited + batch("DATA", 1, 0, ROW, ROW)),
        # Of a third packet, and of the message, only the senders know: the connection is cut.
        ("client", hello() + frame("RESUME", 1, pack(asking))),
        (
            "server",
            hello() + frame("RESUMED", 1, pack(resumed)) + credited + batch("MESSAGE", 1, 0, ROW),
        ),
        ("client", credited + batch("DATA", 1, 2, ROW) + end(1, 3)),
        ("server", result(1, 3, 1, status="success", value=None)),
        ("client", frame("ACK", 1)),
    ]
    made = {
        "a cut in the middle": cut,
        "one call": whole,
        "an answer before the end": early,
        "the client fails": failed,
        "the server drains": draining,
        "the handler wants no more": stopped,
        "a recorded flow": recorded,
    }
    return [
        {"name": name, "steps": [{"from": who, "hex": data.hex()} for who, data in steps]}
        for name, steps in made.items()
    ]


def breaches() -> list[dict[str, Any]]:
    """What *to* must refuse, with the least limits that are legal.

    As a client it has opened the given number of flows before.
    """
    start = hello() + opening(1)
    to_server = {
        "another protocol": (b"GET / HTTP/1.1\r\n\r\n", "not_this_protocol"),
        "another magic": (hello(magic=b"PyF?"), "not_this_protocol"),
        "open before hello": (opening(1), "not_this_protocol"),
        "a newer version only": (hello(least=2, most=5), "version"),
        "an unknown feature": (hello(required={"list": ["teleport"]}), "required_feature"),
        "a field of another type": (hello(max_packet="large"), "malformed_value"),
        "a field left nil": (hello(window_bytes=None), "malformed_value"),
        "an interval that is an int": (hello(min_ping_interval=number(1)), "malformed_value"),
        "no interval": (hello(min_ping_interval={"float": "0000000000000000"}), "malformed_value"),
        "an interval beyond 60 s": (
            hello(min_ping_interval={"float": "404e800000000000"}),
            "malformed_value",
        ),
        "a window that is too small": (hello(window_packets=number(1023)), "malformed_value"),
        "a packet size that is too small": (hello(max_packet=number(65535)), "malformed_value"),
        "a hello that is too long": (hello(software="x" * 5000), "frame_length"),
        "hello twice": (hello() * 2, "unexpected_frame"),
        "hello after goaway": (goaway(0, "draining", "") + hello(), "unexpected_frame"),
        "open after goaway": (hello() + goaway(0, "draining", "") + opening(1), "unexpected_frame"),
        "an unknown frame": (hello() + frame(0x13, 0), "unknown_frame"),
        "frame type 0": (hello() + frame(0x00, 0), "unknown_frame"),
        "101 optional frames": (hello() + frame(0x80, 0) * 101, "flood"),
        "a ping of 7 bytes": (hello() + frame("PING", 0, bytes(7)), "frame_length"),
        "a cancel with payload": (start + frame("CANCEL", 1, b"x"), "frame_length"),
        "a header that is too long": (
            hello() + struct.pack(">IBI", 65536 + 1024 + 1, TYPES["OPEN"], 1),
            "frame_length",
        ),
        "a packet that is too long": (
            start + struct.pack(">IBI", 65536 + 13 + 1, TYPES["DATA"], 1),
            "frame_length",
        ),
        "flow 0": (hello() + opening(0), "flow_number"),
        "a flow twice": (start + opening(1), "flow_number"),
        "a flow backwards": (hello() + opening(5) + opening(4), "flow_number"),
        "a header that is a list": (hello() + opening(1, {"list": []}), "malformed_value"),
        "a timeout that is an int": (hello() + opening(1, None, number(5)), "malformed_value"),
        "a timeout of nan": (
            hello() + opening(1, None, {"float": "7ff8000000000000"}),
            "malformed_value",
        ),
        "a length that is negative": (
            hello() + opening(1, length_hint=number(-1)),
            "malformed_value",
        ),
        "a length beyond 64 bits": (
            hello() + opening(1, length_hint=number(2**64)),
            "malformed_value",
        ),
        "a length that is a float": (
            hello() + opening(1, length_hint={"float": "4014000000000000"}),
            "malformed_value",
        ),
        "an opening with an unknown extension": (
            hello() + frame("OPEN", 1, b"\x81\xa6header\x81\xa1a" + extension(8, b"x")),
            "malformed_value",
        ),
        "data for no flow": (hello() + batch("DATA", 1, 0, ROW), "unknown_flow"),
        "a message from a client": (start + batch("MESSAGE", 1, 0, ROW), "unexpected_frame"),
        "a result from a client": (
            start + result(1, 0, 0, status="success", value=None),
            "unexpected_frame",
        ),
        "a stop from a client": (start + frame("STOP", 1), "unexpected_frame"),
        "a packet left out": (start + batch("DATA", 1, 1, ROW), "sequence"),
        "a packet repeated": (start + batch("DATA", 1, 0, ROW) * 2, "sequence"),
        "data after the end": (start + end(1, 0) + batch("DATA", 1, 0, ROW), "unexpected_frame"),
        "an end that counts more": (start + batch("DATA", 1, 0, ROW) + end(1, 2), "count"),
        "an end that counts less": (start + batch("DATA", 1, 0, ROW) + end(1, 0), "count"),
        "an abort that counts more": (start + abort(1, 1, "ValueError"), "count"),
        "consumed before it was sent": (start + credit(1, 1, 40000, 2000000), "count"),
        "more packets than credit": (
            start + batch("DATA", 1, 0, *[record()] * 1024) + batch("DATA", 1, 1024, record()),
            "over_credit",
        ),
        "a batch of none": (
            start + frame("DATA", 1, struct.pack(">QBI", 0, 0xDD, 0) + b"\x80"),
            "malformed_batch",
        ),
        "a batch with another marker": (
            start + frame("DATA", 1, struct.pack(">QBI", 0, 0xDF, 1) + b"\x80"),
            "malformed_batch",
        ),
        "a batch that is too short for its count": (
            start + frame("DATA", 1, struct.pack(">QBI", 0, 0xDD, 3) + b"\x80"),
            "malformed_batch",
        ),
        "a batch of a number": (start + batch("DATA", 1, 0, number(1)), "malformed_batch"),
        "a batch cut in a packet": (
            start + frame("DATA", 1, struct.pack(">QBI", 0, 0xDD, 1) + b"\x81\xa1a"),
            "malformed_value",
        ),
        "a packet with a number as key": (
            start + frame("DATA", 1, struct.pack(">QBI", 0, 0xDD, 1) + b"\x81\x01\x01"),
            "malformed_value",
        ),
        "text that is not UTF-8": (
            start + frame("DATA", 1, struct.pack(">QBI", 0, 0xDD, 1) + b"\x81\xa1a\xa1\xff"),
            "malformed_value",
        ),
        "a surrogate": (
            start
            + frame("DATA", 1, struct.pack(">QBI", 0, 0xDD, 1) + b"\x81\xa1a\xa3\xed\xa0\x80"),
            "malformed_value",
        ),
        "MessagePack's timestamp": (
            start
            + frame("DATA", 1, struct.pack(">QBI", 0, 0xDD, 1) + b"\x81\xa1a\xd6\xff\0\0\0\0"),
            "malformed_value",
        ),
        **{
            f"an extension {tag} of {data!r}": (
                start
                + frame(
                    "DATA",
                    1,
                    struct.pack(">QBI", 0, 0xDD, 1) + b"\x81\xa1a" + extension(tag, data),
                ),
                "malformed_value",
            )
            for tag, data in [
                (2, b"ten"),
                (3, b"\x022024-02-29T00:00:00"),
                (3, b"\x002023-02-29T00:00:00"),
                (3, b""),
                (4, b"2023-02-29"),
                (5, b"\x0025:00:00"),
                (6, bytes(11)),
                (6, struct.pack(">iII", 2**31 - 1, 0, 0)),
                (7, bytes(15)),
            ]
        },
    }
    done = result(1, 0, 0, status="success", value=None)
    to_client = {
        "data from a server": (hello() + batch("DATA", 1, 0, ROW), "unexpected_frame"),
        "an open from a server": (hello() + opening(2), "unexpected_frame"),
        "a result before hello": (done, "not_this_protocol"),
        "a result for no flow": (
            hello() + result(2, 0, 0, status="success", value=None),
            "unknown_flow",
        ),
        "a result twice": (hello() + done * 2, "unexpected_frame"),
        "a stop twice": (hello() + frame("STOP", 1) * 2, "unexpected_frame"),
        "a stop after the result": (hello() + done + frame("STOP", 1), "unexpected_frame"),
        "a message after the result": (
            hello() + done + batch("MESSAGE", 1, 0, ROW),
            "unexpected_frame",
        ),
        "a result that counts a message more": (
            hello() + result(1, 0, 1, status="success", value=None),
            "count",
        ),
        "a result that consumed what was not sent": (
            hello() + result(1, 1, 0, status="success", value=None),
            "count",
        ),
        "a result of another status": (hello() + result(1, 0, 0, status="fine"), "malformed_value"),
        "a result without status": (hello() + result(1, 0, 0, value=None), "malformed_value"),
        "a message left out": (hello() + batch("MESSAGE", 1, 1, ROW), "sequence"),
        "a goaway without code": (
            hello() + frame("GOAWAY", 0, bytes(4) + pack(record(message="x"))),
            "malformed_value",
        ),
    }
    return [
        {"name": name, "to": to, "flows": flows, "hex": data.hex(), "code": code}
        for to, flows, cases in (("server", 0, to_server), ("client", 1, to_client))
        for name, (data, code) in cases.items()
    ]


def main(*makers: Callable[[], list[dict[str, Any]]]) -> int:
    stale = 0
    for make in makers:
        path = HERE / f"{make.__name__}.json"
        content = json.dumps(make(), indent=1, ensure_ascii=True) + "\n"
        if sys.argv[1:] == ["--write"]:
            path.write_text(content, encoding="ascii")
        elif not path.exists() or path.read_text(encoding="ascii") != content:
            sys.stderr.write(f"{path.name} is not current\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(values, frames, conversations, breaches))
