"""A packet in pieces is the same bytes on the wire, and its large values are not copied."""

from collections import deque
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport import UnsupportedValue, encode_packet, pieces, speed
from pyf.transport.limits import BATCH_BYTES, KIB, LARGE, LARGE_BATCH_BYTES, MIB, PACKET_SHARE
from pyf.transport.pieces import SMALL, Pieces, batch_bytes, encode_pieces, flatten
from pyf.transport.window import SendWindow

BLOCK = bytes(LARGE)
TEXT = "é" * LARGE
VALUES = st.one_of(
    st.integers(), st.text(max_size=3), st.sampled_from([BLOCK, BLOCK * 17, TEXT, TEXT * 9])
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=20))
def test_the_bytes_are_those_of_the_whole_packet(packet):
    encoded = encode_pieces(packet)
    assert b"".join(flatten([encoded])) == encode_packet(packet)
    assert len(encoded) == len(encode_packet(packet))


@pytest.mark.parametrize("count", [15, 16, 65_535, 65_536])
def test_a_packet_may_have_any_number_of_fields(count):
    packet = dict.fromkeys(map(str, range(count - 1)), 0) | {"data": BLOCK}
    assert b"".join(flatten([encode_pieces(packet)])) == encode_packet(packet)


def test_large_values_are_not_copied():
    encoded = encode_pieces({"a": 1, "data": BLOCK, "b": 2})
    assert isinstance(encoded, Pieces)
    assert encoded.buffers[1] is BLOCK


def test_large_texts_are_apart_as_bytes_are():
    encoded = encode_pieces({"a": 1, "text": TEXT, "data": BLOCK})
    assert isinstance(encoded, Pieces)
    assert encoded.buffers[1::2] == [TEXT.encode(), BLOCK]
    assert batch_bytes(encoded) == LARGE_BATCH_BYTES


def test_what_happens_to_look_like_the_mark_of_a_large_value_is_sent_as_it_is():
    packet = {"a": pieces._MARK, "data": BLOCK}
    assert encode_pieces(packet) == encode_packet(packet)


def test_small_packets_are_in_one_piece():
    assert encode_pieces({"a": b"x" * (LARGE - 1)}) == encode_packet({"a": b"x" * (LARGE - 1)})


@pytest.mark.parametrize(
    ("packet", "path"),
    [
        ({"data": BLOCK, "other": {"bad": object()}}, "other.bad"),
        ({"\ud800": BLOCK}, "the packet"),
        ({"data": BLOCK, "text": "a" * LARGE + "\ud800"}, "text"),
        ({"data": BLOCK, 5: BLOCK}, "the packet"),
        ({5: BLOCK}, "the packet"),
    ],
)
def test_what_cannot_travel_is_told_as_for_any_packet(packet, path):
    with pytest.raises(UnsupportedValue) as caught:
        encode_pieces(packet)
    assert caught.value.path == path


def test_a_packet_is_a_dict():
    with pytest.raises(TypeError, match="not of list"):
        encode_pieces(cast("Any", [("data", BLOCK)]))


def bulk(size: int, small: int = 10) -> Pieces:
    return Pieces([bytes(small), bytes(size)])


