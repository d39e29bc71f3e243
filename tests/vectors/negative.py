"""Make the catalogue of negative cases, from nothing but docs/protocol.md.

    python tests/vectors/negative.py            say whether it is current, and fail if not
    python tests/vectors/negative.py --write    make it current

Numbers in comments are sections of the specification.
"""

import struct
import sys
from typing import Any

from generate import (
    ROW,
    TYPES,
    abort,
    batch,
    credit,
    end,
    extension,
    frame,
    hello,
    main,
    number,
    opening,
    pack,
    record,
    result,
)


def claim(kind: str | int, flow: int, length: int) -> bytes:
    """A frame's head alone."""
    return struct.pack(">IBI", length, TYPES[kind] if isinstance(kind, str) else kind, flow)


def one(value: bytes, kind: str = "DATA") -> bytes:
    """A batch of one packet, with *value* in its field."""
    return frame(kind, 1, struct.pack(">QBI", 0, 0xDD, 1) + b"\x81\xa1k" + value)


LENGTHS = {
    "HELLO": (6, 4097),
    "OPEN": (0, 65536 + 1025),
    "DATA": (13, 65536 + 14),
    "END": (7, 9),
    "ABORT": (8, 65537),
    "CANCEL": (None, 1),
    "STOP": (None, 1),
    "MESSAGE": (13, 65536 + 14),
    "RESULT": (16, 65536 + 17),
    "CREDIT": (23, 25),
    "PING": (7, 9),
    "PONG": (7, 9),
    "GOAWAY": (4, 65537),
    "OPENED": (0, 65537),
    "RESUME": (0, 65537),
    "RESUMED": (0, 65537),
    "REJECT": (0, 65537),
    "ACK": (None, 1),
}
BY = {
    "server": (
        "HELLO",
        "OPEN",
        "DATA",
        "END",
        "ABORT",
        "CANCEL",
        "CREDIT",
        "PING",
        "PONG",
        "GOAWAY",
        "RESUME",
        "ACK",
    ),
    "client": (
        "HELLO",
        "MESSAGE",
        "STOP",
        "RESULT",
        "CREDIT",
        "PING",
        "PONG",
        "GOAWAY",
        "OPENED",
        "RESUMED",
        "REJECT",
    ),
}
EMPTY = {
    kind: frame(kind, 1, bytes(lengths[0] + 1 if lengths[0] is not None else 0))
    for kind, lengths in LENGTHS.items()
}

# 4. What is no value; in a packet, a header and a result.
NO_VALUES = {
    "nothing": b"",
    "the byte that MessagePack never uses": b"\xc1",
    "a str cut": b"\xa5abc",
    "a str of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "an array of 4 G": b"\xdd\xff\xff\xff\xff",
    "a map of 4 G": b"\xdf\xff\xff\xff\xff",
    "an extension of 4 GiB": b"\xc9\xff\xff\xff\xff\x02",
    "an int cut": b"\xd3\0\0",
    "a float cut": b"\xcb\0\0",
    "text that is not UTF-8": b"\xa1\xff",
    "text in overlong UTF-8": b"\xa2\xc0\x80",
    "a surrogate": b"\xa3\xed\xa0\x80",
    "a map with a number as key": b"\x81\x01\xc0",
    "a map with nil as key": b"\x81\xc0\xc0",
    "a map with bytes as key": b"\x81\xc4\x01k\xc0",
    "a map with a list as key": b"\x81\x90\xc0",
    "a thousand and more arrays in each other": b"\x91" * 1100 + b"\xc0",
    "a thousand and more maps in each other": b"\x81\xa1k" * 1100 + b"\xc0",
    "extension 0": extension(0, b"x"),
    "extension 8": extension(8, b"x"),
    "extension 127": extension(127, b"x"),
    "MessagePack's timestamp": b"\xd6\xff\0\0\0\0",
    "a decimal that is none": extension(2, b"1.2.3"),
    "a decimal in no ASCII": extension(2, "\u0663".encode()),
    "a datetime with fold 2": extension(3, b"\x022024-02-29T00:00:00"),
    "a datetime that never was": extension(3, b"\x002023-02-29T00:00:00"),
    "a date that never was": extension(4, b"2023-13-01"),
    "a time that never is": extension(5, b"\x0024:30:00"),
    "a duration cut": extension(6, bytes(11)),
    "a duration too long": extension(6, struct.pack(">iII", 2**31 - 1, 0, 0)),
    "a UUID of 15 bytes": extension(7, bytes(15)),
    "a UUID of 17 bytes": extension(7, bytes(17)),
}


