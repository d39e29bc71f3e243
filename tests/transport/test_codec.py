"""Values come back equal and of the same type, or are refused with their path."""

import collections
import contextlib
import dataclasses
import enum
import math
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyf.transport import Packet, RemoteProtocolError, UnsupportedValue, codec
from pyf.transport.codec import MAX_DEPTH, decode, decode_maps, encode_packet

OFFSETS = st.timedeltas(
    timedelta(hours=-24, microseconds=1), timedelta(hours=24, microseconds=-1)
).map(timezone)
ZONES = st.none() | st.just(UTC) | OFFSETS
TEXT = st.text(st.characters(codec="utf-8"))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**300), 2**300),
    st.floats(),
    TEXT,
    st.binary(),
    st.datetimes(timezones=ZONES, allow_imaginary=False),
    st.builds(datetime.replace, st.datetimes(timezones=ZONES), fold=st.sampled_from([0, 1])),
    st.dates(),
    st.times(timezones=ZONES),
    st.builds(time.replace, st.times(timezones=ZONES), fold=st.sampled_from([0, 1])),
    st.timedeltas(),
    st.decimals(),
    st.decimals(allow_nan=False, places=3),
    st.uuids(),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8
)
PACKETS = st.dictionaries(TEXT, VALUES, max_size=5)


class Colour(enum.Enum):
    RED = "red"
    ODD = object()


class Level(enum.IntEnum):
    LOW = 1
    HUGE = 2**70


class Mode(enum.StrEnum):
    FAST = "fast"


class OldMode(str, enum.Enum):  # noqa: UP042 - it's what people have
    FAST = "fast"


class Point(NamedTuple):
    x: int
    y: int


class Whole(int):
    """
    Its conversions lie, its value doesn't.
    """

    def __int__(self):
        return 7


class Real(float):
    def __float__(self):
        return 7.0


class Text(str):  # noqa: SLOT000 - subclasses in the wild have none
    def __str__(self):
        return "wrong"

    def __format__(self, spec):
        return "wrong"

    def encode(self, encoding="utf-8", errors="strict"):
        return b"wrong"


class Raw(bytes):
    def __bytes__(self):
        return b"wrong"


class Buffer(bytearray):
    pass


class Row(dict):
    pass


class Lines(list):
    pass


class NoOffset(tzinfo):
    def utcoffset(self, moment):
        return None


class Broken(tzinfo):
    raises: ClassVar[list[BaseException]] = []

    def utcoffset(self, moment):
        if self.raises:
            raise self.raises.pop()
        return timedelta(hours=1)


class LaterDate(date):
    pass


class LaterDatetime(datetime):
    pass


class Amount(Decimal):
    pass


@dataclasses.dataclass
class Order:
    number: int


def through(value: Any) -> Any:
    """
    What the other side sees of *value*.
    """
    return decode(encode_packet({"value": value}))["value"]


def nested(levels: int, leaf: Any = 1, inside: Any = lambda value: {"a": value}) -> Any:
    for _ in range(levels):
        leaf = inside(leaf)
    return leaf


# What travels


@given(PACKETS)
@example({"nan": math.nan, "minus": -math.nan, "zero": -0.0, "inf": -math.inf})
@example({"huge": [2**64, -(2**200), 2**64 - 1, -(2**63), -(2**63) - 1, 2**63]})
@example({"scale": [Decimal("1.00"), Decimal("-0E+5"), Decimal("sNaN12"), Decimal("-Infinity")]})
def test_values_come_back_equal_and_of_the_same_type(same, packet):
    assert same(decode(encode_packet(packet)), packet)


@given(st.lists(PACKETS, min_size=1, max_size=5))
def test_a_batch_comes_back_as_dicts(same, packets):
    data = b"\xdd" + len(packets).to_bytes(4, "big") + b"".join(map(encode_packet, packets))
    for view in (data, memoryview(data)):
        assert same(decode_maps(view, len(packets)), packets)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Packet(a=Packet(b=1)), {"a": {"b": 1}}),
        ((1, (2,)), [1, [2]]),
        (Point(1, 2), [1, 2]),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
        (memoryview(bytearray(8)).cast("I"), bytes(8)),
        (Colour.RED, "red"),
        (Level.LOW, 1),
        (Level.HUGE, 2**70),
        (Mode.FAST, "fast"),
        (OldMode.FAST, "fast"),
        (Whole(5), 5),
        (Whole(2**70), 2**70),
        (Real(1.5), 1.5),
        (Text("abc"), "abc"),
        (Raw(b"abc"), b"abc"),
        (Buffer(b"abc"), b"abc"),
        (Row(a=Row(b=1)), {"a": {"b": 1}}),
        (Lines([1]), [1]),
        (collections.OrderedDict(a=1, b=2), {"a": 1, "b": 2}),
        (collections.defaultdict(int, a=1), {"a": 1}),
        ({Mode.FAST: 1, OldMode.FAST: 2}, {"fast": 2}),
        ({Text("abc"): 1}, {"abc": 1}),
        ([Colour.RED, memoryview(b"abcd")[::2]], ["red", b"ac"]),
        (
            [
                True,
                2**70,
                b"x",
                None,
                1.5,
                "é",
                Decimal("1.0"),
                Point(1, 2),
                memoryview(b"ab")[::2],
            ],
            [True, 2**70, b"x", None, 1.5, "é", Decimal("1.0"), [1, 2], b"a"],
        ),
    ],
)
def test_what_is_of_another_type_travels_by_value(same, value, expected):
    assert same(through(value), expected)


