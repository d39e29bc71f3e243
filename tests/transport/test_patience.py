"""Each wait has its limit, counts from the right moment, and is given up at the right one."""

import pytest

from pyf.transport import Connection, Limits, Role
from pyf.transport.frames import HEADER, FrameType
from pyf.transport.limits import LONGEST_WAIT
from pyf.transport.patience import LATE, PROGRESS, Patience

LIMITS = Limits(
    handshake_timeout=5, frame_timeout=30, idle_timeout=300, write_timeout=40, ping_interval=1000
)


class Waiting:
    """
    One side's patience, and what can be told of its peer.
    """

    def __init__(self, role: Role = Role.SERVER, limits: Limits = LIMITS) -> None:
        self.machine = Connection(role, limits)
        self.peer = Connection(role.peer, limits)
        self.written = 0
        self.now = 100.0
        self.patience = Patience(self.machine, lambda: self.written, self.now)

    def greet(self, interval: float = 1.0) -> float:
        self.machine.receive_data(b"".join(self.peer.data_to_send()))
        while self.machine.next_event():
            pass
        return self.patience.greeted(interval, self.now)

    def receive(self, data: bytes) -> None:
        self.machine.receive_data(data)
        while self.machine.next_event():
            pass
        self.patience.received(self.now)

    def overdue(self, seconds: float) -> str | None:
        """
        What is overdue after *seconds*, looking whenever it is due.
        """
        end = self.now + seconds
        while self.now < end:
            self.now = min(max(self.patience.due, self.now + 0.001), end)
            if overdue := self.patience.look(self.now):
                return overdue.option
        return None


@pytest.mark.parametrize("role", Role)
def test_a_peer_without_hello_is_late(role):
    waiting = Waiting(role)
    assert waiting.overdue(4.9) is None
    assert waiting.overdue(0.1) == "handshake_timeout"


def test_half_a_hello_wins_no_time():
    waiting = Waiting()
    waiting.now += 4.0
    waiting.receive(b"".join(waiting.peer.data_to_send())[:3])
    assert waiting.overdue(0.9) is None
    assert waiting.overdue(0.1) == "handshake_timeout"


def test_what_is_overdue_is_told_in_words_and_numbers():
    waiting = Waiting()
    waiting.now += 5.0
    overdue = waiting.patience.look(waiting.now)
    assert overdue is not None
    assert overdue.code == overdue.option == "handshake_timeout"
    assert overdue.limit == 5.0
    assert overdue.text == "the client sent no HELLO within 5 s (Limits.handshake_timeout)"


def test_with_the_hello_the_handshake_is_over():
    waiting = Waiting()
    assert waiting.greet() == 3000.0
    assert waiting.overdue(500) is None


def test_a_peer_that_wants_fewer_pings_may_be_silent_for_longer():
    assert Waiting().greet(2000.0) == 6000.0


def test_silence_brings_pings_and_then_the_end():
    waiting = Waiting()
    waiting.greet()
    waiting.machine.data_to_send()
    assert waiting.overdue(2999) is None
    assert len(waiting.machine.data_to_send()) == 4  # two PINGs, of two buffers each
    assert waiting.overdue(1) == "ping_interval"


def test_a_frame_counts_from_its_own_beginning():
    waiting = Waiting()
    waiting.peer.ping(1)
    waiting.peer.ping(2)
    data = b"".join(waiting.peer.data_to_send())
    waiting.patience.greeted(1.0, waiting.now)
    waiting.receive(data[:-20])
    assert waiting.overdue(29) is None
    waiting.receive(data[-20:-10])  # the first is whole, the second has begun
    assert waiting.overdue(29) is None
    waiting.receive(data[-10:-5])
    assert waiting.overdue(1) == "frame_timeout"


def test_a_large_frame_has_as_much_time_for_each_part_of_it():
    """So a slow network may carry it, and a peer that sends next to nothing may not."""
    waiting = Waiting()
    waiting.greet()
    frame = HEADER.pack(3 * PROGRESS, FrameType.DATA, 1)
    waiting.machine.receive_data(frame)
    for _ in range(2):  # the second frame has no more time for what the first has had
        waiting.receive(bytes(9))
        assert waiting.overdue(20) is None
        waiting.receive(bytes(PROGRESS))
        assert waiting.overdue(20) is None
        waiting.receive(bytes(PROGRESS))
        assert waiting.overdue(29) is None
        waiting.machine._parser.receive_data(bytes(PROGRESS - 9))
        waiting.machine._parser.next_frame()
        waiting.patience.received(waiting.now)
        waiting.machine.receive_data(frame)
    waiting.receive(bytes(9))
    assert waiting.overdue(20) is None
    waiting.receive(bytes(PROGRESS - 20))
    assert waiting.overdue(10) == "frame_timeout"


def test_a_frame_that_is_whole_is_not_waited_for():
    waiting = Waiting()
    waiting.greet()
    waiting.peer.ping(1)
    data = b"".join(waiting.peer.data_to_send())
    waiting.receive(data[:5])
    waiting.receive(data[5:])
    assert waiting.overdue(100) is None


def test_what_is_stuck_is_given_up():
    waiting = Waiting()
    waiting.greet()
    waiting.patience.stuck(waiting.now)
    assert waiting.patience.is_stuck
    assert waiting.overdue(39) is None
    waiting.patience.stuck(waiting.now)  # changes nothing
    assert waiting.overdue(1) == "write_timeout"


def test_what_moves_is_not_stuck():
    waiting = Waiting()
    waiting.greet()
    waiting.patience.stuck(waiting.now)
    for _ in range(5):
        assert waiting.overdue(39) is None
        waiting.written += 1
    assert waiting.overdue(79) == "write_timeout"


def test_what_is_written_is_not_stuck():
    waiting = Waiting()
    waiting.greet()
    waiting.patience.stuck(waiting.now)
    waiting.patience.unstuck()
    assert not waiting.patience.is_stuck
    assert waiting.overdue(250) is None


def test_a_connection_without_a_flow_is_idle():
    waiting = Waiting()
    waiting.patience.flows_changed(waiting.now)  # not before the HELLO
    waiting.greet()
    waiting.patience.flows_changed(waiting.now)
    assert waiting.overdue(200) is None
    waiting.patience.flows_changed(waiting.now)  # changes nothing
    assert waiting.overdue(100) == "idle_timeout"


def test_a_connection_with_a_flow_is_not():
    waiting = Waiting()
    waiting.greet()
    waiting.patience.flows_changed(waiting.now)
    waiting.peer.open_flow({})
    waiting.receive(b"".join(waiting.peer.data_to_send()))
    waiting.patience.flows_changed(waiting.now)
    assert waiting.overdue(900) is None


def test_who_looks_late_begins_anew():
    """
    After a jump, all that is awaited has its whole time again.
    """
    waiting = Waiting()
    waiting.now += 5.0 + LATE + 0.1
    assert waiting.patience.look(waiting.now) is None
    assert waiting.overdue(4.9) is None
    assert waiting.overdue(0.1) == "handshake_timeout"


def test_what_may_last_for_years_is_looked_at_now_and_then():
    years = dict.fromkeys(("frame_timeout", "idle_timeout", "write_timeout", "ping_interval"), 1e12)
    waiting = Waiting(limits=Limits(**years))
    waiting.greet()
    for _ in range(3):
        assert waiting.patience.due == waiting.now + LONGEST_WAIT
        waiting.now = waiting.patience.due
        assert waiting.patience.look(waiting.now) is None
