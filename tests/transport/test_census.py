"""What values would cost is known, and refused, before there are any."""

import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import ormsgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyf.transport import (
    Connection,
    Limits,
    PacketTooLarge,
    RemoteProtocolError,
    Role,
    UnsupportedValue,
    census,
    encode_packet,
)
from pyf.transport.census import (
    QUICK_BYTES,
    QUICK_COPY,
    QUICK_NUMBER,
    QUICK_VALUES,
    SPARSE,
    SPARSE_WEIGHT,
    Finding,
    Walk,
    bounds,
    check,
    is_heavy,
    is_sparse,
    take_census,
    weigh,
)
from pyf.transport.codec import BOUNDS, decode, decode_maps, unroll
from pyf.transport.compiled import compiled
from pyf.transport.limits import (
    BATCH_PACKETS,
    GROWTH,
    KIB,
    MAX_NESTING,
    MAX_NUMBER,
    MIB,
    PACKET_SHARE,
    SPARSE_BATCH_BYTES,
)

SMALL = Limits(max_packet=MIB)
SMALL_BOUNDS = bounds(SMALL, "max_packet")


WALKS = {"python": Walk, "compiled": getattr(compiled("pyf.transport._census"), "Walk", None)}


@pytest.fixture(autouse=True, params=list(WALKS))
def walk(request, monkeypatch):
    """Each test is for both walks: in Python, and compiled."""
    if WALKS[request.param] is None:
        pytest.skip("installed without a compiler, or Python was chosen")
    made = WALKS[request.param](census._FORMS)
    monkeypatch.setattr(census, "_walk", made)
    return made


def decode_packets(data, count, bounds=BOUNDS):
    return unroll(decode_maps(data, count, bounds))[1]


