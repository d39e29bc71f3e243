"""The blocking client's connection, against a peer that the tests move by hand."""

import select
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Queue
from typing import Any, TypeVar

import pytest

from pyf.station import keeper as keeper_module
from pyf.station.line import line
from pyf.station.link import Link
from pyf.station.nursery import Nursery, nursery
from pyf.station.wire import Wire
from pyf.transport import (
    Connection,
    ConnectionLost,
    DeadlineExceeded,
    FlowRefused,
    Limits,
    LocalProtocolError,
    OutcomeUnknown,
    Packet,
    PacketError,
    PacketTooLarge,
    RemoteProtocolError,
    Role,
    UnsupportedValue,
    encode_packet,
)
from pyf.transport.events import (
    Event,
    FlowAbandoned,
    FlowAborted,
    FlowEnded,
    FlowOpened,
    GoAwayReceived,
    PacketsReceived,
    PongReceived,
)
from pyf.transport.frames import FrameType, encode_batch, encode_frame
from pyf.transport.limits import INITIAL_PACKETS
from pyf.transport.speed import packets_in
from pyf.transport.states import ConnectionState

WAIT = 30.0
Some = TypeVar("Some", bound=Event)


class Peer:
    """
    The server's end: says what the test says, gives what has come.
    """

    def __init__(self, sock: socket.socket, limits: Limits | None = None) -> None:
        sock.settimeout(WAIT)
        self.socket = sock
        self.machine = Connection(Role.SERVER, limits)
        self.closed = False

    def expect(self, kind: type[Some]) -> Some:
        """
        Read until an event of *kind* comes.
        """
        while True:
            while event := self.machine.next_event():
                if isinstance(event, kind):
                    self.say()
                    return event
            self.say()
            data = self.socket.recv(65536)
            assert data, "the client closed the connection"
            self.machine.receive_data(data)

    def packets(self, count: int) -> list[dict[str, Any]]:
        """
        Read the next *count* packets; no batch may hold more.
        """
        packets: list[dict[str, Any]] = []
        while len(packets) < count:
            packets += self.expect(PacketsReceived).batch.decode()
        assert len(packets) == count
        return packets

    def say(self, *more: bytes) -> None:
        self.socket.sendall(b"".join((*self.machine.data_to_send(), *more)))

    def message(self, *packets: dict[str, Any]) -> None:
        self.machine.send_packets(1, deque(map(encode_packet, packets)))
        self.say()

    def finish(self, status: str = "success", consumed: int = 0, **facts: Any) -> None:
        self.machine.finish(1, consumed, status, **facts)
        self.say()

    def expect_close(self) -> None:
        with suppress(ConnectionResetError):  # What we said last was not read any more.
            while self.socket.recv(65536):
                pass


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """
    The two ends of a connection over TCP.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as ours,
    ):
        theirs, _ = listener.accept()
        with theirs:
            yield ours, theirs


@pytest.fixture
def make(sockets) -> Iterator[Callable[..., tuple[Link, Peer]]]:
    """
    Make a link and its peer; the link's flow is open.
    """
    links: list[Link] = []

    def make(
        header: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        limits: Limits | None = None,
        peer_limits: Limits | None = None,
    ) -> tuple[Link, Peer]:
        deadline = None if timeout is None else time.monotonic() + timeout
        link = Link(Wire(sockets[0]), limits or Limits(), timeout, deadline)
        links.append(link)
        link.open(header, waits=True)
        return link, Peer(sockets[1], peer_limits)

    yield make
    for link in links:
        link.close()


@pytest.fixture
def pair(make) -> tuple[Link, Peer]:
    return make()


def keep(link: Link) -> threading.Thread:
    """
    Have *link* have a keeper, as the nursery would soon; return its thread.
    """
    if nursery.remove(link):
        link.get_keeper()
    assert link._keeper is not None
    return link._keeper


def in_thread(function: Callable[[], object]) -> Callable[[], Any]:
    """
    Start *function* in a thread; return what waits for it, and returns or raises as it did.
    """
    results: Queue[tuple[object, BaseException | None]] = Queue()

    def run() -> None:
        try:
            results.put((function(), None))
        except BaseException as error:
            results.put((None, error))

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> Any:
        value, error = results.get(timeout=WAIT)
        thread.join(WAIT)
        if error is not None:
            raise error
        return value

    return join


def packets(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": number} for number in numbers]


def put(link: Link, *numbers: int) -> None:
    link.pending.extend(map(encode_packet, packets(*numbers)))


def wait_until_it_breaks(link: Link) -> None:
    while True:
        link.wait()


def wait_for_messages(link: Link) -> list[Packet]:
    while not (messages := link.take_messages()):
        link.wait()
    return messages


GUARDING = (None, True)
STANDING_BY = (None, False)


def send_all(link: Link) -> None:
    while not link.send():
        link.wait()


class Watched(selectors.DefaultSelector):
    """
    A selector that tells how long a keeper sleeps (None: until something happens, or the server
    has been silent for long), and whether it watches the connection meanwhile.
    """

    sleeps: "Queue[tuple[float | None, bool]]" = Queue()

    def select(self, timeout: float | None = None) -> Any:
        if threading.current_thread().name == "pyf.station-keeper":
            long = timeout is None or timeout > keeper_module.PARKED
            self.sleeps.put((None if long else timeout, len(self.get_map()) > 1))
        return super().select(timeout)


@pytest.fixture
def sleeps(monkeypatch) -> Any:
    """
    What the keepers of links made from now on tell of their sleep.
    """
    Watched.sleeps = Queue()
    monkeypatch.setattr(keeper_module, "Selector", Watched)
    return Watched.sleeps


def wait_for(sleep: tuple[float | None, bool], sleeps: Any) -> None:
    """
    Wait until the keeper sleeps so.
    """
    while sleeps.get(timeout=WAIT) != sleep:
        pass


def park_keeper(link: Link, peer: Peer, sleeps: Any) -> None:
    """
    Have the keeper of a new link find that the user's thread comes by, packet by packet.
    """
    link.take_in(iter(packets(1)), 1)
    send_all(link)
    assert peer.packets(1) == packets(1)
    wait_for(GUARDING, sleeps)
    link.take_in(iter(packets(2)), 1)
    send_all(link)
    assert peer.packets(1) == packets(2)
    peer.message({"a": 1})
    wait_for((keeper_module.PARKED, False), sleeps)


# Sending


def test_opening_writes_the_header_though_no_packet_follows(make):
    """
    The keeper sends the OPEN while the source takes its time.
    """
    _, peer = make({"action": "x"})
    assert peer.expect(FlowOpened).header == {"action": "x"}


def test_a_link_has_no_more_attributes_than_python_finds_soon(make):
    """
    Of up to 29, CPython 3.11 keeps the places of all; of more, none. Those in slots do not count.
    """
    link, _ = make()
    assert len(vars(link)) < 30


def test_a_header_that_cannot_travel_starts_nothing(sockets):
    """
    PacketError, and no keeper.
    """
    link = Link(Wire(sockets[0]), Limits())
    with pytest.raises(UnsupportedValue):
        link.open({"x": object()}, waits=True)
    link.close()
    assert Peer(sockets[1]).socket.recv(1) == b""


def test_taking_in_asks_for_no_more_than_the_count(pair, take_apart):
    """
    What is taken in is pending, encoded; the source goes on.
    """
    link, _ = pair
    source = iter(packets(1, 2, 3))
    assert link.take_in(source, 2) is False
    assert take_apart(link.pending) == list(map(encode_packet, packets(1, 2)))
    assert next(source) == {"n": 3}


def test_taking_in_tells_that_the_source_has_ended(pair):
    """
    A source that gives fewer than it is asked for has ended.
    """
    link, _ = pair
    assert link.take_in(iter(packets(1, 2)), 3) is True
    assert packets_in(link.pending) == 2


def test_what_a_failing_source_gave_is_pending(pair, take_apart):
    """
    A packet that cannot travel leaves those before it.
    """
    link, _ = pair
    with pytest.raises(UnsupportedValue):
        link.take_in(iter([{"n": 1}, {"n": object()}, {"n": 3}]), 3)
    assert take_apart(link.pending) == [encode_packet({"n": 1})]


def test_the_size_of_packets_is_known(pair):
    """
    The average of what left last says how many fit the next burst.
    """
    link, _ = pair
    link.take_in(iter([{"a": b"x" * 1000}, {"a": b"x" * 3000}]), 2)
    link.send()
    assert 2000 < link.packet_size < 2010


def test_room_is_what_credit_allows(make):
    """
    room() counts in packets of the size that they had of late: none once a result has come.
    """
    link, peer = make(peer_limits=Limits(window_packets=2000))
    assert link.room() == 1024  # the server has not said hello
    link.take_in(iter([{"x": bytes(1000)}] * 10), 10)
    send_all(link)
    size = len(encode_packet({"x": bytes(1000)}))
    assert link.room() == 65536 // size - 10
    peer.expect(FlowOpened)
    while link.room() < 1024:
        link.wait()
    link.take_in(iter([{"x": bytes(3_000_000)}]), 1)
    send_all(link)
    assert link.room() == 0
    peer.finish(value=1)
    while link.result is None:
        link.wait()
    assert link.room() == 0


def test_a_window_that_is_full_has_no_room(pair):
    """
    With no byte of credit left, not even one packet is to be asked for.
    """
    link, _ = pair
    link.pending.append(encode_packet({"x": bytes(60_000)}))
    link.send()
    link.pending.append(bytes(link._machine.room(1)[1]))
    link.send()
    assert link.room() == 0


def test_sending_goes_on_when_credit_comes(make):
    """
    What credit does not allow leaves once the peer has said hello, and has consumed.
    """
    link, peer = make(peer_limits=Limits(window_packets=1024))
    put(link, *range(3000))

    def consume():
        seen = []
        while len(seen) < 3000:
            batch = peer.expect(PacketsReceived).batch
            seen += batch.decode()
            peer.machine.consume(1, batch.packets, batch.size)
            peer.say()
        return seen

    join = in_thread(consume)
    send_all(link)
    assert join() == packets(*range(3000))
    assert (link.sent, len(link.pending)) == (3000, 0)


def test_sending_returns_with_the_rest(pair):
    """
    send() does not wait for credit; what has none stays pending.
    """
    link, _ = pair
    put(link, *range(2000))
    assert link.send() is False  # the server has not said hello
    assert (link.sent, len(link.pending)) == (1024, 976)
    link.forget_pending()
    assert link.send() is True


def test_sending_returns_when_the_result_comes(make):
    """
    A handler that has its result wants no more.
    """
    link, peer = make(peer_limits=Limits(window_packets=1024))
    put(link, *range(2000))
    join = in_thread(lambda: (peer.packets(1024), peer.finish(value=5, consumed=7)))
    send_all(link)
    join()
    assert link.result is not None
    assert (link.result.value, link.consumed, link.sent) == (5, 7, 1024)


def test_a_packet_that_the_peer_does_not_take_leaves_those_before_it(make):
    """
    PacketTooLarge: the packets before it have left and are counted.
    """
    link, peer = make(peer_limits=Limits(max_packet=70_000))
    join = in_thread(lambda: peer.packets(2))
    put(link, 1, 2)
    link.pending.append(encode_packet({"x": b"x" * 70_001}))
    with pytest.raises(PacketTooLarge):
        send_all(link)
    assert link.sent == 2
    assert join() == packets(1, 2)


def test_the_end_is_sent_with_the_count(pair):
    """
    END says how many packets there were.
    """
    link, peer = pair
    put(link, 1, 2)
    send_all(link)
    link.end()
    assert peer.expect(FlowEnded).count == 2


def test_the_end_leaves_with_the_last_packet(pair):
    """
    In one write, and once: the count stands, however often it is asked for.
    """
    link, peer = pair
    put(link, 1)
    assert link.send()
    writes = link._wire.writes
    put(link, 2)
    assert link.send(last=True)
    assert link._wire.writes == writes + 1
    assert link.send(last=True)
    link.end()
    assert link._wire.writes == writes + 1
    assert peer.expect(FlowEnded).count == 2


def test_what_opens_a_flow_leaves_at_once(sockets, monkeypatch):
    """
    Before there is a packet, and in the user's own thread: a thread among a thousand may not have
    its next turn before the server has lost its patience.
    """
    monkeypatch.setattr(nursery, "add", bool)
    link = Link(Wire(sockets[0]), Limits())
    link.open({"a": 1}, waits=True)
    assert Peer(sockets[1]).expect(FlowOpened).header == {"a": 1}
    link._release()


def test_a_flow_of_one_packet_leaves_in_one_write(pair):
    """
    With its END, behind what opens it.
    """
    link, peer = pair
    put(link, 1)
    assert link.send(last=True)
    assert link._wire.writes == 2
    assert peer.expect(FlowEnded).count == 1


def test_no_end_leaves_before_the_last_packet(make):
    """
    As long as there is no credit for that, the flow is not over.
    """
    link, peer = make(peer_limits=Limits(window_packets=INITIAL_PACKETS))
    peer.expect(FlowOpened)
    put(link, *range(INITIAL_PACKETS + 1))
    assert not link.send(last=True)
    assert not link._ended
    received = peer.packets(INITIAL_PACKETS)
    peer.machine.consume(1, len(received), 4096)
    peer.say()
    while not link.send(last=True):
        link.wait()
    assert peer.expect(FlowEnded).count == INITIAL_PACKETS + 1


def test_behind_the_end_of_the_connection_no_end_is_sent(pair):
    """
    What has come is looked at first: nobody is told that all was sent.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    while link._machine.state is not ConnectionState.READY:
        link.wait()
    peer.socket.close()
    link._wire.wait(WAIT)
    put(link, 1)
    with pytest.raises(ConnectionLost) as caught:
        link.send(last=True)
    assert type(caught.value) is ConnectionLost
    assert caught.value.sent == 0