def wrong_lengths(to: str) -> dict[str, tuple[str, bytes, str]]:
    start = hello() if to == "client" else hello() + opening(1)
    found = {}
    for kind in BY[to]:
        for word, length in zip(("short", "long"), LENGTHS[kind], strict=True):
            if length is not None:
                begin = b"" if kind == "HELLO" else start
                found[f"a {kind} too {word}"] = (
                    "2.2",
                    begin + claim(kind, 2, length),
                    "frame_length",
                )
    found["an unknown frame too long"] = ("2.2", start + claim(0x80, 0, 65537), "frame_length")
    return found


def wrong_types(to: str) -> dict[str, tuple[str, bytes, str]]:
    start = hello() if to == "client" else hello() + opening(1)
    found = {
        f"frame type {number:#04x}": ("2.3", start + frame(number, 0), "unknown_frame")
        for number in (0x00, 0x13, 0x20, 0x47, 0x7F)
    }
    for kind in TYPES:
        if kind not in BY[to]:
            found[f"a {kind} from the wrong side"] = (
                "2.2",
                start + EMPTY[kind],
                "unexpected_frame",
            )
        if kind not in ("HELLO", "GOAWAY"):
            found[f"a {kind} before hello"] = ("3.1", EMPTY[kind], "not_this_protocol")
    found["a hello after hello"] = ("3.1", hello() + hello(), "unexpected_frame")
    found["optional frames without end"] = ("2.3", start + frame(0xFF, 7, b"x") * 101, "flood")
    return found


def wrong_hellos(_: str) -> dict[str, tuple[str, bytes, str]]:
    found = {
        "TLS": ("3.1", bytes.fromhex("160301020001000001fc0303"), "not_this_protocol"),
        "a TLS alert": ("3.1", bytes.fromhex("15030300020246"), "not_this_protocol"),
        "SSH": ("3.1", b"SSH-2.0-OpenSSH\r\n", "not_this_protocol"),
        "HTTP": ("3.1", b"POST / HTTP/1.1\r\n", "not_this_protocol"),
        "HTTP/2": ("3.1", b"PRI * HTTP/2.0\r\n\r\n", "not_this_protocol"),
        "zeros": ("3.1", bytes(9), "not_this_protocol"),
        "version 0": ("3.2", hello(least=0, most=0), "version"),
        "versions that end before they begin": ("3.2", hello(least=2, most=1), "version"),
        "two features": ("3.3", hello(required={"list": ["a", "b"]}), "required_feature"),
        "something behind the map": (
            "3.1",
            frame("HELLO", 0, hello()[9:] + b"\xc0"),
            "malformed_value",
        ),
        "no map": ("3.1", frame("HELLO", 0, b"PyF!\x01\x01\x90"), "malformed_value"),
        "a ping interval of nan": (
            "3.1",
            hello(min_ping_interval={"float": "7ff8000000000000"}),
            "malformed_value",
        ),
    }
    for name in ("max_packet", "max_header", "window_packets", "window_bytes"):
        for what, value in {
            "nil": None,
            "a str": "1",
            "true": True,
            "negative": number(-1),
            "too low": number(1023),
            "a float": {"float": "4130000000000000"},
        }.items():
            found[f"{name} {what}"] = ("3.1", hello(**{name: value}), "malformed_value")
    found["a first packet that is too low"] = (
        *("3.1", hello(first_packet=number(65535))),
        "malformed_value",
    )
    wrong = {"software": number(1), "required": "x", "first_packet": True}
    for name, value in wrong.items():
        found[f"{name} of another type"] = ("3.1", hello(**{name: value}), "malformed_value")
    return {f"a hello with {name}": case for name, case in found.items()}


def wrong_values(to: str) -> dict[str, tuple[str, bytes, str]]:
    if to == "client":
        places = {
            "a message": lambda value: one(value, "MESSAGE"),
            "a result": lambda value: frame(
                "RESULT", 1, bytes(16) + b"\x82\xa6status\xa7success\xa5value" + value
            ),
        }
        start = hello()
    else:
        places = {
            "a packet": one,
            "a header": lambda value: frame("OPEN", 2, b"\x81\xa6header\x81\xa1k" + value),
        }
        start = hello() + opening(1)
    return {
        f"{place} with {name}": ("4.1", start + make(value), "malformed_value")
        for place, make in places.items()
        for name, value in NO_VALUES.items()
    }


