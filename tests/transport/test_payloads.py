"""What a frame says is read back, and what no frame may say is refused."""

import contextlib
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport import Limits, Packet, RemoteProtocolError, encode_packet, payloads
from pyf.transport.limits import (
    HEADER_ROOM,
    INITIAL_BYTES,
    MAX_CONTROL,
    MAX_FRAME,
    MAX_NAME,
    MAX_TEXT,
)
from pyf.transport.resume import Ticket

HELLO = {
    "max_packet": 1 << 20,
    "max_header": 1 << 16,
    "window_packets": 1024,
    "window_bytes": 1 << 16,
}


def hello(magic=b"PyF!", least=1, most=1, **changes) -> bytes:
    fields = {**HELLO, **changes}
    kept = {name: value for name, value in fields.items() if value is not ...}
    return magic + bytes([least, most]) + encode_packet(kept)


def test_hello_comes_back():
    limits = Limits(max_packet=100_000, window_packets=5000)
    assert payloads.decode_hello(payloads.encode_hello(limits)) == (
        100_000,
        limits.max_header,
        5000,
        limits.window_bytes,
        limits.min_ping_interval,
        None,
        "pyf.station",
    )
    assert payloads.decode_hello(payloads.encode_hello(limits, 70_000)).first_packet == 70_000


def test_a_hello_may_leave_out_what_is_optional_and_hold_what_is_unknown():
    found = payloads.decode_hello(hello(colour="red", required=[], most=9))
    assert found.software == ""
    assert found.window_packets == 1024
    assert found.min_ping_interval == 1.0


def test_limits_beyond_what_a_frame_can_hold_are_cut():
    found = payloads.decode_hello(hello(max_packet=2**70, max_header=2**40, window_bytes=2**70))
    assert (found.max_packet, found.max_header) == (MAX_FRAME, MAX_FRAME)
    assert found.window_bytes == 2**70


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (hello(magic=b"PyF?"), "not_this_protocol"),
        (hello(least=2, most=3), "version"),
        (hello(least=0, most=0), "version"),
        (hello(least=3, most=1), "version"),
        (hello(required=["compression"]), "required_feature"),
        (hello(required=[10**3900, None]), "required_feature"),
        (hello(required="x"), "malformed_value"),
        (hello(max_packet=INITIAL_BYTES - 1), "malformed_value"),
        (hello(max_header=INITIAL_BYTES - 1), "malformed_value"),
        (hello(window_bytes=INITIAL_BYTES - 1), "malformed_value"),
        (hello(window_packets=1023), "malformed_value"),
        (hello(max_packet=-(10**3900)), "malformed_value"),
        (hello(max_packet=True), "malformed_value"),
        (hello(max_packet=1e9), "malformed_value"),
        (hello(window_packets=...), "malformed_value"),
        (hello(software=b"x"), "malformed_value"),
        (hello(min_ping_interval=5), "malformed_value"),
        (hello(min_ping_interval=0.0), "malformed_value"),
        (hello(min_ping_interval=-1.0), "malformed_value"),
        (hello(min_ping_interval=math.nan), "malformed_value"),
        (hello(min_ping_interval=60.5), "malformed_value"),
        (b"PyF!\x01\x01\x90", "malformed_value"),
        (b"PyF!\x01\x01\xc1", "malformed_value"),
    ],
)
def test_a_hello_that_cannot_be_is_refused(payload, code):
    with pytest.raises(RemoteProtocolError) as caught:
        payloads.decode_hello(payload)
    assert caught.value.code == code
    assert len(str(caught.value)) < 2 * MAX_TEXT


@pytest.mark.parametrize("header", [None, {}, {"a": 1}])
@pytest.mark.parametrize("timeout", [None, 0, 1.5, 3])
@pytest.mark.parametrize(("waits", "length"), [(True, None), (False, 0), (True, 2**64 - 1)])
@pytest.mark.parametrize(("resume", "name"), [(None, None), (INITIAL_BYTES, "orders")])
def test_open_comes_back(header, timeout, waits, length, resume, name):
    payload = payloads.encode_open(header, timeout, waits, length, resume, name)
    found = payloads.decode_open(payload)
    assert found == (header, timeout, waits, length, resume, name)
    assert header is None or type(found.header) is Packet


def test_an_open_may_leave_out_everything():
    assert payloads.decode_open(b"\x80") == (None, None, True, None, None, None)


@pytest.mark.parametrize("timeout", [-1.0, math.nan, math.inf, -math.inf])
def test_a_timeout_is_a_duration(timeout):
    with pytest.raises(ValueError, match="a timeout of"):
        payloads.encode_open(None, timeout, waits=True)
    with pytest.raises(RemoteProtocolError, match="a timeout of") as caught:
        payloads.decode_open(encode_packet({"timeout": timeout}))
    assert caught.value.code == "malformed_value"


@pytest.mark.parametrize("length", [-1, 2**64])
def test_a_length_is_what_a_flow_can_have(length):
    with pytest.raises(ValueError, match="a length of"):
        payloads.encode_open(None, None, waits=True, length_hint=length)
    with pytest.raises(RemoteProtocolError, match="a length that") as caught:
        payloads.decode_open(encode_packet({"length_hint": length}))
    assert caught.value.code == "malformed_value"


@pytest.mark.parametrize(
    "fields",
    [
        *({"header": []}, {"timeout": 5}, {"waits": 1}, {"header": "x"}),
        *({"length_hint": 1.0}, {"length_hint": True}),
    ],
)
def test_an_open_with_fields_of_other_types_is_refused(fields):
    (name,) = fields
    with pytest.raises(RemoteProtocolError, match=f"the field '{name}' may not be a") as caught:
        payloads.decode_open(encode_packet(fields))
    assert caught.value.code == "malformed_value"


