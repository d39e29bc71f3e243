"""The compiled loops do what the codec in Python does, and are where they are expected."""

import collections
import copy
import dataclasses
import enum
import gc
import sys
import tracemalloc
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from itertools import repeat
from operator import length_hint
from types import FunctionType
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyf.transport import Limits, Packet, RemoteProtocolError, codec, limits, pieces, speed
from pyf.transport.census import QUICK_COPY, QUICK_NUMBER, QUICK_VALUES, bounds
from pyf.transport.events import FlowEnded
from pyf.transport.frames import BATCH, Batch
from pyf.transport.limits import BATCH_BYTES, BATCH_PACKETS, KIB, MAX_NESTING, MAX_NUMBER, MIB

NAME = "pyf.transport._accelerator"


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Text(str):  # noqa: SLOT000 - subclasses in the wild have none
    pass


class Meddling(tzinfo):
    """A zone that changes what is being encoded."""

    def __init__(self, meddle: Callable[[], object]):
        self.meddle = meddle

    def utcoffset(self, moment):
        self.meddle()
        return timedelta(hours=1)


ZONES = st.sampled_from([None, UTC, timezone(timedelta(hours=-5, seconds=1))])
LENGTHS = [31, 32, 255, 256, 4096, 4097]
TEXT = st.text() | st.sampled_from(["é" * 127, *("a" * length for length in LENGTHS)])
COMMON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([sign * 2**bits + more for bits in (5, 7, 8, 15, 16, 31, 32, 63, 64)
                     for sign in (1, -1) for more in (-1, 0, 1)]),
    st.floats(),
    TEXT,
    st.binary(),
    st.sampled_from([*map(bytes, LENGTHS)]),
    st.datetimes(timezones=ZONES),
    st.builds(datetime.replace, st.datetimes(timezones=ZONES), fold=st.sampled_from([0, 1])),
    st.dates(),
    st.times(timezones=ZONES),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
)  # fmt: skip
ODD = st.sampled_from(
    [Colour.RED, Point(1, 2), Text("x"), "\ud800", 1j, object(), bytearray(b"x"), memoryview(b"x"),
     collections.OrderedDict(a=1), {1: 2}, {"\ud800": 1}, {Text("k"): 1}, Decimal("9" * 5000)]
)  # fmt: skip


def within(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner) | st.lists(inner).map(tuple)
            | st.dictionaries(TEXT, inner) | st.dictionaries(TEXT, inner).map(Packet)
        ),
        max_leaves=5,
    )  # fmt: skip


PACKETS = st.dictionaries(TEXT, within(COMMON), max_size=6)


@pytest.fixture(scope="session")
def compiled() -> Any:
    return pytest.importorskip(NAME, reason="installed without a compiler")


@pytest.fixture(scope="session")
def agree(compiled: Any, same: Callable[[Any, Any], bool]) -> Callable[[Any, int], None]:
    """
    Asserts that both make the same of a batch, whether it is one or not.
    """

    def agree(data: bytes | memoryview, count: int) -> None:
        theirs = outcome(codec.decode_maps, data, count)
        for decode in (compiled.decode_maps, compiled.decode_quickly):
            ours = outcome(decode, data, count)
            if ours is None:
                assert decode is compiled.decode_quickly
            elif isinstance(ours, list) and isinstance(theirs, list):
                assert same(list(map(dict, ours)), theirs)
            else:
                assert ours == theirs

    return agree


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """
    What *function* returns, or all that is to be known of what it raises.
    """
    try:
        return function(*arguments)
    except Exception as error:
        return type(error), str(error), vars(error)


def array(packets: list[bytes]) -> bytes:
    return b"\xdd" + len(packets).to_bytes(4, "big") + b"".join(packets)