def test_the_end_waits_until_it_has_left(make):
    """
    What the system does not take at once is still written before end() returns.
    """
    size = 60 * 1024 * 1024
    link, peer = make(peer_limits=Limits(window_bytes=2 * size, max_packet=size))
    peer.expect(FlowOpened)
    link.wait()
    link.pending.append(encode_packet({"x": b"x" * (size - 100)}))
    link._turn(link._send_some)
    assert link._wire.unsent
    join = in_thread(lambda: peer.expect(FlowEnded))
    link.end()
    assert not link._wire.unsent
    assert join().count == 1


def test_the_end_of_an_answered_flow_is_not_sent(pair):
    """
    Once the result has come, there is nobody to tell.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.finish(value=1)
    while link.result is None:
        link.wait()
    link.end()
    link.send(last=True)
    link.close()
    peer.expect_close()


# Waiting


def test_confirming_waits_for_the_peer_to_have_read_all(pair):
    """
    confirm() returns at the PONG that answers a PING behind the packets.
    """
    link, peer = pair
    put(link, 1)
    send_all(link)
    link.end()
    join = in_thread(lambda: (peer.expect(FlowEnded), peer.expect(FlowOpened)))
    link.confirm()
    link.close()
    with pytest.raises(AssertionError, match="closed"):
        join()


def test_confirming_is_over_with_the_result(pair):
    """
    A result says all that a PONG could.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.finish(value=1)
    link.confirm()
    assert link.result is not None


