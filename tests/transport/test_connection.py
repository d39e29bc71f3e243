"""One machine, two roles: what one end says is what the other hears, or is refused."""

import itertools
import struct
from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport import (
    Connection,
    FlowRefused,
    Limits,
    LocalProtocolError,
    Packet,
    PacketTooLarge,
    RemoteProtocolError,
    Role,
    UnsupportedValue,
    encode_packet,
    speed,
)
from pyf.transport import machine as module
from pyf.transport.events import (
    ConnectionClosed,
    CreditReceived,
    Event,
    FlowAbandoned,
    FlowAborted,
    FlowEnded,
    FlowOpened,
    FlowStopped,
    GoAwayReceived,
    HelloReceived,
    LateResult,
    PacketsReceived,
    PongReceived,
    ResultReceived,
)
from pyf.transport.frames import (
    BATCH,
    CREDIT,
    END,
    HEADER,
    FrameType,
    encode_batch,
    encode_frame,
)
from pyf.transport.limits import (
    BATCH_BYTES,
    BATCH_PACKETS,
    INITIAL_BYTES,
    INITIAL_PACKETS,
    LARGE,
    MAX_SKIPPED,
    MIB,
    SPARSE_BATCH_BYTES,
    stranger_limits,
)
from pyf.transport.payloads import (
    encode_abort,
    encode_go_away,
    encode_hello,
    encode_open,
    encode_opened,
    encode_outcome,
    encode_reject,
    encode_result,
    encode_resume,
    encode_resumed,
)
from pyf.transport.pieces import Pending, encode_pieces
from pyf.transport.resume import Ticket
from pyf.transport.states import FLOW_MOVES, SENDERS, ConnectionState, FlowState

CLIENT, SERVER = Role.CLIENT, Role.SERVER
SMALL = Limits(window_packets=INITIAL_PACKETS, window_bytes=INITIAL_BYTES)
ROW = {"a": 1}
TICKET = Ticket(bytes(16), bytes(16), bytes(32), 120.0, INITIAL_BYTES, 0)
NO_ERROR: dict[str, Any] = dict.fromkeys(
    ("code", "error_class", "error_id", "message", "traceback")
)


def frame(kind: int, flow: int, *payload: bytes) -> bytes:
    return b"".join(encode_frame(kind, flow, *payload))  # pyright: ignore[reportArgumentType]


def batch(kind: FrameType, flow: int, first: int, *packets: bytes) -> bytes:
    return b"".join(encode_batch(kind, flow, first, len(packets), b"".join(packets)))


def legal(kind: FrameType, flow: int, first: int = 0) -> bytes:
    """
    A frame that is well-formed, and right where *first* packets came before it.
    """
    if kind in (FrameType.DATA, FrameType.MESSAGE):
        return batch(kind, flow, first, encode_packet(ROW))
    payload = {
        FrameType.HELLO: encode_hello(Limits()),
        FrameType.OPEN: encode_open(None, None, waits=True),
        FrameType.END: END.pack(first),
        FrameType.ABORT: encode_abort(first, "ValueError"),
        FrameType.CANCEL: b"",
        FrameType.STOP: b"",
        FrameType.RESULT: encode_result(0, first, encode_outcome("success", {"value": 1})),
        FrameType.CREDIT: CREDIT.pack(0, 2000, 200_000),
        FrameType.PING: bytes(8),
        FrameType.PONG: bytes(8),
        FrameType.GOAWAY: encode_go_away(0, "draining", ""),
        FrameType.OPENED: encode_opened(TICKET),
        FrameType.RESUME: encode_resume(TICKET, 0, first),
        FrameType.RESUMED: encode_resumed(first, 0, bytes(32), 2),
        FrameType.REJECT: encode_reject("gap", "", final=True),
        FrameType.ACK: b"",
    }[kind]
    return frame(kind, flow, payload)


def batches(events: list[Event]) -> list[dict[str, Any]]:
    return [
        packet
        for event in events
        if isinstance(event, PacketsReceived)
        for packet in event.batch.decode()
    ]


# A call from beginning to end


@pytest.mark.parametrize("chunk", [0, 1, 7])
def test_a_call_with_header_packets_messages_and_result(connect, chunk):
    pair = connect(chunk=chunk)
    assert not pair.client.speaks
    flow = pair.client.open_flow({"action": "x"}, timeout=5, waits=False)
    assert pair.client.speaks
    assert pair.send(CLIENT, flow, [ROW, ROW]) == deque()
    pair.client.end(flow)
    opened, *data, ended = pair.to_server()
    assert opened == FlowOpened(flow_id=flow, header=Packet(action="x"), timeout=5.0, waits=False)
    assert type(opened.header) is Packet
    assert batches(data) == [ROW, ROW]
    assert ended == FlowEnded(flow_id=flow, count=2)
    pair.send(SERVER, flow, [{"message": 1}])
    pair.server.finish(flow, 2, "success", value="Done")
    *data, result = pair.to_client()
    assert batches(data) == [{"message": 1}]
    assert result == ResultReceived(
        flow_id=flow, consumed=2, status="success", value="Done", error=NO_ERROR
    )
    assert pair.client.idle
    assert pair.server.idle
    assert pair.client.flow_state(flow) is FlowState.CLOSED


def test_hello_tells_what_the_peer_takes(connect):
    pair = connect(server=Limits(max_packet=100_000, min_ping_interval=5), greet=False)
    (at_server,) = pair.to_server()
    assert at_server == HelloReceived(
        max_packet=Limits().max_packet, min_ping_interval=1.0, software="pyf.station"
    )
    (at_client,) = pair.to_client()
    assert at_client == HelloReceived(
        max_packet=100_000, min_ping_interval=5.0, software="pyf.station"
    )


