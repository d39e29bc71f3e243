"""Frames come out of bytes as they went in, however the bytes are cut."""

import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport import Limits, RemoteProtocolError, encode_packet, fastpath
from pyf.transport.frames import (
    BATCH,
    HEADER,
    REACH,
    RESULT,
    SPARE,
    SPARE_AGE,
    Frame,
    FrameParser,
    FrameType,
    decode_batch,
    encode_batch,
    encode_frame,
)
from pyf.transport.limits import HEADER_ROOM, LARGE, MAX_CONTROL, MAX_HELLO

LIMITS = Limits()


def parser(allowed=()) -> FrameParser:
    made = FrameParser(LIMITS.max_packet, LIMITS.max_header)
    made.allowed = allowed
    return made


def parse(data: bytes, chunk: int) -> list[Frame]:
    reader = parser()
    found = []
    for start in range(0, len(data), chunk):
        reader.receive_data(data[start : start + chunk])
        while frame := reader.next_frame():
            found.append(frame)
    assert reader.pending == 0
    return found


FLOWS = st.integers(0, 2**32 - 1)
FRAMES = st.lists(
    st.builds(Frame, st.sampled_from([FrameType.OPEN, 0x80, 0xFF]), FLOWS, st.binary(min_size=1))
    | st.builds(Frame, st.just(FrameType.PING), FLOWS, st.binary(min_size=8, max_size=8))
    | st.builds(Frame, st.just(FrameType.CANCEL), FLOWS, st.just(b""))
)


@given(FRAMES, st.integers(1, 40))
def test_frames_come_back_whatever_the_pieces(frames, chunk):
    data = b"".join(b"".join(encode_frame(*frame)) for frame in frames)
    assert parse(data, chunk) == parse(data, max(len(data), 1)) == frames