def test_confirming_a_lost_connection_is_an_error(pair):
    """
    Nobody knows then whether all has arrived.
    """
    link, peer = pair
    link.end()
    peer.expect(FlowEnded)
    peer.socket.close()
    with pytest.raises(OutcomeUnknown):
        link.confirm()


def test_waiting_ends_at_its_time(pair):
    """
    wait(until) returns though nothing has come.
    """
    link, _ = pair
    link.wait(time.monotonic() + 0.01)
    assert link.take_messages() == []


def test_the_deadline_ends_every_wait(make):
    """
    DeadlineExceeded has the timeout of the call.
    """
    link, _ = make(timeout=0.05)
    with pytest.raises(DeadlineExceeded) as caught:
        wait_until_it_breaks(link)
    assert caught.value.timeout == 0.05
    with pytest.raises(DeadlineExceeded):
        link.check_deadline()


def test_messages_are_taken_batch_by_batch(pair):
    """
    Each batch is decoded in the thread that takes it; taking gives credit back.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.message({"a": 1}, {"a": 2})
    peer.message({"a": 3})
    taken = []
    while len(taken) < 3:
        link.wait()
        while batch := link.take_messages():
            taken += batch
    assert taken == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_peer_may_send_more_than_a_window_of_messages(make):
    """
    Credit goes out as messages are taken.
    """
    link, peer = make(limits=Limits(window_packets=1024))
    peer.expect(FlowOpened)

    def send():
        pending = deque(encode_packet({"n": n}) for n in range(5000))
        while pending:
            peer.machine.send_packets(1, pending)
            peer.say()
            if pending:
                peer.machine.receive_data(peer.socket.recv(65536))
                while peer.machine.next_event():
                    pass

    join = in_thread(send)
    taken = []
    while len(taken) < 5000:
        if batch := link.take_messages():
            taken += batch
        else:
            link.wait()
    join()
    assert taken == packets(*range(5000))


def test_messages_that_are_not_what_was_announced_break_the_link(pair):
    """
    RemoteProtocolError where they are taken, and afterwards; the peer is told.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.say(*encode_batch(FrameType.MESSAGE, 1, 0, 2, b"\x01\x02"))
    link.wait()
    with pytest.raises(RemoteProtocolError, match="not a packet"):
        wait_for_messages(link)
    assert peer.expect(GoAwayReceived).code == "malformed_batch"
    with pytest.raises(RemoteProtocolError):
        link.wait()