def test_whole_frames_are_counted_as_they_come(connect):
    pair = connect(greet=False)
    pair.client.ping(1)
    data = b"".join(pair.client.data_to_send())
    for part in (data[:-1], data[-1:]):
        before = pair.server.frames_received
        pair.server.receive_data(part)
        while pair.server.next_event():
            pass
        assert pair.server.frames_received == before + 1
        assert pair.server.mid_frame is (part != data[-1:])


def test_a_server_says_nothing_before_the_client_does():
    assert Connection(SERVER).data_to_send() == []


def test_a_client_may_send_a_whole_flow_behind_its_hello(connect):
    pair = connect(greet=False)
    flow = pair.client.open_flow()
    pair.send(CLIENT, flow, [ROW])
    pair.client.end(flow)
    kinds = [type(event) for event in pair.to_server()]
    assert kinds == [HelloReceived, FlowOpened, PacketsReceived, FlowEnded]


def test_before_the_servers_hello_the_client_keeps_to_the_initial_credit(connect):
    pair = connect(greet=False)
    flow = pair.client.open_flow()
    left = pair.send(CLIENT, flow, [ROW] * (INITIAL_PACKETS + 5))
    assert len(left) == 5
    other = pair.client.open_flow()
    large = pair.send(CLIENT, other, [{"a": bytes(INITIAL_BYTES)}])
    assert len(large) == 1
    pair.to_server()
    pair.to_client()
    assert pair.client.send_packets(flow, left) == 5
    assert pair.client.send_packets(other, large) == 1
    pair.to_server()


