"""One connection with many flows, in memory, by a clock that the test turns."""

from collections import deque
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pyf.station.multiplex import Multiplex
from pyf.station.stream import Stream
from pyf.station.tx import ReactorLoop
from pyf.transport import (
    Connection,
    ConnectionLost,
    DeadlineExceeded,
    FlowRefused,
    Limits,
    LocalProtocolError,
    OutcomeUnknown,
    PacketTooLarge,
    RemoteProtocolError,
    Role,
    encode_packet,
)
from pyf.transport.budget import BUDGETS
from pyf.transport.events import Event, FlowAbandoned, FlowAborted, FlowEnded, PacketsReceived
from pyf.transport.frames import RESULT, FrameType, encode_frame
from pyf.transport.limits import LARGE
from pyf.transport.states import FlowState


class Line:
    """
    A multiplex, and the machine of a server, joined by the transport that this is.
    """

    def __init__(self, reactor: Any, limits: Limits | None = None, **methods: Any) -> None:
        vars(self).update(methods)
        self.reactor = reactor
        self.written: list[bytes] = []
        self.closed = self.aborted = False
        self.producer: Any = None
        self.greeted = 0
        self.server = Connection(Role.SERVER, limits)
        self.events: list[Event] = []
        self.multiplex = Multiplex(ReactorLoop(reactor), limits or Limits(), self, self.greet)
        self.multiplex.flush()

    def greet(self) -> None:
        self.greeted += 1

    # What the multiplex calls

    def writeSequence(self, data: list[bytes]) -> None:  # noqa: N802
        assert not self.closed, "written after the close"
        self.written += data

    def loseConnection(self) -> None:  # noqa: N802
        self.closed = True

    def abortConnection(self) -> None:  # noqa: N802
        self.aborted = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        self.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        self.producer = None

    # What the test calls

    def to_server(self) -> list[Event]:
        data, self.written = b"".join(self.written), []
        self.server.receive_data(data)
        events = []
        while event := self.server.next_event():
            events.append(event)
        self.events += events
        return events

    def to_client(self) -> None:
        self.multiplex.received(b"".join(self.server.data_to_send()))
        self.reactor.advance(0)

    def turn(self) -> list[Event]:
        events = self.to_server()
        self.to_client()
        return events

    def open(self, **options: Any) -> Stream:
        stream = self.multiplex.open(None, options.pop("timeout", None), waits=True, **options)
        self.multiplex.flush()
        self.turn()
        return stream

    def send(self, stream: Stream, *packets: dict[str, Any]) -> None:
        stream.pending.extend(map(encode_packet, packets))
        stream.send()
        stream.flush()

    def say(self, flow_id: int, *packets: dict[str, Any]) -> None:
        self.server.send_packets(flow_id, deque(map(encode_packet, packets)))
        self.to_client()


@pytest.fixture
def line(hand_reactor):
    lines: list[Line] = []

    def make(limits: Limits | None = None, **methods: Any) -> Line:
        lines.append(Line(hand_reactor, limits, **methods))
        return lines[-1]

    yield make
    for each in lines:
        each.multiplex.lost("the test is over")
    hand_reactor.advance(0)
    assert not hand_reactor.getDelayedCalls()


def waiting(coroutine: Any) -> list[Any]:
    """
    Start a coroutine; return the list into which its result comes.
    """
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    return results


def test_flows_share_the_connection(line):
    """
    Each flow has its own numbers, messages and result.
    """
    one = line()
    first, second = one.open(), one.open()
    assert one.greeted == 1
    one.send(first, {"n": 1})
    one.send(second, {"n": 2}, {"n": 3})
    assert [event.batch.packets for event in one.turn()] == [1, 2]
    one.say(2, {"m": 2})
    assert waiting(first.take_maps()) == [[]]
    assert waiting(second.take_maps()) == [[{"m": 2}]]
    one.server.finish(1, 1, "success", value="one")
    one.to_client()
    assert first.result is not None
    assert first.over
    assert second.result is None
    assert one.turn() == [], "the CANCEL behind an early answer is not news"
    assert one.server.open_flows == [2]
    second.end()
    second.flush()
    assert isinstance(one.turn()[-1], FlowEnded)