def test_a_zone_travels_as_its_offset(same):
    summer = datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Paris"))
    assert same(through(summer), summer.replace(tzinfo=timezone(timedelta(hours=2))))
    second = datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris"))
    found = through(second)
    assert (found.utcoffset(), found.fold) == (timedelta(hours=1), 1)


def test_keys_keep_their_order():
    packet = {"b": 1, "a": 2, "": 3, "B": {"z": 1, "y": 2}}
    found = decode(encode_packet(packet))
    assert list(found) == list(packet)
    assert list(found["B"]) == ["z", "y"]


def test_dict_methods_that_fields_are_named_after_do_not_matter():
    """
    A packet with a field called items encodes like any other, on the slow way too.
    """
    packet = Packet({"items": memoryview(b"abcd")[::2], "keys": 1})
    assert decode(encode_packet(packet)) == {"items": b"ac", "keys": 1}


@pytest.mark.parametrize(
    "inside",
    [
        lambda value: {"a": value},
        lambda value: Packet(a=value),
        lambda value: [value],
        lambda value: Point(value, 1),
    ],
)
@pytest.mark.parametrize("leaf", [1, Decimal(1), memoryview(b"abcd")[::2], Colour.RED, Text("x")])
def test_depth_is_bounded_alike_for_all_containers(inside, leaf):
    deepest = {"top": nested(MAX_DEPTH - 1, leaf, inside)}
    batch = b"\xdd\x00\x00\x00\x01" + encode_packet(deepest)
    assert len(decode_maps(batch, 1)) == 1
    with pytest.raises(UnsupportedValue, match="nested deeper than 255 levels, or holds itself"):
        encode_packet({"top": nested(MAX_DEPTH, leaf, inside)})


# NumPy


def test_numpy_scalars_travel_by_value(same):
    np = pytest.importorskip("numpy")
    for scalar, expected in [
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.float16(1.5), 1.5),
        (np.float32(1.5), 1.5),
        (np.float64(1.5), 1.5),
        (np.bool_(True), True),
        (np.str_("é"), "é"),
        (np.bytes_(b"a"), b"a"),
        (np.datetime64("2024-01-02"), date(2024, 1, 2)),
        (
            np.datetime64("2024-01-02T03:04:05.000006"),
            datetime.fromisoformat("2024-01-02T03:04:05.000006"),
        ),
        (np.timedelta64(5, "us"), timedelta(microseconds=5)),
    ]:
        assert same(through(scalar), expected)
        assert same(through([scalar, memoryview(b"ab")[::2]])[0], expected)


def test_numpy_values_that_would_lose_something_are_refused():
    np = pytest.importorskip("numpy")
    for value in [
        np.datetime64(5, "ns"),
        np.datetime64("NaT", "us"),
        np.timedelta64(5, "ns"),
        np.timedelta64(5, "M"),
        np.complex128(1),
        np.longdouble(1),
        np.void(b"a"),
        np.array(5),
        np.array([1, 2]),
    ]:
        with pytest.raises(UnsupportedValue, match=r"numpy\."):
            through(value)


def test_numpy_memory_travels_in_logical_order():
    np = pytest.importorskip("numpy")
    grid = np.arange(6, dtype="u1").reshape(2, 3)
    for array in (grid, np.asfortranarray(grid)):
        assert through(memoryview(array)) == bytes(range(6))


# What doesn't


@pytest.mark.parametrize(
    "value",
    [
        1j,
        {1},
        object(),
        object,
        len,
        range(3),
        Path("/"),
        Order(1),
        Colour.ODD,
        LaterDate(2024, 1, 1),
        LaterDatetime(2024, 1, 1),
        Amount(1),
        collections.deque([1]),
        iter(()),
        Ellipsis,
    ],
)
def test_anything_else_is_refused_with_path_and_type(value):
    with pytest.raises(UnsupportedValue) as caught:
        encode_packet(Packet(order={"lines": [{}, (1, {"price": value})]}))
    kind = type(getattr(value, "value", value))
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    assert caught.value.path == "order.lines[1][1].price"
    assert caught.value.value_type == name
    assert str(caught.value) == f"'order.lines[1][1].price' cannot travel (type {name})"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", [str, Text])
def test_a_lone_surrogate_is_refused_as_what_it_is(kind):
    with pytest.raises(UnsupportedValue, match=r"'a\.b\[0\]' holds a lone surrogate") as caught:
        encode_packet({"a": {"b": [kind("x\ud800")]}})
    assert caught.value.path == "a.b[0]"