def array(data: bytes, count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + data * count


BOMBS = {
    "nested arrays": (b"\x91" * 8 * KIB, MAX_NESTING, MAX_NESTING + 1, "MAX_NESTING"),
    "nested maps": (b"\x81\xa1k" * 8 * KIB, MAX_NESTING, MAX_NESTING + 1, "MAX_NESTING"),
    "a str of 4 GiB": (b"\xdb\xff\xff\xff\xffx", 6, 5 + 2**32 - 1, "max_packet"),
    "bytes of 4 GiB": (b"\xc6\xff\xff\xff\xffx", 6, 5 + 2**32 - 1, "max_packet"),
    "an array of 4 G": (b"\xdd\xff\xff\xff\xff\xc0", 6, 5 + 2**32 - 1, "max_packet"),
    "a map of 4 G": (b"\xdf\xff\xff\xff\xff\xc0", 6, 5 + 2**33 - 2, "max_packet"),
    "an extension of 4 GiB": (b"\xc9\xff\xff\xff\xff\x02x", 7, 6 + 2**32 - 1, "max_packet"),
    "a huge int": (
        b"\xc9" + struct.pack(">IB", MAX_NUMBER + 1, 1) + b"\x7f" * (MAX_NUMBER + 1),
        *(MAX_NUMBER, MAX_NUMBER + 1, "MAX_NUMBER"),
    ),
    "a huge Decimal": (
        b"\xc9" + struct.pack(">IB", MAX_NUMBER + 1, 2) + b"9" * (MAX_NUMBER + 1),
        *(MAX_NUMBER, MAX_NUMBER + 1, "MAX_NUMBER"),
    ),
    "many nils": (array(b"\xc0", 262144), 262144, 262145, "max_objects"),
    "a megabyte of empty maps": (array(b"\x80", MIB), GROWTH * MIB, None, "max_packet"),
    "a megabyte of empty arrays": (array(b"\x90", MIB), GROWTH * MIB, None, "max_packet"),
    "a megabyte of short strs": (array(b"\xa1x", MIB // 2), GROWTH * MIB, None, "max_packet"),
    "a megabyte of small ints": (array(b"\xe0", MIB), 262144, 262145, "max_objects"),
    "a megabyte of maps of one": (
        array(b"\x81\xa1k\xc0", MIB // 4),
        *(GROWTH * MIB, None, "max_packet"),
    ),
    "a megabyte of small extensions": (
        array(b"\xd4\x021", MIB // 3),
        *(GROWTH * MIB, None, "max_packet"),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_with_limit_value_and_option(name):
    """What would burst is refused, and the error says which limit was passed, by how much."""
    data, limit, actual, option = BOMBS[name]
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data, SMALL_BOUNDS)
    error = caught.value
    assert (error.limit, error.option) == (limit, option)
    assert error.actual is not None
    assert error.actual == actual or (actual is None and error.actual > limit)
    assert option in str(error)


@pytest.mark.parametrize(
    "unit", [b"\x80", b"\x90", b"\xa1x", b"\xe0", b"\x81\xa1k\xc0", b"\xd4\x021", b"\x91" * 2000]
)
def test_whatever_fills_a_frame_takes_bounded_memory(unit):
    """A frame full of the same value, refused or taken, costs less than 16 times its limit."""
    limits = Limits(max_packet=64 * KIB)
    data = array(unit, limits.max_packet // len(unit))
    tracemalloc.start()
    try:
        with suppress(RemoteProtocolError):
            decode(data, bounds(limits, "max_packet"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 14 * limits.max_packet  # The frame itself was there before.


# What fills one frame of 64 KiB, as packets of a batch, with what costs most for its length.
DEAREST: dict[str, Callable[[int], tuple[bytes, int]]] = {
    "empty packets": lambda size: (b"\x80" * size, size),
    "packets of one": lambda size: (b"\x81\xa1k\xc0" * (size // 4), size // 4),
    "packets of another key each": lambda size: (
        b"".join(
            b"\x81\xa3%c%c%c\xc0" % (97 + n // 676, 97 + n // 26 % 26, 97 + n % 26)
            for n in range(size // 6)
        ),
        size // 6,
    ),
    "packets of six": lambda size: (
        (b"\x86" + b"".join(b"\xa1%c\xe0" % key for key in b"abcdef")) * (size // 19),
        size // 19,
    ),
    "strs with an emoji": lambda size: (
        (b"\x81\xa1k\x9f" + b"\xa7\xf0\x9f\x98\x80abc" * 15) * (size // 124),
        size // 124,
    ),
}


@pytest.mark.parametrize("name", DEAREST)
def test_what_is_taken_keeps_within_sixteen_times_the_limit(name):
    """The largest batch of its kind that is taken costs less than 16 times ``max_packet``."""
    limits = Limits(max_packet=64 * KIB)
    allowed = bounds(limits, "max_packet")
    taken = 0
    for share in (16, 8, 4, 2, 1):
        data, count = DEAREST[name](limits.max_packet * share // 16)
        data = b"\xdd" + count.to_bytes(4, "big") + data
        tracemalloc.start()
        try:
            packets = list(decode_packets(data, count, allowed))
        except RemoteProtocolError:
            continue
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert len(packets) == count
        taken += 1
        assert peak < 16 * limits.max_packet - 2 * len(data)
    assert taken


@pytest.mark.parametrize("max_packet", [64 * KIB, 100 * KIB, 128 * KIB, MIB])
def test_a_batch_of_a_sender_of_ours_is_taken_whatever_the_limits(max_packet):
    """Packets of eight fields pass, as many as a frame to a peer of these limits has."""
    packet = {f"field{number}": number * 1000 for number in range(8)}
    count = min(BATCH_PACKETS, max_packet // PACKET_SHARE)
    data = array(encode_packet(packet), count)
    allowed = bounds(Limits(max_packet=max_packet), "max_packet")
    assert list(decode_packets(data, count, allowed)) == [packet] * count


def test_packets_of_a_large_batch_keep_their_order():
    """Those that are released as they are taken come in the order in which they were sent."""
    data = b"\xdd" + (5000).to_bytes(4, "big")
    data += b"".join(encode_packet({"n": number}) for number in range(5000))
    allowed = bounds(Limits(max_packet=256 * KIB), "max_packet")
    assert len(data) > allowed.harmless
    assert [packet.n for packet in decode_packets(data, 5000, allowed)] == [*range(5000)]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
)


def objects(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + objects(item) for item in value.values())
    return 1 + sum(map(objects, value)) if isinstance(value, list) else 1


@given(VALUES, st.binary(max_size=3))
def test_the_census_counts_every_value(value, extra):
    """It counts what there is, whatever the forms of the heads, and nothing behind the value."""
    data = ormsgpack.packb(value)
    count = objects(value)
    enough = SMALL_BOUNDS._replace(objects=count)
    take_census(data + extra, enough)
    with pytest.raises(RemoteProtocolError):
        take_census(data + extra, SMALL_BOUNDS._replace(objects=count - 1))


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_the_census_agrees_with_the_decoder(data):
    """What the decoder takes, the census takes."""
    try:
        decode(data)
    except RemoteProtocolError:
        return
    take_census(data, SMALL_BOUNDS)


def test_heads_of_all_widths_are_known():
    """Each form of a value is as long as its head says."""
    forms = [
        *(b"\xc4\x01x", b"\xc5\0\x01x", b"\xc6\0\0\0\x01x"),
        *(b"\xc7\x01\x01x", b"\xc8\0\x01\x01x", b"\xc9\0\0\0\x01\x01x"),
        *(b"\xca1234", b"\xcb12345678"),
        *(b"\xcc1", b"\xcd12", b"\xce1234", b"\xcf12345678"),
        *(b"\xd01", b"\xd112", b"\xd21234", b"\xd312345678"),
        *(bytes([0xD4 + power]) + b"\x01" + b"x" * 2**power for power in range(5)),
        *(b"\xd9\x01x", b"\xda\0\x01x", b"\xdb\0\0\0\x01x"),
        *(b"\xdc\0\x01\xc0", b"\xdd\0\0\0\x01\xc0"),
        *(b"\xde\0\x01\xa1k\xc0", b"\xdf\0\0\0\x01\xa1k\xc0"),
    ]
    data = b"\xdc" + len(forms).to_bytes(2, "big") + b"".join(forms)
    with pytest.raises(RemoteProtocolError, match="more than 34 values"):
        take_census(data + b"\xc0", SMALL_BOUNDS._replace(objects=34))
    take_census(data + b"\xc0", SMALL_BOUNDS._replace(objects=35))


def test_a_frame_that_can_do_no_harm_is_not_looked_at():
    """Up to ``harmless`` bytes nothing is counted: ordinary traffic pays nothing."""
    data = b"\x91" * SMALL_BOUNDS.harmless
    check(data, SMALL_BOUNDS)
    with pytest.raises(RemoteProtocolError):
        check(data + b"\x91", SMALL_BOUNDS)
    assert bounds(Limits(), "max_packet").harmless > 64 * KIB


@pytest.mark.parametrize("extra", [b"\xc0", b"\x80", b"x", b"\xc4\x10" + bytes(16), b"\xc1"])
def test_nothing_may_follow_a_value(extra):
    """Bytes behind a value, or behind a batch, are a breach and are not skipped."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode(b"\x81\xa1k\x01" + extra)
    assert caught.value.code == "malformed_value"
    with pytest.raises(RemoteProtocolError):
        decode_packets(array(b"\x80", 1) + extra, 1)


def test_a_value_that_is_missing_is_not_filled_up():
    """What a value lacks is not taken from what the decoder adds."""
    for data in (b"", b"\x92\x01", b"\xb2", b"\xc4\x12", b"\x81\xa1k"):
        with pytest.raises(RemoteProtocolError):
            decode(data)


def test_a_sender_is_told_before_its_peer_refuses():
    """What cannot be taken is an error that its user can mend, with the facts."""
    few = bounds(Limits(max_objects=100), "max_packet")
    weigh(encode_packet({"rows": [None] * 90}), few)
    with pytest.raises(PacketTooLarge, match=r"Limits\.max_objects") as caught:
        weigh(encode_packet({"rows": [None] * 200}), few)
    facts = caught.value
    assert (facts.size, facts.limit, facts.option) == (101, 100, "max_objects")


def test_a_machine_holds_its_peer_to_its_own_limits():
    """The bounds are those of the machine's ``Limits``: of ``max_header`` for what opens a flow."""
    client = Connection(Role.CLIENT)
    server = Connection(Role.SERVER, Limits(max_objects=100))
    client.open_flow({"rows": [None] * 200})
    server.receive_data(b"".join(client.data_to_send()))
    server.next_event()
    with pytest.raises(RemoteProtocolError) as caught:
        server.next_event()
    assert (caught.value.limit, caught.value.actual) == (100, 101)
    assert caught.value.option == "max_objects"


@pytest.mark.parametrize(
    "value", [2 ** (8 * MAX_NUMBER), Decimal("9" * (MAX_NUMBER + 1))], ids=["int", "Decimal"]
)
def test_a_number_that_nobody_takes_is_not_sent(value):
    """The sender refuses what the receiver would: a number of more than 64 KiB."""
    with pytest.raises(UnsupportedValue, match="where a number may have 65536"):
        encode_packet({"n": value})


def test_the_longest_number_travels():
    """One of just 64 KiB passes, in a frame that is not counted too."""
    for value in (2 ** (8 * MAX_NUMBER - 2), Decimal("9" * MAX_NUMBER)):
        assert decode(encode_packet({"n": value})) == {"n": value}


@pytest.mark.parametrize(
    ("data", "heavy"),
    [
        (array(b"\x80", QUICK_BYTES - 5), False),  # so short that nothing in it takes long
        (array(b"\x80", QUICK_BYTES), True),
        (array(b"\xcc\x80", QUICK_VALUES), True),
        (array(b"\xcc\x80", QUICK_VALUES - 1), False),
        (array(b"\xc4\x10" + bytes(16), QUICK_VALUES // 2), True),
        (array(b"\xc4\x10" + bytes(16), QUICK_VALUES // 2 - 1), False),
        (b"\xc6" + (MIB).to_bytes(4, "big") + bytes(MIB), False),
        (array(b"\xc8" + struct.pack(">HB", QUICK_NUMBER, 2) + b"1" * QUICK_NUMBER, 80), False),
        (array(b"\xc8" + struct.pack(">HB", QUICK_NUMBER + 1, 2) + b"1" * 1025, 80), True),
        (b"\xc6" + QUICK_COPY.to_bytes(4, "big") + bytes(QUICK_COPY), True),
        (b"\xc6" + (2 * MIB).to_bytes(4, "big") + bytes(MIB), True),  # and is refused there
    ],
)
def test_what_takes_long_to_decode_is_known_from_a_look_at_its_beginning(data, heavy):
    assert is_heavy(data, BOUNDS) is heavy


@pytest.mark.parametrize(
    ("packet", "sparse"),
    [
        ({"n": 1, "text": "é" * 400, "data": bytes(100)}, True),
        ({"data": bytes(3 * SPARSE)}, True),
        ({"data": bytes(2 * SPARSE)}, False),
        ({"rows": [""] * 1000}, False),
        ({"n": Decimal("9" * 5000)}, False),
        ({"texts": ["a" * 200] * 20}, True),
    ],
)
def test_few_values_for_their_bytes_are_known(walk, packet, sparse):
    data = encode_packet(packet)
    assert is_sparse(data) is sparse
    assert not is_sparse(data * 2)
    assert not is_sparse(data[:-1])


def test_a_frame_of_few_values_is_decoded_quickly_and_takes_half_of_what_is_allowed():
    assert SPARSE_BATCH_BYTES // SPARSE <= QUICK_VALUES // 2
    assert 2 * SPARSE_WEIGHT <= GROWTH


def test_a_walk_says_whether_nothing_follows_the_value():
    assert take_census(b"\x92\x01\x02", BOUNDS)
    assert not take_census(b"\x92\x01\x02\x03", BOUNDS)
    assert not take_census(b"\x92\x91\x01", BOUNDS)


HEADS = st.sampled_from([0x81, 0x92, *range(0xC0, 0xE0), 0xA1, 0x01, 0xE0])
SOUP = st.lists(st.binary(max_size=3) | HEADS.map(lambda head: bytes([head]))).map(b"".join)


@pytest.mark.parametrize("walk", ["compiled"], indirect=True)
@given(
    data=SOUP | st.recursive(st.none(), st.lists).map(ormsgpack.packb),
    memory=st.sampled_from([100, 1000, 2**70]),
    objects=st.sampled_from([3, 10, 2**70]),
    number=st.sampled_from([0, 2, 1000]),
)
@example(data=b"\x91" * 2000, memory=2**40, objects=5000, number=0)
@example(data=memoryview(b"\x91" * 1021 + b"\xc0"), memory=2**40, objects=5000, number=0)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_walks_find_the_same(walk, data, memory, objects, number):
    """Whatever the bytes, and whatever they may cost."""
    kind, limit, actual = Walk(census._FORMS)(data, memory, objects, number)
    assert walk(data, memory, objects, number) == (kind, limit, actual)
    assert Finding(kind) in census._REFUSALS or limit == actual == 0
