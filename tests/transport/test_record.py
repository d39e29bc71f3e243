"""A recorded flow is read back whole, or is an error."""

import contextlib
import io
import itertools
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport import (
    BadFlowEnding,
    ClientError,
    Connection,
    Packet,
    PacketTooLarge,
    RemoteProtocolError,
    Role,
    UnsupportedValue,
    decode_packet_flow,
    encode_packet_flow,
)
from pyf.transport.frames import FrameType, encode_frame
from pyf.transport.limits import BATCH_BYTES, BATCH_PACKETS

PACKETS = st.lists(
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), st.integers() | st.binary()),
    max_size=5,
)
ROWS = [Packet(number=number, name="x" * (number % 7)) for number in range(3 * BATCH_PACKETS)]


def recorded(packets) -> bytes:
    return b"".join(encode_packet_flow(packets))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def client(*, header=None) -> tuple[Connection, int]:
    """
    A client that has opened a flow.
    """
    machine = Connection(Role.CLIENT)
    return machine, machine.open_flow(header)


def written(machine: Connection) -> list[bytes]:
    return [b"".join(machine.data_to_send())]


@given(PACKETS)
def test_packets_come_back_from_pieces_of_any_size(same, packets):
    data = recorded(packets)
    for size in (1, 2, 3, 10, len(data)):
        found = list(decode_packet_flow(pieces(data, size)))
        assert {type(packet) for packet in found} <= {Packet}
        assert same([dict(packet) for packet in found], packets)


@pytest.mark.parametrize("size", [1000, BATCH_BYTES, 10_000_000])
def test_a_long_flow_comes_back(size):
    assert list(decode_packet_flow(pieces(recorded(ROWS), size))) == ROWS


def test_a_file_does_as_well(tmp_path):
    path = tmp_path / "flow"
    with path.open("wb") as file:
        file.writelines(encode_packet_flow(ROWS))
    with path.open("rb") as file:
        assert list(decode_packet_flow(file)) == ROWS


def test_an_empty_flow_is_a_flow():
    assert list(decode_packet_flow([recorded([])])) == []


def test_the_same_packets_give_the_same_bytes():
    assert recorded(ROWS) == recorded(map(dict, ROWS))


@given(PACKETS, st.data())
def test_a_cut_flow_is_an_error_wherever_it_is_cut(packets, data):
    whole = recorded(packets)
    cut = data.draw(st.integers(0, len(whole) - 1))
    found = []
    with pytest.raises(BadFlowEnding, match=r"it has no END after \d+ packets") as caught:
        found.extend(decode_packet_flow([whole[:cut]]))
    assert caught.value.received in (0, len(packets))


def test_packets_before_the_cut_are_given():
    whole = recorded(ROWS)
    packets = decode_packet_flow([whole[:-1]])
    assert list(itertools.islice(packets, len(ROWS))) == ROWS
    with pytest.raises(BadFlowEnding) as caught:
        next(packets)
    assert caught.value.received == len(ROWS)


@pytest.mark.parametrize("more", [b"\x00", recorded([]), b"".join(encode_frame(FrameType.END, 1))])
def test_what_follows_the_end_is_an_error(more):
    with pytest.raises(RemoteProtocolError):
        list(decode_packet_flow([recorded(ROWS) + more]))


def test_half_a_frame_behind_the_end_is_an_error():
    with pytest.raises(RemoteProtocolError, match="goes on after its end") as caught:
        list(decode_packet_flow([recorded([]) + b"\x00"]))
    assert caught.value.code == "trailing_data"


def test_a_move_of_the_client_behind_the_end_is_an_error():
    machine, flow = client()
    machine.end(flow)
    machine.cancel(flow)
    with pytest.raises(RemoteProtocolError, match="goes on after its end"):
        list(decode_packet_flow(written(machine)))


@given(st.binary())
def test_arbitrary_bytes_are_no_flow(data):
    with pytest.raises((RemoteProtocolError, BadFlowEnding)):
        list(decode_packet_flow([data]))


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_flow_with_wrong_bytes_gives_documented_errors_only(changes):
    data = bytearray(recorded(ROWS[:50]))
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(RemoteProtocolError, BadFlowEnding):
        list(decode_packet_flow([bytes(data)]))


def test_what_a_client_wrote_is_a_recorded_flow():
    machine, flow = client(header={"action": "x"})
    machine.end(flow)
    (packet,) = decode_packet_flow(written(machine))
    assert type(packet) is Packet
    assert packet == {"action": "x"}


def test_a_client_that_failed_is_a_client_error():
    machine, flow = client()
    machine.abort(flow, "ZeroDivisionError")
    with pytest.raises(ClientError, match="failed with ZeroDivisionError after 0") as caught:
        list(decode_packet_flow(written(machine)))
    assert (caught.value.error_class, caught.value.sent) == ("ZeroDivisionError", 0)


def test_a_client_that_gave_up_left_a_cut_flow():
    machine, flow = client()
    machine.cancel(flow)
    with pytest.raises(BadFlowEnding):
        list(decode_packet_flow(written(machine)))


def test_two_flows_are_no_recorded_flow():
    machine, flow = client()
    machine.end(machine.open_flow())
    machine.end(flow)
    with pytest.raises(RemoteProtocolError, match="a second flow") as caught:
        list(decode_packet_flow(written(machine)))
    assert caught.value.code == "second_flow"


def test_packets_are_taken_as_the_bytes_are():
    """
    An endless generator can be recorded: no piece needs more than a batch and a packet.
    """
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield {"chunk": bytes(10_000)}

    stream = encode_packet_flow(endless())
    next(stream)
    assert taken == 0
    for count in range(1, 4):
        assert len(next(stream)) < BATCH_BYTES + 11_000
        assert taken == 7 * count


@pytest.mark.parametrize(
    ("packet", "error"),
    [
        ({"a": object()}, UnsupportedValue),
        ({"a": bytes(17 << 20)}, PacketTooLarge),
        ([], TypeError),
        (None, TypeError),
    ],
)
def test_what_cannot_travel_cannot_be_recorded(packet, error):
    written = bytearray()
    with pytest.raises(error):
        written.extend(b"".join(encode_packet_flow([{"a": 1}, packet])))
    parts = encode_packet_flow([{"a": 1}, packet])
    with pytest.raises(BadFlowEnding):
        list(decode_packet_flow([next(parts)]))


def test_a_file_opened_as_text_is_a_type_error():
    with pytest.raises(TypeError):
        list(decode_packet_flow(cast("Any", io.StringIO("abc"))))