@pytest.mark.parametrize("sizes", [[INITIAL_BYTES // 2 - 20, INITIAL_BYTES - 20], [1000] * 70])
def test_what_is_sent_before_the_hello_suits_the_smallest_server(connect, sizes):
    least = Limits(
        max_packet=INITIAL_BYTES,
        max_header=INITIAL_BYTES,
        window_packets=INITIAL_PACKETS,
        window_bytes=INITIAL_BYTES,
    )
    pair = connect(server=least, greet=False)
    flow = pair.client.open_flow({"a": bytes(INITIAL_BYTES - 20)})
    pair.send(CLIENT, flow, [{"a": bytes(size)} for size in sizes])
    assert len(pair.to_server()) > 2


def test_flows_are_numbered_and_independent(connect):
    pair = connect()
    flows = [pair.client.open_flow() for _ in range(3)]
    assert flows == [1, 2, 3]
    for flow in flows:
        pair.send(CLIENT, flow, [{"flow": flow}])
    pair.to_server()
    pair.server.finish(2, 1, "error", code="handler_failed", error_class="ValueError")
    (result,) = pair.to_client()
    assert (result.flow_id, result.status) == (2, "error")
    assert result.error == {**NO_ERROR, "code": "handler_failed", "error_class": "ValueError"}
    assert pair.client.open_flows == flows
    pair.client.end(2)
    assert pair.client.open_flows == [1, 3]


def test_an_early_result_lets_the_client_end_what_it_has_sent(connect):
    pair = connect()
    flow = pair.client.open_flow()
    pair.send(CLIENT, flow, [ROW])
    pair.to_server()
    pair.server.finish(flow, 1, "success", value=None)
    pair.send(CLIENT, flow, [ROW] * 3)
    pair.client.end(flow)
    assert pair.to_server() == []
    assert [type(event) for event in pair.to_client()] == [ResultReceived]
    assert pair.client.idle
    assert pair.server.idle


def test_after_a_result_no_packet_can_be_sent(connect):
    pair = connect()
    flow = pair.client.open_flow()
    pair.to_server()
    pair.server.finish(flow, 0, "success")
    pair.to_client()
    assert pair.client.flow_state(flow) is FlowState.ANSWERED
    assert pair.send(CLIENT, flow, [ROW]) == deque()
    with pytest.raises(LocalProtocolError, match="MESSAGE is not allowed"):
        pair.send(SERVER, flow, [ROW])


@pytest.mark.parametrize("word", ["abort", "cancel"])
def test_a_client_that_gives_up_hears_no_messages_but_needs_a_result(connect, word):
    pair = connect()
    flow = pair.client.open_flow()
    pair.send(CLIENT, flow, [ROW])
    pair.to_server()
    if word == "abort":
        pair.client.abort(flow, "ZeroDivisionError")
        expected = FlowAborted(flow_id=flow, count=1, error_class="ZeroDivisionError")
    else:
        pair.client.cancel(flow)
        expected = FlowAbandoned(flow_id=flow)
    pair.send(SERVER, flow, [ROW])
    pair.server.consume(flow, 1, 1_000_000)
    assert pair.to_client() == []
    assert pair.to_server() == [expected]
    pair.server.finish(flow, 1, "cancelled")
    assert pair.to_client() == []
    assert pair.client.idle
    assert pair.server.idle


def test_a_cancel_that_crosses_the_result_is_ignored(connect):
    pair = connect()
    flow = pair.client.open_flow()
    pair.client.end(flow)
    pair.to_server()
    pair.server.finish(flow, 0, "success")
    pair.client.cancel(flow)
    assert pair.to_server() == []
    assert pair.to_client() == []
    assert pair.client.idle
    assert pair.server.idle


def test_credit_for_a_flow_that_has_closed_is_ignored(connect):
    pair = connect(client=SMALL)
    flow = pair.client.open_flow()
    pair.client.end(flow)
    pair.to_server()
    pair.send(SERVER, flow, [ROW] * 600)
    pair.to_client()
    pair.client.consume(flow, 600, 600 * 4)
    pair.server.finish(flow, 0, "success")
    assert pair.to_server() == []
    pair.to_client()
    pair.client.consume(flow, 1, 1)
    assert pair.client.data_to_send() == []


# Credit


def test_a_run_waits_for_credit_however_small_the_packets_are_that_the_peer_takes(connect):
    """
    It may be as large as the largest of them, which would never be sent.
    """
    pair = connect(server=replace(SMALL, max_packet=INITIAL_BYTES))
    flow = pair.client.open_flow()
    source = [{"data": bytes(200)}] * 500
    pending: Pending = deque(speed.encode_each([encode_packet] * 500, iter(source), MIB))
    sent = [pair.client.send_packets(flow, pending) for _ in range(2)]
    assert sent == [INITIAL_BYTES // len(encode_packet(source[0])), 0]
    assert speed.packets_in(pending) == 500 - sent[0]


def test_a_sender_stops_at_the_window_and_goes_on_with_credit(connect):
    pair = connect(server=SMALL)
    flow = pair.client.open_flow()
    left = pair.send(CLIENT, flow, [ROW] * (INITIAL_PACKETS + 100))
    assert len(left) == 100
    assert pair.client.room(flow)[0] == 0
    assert pair.client.sent(flow) == INITIAL_PACKETS
    size = sum(event.batch.size for event in pair.to_server()[1:])
    pair.server.consume(flow, 100, 400)
    assert pair.to_client() == []
    pair.server.consume(flow, INITIAL_PACKETS - 100, size - 400)
    assert pair.to_client() == [CreditReceived(flow_id=flow, consumed=INITIAL_PACKETS)]
    assert pair.client.room(flow) == (INITIAL_PACKETS, INITIAL_BYTES)
    assert pair.client.send_packets(flow, left) == 100


def test_room_is_told_in_packets_of_a_size(connect):
    pair = connect(server=SMALL)
    flow = pair.client.open_flow()
    assert pair.client.room_for(flow, INITIAL_BYTES // 3) == 3


def test_a_large_frame_may_be_read_to_a_buffer_until_the_connection_is_closed(connect):
    pair = connect()
    flow = pair.client.open_flow()
    pair.send(CLIENT, flow, [{"a": bytes(INITIAL_BYTES - 100)}])
    data = b"".join(pair.client.data_to_send())
    assert pair.server.get_buffer() is None
    pair.server.receive_data(data[:30_000])
    events = list(iter(pair.server.next_event, None))
    buffer = pair.server.get_buffer()
    buffer[:] = data[30_000:]
    pair.server.buffer_updated(len(buffer))
    events += iter(pair.server.next_event, None)
    assert [type(event) for event in events] == [FlowOpened, PacketsReceived]
    pair.server.receive_data(data[30_000:][:10] + bytes(100_000))
    with pytest.raises(RemoteProtocolError):
        list(iter(pair.server.next_event, None))
    assert pair.server.get_buffer() is None


def test_a_packet_larger_than_the_window_passes_alone(connect):
    pair = connect(server=SMALL)
    flow = pair.client.open_flow()
    left = pair.send(CLIENT, flow, [{"a": bytes(1_000_000)}, ROW])
    assert len(left) == 1
    assert pair.client.room(flow) == (INITIAL_PACKETS - 1, 0)
    (_, data) = pair.to_server()
    pair.server.consume(flow, 1, data.batch.size)
    pair.to_client()
    assert pair.client.send_packets(flow, left) == 1


def test_a_window_that_is_full_in_packets_and_overdrawn_in_bytes_is_only_full(connect):
    pair = connect(server=SMALL)
    flow = pair.client.open_flow()
    pair.send(CLIENT, flow, [ROW] * (INITIAL_PACKETS - 1))
    left = pair.send(CLIENT, flow, [{"a": bytes(100_000)}, ROW, ROW])
    assert len(left) == 2
    assert pair.client.send_packets(flow, left) == 0
    assert len(left) == 2


def test_what_does_not_fit_stays_pending_in_order(connect):
    pair = connect(server=SMALL)
    flow = pair.client.open_flow()
    packets = [{"n": number, "a": bytes(1000)} for number in range(200)]
    left = pair.send(CLIENT, flow, packets)
    received = batches(pair.to_server())
    assert received == packets[: len(received)]
    assert list(left) == [encode_packet(packet) for packet in packets[len(received) :]]


@pytest.mark.parametrize(
    ("packet", "most"),
    [({"a": [0] * 10_000}, BATCH_BYTES), ({"a": bytes(10_000)}, SPARSE_BATCH_BYTES)],
    ids=["many values", "few values"],
)
def test_frames_are_cut_at_the_batch_size(connect, packet, most):
    pair = connect(server=Limits(window_packets=2**20, window_bytes=2**30))
    flow = pair.client.open_flow()
    pair.send(CLIENT, flow, [ROW] * 2 * BATCH_PACKETS)
    pair.send(CLIENT, flow, [packet] * 250)
    found = [event.batch for event in pair.to_server() if isinstance(event, PacketsReceived)]
    assert max(each.packets for each in found) == BATCH_PACKETS
    assert most // 2 < max(each.size for each in found) <= most
    firsts = [0, *itertools.accumulate(each.packets for each in found)]
    assert [each.first for each in found] == firsts[:-1]


def test_a_server_that_wants_no_more_gets_no_more(connect):
    """
    What crosses its STOP is counted and dropped; credit goes only to the messages.
    """
    pair = connect(server=SMALL)
    flow = pair.client.open_flow()
    pair.send(CLIENT, flow, [ROW] * INITIAL_PACKETS)
    pair.to_server()
    pair.server.stop(flow)
    pair.server.stop(flow)  # once is enough
    pair.server.consume(flow, INITIAL_PACKETS, INITIAL_BYTES)
    pair.send(SERVER, flow, [ROW])
    stopped, told = pair.to_client()
    assert stopped == FlowStopped(flow_id=flow)
    assert isinstance(told, PacketsReceived)
    pair.client.end(flow)
    assert pair.to_server() == [FlowEnded(flow_id=flow, count=INITIAL_PACKETS)]
    pair.server.finish(flow, 0, "success")
    pair.to_client()
    assert pair.client.idle
    assert pair.server.idle


def test_packets_that_cross_a_stop_are_counted_and_dropped(connect):
    pair = connect()
    flow = pair.client.open_flow()
    pair.to_server()
    pair.send(CLIENT, flow, [ROW, ROW])
    pair.server.stop(flow)
    assert pair.to_server() == []
    pair.client.cancel(flow)
    assert pair.to_client() == []  # for who has given up, it is no news
    assert pair.to_server() == [FlowAbandoned(flow_id=flow)]


def test_a_stop_that_crosses_the_end_changes_nothing(connect):
    pair = connect()
    flow = pair.client.open_flow()
    pair.to_server()
    pair.client.end(flow)
    pair.server.stop(flow)
    assert pair.to_client() == []
    assert pair.to_server() == [FlowEnded(flow_id=flow, count=0)]
    pair.server.stop(flow)
    pair.server.stop(99)
    assert pair.server.data_to_send() == []


def test_credit_is_not_given_to_a_flow_that_has_been_answered(connect):
    pair = connect(server=SMALL)
    flow = pair.client.open_flow()
    pair.send(CLIENT, flow, [ROW] * INITIAL_PACKETS)
    pair.to_server()
    pair.server.finish(flow, 0, "success")
    pair.server.data_to_send()
    pair.server.consume(flow, INITIAL_PACKETS, INITIAL_BYTES)
    assert pair.server.data_to_send() == []


def test_a_packet_too_large_for_the_peer_is_refused_and_the_rest_kept(connect):
    pair = connect(server=Limits(max_packet=INITIAL_BYTES))
    flow = pair.client.open_flow()
    pending = deque(map(encode_packet, [ROW, {"a": bytes(INITIAL_BYTES)}, ROW, ROW]))
    with pytest.raises(PacketTooLarge, match=r"its Limits\.max_packet") as caught:
        pair.client.send_packets(flow, pending)
    error = caught.value
    assert (error.size, error.limit) == (INITIAL_BYTES + 8, INITIAL_BYTES)
    assert error.option == "max_packet"
    assert pair.client.sent(flow) == 1
    assert len(pending) == 2
    assert pair.client.send_packets(flow, pending) == 2
    assert batches(pair.to_server()) == [ROW] * 3


def test_the_largest_packet_is_no_byte_smaller_than_the_limit(connect):
    pair = connect(server=Limits(max_packet=100_000))
    flow = pair.client.open_flow()
    largest = {"a": bytes(100_000 - 8)}
    assert len(encode_packet(largest)) == 100_000
    pair.send(CLIENT, flow, [largest])
    assert batches(pair.to_server()) == [largest]
    with pytest.raises(PacketTooLarge, match="100001 bytes"):
        pair.send(CLIENT, flow, [{"a": bytes(100_000 - 7)}])


def test_the_largest_packet_header_and_value_arrive(connect):
    """
    The limits mean what they say to the byte, at both ends.
    """
    limits = Limits(max_packet=INITIAL_BYTES, max_header=INITIAL_BYTES)
    pair = connect(limits, limits)
    largest = {"a": bytes(INITIAL_BYTES - 6)}
    assert len(encode_packet(largest)) == INITIAL_BYTES
    flow = pair.client.open_flow(largest, timeout=1)
    pair.send(CLIENT, flow, [largest])
    assert batches(pair.to_server()) == [largest]
    fields = len(encode_packet({"status": "success", "value": bytes(60_000)})) - 60_000
    pair.server.finish(flow, 1, "success", value=bytes(INITIAL_BYTES - fields))
    (result,) = pair.to_client()
    assert len(result.value) == INITIAL_BYTES - fields


def test_a_header_or_a_value_too_large_is_refused_and_nothing_sent(connect):
    limits = Limits(max_packet=INITIAL_BYTES, max_header=INITIAL_BYTES)
    pair = connect(limits, limits)
    with pytest.raises(PacketTooLarge) as caught:
        pair.client.open_flow({"a": bytes(INITIAL_BYTES)})
    assert (caught.value.limit, caught.value.option) == (INITIAL_BYTES, "max_header")
    assert pair.client.idle
    flow = pair.client.open_flow()
    pair.to_server()
    with pytest.raises(PacketTooLarge) as caught:
        pair.server.finish(flow, 0, "success", value=bytes(INITIAL_BYTES))
    assert (caught.value.limit, caught.value.option) == (INITIAL_BYTES, "max_packet")
    pair.server.finish(flow, 0, "success")
    assert len(pair.to_client()) == 1


@pytest.mark.parametrize("encode", [encode_packet, encode_pieces])
def test_a_client_sends_no_packet_of_more_values_than_its_own_limits_allow(connect, encode):
    """
    What a peer with the same limits would break the connection for is an error where it is sent.
    """
    pair = connect()
    flow = pair.client.open_flow()
    heavy = {"rows": [0] * 262_144, "data": bytes(LARGE)}
    pending = deque([encode(ROW), encode(heavy), encode(ROW)])
    with pytest.raises(PacketTooLarge) as caught:
        pair.client.send_packets(flow, pending)
    assert (caught.value.limit, caught.value.option) == (262_144, "max_objects")
    assert pair.client.send_packets(flow, pending) == 1
    assert batches(pair.to_server()) == [ROW] * 2


def test_large_values_are_not_weighed(connect):
    pair = connect()
    flow = pair.client.open_flow()
    packet = {"data": bytes(300_000)}
    assert pair.client.send_packets(flow, deque([encode_pieces(packet)])) == 1
    assert batches(pair.to_server()) == [packet]


def test_a_header_of_too_many_objects_is_refused_and_nothing_sent(connect):
    pair = connect()
    with pytest.raises(PacketTooLarge) as caught:
        pair.client.open_flow({"rows": [{}] * 30_000})
    assert caught.value.option == "max_header"
    assert pair.client.idle


# What this side may not do


@pytest.mark.parametrize("bad", [{"a": object()}, {"a": {"b": "\ud800"}}, {1: 2}])
def test_what_cannot_travel_opens_and_finishes_nothing(connect, bad):
    pair = connect()
    with pytest.raises(UnsupportedValue):
        pair.client.open_flow(bad)
    assert pair.client.idle
    flow = pair.client.open_flow()
    pair.to_server()
    with pytest.raises(UnsupportedValue, match="'value"):
        pair.server.finish(flow, 0, "success", value=bad)
    assert pair.server.flow_state(flow) is FlowState.STREAMING


def test_a_header_nested_too_deep_for_its_frame_opens_nothing(connect):
    header: dict[str, Any] = {}
    for _ in range(254):
        header = {"a": header}
    pair = connect()
    with pytest.raises(UnsupportedValue, match="nested"):
        pair.client.open_flow(header)
    assert pair.client.idle
    assert pair.client.open_flow(header["a"]) == 1


def test_a_timeout_that_is_none_opens_nothing(connect):
    pair = connect()
    with pytest.raises(ValueError, match="timeout"):
        pair.client.open_flow(timeout=float("nan"))
    assert pair.client.idle


@pytest.mark.parametrize(
    "move",
    [
        lambda machine: machine.send_packets(5, deque([b"x"])),
        lambda machine: machine.end(5),
        lambda machine: machine.abort(5, "x"),
        lambda machine: machine.cancel(5),
        lambda machine: machine.finish(5, 0, "success"),
        lambda machine: machine.sent(5),
        lambda machine: machine.room(5),
    ],
)
def test_a_flow_that_is_not_open_is_a_local_error(connect, move):
    machine = connect().client
    with pytest.raises(LocalProtocolError, match="flow 5 is not open") as caught:
        move(machine)
    assert caught.value.code == "unknown_flow"
    assert machine.flow_state(5) is machine.flow_state(0) is FlowState.IDLE


def test_each_role_keeps_to_its_own_frames(connect):
    pair = connect()
    flow = pair.client.open_flow()
    pair.to_server()
    for move, name in [
        (pair.server.open_flow, "OPEN"),
        (lambda: pair.server.end(flow), "END"),
        (lambda: pair.server.abort(flow, "x"), "ABORT"),
        (lambda: pair.server.cancel(flow), "CANCEL"),
        (lambda: pair.client.finish(flow, 0, "success"), "RESULT"),
    ]:
        with pytest.raises(LocalProtocolError, match=f"{name} is not for the") as caught:
            move()
        assert caught.value.code == "unexpected_frame"
    assert pair.server.flow_state(flow) is pair.client.flow_state(flow) is FlowState.STREAMING


@pytest.mark.parametrize(("consumed", "status"), [(0, "fine"), (2, "success"), (0, "")])
def test_a_result_that_the_peer_would_refuse_is_a_local_error(connect, consumed, status):
    pair = connect()
    flow = pair.client.open_flow()
    pair.send(CLIENT, flow, [ROW])
    pair.to_server()
    with pytest.raises(LocalProtocolError, match="is no result of flow 1"):
        pair.server.finish(flow, consumed, status)
    pair.server.finish(flow, 1, "success")


def test_a_result_that_is_encoded_already_is_the_same(connect):
    said = []
    for conclude in (
        lambda pair, flow: pair.server.finish(flow, 1, "success", value="Done"),
        lambda pair, flow: pair.server.conclude(
            flow, 1, encode_outcome("success", {"value": "Done"})
        ),
    ):
        pair = connect()
        flow = pair.client.open_flow()
        pair.send(CLIENT, flow, [ROW])
        pair.to_server()
        conclude(pair, flow)
        said.append(pair.server.data_to_send())
    assert said[0] == said[1]


# Leaving


def test_after_goaway_open_flows_go_on_and_new_ones_are_refused(connect):
    pair = connect()
    flow = pair.client.open_flow()
    pair.to_server()
    pair.server.go_away("draining", "the server stops")
    pair.server.go_away("draining", "said twice")
    late = pair.client.open_flow()
    assert pair.to_server() == []
    away, refused = pair.to_client()
    assert away == GoAwayReceived(last_flow=flow, code="draining", message="the server stops")
    assert (refused.flow_id, refused.status) == (late, "refused")
    assert refused.error["code"] == "draining"
    assert pair.client.state is ConnectionState.DRAINING
    with pytest.raises(FlowRefused, match="takes no new flow") as caught:
        pair.client.open_flow()
    assert caught.value.code == "draining"
    pair.send(CLIENT, flow, [ROW])
    pair.client.end(flow)
    pair.client.cancel(late)
    assert [type(event) for event in pair.to_server()] == [PacketsReceived, FlowEnded]
    pair.server.finish(flow, 1, "success")
    assert [type(event) for event in pair.to_client()] == [ResultReceived]
    assert pair.server.idle


def test_a_client_that_leaves_opens_no_flow(connect):
    pair = connect()
    pair.client.go_away("draining", "bye")
    with pytest.raises(FlowRefused):
        pair.client.open_flow()
    assert [type(event) for event in pair.to_server()] == [GoAwayReceived]
    assert pair.server.state is ConnectionState.DRAINING


def test_a_server_that_leaves_before_the_clients_hello_is_understood(connect):
    pair = connect(greet=False)
    flow = pair.client.open_flow()
    pair.server.go_away("draining", "full")
    kinds = [type(event) for event in pair.to_client()]
    assert kinds == [HelloReceived, GoAwayReceived]
    assert [type(event) for event in pair.to_server()] == [HelloReceived]
    (refused,) = pair.to_client()
    assert (refused.flow_id, refused.error["code"]) == (flow, "draining")


def test_a_refusal_in_place_of_hello_is_heard(connect, feed):
    pair = connect(greet=False)
    with pytest.raises(RemoteProtocolError):
        feed(pair.server, b"GET / HTTP/1.1\r\n\r\n")
    (away,) = pair.to_client()
    assert (away.code, away.last_flow) == ("not_this_protocol", 0)
    assert pair.client.state is ConnectionState.REFUSED
    with pytest.raises(FlowRefused):
        pair.client.open_flow()
    with pytest.raises(RemoteProtocolError):
        feed(pair.client, legal(FrameType.HELLO, 0))


def test_flow_numbers_run_out(connect):
    pair = connect()
    pair.client._last_flow = module.MAX_FLOW - 1
    assert pair.client.open_flow() == module.MAX_FLOW
    with pytest.raises(FlowRefused):
        pair.client.open_flow()
    assert [event.flow_id for event in pair.to_server()] == [module.MAX_FLOW]


def test_a_flow_too_many_is_refused_until_one_has_closed(connect):
    pair = connect(server=Limits(max_flows=2))
    flows = [pair.client.open_flow() for _ in range(3)]
    assert len(pair.to_server()) == 2
    (refused,) = pair.to_client()
    assert (refused.flow_id, refused.status) == (flows[2], "refused")
    assert refused.error["code"] == "too_many_flows"
    assert "Limits.max_flows" in refused.error["message"]
    pair.client.cancel(flows[2])
    pair.client.cancel(flows[0])
    pair.to_server()
    pair.server.finish(flows[0], 0, "cancelled")
    pair.client.open_flow()
    assert [type(event) for event in pair.to_server()] == [FlowOpened]


def test_flows_that_are_opened_without_end_are_a_flood(connect, monkeypatch):
    monkeypatch.setattr(module, "MAX_REFUSED", 3)
    pair = connect(server=Limits(max_flows=2))
    for _ in range(6):
        pair.client.open_flow()
    with pytest.raises(RemoteProtocolError, match="6 flows are open") as caught:
        pair.to_server()
    error = caught.value
    assert (error.code, error.limit, error.actual) == ("flood", 2, 6)
    assert error.option == "max_flows"


# Ends, pings and other frames


def test_ping_is_answered(connect):
    pair = connect()
    for token in (0, 2**64 - 1):
        pair.client.ping(token)
        assert pair.to_server() == []
        assert pair.to_client() == [PongReceived(token=token)]


@pytest.mark.parametrize("part", [b"", b"\x00", legal(FrameType.PING, 0)[:-1]])
def test_the_end_of_the_connection_says_whether_a_frame_was_cut(connect, feed, part):
    machine = connect().server
    feed(machine, part)
    assert machine.mid_frame == bool(part)
    machine.receive_eof()
    assert machine.next_event() == ConnectionClosed(mid_frame=bool(part))
    assert machine.next_event() is None
    assert machine.state is ConnectionState.CLOSED


def test_frames_before_the_end_are_still_heard(connect):
    pair = connect()
    pair.client.open_flow()
    pair.server.receive_data(b"".join(pair.client.data_to_send()))
    pair.server.receive_eof()
    assert isinstance(pair.server.next_event(), FlowOpened)
    assert isinstance(pair.server.next_event(), ConnectionClosed)


def test_optional_frames_of_unknown_types_are_skipped_within_a_budget(connect, feed):
    machine = connect().server
    assert feed(machine, frame(0x80, 1, b"abc") * MAX_SKIPPED) == []
    with pytest.raises(RemoteProtocolError, match="frames of unknown types") as caught:
        feed(machine, frame(0xFF, 1, b""))
    assert (caught.value.code, caught.value.limit) == ("flood", MAX_SKIPPED)
    assert caught.value.actual == MAX_SKIPPED + 1


def test_a_breach_is_told_to_the_peer_and_ends_everything(connect, feed):
    pair = connect()
    with pytest.raises(RemoteProtocolError, match="flow 7, which is not open"):
        feed(pair.server, frame(FrameType.CANCEL, 7) + legal(FrameType.PING, 0))
    assert pair.server.state is ConnectionState.CLOSED
    assert pair.server.next_event() is None
    pair.server.receive_data(bytes(1000))
    assert pair.server.next_event() is None
    pair.server.receive_eof()
    assert pair.server.next_event() is None
    (away,) = pair.to_client()
    assert away.code == "unknown_flow"
    assert "flow 7" in away.message


def test_a_breach_found_by_the_owner_is_told_once(connect):
    pair = connect()
    pair.server.go_away("draining", "")
    error = RemoteProtocolError("the packets are broken", code="malformed_batch")
    pair.server.fail(error)
    pair.server.fail(error)
    codes = [event.code for event in pair.to_client() if isinstance(event, GoAwayReceived)]
    assert codes == ["draining", "malformed_batch"]


OPEN = legal(FrameType.OPEN, 1)
STARTED = batch(FrameType.DATA, 1, 0, encode_packet(ROW))
BREACHES = {
    "hello twice": (legal(FrameType.HELLO, 0), "unexpected_frame"),
    "flow 0": (legal(FrameType.OPEN, 0), "flow_number"),
    "flow twice": (OPEN + OPEN, "flow_number"),
    "flow backwards": (legal(FrameType.OPEN, 2) + OPEN, "flow_number"),
    "data without open": (STARTED, "unknown_flow"),
    "packet left out": (OPEN + batch(FrameType.DATA, 1, 1, b"\x80"), "sequence"),
    "packet repeated": (OPEN + STARTED + STARTED, "sequence"),
    "end counts more": (OPEN + STARTED + frame(FrameType.END, 1, END.pack(2)), "count"),
    "end counts less": (OPEN + STARTED + frame(FrameType.END, 1, END.pack(0)), "count"),
    "abort counts more": (OPEN + frame(FrameType.ABORT, 1, encode_abort(1, "x")), "count"),
    "data after end": (OPEN + legal(FrameType.END, 1) + STARTED, "unexpected_frame"),
    "end twice": (OPEN + legal(FrameType.END, 1) * 2, "unexpected_frame"),
    "consumed what was not sent": (
        OPEN + frame(FrameType.CREDIT, 1, CREDIT.pack(1, 5000, 500_000)),
        "count",
    ),
    "message from a client": (OPEN + legal(FrameType.MESSAGE, 1), "unexpected_frame"),
    "result from a client": (OPEN + legal(FrameType.RESULT, 1), "unexpected_frame"),
    "a count that cannot be": (
        OPEN + frame(3, 1, BATCH.pack(0, 0xDD, 9), b"\x80"),
        "malformed_batch",
    ),
    "open after goaway": (legal(FrameType.GOAWAY, 0) + OPEN, "unexpected_frame"),
    "header that is no map": (frame(FrameType.OPEN, 1, b"\x90"), "malformed_value"),
    "unknown frame": (frame(0x13, 0), "unknown_frame"),
    "credit for flow 0": (frame(FrameType.CREDIT, 0, bytes(24)), "unknown_flow"),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_of_the_client_has_its_code(connect, feed, name):
    data, code = BREACHES[name]
    for chunk in (0, 1):
        machine = connect().server
        with pytest.raises(RemoteProtocolError) as caught:
            feed(machine, data, chunk)
        assert caught.value.code == code


def test_going_over_credit_is_a_breach(connect, feed):
    machine = connect(server=SMALL).server
    feed(machine, OPEN)
    feed(machine, batch(FrameType.DATA, 1, 0, *[b"\x80"] * INITIAL_PACKETS))
    with pytest.raises(RemoteProtocolError) as caught:
        feed(machine, batch(FrameType.DATA, 1, INITIAL_PACKETS, b"\x80"))
    assert (caught.value.code, caught.value.option) == ("over_credit", "window_packets")


@pytest.mark.parametrize(("consumed", "messages"), [(1, 0), (0, 1)])
def test_a_result_that_counts_wrong_is_a_breach(connect, feed, consumed, messages):
    pair = connect()
    flow = pair.client.open_flow()
    payload = encode_result(consumed, messages, encode_outcome("success", {}))
    with pytest.raises(RemoteProtocolError) as caught:
        feed(pair.client, frame(FrameType.RESULT, flow, payload))
    assert caught.value.code == "count"


# Every state with every frame


def reach(pair: Any, role: Role, state: FlowState) -> Connection:
    """
    Bring flow 1 of *pair* into *state*, as *role* sees it; the other side may not know yet.
    """
    client, server = pair.client, pair.server
    if state is FlowState.IDLE:
        return pair[role]
    if state is FlowState.RESUMING:
        other = Connection(CLIENT)
        client.resume_flow(other.flow(other.open_flow(resume=INITIAL_BYTES)), TICKET)
    else:
        client.open_flow(resume=INITIAL_BYTES)
    pair.to_server()
    if state is FlowState.STOPPED:
        server.stop(1)
        pair.to_client()
    elif state is FlowState.ENDED:
        client.end(1)
    elif state is FlowState.ABANDONED:
        client.cancel(1)
    elif state in (FlowState.ANSWERED, FlowState.CLOSED):
        server.finish(1, 0, "success")
        pair.to_client()
        if state is FlowState.CLOSED:
            client.end(1)
    pair.to_server()
    assert pair[role].flow_state(1) is state
    pair[role].data_to_send()
    return pair[role]


LATE = (FrameType.CANCEL, FrameType.CREDIT, FrameType.ACK)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", FrameType)
@pytest.mark.parametrize("state", FlowState)
def test_every_frame_in_every_state_is_a_transition_or_a_breach(connect, feed, role, kind, state):
    machine = reach(connect(), role, state)
    late = state is FlowState.CLOSED and kind in LATE
    free = kind in (FrameType.PING, FrameType.PONG, FrameType.GOAWAY)
    allowed = role.peer in SENDERS[kind] and (free or late or (state, kind) in FLOW_MOVES)
    if allowed:
        feed(machine, legal(kind, 1))
        assert machine.flow_state(1) is FLOW_MOVES.get((state, kind), state)
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            feed(machine, legal(kind, 1))
        assert caught.value.code in ("unexpected_frame", "unknown_flow", "flow_number")
        assert machine.state is ConnectionState.CLOSED


# Whatever a peer sends


def drain(machine: Connection, data: list[bytes]) -> None:
    """
    Feed *data*, look into every batch, and allow nothing but a RemoteProtocolError.
    """
    try:
        for part in data:
            machine.receive_data(part)
            while event := machine.next_event():
                if isinstance(event, PacketsReceived):
                    list(event.batch.decode())
        machine.receive_eof()
        while machine.next_event():
            pass
    except RemoteProtocolError as error:
        machine.fail(error)
    assert machine.next_event() is None


def server_and_client(connect: Any) -> list[Connection]:
    pair = connect()
    for _ in range(3):
        pair.client.open_flow()
    pair.to_server()
    return [pair.server, pair.client]


@given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_arbitrary_bytes_raise_only_remote_protocol_errors(connect, parts, greeted):
    machines = server_and_client(connect) if greeted else [Connection(SERVER), Connection(CLIENT)]
    for machine in machines:
        drain(machine, parts)


FLOWS = st.integers(0, 5)
RANDOM_FRAMES = st.one_of(
    st.builds(legal, st.sampled_from(FrameType), FLOWS, st.integers(0, 2)),
    st.builds(frame, st.sampled_from(FrameType), FLOWS, st.binary(max_size=40)),
    st.builds(
        lambda kind, flow, first, count, body: frame(
            kind, flow, struct.pack(">QBI", first, 0xDD, count), body
        ),
        st.sampled_from([FrameType.DATA, FrameType.MESSAGE]),
        FLOWS,
        st.integers(0, 3),
        st.integers(0, 3),
        st.binary(max_size=6),
    ),
    st.builds(
        lambda kind, flow, head, fields: frame(kind, flow, bytes(head), encode_packet(fields)),
        st.sampled_from(FrameType),
        FLOWS,
        st.sampled_from([0, 4, 6, 8, 16]),
        st.dictionaries(
            st.sampled_from(["status", "code", "message", "header", "timeout", "error_class"]),
            st.none() | st.floats() | st.text(max_size=3) | st.integers() | st.just({}),
        ),
    ),
)


@given(st.lists(RANDOM_FRAMES, max_size=12))
def test_arbitrary_frames_raise_only_remote_protocol_errors(connect, parts):
    for machine in server_and_client(connect):
        drain(machine, parts)


@given(st.lists(RANDOM_FRAMES, max_size=8), st.integers(1, 30))
def test_pieces_do_not_matter(connect, feed, parts, chunk):
    """
    The same bytes give the same events and the same answers, however they are cut.
    """
    data = b"".join(parts)
    for whole, cut in zip(server_and_client(connect), server_and_client(connect), strict=True):
        seen = []
        for machine, size in ((whole, 0), (cut, chunk)):
            try:
                outcome: object = feed(machine, data, size)
            except RemoteProtocolError as error:
                outcome = (error.code, str(error))
            seen.append((outcome, b"".join(machine.data_to_send()), machine.open_flows))
        assert seen[0] == seen[1]


def test_a_server_may_widen_the_windows_of_a_flow(connect):
    """A flow that began with small windows gets larger ones by a CREDIT; a closed one nothing."""
    pair = connect(server=stranger_limits(Limits()))
    flow = pair.client.open_flow()
    pair.to_server()
    assert pair.client.room(flow) == (INITIAL_PACKETS, INITIAL_BYTES)
    pair.server.widen(flow, 5000, 500_000)
    pair.to_client()
    assert pair.client.room(flow) == (5000, 500_000)
    pair.server.finish(flow, 0, "success", value=None)
    pair.to_client()
    pair.server.widen(flow, 6000, 600_000)
    pair.server.widen(flow + 1, 6000, 600_000)
    assert not pair.server.data_to_send()


def test_a_result_of_many_values_is_decoded_by_whoever_wants_it(connect):
    """The flow is over on both sides all the same; what is wrong with it is raised there."""
    pair, rows = connect(), [None] * 20_000
    flow = pair.client.open_flow({"n": 0})
    pair.to_server()
    pair.server.finish(flow, 0, "success", value=rows)
    *_, late = pair.to_client()
    assert isinstance(late, LateResult)
    assert pair.client.flow_state(flow) is FlowState.ANSWERED
    result = late.decode()
    assert (result.flow_id, result.consumed, result.status) == (flow, 0, "success")
    assert result.value == rows
    broken = replace(late, payload=late.payload[:-1])
    with pytest.raises(RemoteProtocolError):
        broken.decode()


# Strangers


@pytest.fixture
def stranger() -> tuple[Connection, Connection]:
    """
    A client, and a server that has to know it first; both have said HELLO.
    """
    client, server = Connection(CLIENT), Connection(SERVER, strangers=True)
    carry(client, server)
    carry(server, client)
    return client, server


def carry(one: Connection, other: Connection) -> list[Any]:
    other.receive_data(b"".join(one.data_to_send()))
    return list(iter(other.next_event, None))


LARGE_ROW = {"data": bytes(INITIAL_BYTES)}


def test_a_large_packet_waits_for_the_first_credit_of_a_server_that_has_to_know_its_client(
    stranger,
):
    client, server = stranger
    flow = client.open_flow(ROW)
    pending = deque(map(encode_packet, [ROW, LARGE_ROW, ROW]))
    assert client.send_packets(flow, pending) == 1
    carry(client, server)
    server.widen(flow, 32768, MIB)
    carry(server, client)
    assert client.send_packets(flow, pending) == 2
    assert sum(event.batch.packets for event in carry(client, server)) == 2
    client.end(flow)
    server.finish(flow, 0, "success")
    carry(client, server)
    assert server.idle
    assert not server._trusted


def test_a_flow_that_begins_with_too_large_a_header_says_so(stranger):
    client, _ = stranger
    flow = client.open_flow()
    with pytest.raises(PacketTooLarge) as caught:
        client.send_packets(flow, deque([encode_packet(LARGE_ROW)]))
    assert (caught.value.limit, caught.value.option) == (INITIAL_BYTES, "max_header")


@pytest.mark.parametrize("flow", [1, 2])
def test_a_large_frame_of_a_stranger_is_refused_by_its_head(stranger, flow):
    """Whether its flow is open or not; one that is just not too long is not."""
    client, server = stranger
    client.open_flow(ROW)
    carry(client, server)
    server.receive_data(HEADER.pack(INITIAL_BYTES + BATCH.size + 1, FrameType.DATA, flow))
    with pytest.raises(RemoteProtocolError, match="first CREDIT") as caught:
        server.next_event()
    assert caught.value.code == "frame_length"


@pytest.mark.parametrize("known", [True, False])
def test_what_was_known_on_one_connection_is_on_the_next(stranger, known):
    """A flow that goes on keeps its large packets; or its client has to be known there first."""
    client, server = stranger
    flow = client.open_flow(ROW, resume=MIB)
    carry(client, server)
    server.open_session(flow, TICKET, MIB)
    if known:
        server.widen(flow, 32768, MIB)
    carry(server, client)
    again, theirs = Connection(CLIENT), Connection(SERVER, strangers=True)
    carry(again, theirs)
    carry(theirs, again)
    number = again.resume_flow(client.flow(flow), TICKET)
    (request,) = carry(again, theirs)
    theirs.resume(number, server.flow(flow), request, TICKET, 2)
    news = carry(theirs, again)
    assert any(isinstance(event, CreditReceived) for event in news) is known
    pending = deque([encode_packet(LARGE_ROW)])
    if not known:
        assert again.send_packets(number, pending) == 0
        theirs.widen(number, 32768, MIB)
        carry(theirs, again)
    assert again.send_packets(number, pending) == 1
    assert [event.batch.packets for event in carry(again, theirs)[-1:]] == [1]


def test_a_machine_has_no_more_attributes_than_python_finds_soon():
    """
    Of up to 29, CPython 3.11 keeps the places of all; of more, none.
    """
    assert len(vars(Connection(Role.CLIENT))) < 30