def test_what_is_given_up_is_told_and_drained(line):
    """
    CANCEL and ABORT go out once; what still comes for the flow is dropped, and credit granted.
    """
    one = line(Limits(window_bytes=65536))
    cancelled, aborted = one.open(), one.open()
    cancelled.cancel()
    cancelled.cancel()
    aborted.abort("KeyError")
    aborted.cancel()
    kinds = [type(event) for event in one.turn()]
    assert kinds == [FlowAbandoned, FlowAborted]
    empty = waiting(one.multiplex.emptied(1.0))
    for flow_id in (1, 2):
        one.server.finish(flow_id, 0, "cancelled")
    one.to_client()
    assert empty == [None]
    assert waiting(one.multiplex.emptied(1.0)) == [None]


def test_a_flow_that_nobody_waits_for_holds_its_handler_not_up(line):
    """
    Messages for a flow that was left behind its END are taken, so that its handler can go on.
    """
    one = line(Limits(window_bytes=65536))
    stream = one.open()
    stream.end()
    stream.leave()
    for _ in range(5):
        one.say(1, *[{"blob": bytes(1000)}] * 40)
        one.turn()
    assert one.server.room(1)[1] > 0


def test_waiting_for_the_server_to_answer_ends_in_time(line, hand_reactor):
    """
    Where the server does not answer what was given up, the wait for it ends.
    """
    one = line()
    one.open().cancel()
    empty = waiting(one.multiplex.emptied(1.0))
    hand_reactor.advance(0.9)
    assert not empty
    hand_reactor.advance(0.1)
    hand_reactor.advance(0)
    assert empty == [None]


def test_back_pressure_of_the_transport_holds_flows_back(line):
    """
    While the transport holds enough, no flow sends; then each has room again, and is told.
    """
    one = line()
    stream = one.open()
    told: list[int] = []
    stream.on_room = lambda: told.append(stream.room())
    one.producer.pauseProducing()
    assert stream.room() == 0
    one.send(stream, {"n": 1})
    assert stream.sent == 0
    one.producer.resumeProducing()
    one.producer.stopProducing()
    assert told
    assert told[0] > 0
    one.send(stream)
    assert stream.sent == 1


def test_credit_makes_room(line):
    """
    A flow out of credit waits until the server grants more, which also says what was consumed.
    """
    one = line(Limits(window_bytes=65536))
    stream = one.open()
    one.send(stream, *[{"blob": bytes(16384)}] * 8)
    (event,) = one.turn()
    assert isinstance(event, PacketsReceived)
    assert (stream.sent, len(stream.pending)) == (3, 5)
    stream.on_room = lambda: one.send(stream)
    one.server.consume(1, event.batch.packets, event.batch.size)
    one.to_client()
    assert stream.consumed == event.batch.packets
    assert stream.sent > event.batch.packets


def test_a_packet_too_large_is_refused(line):
    """
    A packet that the server doesn't take raises; those before it have been sent.
    """
    one = line(Limits(max_packet=65536))
    stream = one.open()
    with pytest.raises(PacketTooLarge):
        one.send(stream, {"n": 1}, {"blob": bytes(70_000)})
    assert stream.sent == 1


def test_a_handler_that_wants_no_more_stops_the_flow(line):
    """
    Behind a STOP nothing more is sent but the END; messages and the result still come.
    """
    one = line(Limits(window_bytes=65536))
    stream = one.open()
    one.send(stream, *[{"blob": bytes(16384)}] * 8)
    one.turn()
    one.server.stop(1)
    one.to_client()
    assert (stream.wanted, stream.room(), len(stream.pending)) == (False, 0, 0)
    stream.end()
    stream.flush()
    assert isinstance(one.turn()[-1], FlowEnded)
    one.server.finish(1, 0, "success", value=1)
    one.to_client()
    assert stream.result is not None


def test_confirming(line):
    """
    A PONG confirms what one flow has sent, and no other's.
    """
    one = line()
    first, second = one.open(), one.open()
    first.confirm()
    one.turn()
    assert first.confirmed
    assert not second.confirmed


@pytest.mark.parametrize("ended", [False, True])
def test_a_lost_connection_fails_what_is_open(line, ended):
    """
    Each flow gets an error of its own, with its counts; and nothing can be opened any more.
    """
    one = line()
    stream = one.open()
    one.send(stream, {"n": 1})
    if ended:
        stream.end()
    one.multiplex.lost("the cable was cut")
    assert type(stream.error) is (OutcomeUnknown if ended else ConnectionLost)
    assert stream.error.sent == 1
    assert "the cable was cut" in str(stream.error)
    with pytest.raises(ConnectionLost, match="the cable was cut"):
        one.multiplex.open(None, None, waits=True)
    assert waiting(one.multiplex.emptied(1.0)) == [None]