def wrong_flows(to: str) -> dict[str, tuple[str, bytes, str]]:
    if to == "client":
        fields: dict[str, Any] = {"status": "success", "value": None}
        done = result(1, 0, 0, **fields)
        return {
            "a result with something behind": (
                "5.7",
                hello() + frame("RESULT", 1, done[9:] + b"\xc0"),
                "malformed_value",
            ),
            "a credit for packets never sent": ("6.3", hello() + credit(1, 1, 9999, 9**9), "count"),
            "a message on flow 0": ("5.1", hello() + batch("MESSAGE", 0, 0, ROW), "unknown_flow"),
            "a credit for a flow never opened": (
                "5.10",
                hello() + credit(2, 0, 9999, 9**9),
                "unknown_flow",
            ),
            **{
                f"a result whose {name} is a number": (
                    "5.7",
                    hello() + result(1, 0, 0, **{**fields, name: number(1)}),
                    "malformed_value",
                )
                for name in ("status", "code", "error_class", "error_id", "message", "traceback")
            },
        }
    start = hello() + opening(1)
    return {
        "a batch with something behind": (
            "5.3",
            start + frame("DATA", 1, batch("DATA", 1, 0, ROW)[9:] + b"\xc0"),
            "malformed_value",
        ),
        "a batch of two where there is one": (
            "5.3",
            start + frame("DATA", 1, struct.pack(">QBI", 0, 0xDD, 2) + pack(record(n=number(1)))),
            "malformed_value",
        ),
        "a batch of one where there are two": (
            "5.3",
            start + frame("DATA", 1, struct.pack(">QBI", 0, 0xDD, 1) + pack(ROW) * 2),
            "malformed_value",
        ),
        "a batch of lists": ("5.3", start + batch("DATA", 1, 0, {"list": []}), "malformed_batch"),
        "a batch of nil": ("5.3", start + batch("DATA", 1, 0, None), "malformed_batch"),
        "a flow opened twice": ("5.1", start + end(1, 0) + opening(1), "flow_number"),
        "an end twice": ("5.9", start + end(1, 0) * 2, "unexpected_frame"),
        "an abort after the end": ("5.9", start + end(1, 0) + abort(1, 0, "E"), "unexpected_frame"),
        "an end of flow 0": ("5.1", start + end(0, 0), "unknown_flow"),
        "a cancel of a flow never opened": ("5.10", start + frame("CANCEL", 2), "unknown_flow"),
        "a credit for a flow never opened": (
            "5.10",
            start + credit(2, 0, 9999, 9**9),
            "unknown_flow",
        ),
        "a sequence number beyond all": (
            "5.3",
            start + batch("DATA", 1, 2**64 - 1, ROW),
            "sequence",
        ),
        "an abort without class": (
            "5.5",
            start + frame("ABORT", 1, bytes(8) + b"\x80"),
            "malformed_value",
        ),
        "an open of a list": ("5.2", hello() + frame("OPEN", 1, b"\x90"), "malformed_value"),
        "an open with something behind": (
            "5.2",
            hello() + frame("OPEN", 1, b"\x80\xc0"),
            "malformed_value",
        ),
        "an open with a negative timeout": (
            "5.2",
            hello() + opening(1, None, {"float": "bff0000000000000"}),
            "malformed_value",
        ),
        "an open with an endless timeout": (
            "5.2",
            hello() + opening(1, None, {"float": "7ff0000000000000"}),
            "malformed_value",
        ),
        "an open that waits for a number": (
            "5.2",
            hello() + opening(1, None, None, number(1)),
            "malformed_value",
        ),
    }


def catalogue() -> list[dict[str, Any]]:
    """Numbered, by section; a client has opened one flow before."""
    groups = (wrong_lengths, wrong_types, wrong_hellos, wrong_values, wrong_flows)
    found = [
        {"section": section, "name": name, "to": to, "code": code, "hex": data.hex()}
        for to in ("server", "client")
        for group in groups
        for name, (section, data, code) in group(to).items()
    ]
    return [{"number": number, **case} for number, case in enumerate(found, 1)]


if __name__ == "__main__":
    sys.exit(main(catalogue))