# What ends a link


def test_a_closed_connection_is_lost(pair):
    """
    ConnectionLost counts what was sent and consumed; it is said again.
    """
    link, peer = pair
    put(link, 1, 2, 3)
    send_all(link)
    batch = peer.expect(PacketsReceived).batch
    peer.machine._flows[1].receive._due_packets = 1  # a packet is worth a CREDIT
    peer.machine.consume(1, batch.packets, batch.size)
    peer.say()
    peer.socket.close()
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="the server closed the connection") as caught:
            wait_until_it_breaks(link)
        assert (caught.value.sent, caught.value.consumed) == (3, 3)
        assert type(caught.value) is ConnectionLost


def test_a_connection_lost_behind_the_end_leaves_the_outcome_unknown(pair):
    """
    OutcomeUnknown: the handler may have succeeded.
    """
    link, peer = pair
    link.end()
    peer.expect(FlowEnded)
    peer.socket.close()
    with pytest.raises(OutcomeUnknown, match="all 0 packets were sent"):
        wait_until_it_breaks(link)


def test_a_result_in_front_of_the_close_stands(pair):
    """
    What the server said before it closed counts.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.finish(value=9)
    peer.socket.close()
    while not link._wire.ending:
        link._turn()
    assert link.result is not None
    assert link.result.value == 9
    link.wait()


def test_a_result_of_many_values_is_taken_as_any_other(pair):
    """It is decoded at once: there is no loop that others wait for."""
    link, peer = pair
    peer.expect(FlowOpened)
    rows = [None] * 20_000
    peer.finish(value=rows)
    while link.result is None:
        link.wait()
    assert link.result.value == rows


def test_what_a_server_said_is_read_though_writing_fails(pair):
    """
    A result that was read after a failed write stands too.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.finish(value=9)
    while link.result is None:  # until it has come, here or to the keeper
        if select.select([link._wire.socket], [], [], 0.01)[0]:
            break
    with link._lock:  # The keeper may be between reading and asking whether writing has failed.
        link._wire.failure = "Broken pipe"
    link.wait()
    assert link.result is not None