def test_a_goaway_lets_open_flows_end(line):
    """
    A server that drains gets no new flow; those that it knows end well, then the connection closes.
    """
    one = line()
    stream = one.open()
    late = one.multiplex.open(None, None, waits=True)
    one.server.go_away("draining", "the server is draining")
    one.to_client()
    assert not one.multiplex.usable
    assert isinstance(late.error, FlowRefused)
    assert stream.error is None
    one.to_server()
    one.server.finish(1, 0, "success", value=1)
    one.to_client()
    assert stream.result is not None
    assert one.closed


def test_a_goaway_with_an_error_says_why_the_connection_ends(line):
    """
    Where the server gives up, flows that it never knew say so, and so do the others as it closes.
    """
    one = line()
    stream = one.open()
    late = one.multiplex.open(None, None, waits=True)
    one.server.go_away("flood", "too much of it")
    one.to_client()
    assert isinstance(late.error, LocalProtocolError)
    one.multiplex.lost("closed")
    assert "too much of it" in str(stream.error)


def test_a_breach_by_the_server_ends_the_connection(line):
    """
    What no server may send is told to it, fails every flow with its own error, and closes.
    """
    one = line()
    first, second = one.open(), one.open()
    one.multiplex.received(b"\xff" * 32)
    assert isinstance(first.error, RemoteProtocolError)
    assert isinstance(second.error, RemoteProtocolError)
    assert first.error is not second.error
    assert one.closed
    one.multiplex.received(b"more")
    one.multiplex.close()


def test_a_batch_that_cannot_be_decoded_ends_the_connection(line):
    """
    Packets that are not what they claim to be raise where they are taken.
    """
    one = line()
    stream = one.open()
    one.server.send_packets(1, deque([b"\xc1"]))
    one.to_client()
    (failure,) = waiting(stream.take_maps())
    assert failure.check(RemoteProtocolError)
    assert one.closed


def test_a_server_that_never_introduces_itself(line, hand_reactor):
    """
    Without a HELLO the connection is given up after handshake_timeout, and the flow says so.
    """
    one = line(Limits(handshake_timeout=2))
    stream = one.multiplex.open(None, None, waits=True)
    hand_reactor.advance(2.1)
    hand_reactor.advance(0.1)
    assert isinstance(stream.error, ConnectionLost)
    assert (stream.error.option, stream.error.limit) == ("handshake_timeout", 2)
    assert one.closed
    hand_reactor.advance(Limits().close_timeout)
    assert one.aborted


def test_a_silent_server_is_asked_and_given_up(line, hand_reactor):
    """
    A server that says nothing gets PINGs; without any answer its flows are lost.
    """
    one = line(Limits(ping_interval=10, ping_misses=2))
    stream = one.open()
    for _ in range(3):
        hand_reactor.advance(10)
        assert stream.error is None
        one.turn()
    for _ in range(3):
        hand_reactor.advance(10)
    hand_reactor.advance(0.1)
    assert isinstance(stream.error, ConnectionLost)
    assert (stream.error.option, stream.error.limit) == ("ping_interval", 30)


def test_the_rest_of_a_large_frame_is_read_in_its_place_and_each_part_is_a_sign_of_life(
    line, hand_reactor
):
    """
    What is small, or comes once the connection is closing, has no place.
    """
    one = line(Limits(ping_interval=10, ping_misses=2, frame_timeout=1000))
    stream = one.open()
    assert one.multiplex.get_buffer() is None
    packet = {"data": bytes(8 * LARGE)}
    one.server.send_packets(1, deque([encode_packet(packet)]))
    rest = memoryview(b"".join(one.server.data_to_send()))
    one.multiplex.received(bytes(rest[: 2 * LARGE]))
    rest = rest[2 * LARGE :]
    while rest:
        hand_reactor.advance(25)
        place = one.multiplex.get_buffer()
        size = min(LARGE, len(rest))
        place[:size] = rest[:size]
        one.multiplex.buffer_updated(size)
        rest = rest[size:]
    assert waiting(stream.take_maps()) == [[packet]]
    assert not one.closed
    one.server.send_packets(1, deque([encode_packet(packet)]))
    one.multiplex.received(b"".join(one.server.data_to_send())[: 2 * LARGE])
    assert one.multiplex.get_buffer() is not None
    one.multiplex.close()
    assert one.multiplex.get_buffer() is None


