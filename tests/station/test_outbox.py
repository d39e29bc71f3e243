"""What a handler says before it leaves: how much of it waits, and who is woken when."""

import threading
from itertools import cycle, islice
from typing import Any

import pytest

from pyf.station import StationClient
from pyf.station.outbox import EACH, MOST, MOST_LARGE, Outbox
from pyf.transport import LocalProtocolError, PacketTooLarge
from pyf.transport.limits import LARGE, MAX_FRAME, MAX_WINDOW
from pyf.transport.pieces import Encoded
from pyf.transport.speed import packets_in
from pyf.transport.window import SendWindow

WAIT = 30.0
BURSTS = list(islice(cycle((1, 2, 1, 3, 40, 1, 700, 1, 3000)), 180))
"""Messages that a handler says at a time: some of them are more than the client's credit."""


class Owner:
    """
    Whoever takes from an outbox, written down.
    """

    def __init__(self, most: int = MOST) -> None:
        self.wakes = 0
        self.refusal: Exception | None = None
        self.outbox = Outbox(self.wake, self.check, self.refuse, most)
        self.most = most

    def wake(self) -> None:
        self.wakes += 1

    def check(self, data: Encoded) -> None:
        if (size := len(data)) > self.most:
            raise PacketTooLarge("too large", size=size, limit=self.most, option="max_packet")

    def refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def take(self, count: int) -> None:
        window = SendWindow(count, MAX_WINDOW)
        while window.open_packets:
            packets, _, size = window.take(self.outbox.pending, MAX_FRAME)
            window.spend(packets, size)
        with self.outbox.lock:
            self.outbox.count()


@pytest.fixture
def owner() -> Owner:
    return Owner()


def test_the_first_message_wakes_and_the_next_ones_do_not(owner):
    for n in range(3):
        assert not owner.outbox.add({"n": n})
    assert (owner.wakes, packets_in(owner.outbox.pending)) == (1, 3)


def test_it_is_full_of_many_small_messages(owner):
    count = MOST // (EACH + 1) + 1
    assert [owner.outbox.add({}) for _ in range(count)].index(True) == count - 1
    assert owner.outbox.full


def test_it_is_full_of_few_large_messages():
    """
    It has more room for them, and their values are not copied.
    """
    owner = Owner(2**20)
    blob = bytes(MOST - 100)
    count = MOST_LARGE // MOST + 1
    assert [owner.outbox.add({"data": blob}) for _ in range(count)].index(True) == count - 1
    left: list[Any] = list(owner.outbox.pending)[2:]
    assert all(each.buffers[1] is blob for each in left)


def test_its_room_for_large_messages_is_not_that_of_the_largest_one():
    """
    One that is larger than what is harmless is asked about, though there is room.
    """
    owner = Owner(2 * LARGE)
    blob = bytes(LARGE)
    owner.outbox.add({"data": bytes(2 * LARGE - 100)})
    while not owner.outbox.add({"data": blob}):
        pass
    owner.take(packets_in(owner.outbox.pending))
    while not owner.outbox.add({"data": blob}):
        pass
    packet = owner.outbox.pending[0]
    assert len(owner.outbox.pending) == MOST_LARGE // (len(packet) + EACH) + 1
    owner.take(packets_in(owner.outbox.pending))
    with pytest.raises(PacketTooLarge):
        owner.outbox.add({"data": bytes(2 * LARGE)})
    assert not owner.outbox.pending


def test_small_messages_behind_large_ones_have_the_room_of_small_ones():
    owner = Owner(2**20)
    owner.outbox.add({"data": bytes(MOST)})
    owner.take(1)
    while not owner.outbox.add({}):
        pass
    owner.take(packets_in(owner.outbox.pending))
    assert [owner.outbox.add({}) for _ in range(MOST)].index(True) == MOST // (EACH + 1)


def test_a_message_that_fills_it_wakes(owner):
    owner.outbox.add({})
    owner.outbox.add({"data": bytes(MOST - EACH)})
    assert owner.wakes == 2


def test_what_is_taken_makes_room(owner):
    while not owner.outbox.add({}):
        pass
    room = owner.outbox.room()
    owner.outbox.wake_waiters()
    assert owner.outbox.has_waiters
    owner.take(1)
    owner.outbox.wake_waiters()
    assert room.called
    assert not owner.outbox.full


def test_messages_may_be_added_while_what_is_left_is_counted(owner):
    class Meanwhile(bytes):
        def __len__(self) -> int:
            owner.outbox.add({})
            return 1

    owner.outbox.resting = False  # so that nobody has to be woken
    owner.outbox.pending.extend([Meanwhile(), Meanwhile()])
    owner.take(0)
    assert packets_in(owner.outbox.pending) == 4
    assert not owner.outbox.full


def test_a_message_that_is_too_large_is_refused_and_not_kept():
    owner = Owner(most=1000)
    with pytest.raises(PacketTooLarge):
        owner.outbox.add({"data": bytes(1000)})
    assert not owner.outbox.pending


def close(owner: Owner) -> None:
    with owner.outbox.lock:
        owner.outbox.close()


def test_a_closed_one_refuses_messages(owner):
    close(owner)
    owner.refusal = LocalProtocolError("too late", code="answered")
    with pytest.raises(LocalProtocolError):
        owner.outbox.add({})
    assert not owner.outbox.pending


def test_a_closed_one_drops_what_is_not_refused(owner):
    close(owner)
    assert not owner.outbox.add({})
    assert not owner.outbox.pending
    assert not owner.outbox.full


def test_one_that_is_closed_while_a_message_is_added_refuses_it_or_drops_it(owner):
    """
    The room that a thread has counted may be written after the close.
    """
    close(owner)
    owner.outbox.space = MOST
    assert not owner.outbox.add({})
    owner.refusal = LocalProtocolError("too late", code="answered")
    with pytest.raises(LocalProtocolError):
        owner.outbox.add({})
    assert owner.wakes == 0


def test_who_waits_goes_on_when_there_is_room_or_never_will_be(owner, thread):
    def fill() -> None:
        while not owner.outbox.add({}):
            pass
        owner.outbox.wait()

    for let_go in (lambda: owner.take(5), lambda: close(owner)):
        waiting: Any = thread(fill)
        while not owner.outbox.full:
            pass
        let_go()
        waiting()


@pytest.mark.usefixtures("switching")
def test_whatever_a_thread_says_comes_in_order_and_once(serve):
    """
    The handler says nothing behind a burst, and does not read: all of it has to come all the same.
    """
    read = [threading.Event() for _ in BURSTS]
    late: list[int] = []

    def handler(_: Any, client: Any) -> None:
        n = 0
        for burst, (size, done) in enumerate(zip(BURSTS, read, strict=True)):
            for _ in range(size):
                client.message({"n": n, "burst": burst})
                n += 1
            if not done.wait(WAIT):
                late.append(burst)
                break
        client.success()

    come = []
    left = list(BURSTS)
    for value in StationClient("127.0.0.1", serve(handler), True).call([]):
        if value is not True and "n" in value:
            come.append(value["n"])
            left[value["burst"]] -= 1
            if not left[value["burst"]]:
                read[value["burst"]].set()
    assert not late
    assert come == list(range(sum(BURSTS)))