def test_a_write_that_fails_breaks_the_link(pair):
    """
    A link that cannot write, and has read all there is, is lost: it never waits for ever.
    """
    link, _ = pair
    link._wire.failure = "No buffer space available"
    with pytest.raises(ConnectionLost, match="No buffer space available"):
        link.end()


@pytest.mark.parametrize("code", ["busy", "draining"])
def test_a_server_that_does_not_serve_the_flow_refuses_it(pair, code):
    """
    A GOAWAY below the flow, for want of room, is FlowRefused: safe to try elsewhere.
    """
    link, peer = pair
    peer.machine.go_away(code, "no room")
    peer.say()
    with pytest.raises(FlowRefused, match="no room: it is safe to try elsewhere") as caught:
        wait_until_it_breaks(link)
    assert caught.value.code == code


def test_a_server_that_does_not_understand_us_says_so(pair):
    """
    A GOAWAY below the flow with any other code is a LocalProtocolError.
    """
    link, peer = pair
    peer.machine.go_away("version", "speaks versions 2 to 3")
    peer.say()
    with pytest.raises(LocalProtocolError, match="speaks versions 2 to 3") as caught:
        link.confirm()
    assert caught.value.code == "version"


def test_a_server_that_goes_away_lets_the_flow_finish(pair):
    """
    A GOAWAY that includes the flow changes nothing for it.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.machine.go_away("draining", "the server is stopping")
    peer.say()
    link.wait()
    peer.finish(value=3)
    while link.result is None:
        link.wait()


def test_a_server_that_goes_away_and_closes_has_said_why(pair):
    """
    The words of the GOAWAY are the reason of the ConnectionLost.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.machine.go_away("draining", "the server is stopping")
    peer.say()
    peer.socket.close()
    with pytest.raises(ConnectionLost, match="0 packets: the server is stopping"):
        wait_until_it_breaks(link)