@pytest.mark.parametrize("kind", [str, Text])
def test_a_lone_surrogate_in_a_key_is_refused(kind):
    with pytest.raises(UnsupportedValue, match="'the packet' has a key with a lone surrogate"):
        encode_packet({kind("\ud800"): 1})
    with pytest.raises(UnsupportedValue, match=r"'a\[0\]' has a key with a lone surrogate"):
        encode_packet({"a": [{kind("\ud800"): 1}]})


@pytest.mark.parametrize("key", [1, None, b"a", 1.5, (1,), Colour.RED, Level.LOW])
def test_a_key_that_is_no_str_is_refused(key):
    with pytest.raises(UnsupportedValue, match="'the packet' has a key that is not a str"):
        encode_packet({key: 1})
    with pytest.raises(UnsupportedValue, match=r"'a\[0\]\.b' has a key that is not a str"):
        encode_packet({"a": [{"b": {key: 1}}]})


def test_what_holds_itself_is_refused():
    packet = Packet(a=1)
    packet.me = packet
    with pytest.raises(UnsupportedValue, match=r"'me\.me.*or holds itself"):
        encode_packet(packet)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UnsupportedValue, match=r"'a\[0\]\[0\].*or holds itself"):
        encode_packet({"a": endless})


@pytest.mark.parametrize(
    "value", [datetime(2024, 1, 1, tzinfo=NoOffset()), time(1, tzinfo=ZoneInfo("Europe/Paris"))]
)
def test_a_zone_without_an_offset_is_refused_with_the_reason(value):
    with pytest.raises(UnsupportedValue, match="'value' cannot travel: its time zone gives no"):
        through(value)


def test_a_value_that_fails_on_its_own_is_refused_with_the_reason():
    Broken.raises[:] = [RuntimeError("boom"), RuntimeError("boom")]
    with pytest.raises(UnsupportedValue, match="'value' cannot travel: boom") as caught:
        through(datetime(2024, 1, 1, tzinfo=Broken()))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_released_memoryview_is_refused():
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(UnsupportedValue, match=r"'value' cannot travel: .*released"):
        through(view)


@pytest.mark.parametrize("packet", [None, 1, "abc", [("a", 1)], (("a", 1),), Order(1)])
def test_only_a_dict_is_a_packet(packet):
    with pytest.raises(TypeError, match="made of Packets or dicts, not of ") as caught:
        encode_packet(packet)
    assert vars(caught.value) == {"value": packet}


def test_an_interrupt_while_encoding_is_not_taken_for_a_bad_value():
    Broken.raises[:] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        through(datetime(2024, 1, 1, tzinfo=Broken()))


def test_an_interrupt_while_decoding_is_not_taken_for_a_breach_of_the_peer(monkeypatch):
    data = encode_packet({"a": Decimal(1)})
    restore, interrupts = codec._restore, [KeyboardInterrupt()]

    def interrupted(tag: int, data: bytes) -> Any:
        if interrupts:
            raise interrupts.pop()
        return restore(tag, data)

    monkeypatch.setattr(codec, "_restore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode(data)


# What a peer may send


@given(st.binary())
def test_arbitrary_bytes_give_a_value_or_a_remote_protocol_error(data):
    with contextlib.suppress(RemoteProtocolError):
        decode(data)


@given(st.integers(-128, 127), st.binary(max_size=40))
def test_arbitrary_extensions_give_a_value_or_a_remote_protocol_error(tag, data):
    packed = b"\xc7" + bytes([len(data), tag % 256]) + data
    with contextlib.suppress(RemoteProtocolError):
        value = decode(packed)
        assert 1 <= tag <= 7
        assert type(through(value)) is type(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xa1\xff",
        b"\xa3\xed\xa0\x80",
        b"\x81\x01\x01",
        b"\x81\xc0\x01",
        b"\x81\xc4\x01a\x01",
    ],
)
def test_broken_messagepack_is_a_remote_protocol_error(data):
    with pytest.raises(RemoteProtocolError, match="a value cannot be decoded: ") as caught:
        decode(data)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x81\xa1a\x01", "does not hold the 1 packets it announced"),
        (b"\x92\x80\x80", "does not hold the 1 packets it announced"),
        (b"\x91\x01", "holds something that is not a packet"),
        (b"\x91\x90", "holds something that is not a packet"),
    ],
)
def test_a_batch_that_is_not_what_it_claims_is_refused(data, reason):
    with pytest.raises(RemoteProtocolError, match=reason) as caught:
        decode_maps(data, 1)
    assert caught.value.code == "malformed_batch"


def test_uuid_versions_survive():
    for value in (uuid.uuid1(), uuid.uuid4(), uuid.UUID(int=0)):
        assert through(value) == value


@pytest.mark.parametrize("offset", [timedelta(microseconds=1), -timedelta(hours=1, microseconds=1)])
@pytest.mark.parametrize("kind", [datetime, time])
def test_offsets_of_less_than_a_second_are_kept(kind: Any, offset: timedelta) -> None:
    zone = timezone(offset)
    moment = kind(2000, 1, 1, tzinfo=zone) if kind is datetime else kind(1, tzinfo=zone)
    back = decode(encode_packet({"at": moment}))["at"]
    assert back.utcoffset() == offset