def nested(levels: int, inside: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = inside(value)
    return value


@pytest.mark.parametrize("kind", [dict, Packet])
def test_a_batch_becomes_packets_whichever_decodes_it(kind, monkeypatch):
    """
    Its reader makes Packets of dicts, and takes Packets as they are.
    """
    made = [kind(n=1), kind(n=2)]
    monkeypatch.setattr(speed, "decode_maps", lambda *_: made)
    batch = Batch(0, 2, bytes(BATCH.size + 2))
    found = list(batch.decode())
    assert found == [{"n": 1}, {"n": 2}]
    assert {type(each) for each in found} == {Packet}


# That both do the same


@given(PACKETS | within(ODD | COMMON).map(lambda value: {"value": value}) | ODD)
@example({str(number): number for number in range(70_000)})
@example({"list": [*range(300)], "map": {str(number): None for number in range(16)}})
@example(
    {"a" * size: "é" * size for size in range(40)} | {"é" * size: "a" * size for size in range(40)}
)
@example(
    {
        f"a{sign * 2**bits + near}": sign * 2**bits + near
        for sign in (1, -1)
        for bits in range(66)
        for near in (-1, 0, 1)
    }
)
@example(
    {
        "early": datetime(1, 1, 1, tzinfo=UTC),
        "late": datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
    }
)
def test_both_encode_to_the_same_bytes_or_refuse_for_the_same_reason(compiled, packet):
    assert outcome(compiled.encode_packet, packet) == outcome(codec.encode_packet, packet)


@given(st.lists(PACKETS, min_size=1, max_size=3))
def test_both_decode_to_the_same_values(compiled, agree, packets):
    data = array(list(map(codec.encode_packet, packets)))
    agree(memoryview(data), len(packets))
    assert {type(packet) for packet in compiled.decode_maps(data, len(packets))} == {Packet}


@given(st.lists(PACKETS, min_size=1, max_size=3), st.data())
def test_both_take_the_same_damaged_bytes(agree, packets, data):
    whole = bytearray(array(list(map(codec.encode_packet, packets))))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    agree(bytes(whole), len(packets))
    agree(bytes(whole[: data.draw(st.integers(0, len(whole)))]), len(packets))


@given(st.binary())
def test_both_take_the_same_arbitrary_bytes(agree, data):
    agree(data, 1)
    agree(array([b"\x81\xa1k" + data]), 1)
    agree(b"\xdd\0\0\0\x02\x80" + data, 2)


@given(st.integers(0, 255), st.binary(max_size=40))
@example(2, b"1_0")
@example(3, b"\x022026-01-02T03:04:05")
@example(3, b"\x002026-13-02T03:04:05")
@example(3, b"\x002026-01-02T03:04:05.00000x")
@example(3, b"\x002026-01-02T03:04:05-00:00")
@example(3, b"\x0020260102T030405")
@example(7, bytes(15))
def test_both_take_the_same_extensions(agree, tag, content):
    agree(array([b"\x81\xa1k\xc7" + bytes([len(content), tag]) + content]), 1)


@pytest.mark.parametrize("head", range(256))
def test_both_know_every_head(agree, head):
    """
    Each first byte of a value, of a name and of a packet, with enough behind it for most of them.
    """
    for tail in (b"", b"\0", bytes(8), b"\0\0\0\x01a", b"\x01" + bytes(20), b"a" * 40):
        for start in (b"\x81\xa1k", b"\x81", b""):
            agree(array([start + bytes([head]) + tail]), 1)


@pytest.mark.parametrize("levels", [127, 128, 129, 254, 255, MAX_NESTING])
@pytest.mark.parametrize(
    "inside", [lambda value: [value], lambda value: (value,), lambda value: {"a": value}]
)
def test_both_stop_at_the_same_depth(compiled, agree, levels, inside):
    packet = {"top": nested(levels, inside)}
    assert outcome(compiled.encode_packet, packet) == outcome(codec.encode_packet, packet)
    head = b"\x91" if isinstance(inside(1), list | tuple) else b"\x81\xa1a"
    data = array([b"\x81\xa1k" + head * levels + b"\x01"])
    agree(data, 1)


def test_both_hold_a_large_frame_to_the_same_bounds(compiled):
    allowed = bounds(Limits(max_packet=64 * KIB), "max_packet")
    data = array([b"\x80"] * 20_000)
    for each in (compiled, codec):
        with pytest.raises(RemoteProtocolError) as caught:
            each.decode_maps(data, 20_000, allowed)
        assert caught.value.code == "too_many_values"


def test_both_refuse_a_number_that_is_too_long(agree):
    content = b"1" * (MAX_NUMBER + 1)
    data = array([b"\x81\xa1k\xc9" + len(content).to_bytes(4, "big") + b"\x02" + content])
    agree(data, 1)


class Stop(Exception):
    pass


def test_both_ask_the_gate_before_the_source(compiled, take_apart):
    """
    Where it has been emptied, and where it is used up, the source keeps its packets.
    """
    for each in (compiled, codec):
        gate = [each.encode_packet] * 3
        source = iter([{"n": n} for n in range(9)])
        assert take_apart(deque(each.encode_each(gate, source, MIB))) == [
            codec.encode_packet({"n": n}) for n in range(3)
        ]
        encoded = each.encode_each(gate, source, MIB)
        assert take_apart(deque([next(encoded)])) == [codec.encode_packet({"n": 3})]
        gate.clear()
        assert next(encoded, None) is None
        assert next(source) == {"n": 4}


def test_both_stop_where_the_source_does(compiled, take_apart):
    """
    At its end, or with what it raises: the same object.
    """
    failure = Stop()

    def failing():
        yield {"n": 1}
        raise failure

    for each in (compiled, codec):
        gate = [each.encode_packet] * 3
        assert take_apart(deque(each.encode_each(gate, iter([{}]), MIB))) == [b"\x80"]
        pending: pieces.Pending = deque()
        with pytest.raises(Stop) as caught:
            pending.extend(each.encode_each(gate, failing(), MIB))
        assert caught.value is failure
        assert take_apart(pending) == [codec.encode_packet({"n": 1})]
        with pytest.raises(TypeError, match="made of Packets or dicts"):
            list(each.encode_each(gate, iter([1]), MIB))


# What only the compiled one can get wrong


def test_a_burst_of_small_packets_is_one_run_which_grows_until_somebody_takes_from_it(compiled):
    """
    However the source and who takes them take turns, each packet is in one run, in order.
    """
    pending: pieces.Pending = deque()
    taken = []

    def source():
        for n in range(9):
            if n in {3, 4, 7}:
                run = pending[0]
                taken.append((len(pending), run.take(2 if n == 3 else 9, KIB)))
                if not run.packets:
                    pending.popleft()
            yield {"n": n}

    pending.extend(compiled.encode_each([codec.encode_packet] * 9, source(), MIB))
    batches = [*taken, *((1, run.take(9, KIB)) for run in pending)]
    assert [(waiting, count) for waiting, (count, _) in batches] == [(1, 2), (2, 1), (1, 4), (1, 2)]
    data = b"".join(data for _, (_, data) in batches)
    assert data == b"".join(codec.encode_packet({"n": n}) for n in range(9))


def test_a_run_stays_within_a_frame_in_packets_and_in_bytes(compiled):
    for packet, most in (({"n": 1}, BATCH_PACKETS), ({"data": bytes(200)}, BATCH_BYTES // 208)):
        source = repeat(packet)
        runs = list(compiled.encode_each([codec.encode_packet] * 3000, source, 10 * MIB))
        assert [run.packets for run in runs[:-1]] == [most] * (3000 // most)
        assert sum(map(len, runs)) == 3000 * len(codec.encode_packet(packet))


def test_a_run_without_credit_takes_more_packets_and_gives_none(compiled):
    each = compiled.encode_each([codec.encode_packet] * 9, repeat({"n": 1}), MIB)
    run = next(each)
    assert isinstance(run, pieces.Run)
    assert (run.take(0, KIB), run.take(1, 3)) == ((0, b""), (0, b""))
    assert (list(each), run.packets, run.next_size, len(run)) == ([], 9, 4, 36)


def test_packets_that_are_not_small_and_those_that_come_alone_are_bytes(compiled):
    gate = [codec.encode_packet] * 2
    large = list(compiled.encode_each(gate, repeat({"data": bytes(300)}), MIB))
    alone = list(compiled.encode_each(gate[:1], repeat({}), MIB))
    assert [type(each) for each in (*large, *alone)] == [bytes] * 3


def test_lists_that_announce_what_cannot_be_there_take_no_memory(compiled):
    """
    Each of a hundred lists within each other announces the whole rest of the frame.
    """
    size = 64 * KIB
    data = array([b"\x81\xa1k" + (b"\xdd" + (size - 600).to_bytes(4, "big")) * 100 + bytes(size)])
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            compiled.decode_maps(data, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * size


def test_a_packet_that_changes_as_it_is_encoded_does_no_harm(compiled):
    """
    A zone runs code of its own in the middle of a packet.
    """
    packet: dict[str, Any] = {"first": 1}
    packet["at"] = datetime(2026, 1, 1, tzinfo=Meddling(packet.clear))
    packet["last"] = ["x" * 100]
    items: list[Any] = []
    items += [datetime(2026, 1, 1, tzinfo=Meddling(items.clear)), "x" * 100]
    for each in (packet, {"items": items}):
        data = compiled.encode_packet(each)
        assert isinstance(codec.decode(data), dict)


def test_an_interrupt_is_not_taken_for_a_bad_value(compiled):
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compiled.encode_packet({"at": datetime(2026, 1, 1, tzinfo=Meddling(interrupt))})


def test_uuids_are_as_the_library_makes_them(compiled):
    token = uuid.uuid4()
    (packet,) = compiled.decode_maps(array([codec.encode_packet({"t": token})]), 1)
    found = packet["t"]
    assert (found, hash(found), found.is_safe) == (token, hash(token), token.is_safe)
    assert str(found) == str(token)


@given(value=within(COMMON) | st.binary(), more=st.sampled_from([b"", b"\xc0", b"\xc1"]))
def test_a_value_alone_is_decoded_as_python_does(compiled, same, value, more):
    """And so is what is none, or is followed by something."""
    data = value if isinstance(value, bytes) else codec.encode_packet({"value": value})
    ours, theirs = (outcome(each.decode, data + more) for each in (compiled, codec))
    assert same(ours, theirs)


def test_nested_dicts_are_dicts_until_they_are_read(compiled):
    (packet,) = compiled.decode_maps(array([codec.encode_packet({"a": {"b": [{"c": 1}]}})]), 1)
    assert (type(packet["a"]), type(packet["a"]["b"][0])) == (dict, dict)
    assert type(packet.a) is Packet


def test_the_collector_finds_packets_that_hold_each_other(compiled):
    """
    It need not look at those of plain values, until they are given something else.
    """
    for change in (
        lambda packet: packet.update(me=packet),
        lambda packet: setattr(packet, "a", packet),
        lambda packet: packet.setdefault("me", packet),
        lambda packet: packet.__ior__({"me": packet}),
    ):
        (packet,) = compiled.decode_maps(array([codec.encode_packet({"a": 1})]), 1)
        change(packet)
        assert gc.is_tracked(packet)


def test_the_collector_does_not_look_at_packets_that_hold_no_others(compiled):
    flat = {
        "a": 1,
        "b": uuid.uuid4(),
        "c": Decimal(1),
        "d": datetime(2026, 1, 2, tzinfo=UTC),
        "e": "x",
        "f": 1.5,
    }
    wide = {f"name{n}": uuid.uuid4() for n in range(20)}
    data = [codec.encode_packet(packet) for packet in (flat, wide, wide, {"a": [1]}, {"a": {}})]
    packets = list(compiled.unroll(compiled.decode_maps(array(data), 5))[1])
    # From Python 3.14 on a dict cannot tell the collector of itself later.
    always = sys.version_info >= (3, 14)
    assert list(map(gc.is_tracked, packets)) == [always] * 3 + [True] * 2
    assert packets[0] == flat


LARGE_SIZES = (limits.LARGE - 1, limits.LARGE, 65_535, 65_536, 200_000)
LARGE_VALUES = st.sampled_from(
    [kind * size for kind in (b"b", "a", "é", "日", "😀") for size in LARGE_SIZES]
)


@given(st.dictionaries(st.text(max_size=40), within(COMMON) | LARGE_VALUES, max_size=20))
def test_both_put_packets_in_the_same_pieces(compiled, packet):
    for made in (packet, Packet(packet)):
        ours, theirs = compiled.encode_pieces(made), pieces.encode_pieces(made)
        if isinstance(theirs, bytes):
            assert ours == theirs
            continue
        assert isinstance(ours, pieces.Pieces)
        assert ours.buffers == theirs.buffers
        assert (ours.small, len(ours)) == (theirs.small, len(theirs))
        values = {id(each) for each in ours.buffers[1::2]}
        given = [value for value in packet.values() if type(value) is bytes]
        assert all(len(value) < limits.LARGE or id(value) in values for value in given)


@pytest.mark.parametrize(
    "packet",
    [
        {"data": bytes(limits.LARGE), "other": object()},
        {"data": bytes(limits.LARGE), 5: 1},
        {"data": bytes(limits.LARGE), "\ud800": 1},
        [("data", bytes(limits.LARGE))],
        dict.fromkeys(map(str, range(70_000)), 0) | {"data": bytes(limits.LARGE)},
        {"data": bytearray(limits.LARGE), "more": bytes(limits.LARGE)},
        {"data": bytes(limits.LARGE), "text": "a" * limits.LARGE + "\ud800"},
        {"data": {"deep": bytes(limits.LARGE)}, "more": bytes(5000)},
        collections.OrderedDict(data=bytes(limits.LARGE)),
    ],
)
def test_what_is_not_ordinary_in_pieces_is_left_to_python(compiled, packet):
    ours, theirs = (outcome(each.encode_pieces, packet) for each in (compiled, pieces))
    if isinstance(theirs, pieces.Pieces):
        ours, theirs = ours.buffers, theirs.buffers
    assert ours == theirs


NESTED: Any = {"a": {"b": [{"c": {}}], "d": {"e": {"f": 1}}}, "g": [[]], "h": 1}


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="there each dict is looked at from its start"
)
def test_the_collector_looks_at_nested_packets_once_somebody_has_them(compiled):
    """
    It would look again and again at a frame of them that waits.
    """
    data = array([codec.encode_packet(packet) for packet in (NESTED, {"a": 1}, NESTED)])
    waiting = compiled.decode_maps(data, 3)
    for packet in waiting:
        assert not any(map(gc.is_tracked, containers(packet)))
    left, packets = compiled.unroll(waiting)
    first = next(packets)
    assert length_hint(left) == 2
    assert first == NESTED
    # As if Python had made it.
    usual = [gc.is_tracked(each) for each in containers(copy.deepcopy(NESTED))]
    assert [gc.is_tracked(each) for each in containers(first)] == usual
    assert usual.count(True) == 7
    assert not gc.is_tracked(next(packets))
    assert list(packets) == [NESTED]
    assert length_hint(left) == 0


@pytest.mark.parametrize(
    "where",
    [
        lambda packet: packet["a"]["b"],
        lambda packet: packet["a"]["b"][0],
        lambda packet: packet["a"]["b"][0]["c"],
        lambda packet: packet["a"]["d"]["e"],
        lambda packet: packet["g"][0],
        lambda packet: packet,
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_what_is_tied_into_a_ring_inside_a_packet_is_freed(compiled, where, alone):
    if alone:
        packet = Packet(compiled.decode(codec.encode_packet(NESTED)))
    else:
        data = array([codec.encode_packet(NESTED)])
        packet = next(compiled.unroll(compiled.decode_maps(data, 1))[1])
    inner = where(packet)
    canary = Canary()
    if isinstance(inner, list):
        inner.append([packet, canary])
    else:
        inner["ring"] = [packet, canary]
    freed = weakref.ref(canary)
    del packet, inner, canary
    gc.collect()
    assert freed() is None


class Canary:
    """
    Somebody who is missed.
    """


def containers(value: Any) -> list[Any]:
    """
    Return the dicts and lists in a value, itself included, from the outside in.
    """
    if not isinstance(value, dict | list):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(each for item in inner for each in containers(item))]


def test_names_of_fields_that_fall_on_one_place_are_told_apart(compiled):
    names = [f"name{number}" for number in range(5000)]
    data = array([codec.encode_packet({name: number for number, name in enumerate(names)})] * 2)
    first, second = compiled.decode_maps(data, 2)
    assert list(first) == list(second) == names


NAMES = st.sampled_from([f"name{n}" for n in range(14)] + ["é", "n" * 31, "n" * 32])
WIDE = st.dictionaries(NAMES, within(COMMON), min_size=10)


@given(WIDE, st.lists(st.permutations(range(17)) | st.just(None), max_size=12), st.data())
def test_both_decode_wide_packets_whether_their_names_are_those_of_the_one_before(
    agree, packet, orders, data
):
    """Some are in another order, lack a name, have one twice, or are cut off."""
    encoded = codec.encode_packet(packet)
    packets = [encoded]
    for order in orders:
        names = list(packet)
        if order is not None:
            names = [names[n] for n in order if n < len(names)][data.draw(st.integers(0, 1)) :]
        head = b"\xde" + (len(names) + 1).to_bytes(2, "big")
        once = codec.encode_packet({name: packet[name] for name in names})
        twice = head + once[1 if len(names) < 16 else 3 :] + b"\xa5name0\x07"
        packets.append(data.draw(st.sampled_from([once, twice])))
    whole = array(packets)
    agree(whole, len(packets))
    agree(whole[: data.draw(st.integers(0, len(whole)))], len(packets))


@pytest.mark.parametrize("count", [11, 12, 100, 30_000])
def test_packets_of_the_same_many_names_share_nothing_but_these(compiled, count):
    names = [f"name{n}" for n in range(count)]
    data = array([codec.encode_packet(dict.fromkeys(names, n)) for n in range(3)])
    packets = compiled.decode_maps(data, 3)
    assert [set(packet.values()) for packet in packets] == [{0}, {1}, {2}]
    packets[0].clear()
    packets[1]["more"] = packets[1]
    assert gc.is_tracked(packets[1])
    assert packets[2] == dict.fromkeys(names, 2)


@pytest.mark.parametrize("text", ["é" * 2**20, "a" * (2**20 - 1) + "é" * 9, "a" * 2**21 + "😀"])
def test_a_long_text_is_put_together_from_pieces_of_it(agree, text):
    """It is cut between bytes, where a character may lie across."""
    agree(array([codec.encode_packet({"text": text})]), 1)


def test_a_long_text_that_is_none_is_refused_as_a_short_one_is(agree):
    data = codec.encode_packet({"text": "a" * 2**21})
    agree(array([data.replace(b"a" * 2**20, b"\xff" + b"a" * (2**20 - 1))]), 1)
    agree(array([data[:-1] + b"\xc3"]), 1)


def test_many_values_and_large_ones_come_as_few_small_ones_do(agree):
    """Other threads have turns in between."""
    rows = [[n, [], {}, str(n)] for n in range(3000)]
    agree(array([codec.encode_packet({"rows": rows, "n": Decimal("9" * 60000)})] * 3), 3)


def test_others_have_their_turn_while_much_is_decoded(compiled, monkeypatch):
    """Each 1,024 values it calls a function in Python, where CPython hands over to who waits."""
    data = array([codec.encode_packet({"n": [Decimal(n) for n in range(100_000)]})])
    assert type(codec.breathe) is FunctionType
    breaths = []
    monkeypatch.setattr(codec, "breathe", lambda: breaths.append(None))
    compiled.decode_maps(data, 1)
    assert len(breaths) >= 100_000 // 1024


QUICK = [
    (b"\x81\xa1a\x01", 1),
    (b"\x81\xa1a\xc6" + MIB.to_bytes(4, "big") + bytes(MIB), 1),  # long, but copied at once
    (b"\x81\xa0\xcc\x80", QUICK_VALUES // 3 - 50),
    (b"\x81\xa0\xc4\x20" + bytes(32), QUICK_VALUES // 6 - 50),
]
SLOW = [
    (b"\x80", 2 * QUICK_VALUES),
    (b"\x81\xa0\xc4\x20" + bytes(32), QUICK_VALUES // 3 - 50),  # more than 128 KiB
    (b"\x81\xa1a\xc6" + QUICK_COPY.to_bytes(4, "big") + bytes(QUICK_COPY), 1),
    (codec.encode_packet({"a": Decimal("1" * 2 * QUICK_NUMBER)}), 12),  # 24 KiB of them
    (b"\x81\xa1a" + b"\x91" * 300 + b"\x90", 60),  # for Python's codec, which looks first
]


@pytest.mark.parametrize("packet", [*QUICK, *SLOW], ids=lambda packet: f"{packet[0][:4].hex()}")
def test_what_takes_long_is_not_decoded_quickly_whichever_codec_it_is(compiled, packet):
    data, count = packet
    for each in (compiled, codec):
        found = each.decode_quickly(array([data] * count), count)
        assert (found is None) is (packet in SLOW)
        assert found is None or list(map(dict, found)) == codec.decode_maps(
            array([data] * count), count
        )


@pytest.mark.parametrize("module", [codec, speed], ids=["python", "as used"])
def test_what_is_a_packet_already_is_given_as_it_is(module):
    """
    Others become one as they are taken.
    """
    made = [Packet(n=1), Packet(n=2)]
    left, packets = module.unroll(list(made))
    assert next(packets) is made[0]
    assert length_hint(left) == 1
    left, packets = module.unroll([{"n": 1}, {"n": 2}])
    assert (type(next(packets)), length_hint(left)) == (Packet, 1)
    assert next(packets).n == 2


SCHEMA: codec.Schema = {"a": (int,), "b": (str, type(None)), "c": (dict, bool, type(None))}


@pytest.mark.parametrize("each", [codec, speed])
def test_a_burst_ends_at_the_packet_that_fills_it(each, take_apart):
    """
    What comes behind that stays with its source; and the gate says that this was not the end.
    """
    gate = [codec.encode_packet] * 9
    source = iter([{"n": bytes(size)} for size in (10, 10, 90, 10, 10)])
    encoded = take_apart(deque(each.encode_each(gate, source, 100)))
    assert [len(decode["n"]) for decode in map(codec.decode, encoded)] == [10, 10, 90]
    assert (gate, len(list(source))) == ([], 2)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9) | st.text() | st.booleans()).map(
        codec.encode_packet
    )
    | st.sampled_from([b"\x00", b"\x90", b"\xc0"])
)
def test_fields_are_the_same_in_python(data):
    """
    Whichever are there, of whatever type; and where there is no map at all.
    """
    found = speed.decode_fields(data, SCHEMA)
    assert found == codec.decode_fields(data, SCHEMA)
    assert found is None or list(found) == list(SCHEMA)


def test_what_is_made_at_once_is_as_frozen_as_any():
    made = speed.frozen(FlowEnded, flow_id=1, count=2)
    assert made == FlowEnded(flow_id=1, count=2)
    assert hash(made) == hash(FlowEnded(flow_id=1, count=2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.count = 3  # type: ignore[misc]