def test_a_transport_that_keeps_something_is_asked_for_it_before_the_server_is_given_up(
    line, hand_reactor
):
    """
    What the system keeps until there is more of it is a sign of life, too.
    """
    heard = []

    def hear():
        heard.append(hand_reactor.seconds())
        return False

    one = line(Limits(ping_interval=10, ping_misses=2), hear=hear)
    one.open()
    hand_reactor.advance(10)
    assert heard


def test_an_idle_connection_is_closed_before_the_server_would(line, hand_reactor):
    """
    Without a flow the client closes, a little before idle_timeout; an open flow keeps it.
    """
    one = line(Limits(idle_timeout=100, ping_interval=1000))
    stream = one.open()
    hand_reactor.pump([10] * 20)
    assert not one.closed
    one.server.finish(1, 0, "success", value=1)
    one.to_client()
    assert stream.result is not None
    hand_reactor.pump([1] * 79)
    assert not one.closed
    hand_reactor.pump([1] * 3)
    assert one.closed


def test_a_deadline_cancels_the_flow(line):
    """
    A flow whose time is over is cancelled, and says how long it had.
    """
    one = line()
    stream = one.open(timeout=3.0)
    stream.expire()
    assert "3 s" in str(stream.error)
    assert isinstance(one.to_server()[-1], FlowAbandoned)
    assert one.server.flow_state(1) is FlowState.ABANDONED


HEAVY = {"rows": [None] * 20_000}


def until(reactor: Any, condition: Any) -> None:
    """
    Let threads decode, and who waits for them go on, until *condition* holds.
    """
    while not condition():
        if not reactor.turn():
            reactor.run_until(reactor.getDelayedCalls)
        reactor.advance(0)


def test_heavy_messages_are_decoded_in_a_thread_and_come_in_order(line, hand_reactor):
    """Another task that asks meanwhile gets those behind them."""
    one = line()
    stream = one.open()
    one.say(1, HEAVY, {"n": 1})
    one.say(1, {"n": 2})
    first, second = waiting(stream.take_maps()), waiting(stream.take_maps())
    assert (first, second) == ([], [])
    assert stream.has_news
    until(hand_reactor, lambda: first and second)
    assert (first, second) == ([[HEAVY, {"n": 1}]], [[{"n": 2}]])


def test_who_stops_waiting_for_a_heavy_message_loses_none(line, hand_reactor):
    one = line()
    stream = one.open()
    one.say(1, HEAVY)
    task = Deferred.fromCoroutine(stream.take_maps())
    results: list[Any] = []
    task.addBoth(results.append)
    task.cancel()
    assert results
    again = waiting(stream.take_maps())
    until(hand_reactor, lambda: again)
    assert again == [[HEAVY]]


def test_a_heavy_result_comes_as_any_other(line, hand_reactor):
    """The flow is over for the server; here nothing more is sent, and nothing blocks."""
    one = line()
    stream = one.open()
    one.server.finish(1, 0, "success", value=HEAVY)
    one.to_client()
    assert (stream.result, stream.wanted) == (None, False)
    until(hand_reactor, lambda: stream.result)
    assert stream.result.value == HEAVY


def test_a_heavy_result_that_is_none_ends_the_connection(line, hand_reactor):
    one = line()
    stream = one.open()
    other = one.open()
    body = encode_packet({"status": 5, "value": HEAVY})
    one.multiplex.received(b"".join(encode_frame(FrameType.RESULT, 1, RESULT.pack(0, 0), body)))
    until(hand_reactor, lambda: one.closed)
    for each in (stream, other):
        assert isinstance(each.error, RemoteProtocolError)


def test_a_result_that_comes_too_late_changes_nothing(line, hand_reactor):
    """The call has been given up while its result was decoded."""
    one = line()
    stream = one.open()
    one.server.finish(1, 0, "success", value=HEAVY)
    one.to_client()
    stream.expire()
    hand_reactor.run_until(hand_reactor.getDelayedCalls)
    hand_reactor.advance(0)
    assert stream.result is None
    assert isinstance(stream.error, DeadlineExceeded)


def test_a_server_is_held_to_what_it_may_do_in_a_time(line):
    """One that asks and asks, and reads no answer, fills no memory."""
    one = line()
    stream = one.open()
    ping = b"".join(encode_frame(FrameType.PING, 0, bytes(8)))
    one.multiplex.received(ping * (BUDGETS["PING"].burst + 1))
    assert one.closed
    assert isinstance(stream.error, RemoteProtocolError)
    assert stream.error.code == "flood"