@given(
    st.lists(
        st.tuples(
            st.sampled_from([FrameType.OPEN, FrameType.DATA]),
            st.sampled_from([100, LARGE, 3 * LARGE, 9 * LARGE]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([1, 5, 1000, LARGE, 3 * LARGE, 8 * LARGE])),
        min_size=1,
        max_size=8,
    ),
)
def test_large_and_small_frames_come_back_from_large_and_small_pieces(sizes, chunks):
    """Also where some of them are read to the buffer, whenever there is one."""
    most = {FrameType.OPEN: MAX_CONTROL, FrameType.DATA: LIMITS.max_packet}
    frames = [
        Frame(kind, 1, bytes([1 + i]) * min(size, most[kind]))
        for i, (kind, size) in enumerate(sizes)
    ]
    data = memoryview(
        b"".join(b"".join(encode_frame(FrameType(each.type), 1, each.payload)) for each in frames)
    )
    reader = parser()
    found = []
    for to_buffer, chunk in itertools.cycle(chunks):
        if to_buffer and (buffer := reader.get_buffer()) is not None:
            size = min(chunk, len(buffer), len(data))
            buffer[:size] = data[:size]
            reader.buffer_updated(size)
        else:
            size = chunk
            reader.receive_data(bytes(data[:chunk]))
        data = data[size:]
        while frame := reader.next_frame():
            found.append(frame)
        if not data:
            break
    assert found == frames
    assert reader.pending == 0


def test_memory_is_made_for_what_is_missing_only_where_enough_has_come():
    reader = parser()
    reader.receive_data(HEADER.pack(8 * LARGE, FrameType.DATA, 1) + bytes(LARGE - 1))
    assert reader.next_frame() is None
    reader.receive_data(bytes(1))
    buffer = reader.get_buffer()
    assert buffer is not None
    assert len(buffer) == 7 * LARGE


def test_what_is_missing_of_a_small_frame_is_not_worth_a_buffer():
    reader = parser()
    assert reader.get_buffer() is None
    reader.receive_data(HEADER.pack(LARGE, FrameType.DATA, 1) + b"x")
    assert reader.next_frame() is None
    assert reader.get_buffer() is None


def test_what_comes_behind_a_buffer_that_is_full_is_kept():
    reader = parser()
    reader.receive_data(HEADER.pack(5 * LARGE, FrameType.DATA, 1) + bytes(LARGE))
    reader.next_frame()
    assert reader.get_buffer() is not None
    ping = b"".join(encode_frame(FrameType.PING, 0, b"12345678"))
    reader.receive_data(bytes(4 * LARGE))
    reader.receive_data(ping)
    assert reader.next_frame() == Frame(FrameType.DATA, 1, bytes(5 * LARGE))
    assert reader.next_frame() == Frame(FrameType.PING, 0, b"12345678")


def test_a_frame_in_its_buffer_is_not_copied():
    reader = parser()
    reader.receive_data(HEADER.pack(5 * LARGE, FrameType.DATA, 1) + bytes(LARGE))
    reader.next_frame()
    buffer = reader.get_buffer()
    assert buffer is not None
    reader.buffer_updated(len(buffer))
    frame: Any = reader.next_frame()
    assert frame.payload.obj is buffer.obj


def large_frame(reader: FrameParser, fill: bytes, size: int = 5 * LARGE) -> Any:
    """
    Return a frame that has been read into a buffer.
    """
    reader.receive_data(HEADER.pack(size, FrameType.DATA, 1) + fill * (size // 5))
    assert reader.next_frame() is None
    buffer = reader.get_buffer()
    assert buffer is not None
    buffer[:] = fill * len(buffer)
    assert not reader.buffer_updated(len(buffer) - 1)
    assert reader.buffer_updated(1)
    return reader.next_frame()


def test_a_buffer_is_used_again_once_nobody_looks_at_its_frame():
    """What a reader still has does not change under him."""
    reader = parser()
    first, second = large_frame(reader, b"1"), large_frame(reader, b"2")
    assert second.payload.obj is not first.payload.obj
    buffer = first.payload.obj
    assert bytes(first.payload) == b"1" * 5 * LARGE
    del first
    third = large_frame(reader, b"3")
    assert third.payload.obj is buffer
    assert bytes(second.payload) == b"2" * 5 * LARGE
    assert bytes(third.payload) == b"3" * 5 * LARGE


def test_a_buffer_that_is_too_small_is_left_to_the_next_frame_that_fits():
    reader = parser()
    small = large_frame(reader, b"s").payload.obj
    larger = large_frame(reader, b"l", 10 * LARGE).payload.obj
    assert larger is not small
    assert large_frame(reader, b"s").payload.obj is small
    assert large_frame(reader, b"l", 10 * LARGE).payload.obj is larger


def test_new_memory_is_for_what_has_come_and_a_buffer_of_before_for_any_frame_that_fits():
    """A peer has to send something for the memory that it takes, once."""
    reader = parser()
    size = 2 * (REACH + 1) * LARGE
    start = HEADER.pack(size, FrameType.DATA, 1) + bytes(LARGE)
    reader.receive_data(start)
    assert reader.next_frame() is None
    assert reader.get_buffer() is None
    reader.receive_data(bytes(LARGE))
    rest = reader.get_buffer()
    assert rest is not None
    assert reader.buffer_updated(len(rest))
    del rest
    frame: Any = reader.next_frame()
    used = frame.payload.obj
    del frame
    reader.receive_data(start)
    assert reader.next_frame() is None
    again = reader.get_buffer()
    assert again is not None
    assert again.obj is used


@pytest.fixture(params=[None, fastpath.next_frame], ids=["Python", "compiled"])
def next_small(request):
    """
    Have a parser give a small frame of a type, each way there is.
    """
    payloads = {FrameType.PING: bytes(8), FrameType.END: bytes(8), FrameType.CREDIT: bytes(24)}

    def give(reader: FrameParser, kind: FrameType) -> None:
        reader.receive_data(b"".join(encode_frame(kind, 1, payloads.get(kind, bytes(20)))))
        compiled = request.param and request.param(reader)
        frame: Any = compiled or reader.next_frame()
        assert frame.type == kind

    return give


@pytest.mark.parametrize("kind", [FrameType.PING, FrameType.END])
def test_buffers_are_let_go_as_a_frame_says_that_none_is_needed(next_small, kind):
    """A connection that has nothing large to ship any more keeps no memory for it."""
    reader = parser()
    buffer = large_frame(reader, b"x").payload.obj
    next_small(reader, kind)
    assert large_frame(reader, b"x").payload.obj is not buffer


def test_buffers_are_kept_while_large_frames_come_between_small_ones(next_small):
    """
    Not for long: a flow's packets may have become small.
    """
    reader = parser()
    buffer = large_frame(reader, b"x").payload.obj
    for kind in (FrameType.DATA, FrameType.MESSAGE, FrameType.CREDIT) * 21:
        next_small(reader, kind)
    assert large_frame(reader, b"x").payload.obj is buffer
    for _ in range(SPARE_AGE):
        next_small(reader, FrameType.DATA)
    assert large_frame(reader, b"x").payload.obj is not buffer


def test_a_frame_beyond_a_batch_of_large_packets_leaves_no_buffer():
    reader = parser()
    buffer = large_frame(reader, b"x", SPARE).payload.obj
    assert large_frame(reader, b"x", SPARE).payload.obj is not buffer


def test_bytes_that_come_one_by_one_are_collected():
    """An object for each would take 40 times their memory."""
    reader = parser()
    reader.receive_data(HEADER.pack(10_000, FrameType.OPEN, 1))
    tracemalloc.start()
    try:
        for _ in range(9_999):
            reader.receive_data(b"x"[:])
            reader.next_frame()
        assert tracemalloc.get_traced_memory()[0] < 30_000
    finally:
        tracemalloc.stop()
    reader.receive_data(b"x")
    assert reader.next_frame() == Frame(FrameType.OPEN, 1, b"x" * 10_000)


def test_a_known_type_comes_as_what_it_is():
    (frame,) = parse(b"".join(encode_frame(FrameType.PING, 5, bytes(8))), 100)
    assert frame.type is FrameType.PING


def test_the_payload_is_not_copied_when_a_frame_is_encoded():
    payload = b"x" * 100
    assert encode_frame(FrameType.OPEN, 1, b"a", payload)[2] is payload
    assert encode_batch(FrameType.DATA, 1, 0, 1, payload)[1] is payload


@given(st.integers(0, 2**64 - 1), st.lists(st.dictionaries(st.text(max_size=3), st.integers())))
def test_batches_come_back(first, packets):
    packets = packets or [{}]
    body = b"".join(map(encode_packet, packets))
    head, data = encode_batch(FrameType.DATA, 7, first, len(packets), body)
    (frame,) = parse(head + data, 3)
    batch = decode_batch(frame.payload)
    assert (frame.type, frame.flow) == (FrameType.DATA, 7)
    assert (batch.first, batch.packets, batch.size) == (first, len(packets), len(body))
    assert list(batch.decode()) == packets


@pytest.mark.parametrize(("count", "heavy"), [(1, False), (100_000, True)])
def test_a_batch_whose_packets_take_long_to_decode_is_not_decoded_quickly(count, heavy):
    _, data = encode_batch(FrameType.DATA, 7, 0, count, b"\x80" * count)
    batch = decode_batch(BATCH.pack(0, 0xDD, count) + data)
    for _ in range(2):
        assert batch.decode_quickly() == (None if heavy else [{}] * count)
        assert batch.heavy is heavy


@pytest.mark.parametrize("count", [0, 5, 2**32 - 1])
def test_a_batch_that_cannot_hold_what_it_announces_is_refused(count):
    with pytest.raises(RemoteProtocolError, match=f"announces {count} packets") as caught:
        decode_batch(BATCH.pack(0, 0xDD, count) + b"\x80\x80\x80\x80")
    assert caught.value.code == "malformed_batch"


def test_a_batch_that_begins_otherwise_is_refused():
    with pytest.raises(RemoteProtocolError, match="announces"):
        decode_batch(BATCH.pack(0, 0xDC, 1) + b"\x80")


LENGTHS = [
    (FrameType.HELLO, 7, MAX_HELLO, ""),
    (FrameType.OPEN, 1, LIMITS.max_header + HEADER_ROOM, "max_header"),
    (FrameType.DATA, BATCH.size + 1, LIMITS.max_packet + BATCH.size, "max_packet"),
    (FrameType.MESSAGE, BATCH.size + 1, LIMITS.max_packet + BATCH.size, "max_packet"),
    (FrameType.RESULT, RESULT.size + 1, LIMITS.max_packet + RESULT.size, "max_packet"),
    (FrameType.END, 8, 8, ""),
    (FrameType.ABORT, 9, MAX_CONTROL, ""),
    (FrameType.CANCEL, 0, 0, ""),
    (FrameType.CREDIT, 24, 24, ""),
    (FrameType.PING, 8, 8, ""),
    (FrameType.PONG, 8, 8, ""),
    (FrameType.GOAWAY, 5, MAX_CONTROL, ""),
    (FrameType.STOP, 0, 0, ""),
    (FrameType.OPENED, 1, MAX_CONTROL, ""),
    (FrameType.RESUME, 1, MAX_CONTROL, ""),
    (FrameType.RESUMED, 1, MAX_CONTROL, ""),
    (FrameType.REJECT, 1, MAX_CONTROL, ""),
    (FrameType.ACK, 0, 0, ""),
    (0x80, 0, MAX_CONTROL, ""),
    (0xFF, 0, MAX_CONTROL, ""),
]


def test_every_frame_has_its_lengths():
    assert {kind for kind, *_ in LENGTHS} == {*FrameType, 0x80, 0xFF}


@pytest.mark.parametrize(("kind", "least", "most", "option"), LENGTHS)
def test_a_length_is_checked_before_the_payload_has_come(kind, least, most, option):
    for length in {least, most}:
        reader = parser()
        reader.receive_data(HEADER.pack(length, kind, 1))
        assert (reader.next_frame() is None) == (length > 0)
    wrong = [(least - 1, least, ""), (most + 1, most, option)]
    for length, limit, named in wrong[least == 0 :]:
        reader = parser()
        reader.receive_data(HEADER.pack(length, kind, 1))
        with pytest.raises(RemoteProtocolError, match=f"frame of {length} bytes") as caught:
            reader.next_frame()
        error = caught.value
        assert (error.code, error.limit, error.actual) == ("frame_length", limit, length)
        assert error.option == named


@pytest.mark.parametrize("number", [0x00, 0x13, 0x7F])
def test_an_unknown_frame_that_may_not_be_skipped_is_refused(number):
    reader = parser()
    reader.receive_data(HEADER.pack(0, number, 1))
    with pytest.raises(RemoteProtocolError, match=f"{number:#04x} is not known") as caught:
        reader.next_frame()
    assert caught.value.code == "unknown_frame"


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", bytes(9), b"SSH-2.0-x"]
)
def test_another_protocol_is_refused_by_its_first_nine_bytes(data):
    """At once if the first byte says so: no first frame is long enough for another than 0."""
    reader = parser(allowed=(FrameType.HELLO,))
    if not data[0]:
        reader.receive_data(data[:8])
        assert reader.next_frame() is None
        data = data[8:]
    reader.receive_data(data[:2])
    with pytest.raises(
        RemoteProtocolError, match=r"does not speak this protocol|speaks TLS"
    ) as caught:
        reader.next_frame()
    assert caught.value.code == "not_this_protocol"


def test_no_buffer_is_empty():
    """
    asyncio of CPython 3.12 never gets rid of one that ends what it writes, and then cannot close.
    """
    head = HEADER.pack(0, FrameType.CANCEL, 1)
    assert encode_frame(FrameType.CANCEL, 1) == encode_frame(FrameType.CANCEL, 1, b"") == [head]