@given(st.integers(0, 2**64 - 1), st.text(st.characters(codec="utf-8"), max_size=20))
def test_abort_comes_back(count, name):
    assert payloads.decode_abort(payloads.encode_abort(count, name)) == (count, name)


@given(st.integers(0, 2**32 - 1), st.text(max_size=20))
def test_go_away_comes_back(flow, text):
    """
    Even a text with lone surrogates arrives; they are escaped.
    """
    found = payloads.decode_go_away(payloads.encode_go_away(flow, "draining", text))
    assert found == (flow, "draining", text.encode(errors="backslashreplace").decode())


@pytest.mark.parametrize("character", ["x", "\U0001f600", "\ud800"])
def test_texts_are_cut_to_what_a_control_frame_takes(character):
    text = character * 100_000
    assert len(payloads.encode_go_away(0, text, text)) < MAX_CONTROL
    assert len(payloads.encode_abort(0, text)) < MAX_CONTROL
    assert payloads.decode_abort(payloads.encode_abort(0, "x" * 2000))[1] == "x" * MAX_TEXT


@pytest.mark.parametrize("status", sorted(payloads.STATUSES))
def test_result_comes_back(status):
    facts = {"value": [1, None], "code": "busy", "message": "é"}
    found = payloads.decode_result(
        payloads.encode_result(5, 6, payloads.encode_outcome(status, facts))
    )
    assert found[:4] == (5, 6, status, [1, None])
    assert found.error == {
        "code": "busy",
        "error_class": None,
        "error_id": None,
        "message": "é",
        "traceback": None,
    }


@pytest.mark.parametrize("status", ["", "fine", "x" * 1000, None, 1])
def test_a_result_with_another_status_is_refused(status):
    payload = struct.pack(">QQ", 0, 0) + encode_packet({"status": status})
    with pytest.raises(RemoteProtocolError) as caught:
        payloads.decode_result(payload)
    assert caught.value.code == "malformed_value"
    assert len(str(caught.value)) < 200


DECODERS = [
    (payloads.decode_hello, 7),
    (payloads.decode_open, 1),
    (payloads.decode_abort, 9),
    (payloads.decode_result, 17),
    (payloads.decode_go_away, 5),
    (payloads.decode_opened, 1),
    (payloads.decode_resume, 1),
    (payloads.decode_resumed, 1),
    (payloads.decode_reject, 1),
]


@pytest.mark.parametrize(("decode", "least"), DECODERS)
def test_arbitrary_bytes_are_read_or_refused(decode, least):
    """
    A payload of legal length gives a value or RemoteProtocolError, nothing else.
    """

    @given(st.binary(min_size=least) | st.binary(min_size=40).map(lambda tail: hello()[:6] + tail))
    def check(payload):
        with contextlib.suppress(RemoteProtocolError):
            decode(payload)

    check()


TICKET = Ticket(b"boot", b"session", b"token", 120.0, INITIAL_BYTES, 7)


def test_what_resumes_a_flow_comes_back():
    assert payloads.decode_opened(payloads.encode_opened(TICKET)) == TICKET
    found = payloads.decode_resume(payloads.encode_resume(TICKET, 3, 4))
    assert found == (b"boot", b"session", b"token", 3, 4)
    assert payloads.decode_resumed(payloads.encode_resumed(1, 2, b"new", 3)) == (1, 2, b"new", 3)
    found = payloads.decode_reject(payloads.encode_reject("gap", "text", final=True))
    assert found == ("gap", "text", True)


def test_an_opened_may_leave_out_where_to_start_and_a_reject_its_text():
    fields = TICKET._asdict() | {"start": None}
    assert payloads.decode_opened(encode_packet(fields)).start == 0
    found = payloads.decode_reject(encode_packet({"code": "gap", "final": False}))
    assert found == ("gap", "", False)


@pytest.mark.parametrize(
    "change",
    [{"ttl": 0.0}, {"ttl": math.inf}, {"ttl": math.nan}, {"window": 1}, {"start": -1}],
)
def test_a_session_that_cannot_work_is_refused(change):
    with pytest.raises(RemoteProtocolError) as caught:
        payloads.decode_opened(encode_packet(TICKET._asdict() | change))
    assert caught.value.code == "malformed_value"


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_count_that_no_flow_can_have_is_refused(number):
    for payload, decode in (
        (payloads.encode_resume(TICKET, number, 0), payloads.decode_resume),
        (payloads.encode_resume(TICKET, 0, number), payloads.decode_resume),
        (payloads.encode_resumed(number, 0, b"", 0), payloads.decode_resumed),
    ):
        with pytest.raises(RemoteProtocolError, match=f"a count of {number}"):
            decode(payload)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resume", INITIAL_BYTES - 1),
        ("resume", 2**63),
        ("name", ""),
        ("name", "x" * 201),
    ],
)
def test_what_makes_a_flow_resumable_has_bounds(field, value):
    with pytest.raises(ValueError, match=r"where at least|a flow's name has"):
        payloads.encode_open(None, None, True, **{field: value})
    with pytest.raises(RemoteProtocolError) as caught:
        payloads.decode_open(encode_packet({field: value}))
    assert caught.value.code == "malformed_value"


def test_the_longest_name_fits_an_open():
    payload = payloads.encode_open(None, 1.0, True, 1, INITIAL_BYTES, "\U0001f600" * MAX_NAME)
    assert len(payload) <= HEADER_ROOM
