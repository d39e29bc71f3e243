"""The rules of credit hold for every sender and receiver."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyf.transport import RemoteProtocolError
from pyf.transport.window import ReceiveWindow, SendWindow

WINDOWS = st.tuples(st.integers(1, 50), st.integers(1, 1000))
KEPT = st.none() | st.integers(1, 1000)
"""Bytes that a sender keeps, where that bounds its window."""
MORE = st.none() | WINDOWS
"""By how much the window grows."""
MAX_PACKET = 3000
BATCHES = st.lists(st.integers(1, MAX_PACKET), min_size=1, max_size=8)
# What to do next: a batch to send, or how many of the waiting batches to consume.
STEPS = st.lists(BATCHES | st.integers(0, 3), max_size=60)


class Flow:
    """
    A sender that obeys `fits`, and a receiver whose user takes batch by batch.

    Once the sender is known, the window is wider by *more* packets and bytes, if that is given.
    """

    def __init__(
        self, window: tuple[int, int], keeps: int | None, more: tuple[int, int] | None = None
    ) -> None:
        self.sender = SendWindow(*window)
        self.receiver = ReceiveWindow(*window)
        if keeps is not None:
            self.sender.narrow(keeps)
            self.receiver.narrow(keeps)
        if more is not None:
            self.receiver.widen(window[0] + more[0], window[1] + more[1])
            self.sender.grant(*self.receiver.grant())
        self.unread: list[tuple[int, int]] = []

    def send(self, batch: list[int]) -> bool:
        packets, size = len(batch), sum(batch)
        if not self.sender.fits(packets, size):
            return False
        self.sender.spend(packets, size)
        self.receiver.receive(packets, size)
        self.unread.append((packets, size))
        return True

    def consume(self) -> None:
        packets, size = self.unread.pop(0)
        if self.receiver.consume(packets, size):
            self.sender.grant(*self.receiver.grant())


@given(WINDOWS, KEPT, MORE, STEPS)
@example((1, 1000), 10, None, [[MAX_PACKET], 1, [MAX_PACKET]])
@example((50, 10), 10, (0, 990), [[490], [MAX_PACKET]])
def test_a_sender_that_obeys_never_goes_over(window, keeps, more, steps):
    """
    The receiver never raises, holds at most its window and one packet, and both count alike.
    """
    flow = Flow(window, keeps, more)
    wider = window if more is None else (window[0] + more[0], window[1] + more[1])
    most = wider[1] if keeps is None else min(keeps, wider[1])
    for step in steps:
        if isinstance(step, list):
            flow.send(step)
        else:
            for _ in flow.unread[:step]:
                flow.consume()
        held_packets = sum(packets for packets, _ in flow.unread)
        held_bytes = sum(size for _, size in flow.unread)
        assert held_packets <= wider[0]
        assert held_bytes < most + MAX_PACKET
        assert flow.sender.open_packets >= 0
        assert flow.receiver.received_packets == flow.sender.sent_packets


@given(WINDOWS, KEPT, MORE, STEPS, st.integers(1, MAX_PACKET))
def test_no_sender_waits_forever(window, keeps, more, steps, size):
    """
    Once everything is consumed, a packet of any size may be sent.
    """
    flow = Flow(window, keeps, more)
    for step in steps:
        if isinstance(step, list):
            flow.send(step)
        else:
            for _ in flow.unread[:step]:
                flow.consume()
    while flow.unread:
        flow.consume()
    assert flow.send([size])


@given(WINDOWS, WINDOWS, BATCHES)
def test_a_sender_with_a_smaller_window_never_goes_over(small, extra, batch):
    """
    What fits the initial window fits every larger one, and widening it loses nothing.
    """
    large = (small[0] + extra[0], small[1] + extra[1])
    sender, receiver = SendWindow(*small), ReceiveWindow(*large)
    for size in batch:
        if sender.fits(1, size):
            sender.spend(1, size)
            receiver.receive(1, size)
    sender.widen(*large)
    assert sender.open_packets == large[0] - receiver.received_packets
    assert sender.window_bytes == large[1]


def test_a_batch_may_fill_the_window_exactly():
    sender = SendWindow(10, 100)
    assert sender.fits(10, 100)
    assert not sender.fits(11, 100)
    assert not sender.fits(10, 101)


def test_one_packet_may_pass_the_limit_while_half_of_the_window_is_open():
    sender = SendWindow(10, 100)
    sender.spend(2, 50)
    assert sender.fits(1, 1_000_000)
    assert not sender.fits(2, 51)
    sender.spend(1, 1)
    assert not sender.fits(1, 50)
    assert sender.fits(1, 49)


@pytest.mark.parametrize(
    ("size", "count"), [(1, 10), (10, 10), (33, 3), (50, 2), (51, 1), (100, 1), (1000, 1)]
)
def test_room_is_told_in_packets_of_a_size(size, count):
    assert SendWindow(10, 100).room_for(size) == count


@pytest.mark.parametrize(("size", "count"), [(10, 4), (45, 0), (49, 0)])
def test_there_is_no_room_for_a_packet_that_credit_will_come_for(size, count):
    """
    With less than half of the window open, the receiver is about to grant more.
    """
    sender = SendWindow(10, 100)
    sender.spend(1, 51)
    sender.spend(1, 5)
    assert sender.room_for(size) == count


def test_after_a_packet_that_passed_the_limit_nothing_is_open():
    sender = SendWindow(10, 100)
    sender.spend(1, 500)
    assert sender.open_bytes == -400
    assert not sender.fits(1, 1)


def test_no_packet_passes_the_limit_in_packets():
    sender = SendWindow(1, 100)
    sender.spend(1, 1)
    assert not sender.fits(1, 1)


def test_credit_said_again_or_lower_changes_nothing():
    sender = SendWindow(10, 100)
    for _ in range(2):
        sender.grant(20, 200)
        sender.grant(5, 50)
        assert (sender.open_packets, sender.open_bytes) == (20, 200)


@pytest.mark.parametrize(
    ("packets", "size", "limit", "actual", "option"),
    [
        (11, 50, 10, 13, "window_packets"),
        (9, 50, 10, 11, "window_packets"),
        (8, 100, 100, 120, "window_bytes"),
        (2, 81, 100, 101, "window_bytes"),
    ],
)
def test_going_over_credit_names_limit_and_option(packets, size, limit, actual, option):
    receiver = ReceiveWindow(10, 100)
    receiver.receive(2, 20)
    with pytest.raises(RemoteProtocolError, match=option) as caught:
        receiver.receive(packets, size)
    error = caught.value
    assert error.code == "over_credit"
    assert (error.limit, error.actual, error.option) == (limit, actual, option)
    assert receiver.received_packets == 2


def test_credit_is_due_once_a_quarter_of_a_window_is_consumed():
    receiver = ReceiveWindow(10, 100)
    assert not receiver.consume(2, 20)
    assert receiver.consume(1, 1)
    assert receiver.grant() == (13, 121)
    assert not receiver.consume(2, 24)
    assert receiver.consume(0, 1)
    assert receiver.grant() == (15, 146)


def test_counts_must_agree():
    sender, receiver = SendWindow(10, 100), ReceiveWindow(10, 100)
    sender.spend(3, 3)
    receiver.receive(3, 3)
    sender.check_consumed(3)
    receiver.check_count(3)
    for check, count in [
        (sender.check_consumed, 4),
        (receiver.check_count, 2),
        (receiver.check_count, 4),
    ]:
        with pytest.raises(RemoteProtocolError, match=f"{count} packets") as caught:
            check(count)
        assert caught.value.code == "count"