def test_a_peer_that_breaks_the_protocol_is_told(pair):
    """
    RemoteProtocolError here, a GOAWAY there.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.say(*encode_frame(FrameType.CANCEL, 1))
    with pytest.raises(RemoteProtocolError, match="CANCEL is not for the server to send"):
        wait_until_it_breaks(link)
    assert peer.expect(GoAwayReceived).code == "unexpected_frame"


# Leaving


@pytest.mark.parametrize("word", ["cancel", "abort"])
def test_a_last_word_is_acknowledged_before_the_close(pair, word):
    """
    close() waits for the result, so that no reset takes the word back; what comes is dropped.
    """
    link, peer = pair
    put(link, 1)
    send_all(link)

    def serve():
        peer.packets(1)
        event = peer.expect(FlowAbandoned if word == "cancel" else FlowAborted)
        peer.message({"late": 1})
        peer.finish("cancelled")
        peer.expect_close()
        return event

    join = in_thread(serve)
    if word == "cancel":
        link.cancel()
    else:
        link.abort("KeyError")
    link.cancel()  # the first word stands
    link.close()
    event = join()
    if isinstance(event, FlowAborted):
        assert (event.error_class, event.count) == ("KeyError", 1)


def test_a_peer_that_does_not_acknowledge_is_left(monkeypatch, pair):
    """
    close() waits for a last word no longer than LAST_WORD.
    """
    monkeypatch.setattr(keeper_module, "LAST_WORD", 0.01)
    link, peer = pair
    link.cancel()
    link.close()
    peer.expect(FlowAbandoned)
    peer.expect_close()


def test_a_broken_link_has_no_last_word(pair):
    """
    Where nobody can be told, nobody is waited for.
    """
    link, peer = pair
    peer.socket.close()
    with pytest.raises(ConnectionLost):
        wait_until_it_breaks(link)
    link.cancel()
    link.close()
    assert link._wire.socket.fileno() == -1


def test_an_answered_link_has_no_last_word(pair):
    """
    Once the result has come, close() waits for nothing.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.finish(value=1)
    while link.result is None:
        link.wait()
    link.abort("KeyError")
    assert not link._lingering


def test_closing_in_another_thread_leaves_the_rest_to_the_keeper(pair):
    """
    A thread that did not use the link (the garbage collector's) does not wait for the server.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    keeper = keep(link)

    def leave():
        link.cancel()
        link.close()

    in_thread(leave)()  # returns while the server has not said a word
    peer.expect(FlowAbandoned)
    assert keeper.is_alive()
    peer.finish("cancelled")
    keeper.join(WAIT)
    assert link._wire.socket.fileno() == -1


@pytest.mark.parametrize("locked", [True, False])
def test_the_collector_may_run_in_the_keeper(pair, locked):
    """
    A link that is dropped by its own keeper, even in the middle of its work, still leaves well.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    done = threading.Event()
    look = link._machine.data_to_send

    def collect():
        if threading.current_thread() is link._keeper and not done.is_set():
            done.set()
            link.cancel()
            link.close()

    def data_to_send():
        collect()
        return look()

    if locked:
        link._machine.data_to_send = data_to_send
    else:
        watch_wire = link._wire.watch

        def watch(selector):
            if threading.current_thread() is link._keeper:
                link._lock.release()
                collect()
                link._lock.acquire()
            watch_wire(selector)

        link._wire.watch = watch
    peer.machine.ping(1)
    peer.say()  # has the keeper come by
    peer.expect(FlowAbandoned)
    peer.finish("cancelled")
    assert link._keeper is not None
    link._keeper.join(WAIT)
    assert link._wire.socket.fileno() == -1


