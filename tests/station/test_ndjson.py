"""A packet as a line of JSON comes back as it was, of the same types."""

import json
import math
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyf.station import ndjson
from pyf.transport import Packet

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.decimals(allow_nan=False),
    st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=-3.5)))),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
)
KEYS = st.sampled_from([*ndjson.TAGS, "$other", "a", ""])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=6
)


@settings(max_examples=40)
@given(st.dictionaries(KEYS, VALUES, max_size=3).filter(lambda packet: len(packet) != 1))
def test_a_packet_comes_back(packet):
    """
    Equal, of equal types all the way down, on one line that is plain JSON.
    """
    line = ndjson.dumps(packet)
    assert "\n" not in line
    json.loads(line, parse_constant=pytest.fail)
    found = ndjson.loads(line)
    assert found == packet
    assert repr(dict(found)) == repr(packet)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**63, '{"$int":"0x8000000000000000"}'),
        (math.inf, '{"$float":"inf"}'),
        (Decimal("1.50"), '{"$decimal":"1.50"}'),
        (b"\x00\xff", '{"$bytes":"AP8="}'),
        (datetime(2024, 7, 1, 12), '{"$datetime":"2024-07-01T12:00:00"}'),  # noqa: DTZ001
        (
            datetime(2024, 10, 27, 2, 30, fold=1),  # noqa: DTZ001
            '{"$datetime":["2024-10-27T02:30:00",1]}',
        ),
        (date(2024, 2, 29), '{"$date":"2024-02-29"}'),
        (time(23, 59), '{"$time":"23:59:00"}'),
        (timedelta(1, 2, 3), '{"$timedelta":[1,2,3]}'),
        (
            UUID("00112233-4455-6677-8899-aabbccddeeff"),
            '{"$uuid":"00112233-4455-6677-8899-aabbccddeeff"}',
        ),
        ({"$date": 1}, '{"$map":[["$date",1]]}'),
        ({"$ref": 1}, '{"$ref":1}'),
        (2**53, "9007199254740992"),
    ],
)
def test_what_json_lacks_has_a_name(value, text):
    """
    Each type that JSON lacks is an object with one key, as the guide shows.
    """
    assert ndjson.dumps({"v": value, "w": 0}) == f'{{"v":{text},"w":0}}'


def test_a_packet_with_one_field_like_a_tag_comes_back():
    """
    The packet itself may look like a tag, too.
    """
    packet = {"$map": [1]}
    line = ndjson.dumps(packet)
    assert ndjson.loads(line) == packet
    assert type(ndjson.loads(line)) is Packet


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "a packet is a JSON object, not list"),
        ("{", "line:1: Expecting"),
        ('{"a":NaN}', "NaN is not JSON"),
        ('{"a":1e400}', "1e400 is not JSON"),
        ('{"a":1,"a":2}', "a key twice"),
        ('{"a":{"$decimal":"x"}}', "$decimal holds no such value"),
        ('{"a":{"$bytes":"!"}}', "$bytes holds no such value"),
        ('{"a":{"$timedelta":3}}', "$timedelta holds no such value"),
        ('{"a":{"$datetime":[1,2,3]}}', "$datetime holds no such value"),
        ('{"a":' * 100_000, "nested too deeply"),
        (b"\xff", "decode"),
        ('{"$date":"2024-01-01"}', "a packet is a JSON object, not date"),
    ],
)
def test_a_line_that_holds_no_packet_is_named(line, reason):
    """
    What a line lacks is said with its number.
    """
    data = line if isinstance(line, bytes) else line.encode()
    with pytest.raises(ValueError, match=r"^line:1: ") as caught:
        list(ndjson.read([data]))
    assert reason in str(caught.value)


def test_empty_lines_are_skipped_and_counted():
    """
    They are no packets, but lines.
    """
    lines = [b'{"n":1}\n', b"\n", b"  \n", b'{"n":2}']
    assert list(ndjson.read(lines)) == [{"n": 1}, {"n": 2}]
    with pytest.raises(ValueError, match="x:3: "):
        list(ndjson.read([b"\n", b"\n", b"?"], "x"))


def test_the_guide_has_every_tag():
    """
    The table in the guide to the command line is complete.
    """
    guide = Path(__file__).resolve().parents[2] / "docs" / "howto" / "command-line.md"
    rows = re.findall(r"^\| `(\$\w+)` \|", guide.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(ndjson.TAGS)
