"""What a link does about a server that is silent, slow, or reads nothing."""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import pytest

from pyf.station.link import Link
from pyf.station.wire import Wire
from pyf.transport import Connection, ConnectionLost, Limits, OutcomeUnknown, Role, encode_packet
from pyf.transport.events import FlowEnded, FlowOpened, GoAwayReceived, PacketsReceived
from pyf.transport.frames import FrameType, encode_batch

WAIT = 30.0
HASTY = Limits(ping_interval=0.02, min_ping_interval=0.001)


class Clock:
    """
    A clock that the test sets.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """
    The server's end: counts the PINGs, and answers none unless told.
    """

    def __init__(self, sock: socket.socket, limits: Limits | None) -> None:
        sock.settimeout(WAIT)
        self.socket = sock
        self.machine = Connection(Role.SERVER, limits)
        self.pings = 0
        self.machine._RECEIVERS = {  # pyright: ignore[reportAttributeAccessIssue]
            **self.machine._RECEIVERS,
            FrameType.PING: self._ping,
        }

    def _ping(self, machine: Connection, frame: object) -> None:
        self.pings += 1

    def say(self, data: bytes = b"") -> None:
        self.socket.sendall(b"".join((*self.machine.data_to_send(), data)))

    def expect(self, condition: Callable[[object], object]) -> object:
        """
        Read until an event fulfils *condition*, which is asked again after each read.
        """
        while True:
            while event := self.machine.next_event():
                if condition(event):
                    return event
            if condition(None):
                return None
            data = self.socket.recv(65536)
            assert data, "the client closed the connection"
            self.machine.receive_data(data)

    def expect_pings(self, count: int) -> None:
        self.expect(lambda _: self.pings >= count)
        assert self.pings == count

    def expect_goodbye(self) -> GoAwayReceived:
        """
        The GOAWAY, and the close behind it.
        """
        away = self.expect(lambda event: isinstance(event, GoAwayReceived))
        assert isinstance(away, GoAwayReceived)
        while self.socket.recv(65536):
            pass
        return away

    def greet(self) -> None:
        self.expect(lambda event: isinstance(event, FlowOpened))
        self.say()


class Pair:
    """
    A link with an open flow, by a clock of its own if it has one, and its peer.
    """

    def __init__(self, link: Link, peer: Peer, clock: Clock | None) -> None:
        self.link = link
        self.peer = peer
        self.clock = clock

    def pass_time(self, seconds: float) -> None:
        """
        Let time pass, and have the keeper look whether something is due.
        """
        assert self.clock is not None
        self.clock.now += seconds
        with self.link._lock:
            self.link._wake()

    def expect_rest(self) -> None:
        """
        Wait until the keeper looks only where something comes.
        """
        deadline = time.monotonic() + WAIT
        while not self.link._resting:
            assert time.monotonic() < deadline
            time.sleep(0)

    def heard(self) -> None:
        """
        Wait until the link has read what the peer has said.
        """
        self.peer.machine.ping(1)
        self.peer.say()
        frames = self.peer.machine.frames_received
        self.peer.expect(lambda _: self.peer.machine.frames_received > frames)


@pytest.fixture
def make() -> Iterator[Callable[..., Pair]]:
    """
    Make a link and its peer, joined by TCP; the handshake is done unless *greet* is false.
    """
    pairs: list[Pair] = []
    sockets: list[socket.socket] = []

    def make(
        limits: Limits | None = None,
        peer_limits: Limits | None = None,
        *,
        clock: Clock | None = None,
        greet: bool = True,
    ) -> Pair:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # What the systems take must be less than what the tests have to send.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
            ours = socket.create_connection(listener.getsockname())
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**18)
            theirs, _ = listener.accept()
        sockets.append(theirs)
        options: Any = {} if clock is None else {"clock": clock}
        link = Link(Wire(ours), limits or Limits(), **options)
        pairs.append(Pair(link, Peer(theirs, peer_limits or limits), clock))
        link.open({"n": 0}, waits=True)
        if greet:
            pairs[-1].peer.greet()
            pairs[-1].heard()
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.link.close()
    for sock in sockets:
        sock.close()


def failure(link: Link) -> ConnectionLost:
    """
    What the user's thread gets in the end.
    """
    with pytest.raises(ConnectionLost) as caught:
        wait_for_ever(link)
    return caught.value


def wait_for_ever(link: Link) -> None:
    while True:
        link.wait()


# While user code runs, the keeper looks


def test_a_silent_server_is_asked_twice_and_given_up(make):
    pair = make(clock=Clock())
    pair.pass_time(10.0)
    pair.peer.expect_pings(1)
    pair.pass_time(10.0)
    pair.peer.expect_pings(2)
    pair.pass_time(10.0)
    assert pair.peer.expect_goodbye().code == "ping_timeout"
    assert pair.peer.pings == 2
    error = failure(pair.link)
    assert type(error) is ConnectionLost
    assert (error.option, error.limit) == ("ping_interval", 30.0)
    assert "nothing came for 30 s, in spite of 2 PINGs (Limits.ping_interval" in str(error)


def test_any_byte_shows_that_a_server_lives(make):
    pair = make(clock=Clock())
    for count in range(1, 7):
        pair.pass_time(10.0)
        pair.peer.expect_pings(count)
        pair.heard()


def test_a_server_is_not_asked_more_often_than_it_wants(make):
    pair = make(peer_limits=Limits(min_ping_interval=25.0), clock=Clock())
    pair.pass_time(24.0)
    pair.heard()
    assert pair.peer.pings == 0
    pair.pass_time(25.0)
    pair.peer.expect_pings(1)


def test_a_process_that_was_suspended_asks_first(make):
    pair = make(clock=Clock())
    for count in range(1, 5):
        pair.pass_time(100_000.0)
        pair.peer.expect_pings(count)
    pair.heard()
    assert pair.link._broken is None


def test_a_server_that_says_no_hello_is_given_up(make):
    pair = make(clock=Clock(), greet=False)
    pair.peer.expect(lambda event: isinstance(event, FlowOpened))
    pair.pass_time(5.0)
    error = failure(pair.link)
    assert (error.option, error.limit) == ("handshake_timeout", 5.0)
    assert "the server sent no HELLO within 5 s (Limits.handshake_timeout)" in str(error)


def test_a_frame_that_does_not_end_is_not_waited_for(make):
    pair = make(Limits(ping_interval=300.0), clock=Clock())
    pair.peer.machine.finish(1, 0, "success", value="Done")
    whole = b"".join(pair.peer.machine.data_to_send())
    pair.peer.socket.sendall(whole[:-1])
    while not pair.link._machine.mid_frame:
        pair.link._turn()
    pair.pass_time(30.0)
    assert pair.peer.expect_goodbye().code == "frame_timeout"
    assert failure(pair.link).option == "frame_timeout"


def fill(pair: Pair) -> None:
    """
    Send until nothing more leaves.
    """
    link = pair.link
    link.pending.extend(repeat(encode_packet({"x": bytes(60_000)}), 1000))
    link.send()
    with link._lock:
        assert link._wire.unsent


def test_a_server_that_answers_but_reads_nothing_is_given_up(make):
    limits = Limits(window_bytes=2**30)
    pair = make(limits, clock=Clock())
    fill(pair)

    def answer_for_ever() -> None:
        while True:
            pair.peer.machine.ping(0)
            pair.peer.say()
            pair.link.wait()
            pair.pass_time(5.0)

    with pytest.raises(ConnectionLost) as caught:
        answer_for_ever()
    assert pair.clock.now >= 1030.0
    error = caught.value
    assert (error.option, error.limit) == ("write_timeout", 30.0)
    assert "nothing of what the server is to read" in str(error)


def test_a_server_that_reads_slowly_is_not_given_up(make):
    """
    Whatever leaves within the limit shows that it reads.
    """
    pair = make(Limits(window_bytes=2**30), clock=Clock())
    fill(pair)
    wire = pair.link._wire
    for _ in range(8):
        writes = wire.writes
        while wire.writes == writes:
            pair.peer.machine.receive_data(pair.peer.socket.recv(65536))
        pair.peer.machine.ping(0)
        pair.peer.say()
        pair.link.wait()
        pair.clock.now += 25.0
        pair.link._turn()
    assert pair.link._broken is None


def test_what_the_system_did_not_take_at_once_leaves_while_user_code_runs(make):
    """
    Nothing has to be due, no other packet has to come.
    """
    pair = make(Limits(window_bytes=2**30), clock=Clock())
    link = pair.link
    for n in (1, 2):
        link.take_in(iter([{"n": n}]), 1)
        assert link.send()
    blob = bytes(12_000_000)
    pair.expect_rest()
    link.take_in(iter([{"blob": blob}]), 1)
    assert not link.send()
    pair.peer.expect(lambda event: isinstance(event, PacketsReceived) and event.batch.size > 2**20)


def test_a_server_is_given_up_though_the_client_is_never_at_rest(make):
    """
    What a busy client writes shows nothing of the server.
    """
    pair = make(clock=Clock())
    busy = iter(range(10**9))
    for count in (1, 2, 3):
        pair.clock.now += 10.0
        if count < 3:
            pair.link.take_in(iter([{"n": next(busy)}]), 1)
            pair.link.send()
            pair.peer.expect_pings(count)
    with pytest.raises(ConnectionLost, match="nothing came for 30 s"):
        pair.link.send()


# While the user's thread waits, it looks itself


@pytest.mark.parametrize("whole", [False, True])
def test_a_wait_for_a_silent_server_ends(make, whole):
    """
    Behind the END, the outcome is not known.
    """
    pair = make(HASTY)
    if whole:
        pair.link.end()
    error = failure(pair.link)
    assert type(error) is (OutcomeUnknown if whole else ConnectionLost)
    assert error.limit == pytest.approx(0.06)
    assert pair.peer.expect_goodbye().code == "ping_timeout"
    assert pair.peer.pings >= 2


def test_a_wait_for_a_server_that_answers_does_not_end(make):
    pair = make(Limits(ping_interval=0.2, min_ping_interval=0.001, ping_misses=4))

    def answer() -> None:
        for count in range(1, 10):
            pair.peer.expect(lambda _, count=count: pair.peer.pings >= count)
            pair.peer.machine.ping(0)
            pair.peer.say()
        pair.peer.machine.finish(1, 0, "success", value=1)
        pair.peer.say()

    thread = threading.Thread(target=answer)
    thread.start()
    while pair.link.result is None:
        pair.link.wait()
    thread.join(WAIT)


def test_what_came_while_the_process_was_suspended_counts(make):
    """
    It is read before a server is given up.
    """
    pair = make(clock=Clock())
    pair.link.end()
    pair.peer.expect(lambda event: isinstance(event, FlowEnded))
    with pair.link._lock:  # nobody looks
        pair.peer.machine.send_packets(1, deque([encode_packet({"n": 1})]))
        pair.peer.machine.finish(1, 0, "success", value=1)
        pair.peer.say()
        pair.clock.now += 31.0
    while pair.link.result is None:
        pair.link.wait()
    assert pair.link.take_messages() == [{"n": 1}]


# The socket


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="a Linux option")
def test_the_system_gives_up_at_the_same_time(make):
    pair = make(Limits(ping_interval=7.0, ping_misses=1))
    sock = pair.link._wire.socket
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 14_000


def test_a_link_that_broke_tells_the_server_though_user_code_runs(make):
    """
    Its handler need not wait until the user's generator comes back.
    """
    pair = make()
    pair.peer.say(b"".join(encode_batch(FrameType.MESSAGE, 1, 5, 1, b"\x80")))
    assert pair.peer.expect_goodbye().code == "sequence"
    with pytest.raises(Exception, match="packet 5 came where packet 0 was next"):
        pair.link.wait()