def test_leaving_at_the_interpreters_exit_waits_for_nobody(monkeypatch, pair):
    """
    Then threads run no more: the word is said, and the socket closed, by whoever leaves.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    keeper = keep(link)
    with monkeypatch.context() as patch:
        patch.setattr(keeper_module.sys, "is_finalizing", lambda: True)
        link.cancel()
        while link._last_words is not None:  # the keeper had the lock just then
            link._last_words = None
            link.cancel()
        with link._lock:  # as a keeper that was stopped in the middle would have it
            link._lingering = False
            link.cancel()
        assert link._last_words is not None
        link._last_words = None
    peer.expect(FlowAbandoned)
    peer.finish("cancelled")
    with monkeypatch.context() as patch:
        patch.setattr(keeper_module.sys, "is_finalizing", lambda: True)
        link._closed = True
        link._wake()
        keeper.join(WAIT)
        link.close()
    assert link._wire.socket.fileno() == -1


def test_a_link_that_never_opened_closes(sockets):
    """
    Without a keeper, closing closes the socket.
    """
    link = Link(Wire(sockets[0]), Limits())
    link.close()
    assert sockets[0].fileno() == -1


def test_a_keeper_that_could_not_start_leaves_nothing_open(monkeypatch, sockets):
    """
    Where the system gives no thread, open() raises, and close() still closes.
    """

    def fail(self):
        raise RuntimeError("can't start new thread")

    link = Link(Wire(sockets[0]), Limits())
    monkeypatch.setattr("pyf.station.keeper.nursery", Nursery())
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        link.open(None, waits=True)
    link.close()
    assert sockets[0].fileno() == -1


def test_a_keeper_that_was_about_to_start_in_the_process_before_a_fork_is_not_waited_for(
    monkeypatch, sockets
):
    nursery = Nursery()
    monkeypatch.setattr(nursery, "add", bool)
    monkeypatch.setattr("pyf.station.keeper.nursery", nursery)
    link = Link(Wire(sockets[0]), Limits())
    link.open(None, waits=True)
    link._keeper = threading.Thread()
    link.disown()
    link.close()
    assert sockets[0].fileno() == -1


# Interrupts


def test_an_interrupted_wait_harms_nothing(monkeypatch, pair):
    """
    Ctrl-C while waiting leaves a flow that goes on.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    wait = link._wire.wait

    def interrupted(_):
        monkeypatch.setattr(link._wire, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(link._wire, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wait_until_it_breaks(link)
    peer.finish(value=1)
    while link.result is None:
        link.wait()


def test_a_flow_interrupted_at_its_work_can_only_be_cancelled(pair):
    """
    Ctrl-C between machine and socket: nobody knows how far the client came, so it does not go on.
    """
    link, peer = pair

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link._turn(interrupted)
    with pytest.raises(LocalProtocolError) as caught:
        send_all(link)
    assert caught.value.code == "interrupted"
    join = in_thread(lambda: (peer.expect(FlowAbandoned), peer.finish("cancelled")))
    link.cancel()
    link.close()
    join()


def test_an_interrupted_close_is_finished_by_the_keeper(monkeypatch, pair):
    """
    Ctrl-C while waiting for the server's last word: the keeper waits instead.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    keeper = keep(link)
    wait = link._wire.wait

    def interrupted(_):
        monkeypatch.setattr(link._wire, "wait", wait)
        raise KeyboardInterrupt

    link.cancel()
    monkeypatch.setattr(link._wire, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        link.close()
    peer.expect(FlowAbandoned)
    peer.finish("cancelled")
    keeper.join(WAIT)
    assert link._wire.socket.fileno() == -1


# The keeper


def test_the_keeper_sends_what_a_blocked_source_has_given(pair):
    """
    Packets leave though the source stops in the middle of a burst; it is asked for no more than
    the packet that it stopped at.
    """
    link, peer = pair
    go_on = threading.Event()
    asked = []

    def source():
        for number in range(10):
            asked.append(number)
            if number == 3:
                assert go_on.wait(WAIT)
            yield {"n": number}

    def watch():
        first = peer.packets(3)
        go_on.set()
        return first

    join = in_thread(watch)
    assert link.take_in(source(), 10) is False
    assert join() == packets(0, 1, 2)
    with link._lock:  # The keeper may have been there again.
        assert (asked, link.sent + packets_in(link.pending)) == ([0, 1, 2, 3], 4)
    send_all(link)
    assert peer.packets(1) == packets(3)


def test_the_keeper_sends_again_after_it_has_rested(sleeps, make):
    """
    A second stop in the same flow is noticed like the first.
    """
    link, peer = make()
    for start in range(0, 30, 10):
        go_on = threading.Event()

        def source(start=start, go_on=go_on):
            yield {"n": start}
            yield {"n": start + 1}
            assert go_on.wait(WAIT)

        join = in_thread(lambda go_on=go_on: (peer.packets(2), go_on.set()))
        link.take_in(source(), 5)
        assert join()[0] == packets(start, start + 1)
        wait_for(GUARDING, sleeps)


def test_the_keeper_answers_pings(pair):
    """
    A server that asks whether the client lives hears of it while user code runs.
    """
    _, peer = pair
    peer.expect(FlowOpened)
    peer.machine.ping(77)
    assert peer.expect(PongReceived).token == 77


def test_the_keeper_takes_what_comes(pair):
    """
    Messages and the result are read while user code runs.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.message({"a": 1})
    peer.finish(value=2)
    peer.machine.ping(1)
    peer.expect(PongReceived)
    assert link.take_messages() == [{"a": 1}]
    assert link.result is not None


def test_the_keeper_rests_while_user_code_runs(sleeps, make):
    """
    Nothing polls: the keeper sleeps until something comes.
    """
    _, peer = make()
    peer.expect(FlowOpened)
    wait_for(GUARDING, sleeps)
    peer.machine.ping(1)
    peer.expect(PongReceived)
    wait_for(GUARDING, sleeps)


def test_the_keeper_lets_go_of_nothing_that_it_has_not_watched(sleeps, make, monkeypatch):
    """
    A selector that does not know a socket has the system tell its addresses, for its error.
    """
    released = []
    monkeypatch.setattr(Wire, "unwatch", lambda *_: released.append(True))
    monkeypatch.setattr(nursery, "add", bool)
    link, _ = make()
    link.waiting = True
    link.get_keeper()
    wait_for(STANDING_BY, sleeps)
    assert not released


def test_the_keeper_stands_by_while_the_users_thread_waits(sleeps, make):
    """
    Two threads never wait for the same bytes; once the wait is over, the keeper looks again.
    """
    link, peer = make()
    peer.expect(FlowOpened)
    with link._lock:
        link.waiting = True
        link._wake()
    wait_for(STANDING_BY, sleeps)
    peer.finish(value=1)
    while link.result is None:
        link.wait()
    wait_for(GUARDING, sleeps)


def test_the_keeper_looks_seldom_where_nothing_can_be_left_behind(sleeps, make):
    """
    A source that is asked for one packet at a time leaves nothing behind.
    """
    link, peer = make()
    park_keeper(link, peer, sleeps)
    link.take_in(iter(packets(3)), 1)
    send_all(link)
    assert peer.packets(1) == packets(3)


def test_the_keeper_looks_often_once_a_source_is_fast(sleeps, make):
    """
    A keeper that looks seldom is woken at the first burst.
    """
    link, peer = make()
    park_keeper(link, peer, sleeps)
    go_on = threading.Event()

    def source():
        yield {"n": 3}
        assert go_on.wait(WAIT)

    join = in_thread(lambda: (peer.packets(1), go_on.set()))
    link.take_in(source(), 2)
    join()


def test_a_packet_too_large_found_by_the_keeper_is_the_users_error(make):
    """
    The user's thread raises it, and the handler can still be told.
    """
    link, peer = make(peer_limits=Limits(max_packet=70_000))
    peer.expect(FlowOpened)
    go_on = threading.Event()

    def source():
        yield {"n": 1}
        yield {"x": b"x" * 70_001}
        assert go_on.wait(WAIT)

    def watch():
        first = peer.packets(1)
        peer.machine.ping(1)
        peer.expect(PongReceived)  # the keeper has come by
        go_on.set()
        return first

    link.wait()  # the peer's limits have come
    join = in_thread(watch)
    link.take_in(source(), 5)
    assert join() == packets(1)
    with pytest.raises(PacketError):
        send_all(link)
    join = in_thread(lambda: (peer.expect(FlowAborted), peer.finish("cancelled")))
    link.abort("PacketTooLarge")
    link.close()
    assert join()[0].count == 1


def test_the_keeper_leaves_a_connection_that_has_ended(sleeps, make):
    """
    An end of file is read once, and not again and again.
    """
    link, peer = make()
    peer.expect(FlowOpened)
    wait_for(GUARDING, sleeps)
    peer.socket.close()
    wait_for(STANDING_BY, sleeps)
    with pytest.raises(ConnectionLost):
        link.wait()


def test_what_the_keeper_has_read_is_not_waited_for(pair):
    """
    No wake-up is lost: what came before a wait ends it.
    """
    link, peer = pair
    peer.expect(FlowOpened)
    peer.message({"a": 1})
    peer.machine.ping(1)
    peer.expect(PongReceived)
    link.wait()
    assert link.take_messages() == [{"a": 1}]


# Giving way


def test_a_link_in_line_gets_no_keeper(pair, monkeypatch):
    """
    It has left nothing behind; and a thousand that stand there would need a thousand keepers.
    """
    link, _ = pair
    minded = []
    monkeypatch.setattr(line, "give_way", lambda: minded.append(link in nursery._wards))

    link.give_way()

    assert minded == [False]
    assert nursery.remove(link)


def test_a_link_that_is_interrupted_in_line_is_minded_again(pair, monkeypatch):
    link, _ = pair

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(line, "give_way", interrupted)
    with pytest.raises(KeyboardInterrupt):
        link.give_way()

    assert nursery.remove(link)


def test_a_link_that_has_a_keeper_keeps_it_in_line(pair, monkeypatch):
    link, _ = pair
    keeper = keep(link)
    monkeypatch.setattr(line, "give_way", bool)

    link.give_way()

    assert link._keeper is keeper
    assert not nursery.remove(link)