PACKETS = st.one_of(
    st.sampled_from([1, 100, LARGE, BATCH_BYTES, 5 * BATCH_BYTES]).map(bytes),
    st.sampled_from([1, KIB, 10 * KIB, 5 * BATCH_BYTES]).map(
        lambda n: encode_packet({"a": bytes(n)})
    ),
    st.builds(
        bulk,
        st.sampled_from([LARGE, BATCH_BYTES, 3 * BATCH_BYTES]),
        st.sampled_from([10, LARGE // SMALL, KIB, 2 * KIB]),
    ),
)


@given(st.lists(PACKETS, max_size=30))
def test_a_window_takes_packets_in_order_and_frames_of_the_size_that_they_may_have(packets):
    window = SendWindow(2**20, 2**30)
    pending = deque(packets)
    left = packets
    while pending:
        count, buffers, size = window.take(pending, 40 * BATCH_BYTES)
        batch, left = left[:count], left[count:]
        assert b"".join(buffers) == b"".join(flatten(batch))
        assert count == 1 or size == sum(map(len, batch)) <= min(map(batch_bytes, batch))
    assert not left


@given(
    st.lists(st.lists(st.sampled_from([0, 10, 200, 300, 2100, 3000, 40 * KIB]), max_size=20)),
    st.integers(1, 30),
    st.sampled_from([100, KIB, 10 * KIB, BATCH_BYTES]),
)
def test_packets_of_many_bursts_leave_in_order_as_far_as_there_is_credit(bursts, packets, size):
    """
    Also where they are in runs, which credit ends in the middle of.
    """
    pending: pieces.Pending = deque()
    left = []
    for burst in bursts:
        source = [{"data": bytes(each)} for each in burst]
        pending.extend(speed.encode_each([encode_packet] * len(source), iter(source), MIB))
        left += map(encode_packet, source)
    window = SendWindow(0, size)
    while pending:
        assert speed.packets_in(pending) == len(left)
        count, buffers, taken = window.take(pending, BATCH_BYTES)
        if count:
            assert b"".join(buffers) == b"".join(left[:count])
            assert window.fits(count, taken)
            assert count <= BATCH_BYTES // PACKET_SHARE
            window.spend(count, taken)
        else:
            assert window.open_packets == 0 or not window.fits(1, len(left[0]))
            window.grant(window.sent_packets + packets, window.sent_bytes + size)
        del left[:count]
    assert not left


@pytest.mark.parametrize("count", [pieces.packets_in, speed.packets_in], ids=["python", "used"])
def test_packets_that_are_bytes_or_in_pieces_count_one_each(count):
    assert count(deque([b"", b"abc", bulk(LARGE)])) == 3


def test_a_frame_is_not_larger_than_a_packet_may_be():
    window = SendWindow(2**20, 2**30)
    pending = deque([bulk(LARGE)] * 8)
    assert window.take(pending, 3 * LARGE)[0] == 2


def test_32_packets_of_64_kib_make_a_frame():
    window = SendWindow(2**20, 2**30)
    pending = deque([encode_pieces({"number": 2**40, "data": bytes(2**16)})] * 65)
    assert [window.take(pending, 2**24)[0] for _ in range(3)] == [32, 32, 1]


class Watched(deque[bytes]):
    """A deque that counts what is put back into it."""

    put_back = 0

    def extendleft(self, packets):
        """Count *packets*."""
        packets = list(packets)
        self.put_back += len(packets)
        super().extendleft(packets)


def test_packets_of_nearly_one_size_fill_frames_and_none_has_to_go_back():
    window = SendWindow(2**20, 2**30)
    pending = Watched(bytes(1000 + number % 40) for number in range(640))
    while len(pending) > 60:
        _, _, size = window.take(pending, 2**24)
        assert size > 0.9 * BATCH_BYTES
    assert not pending.put_back


@pytest.mark.parametrize(("first", "then"), [(10 * KIB, 500), (500, 10 * KIB)])
def test_frames_are_full_again_one_behind_a_change_of_sizes(first, then):
    window = SendWindow(2**20, 2**30)
    pending = deque([bytes(first)] * 500 + [bytes(then)] * 500)
    while len(pending) > 500:
        window.take(pending, 2**24)
    window.take(pending, 2**24)
    _, _, size = window.take(pending, 2**24)
    assert size > 0.8 * BATCH_BYTES


@pytest.mark.parametrize(("largest", "count"), [(64 * KIB, 512), (128 * KIB, 1024), (2**24, 1024)])
def test_a_peer_that_takes_small_packets_gets_fewer_in_a_frame(largest, count):
    window = SendWindow(2**20, 2**30)
    assert window.take(deque([b"123"] * 3000), largest)[0] == count
