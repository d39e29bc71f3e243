"""A peer that sends more than it can mean is found out; one that only hurries is not."""

import pytest

from pyf.transport import Connection, Limits, RemoteProtocolError, Role, encode_packet
from pyf.transport.budget import BUDGETS, SMALL, Budget
from pyf.transport.frames import Frame, FrameType


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


FRAMES = {
    **{name: Frame(FrameType[name], 1, b"") for name in BUDGETS if name.isupper()},
    "small batch": Frame(FrameType.DATA, 1, bytes(SMALL)),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_is_a_burst_and_a_rate(name):
    """After the burst, each second brings as many as the rate says, and one more is a flood."""
    clock = Clock()
    budget = Budget(clock)
    burst, rate = BUDGETS[name]
    for _ in range(burst):
        budget.spend(FRAMES[name])
    with pytest.raises(RemoteProtocolError, match=f"too many {name} frames") as caught:
        budget.spend(FRAMES[name])
    error = caught.value
    assert (error.code, error.limit, error.actual) == ("flood", burst, burst + 1)
    assert error.option == "BUDGETS"
    clock.now += 1
    for _ in range(rate):
        budget.spend(FRAMES[name])
    with pytest.raises(RemoteProtocolError):
        budget.spend(FRAMES[name])


def test_no_time_brings_more_than_the_burst():
    """A connection that was silent for a day may send no more at once than a new one."""
    clock = Clock()
    budget = Budget(clock)
    burst, _ = BUDGETS["PING"]
    for _ in range(burst):
        budget.spend(FRAMES["PING"])
    clock.now += 86400
    for _ in range(burst):
        budget.spend(FRAMES["PING"])
    with pytest.raises(RemoteProtocolError):
        budget.spend(FRAMES["PING"])


@pytest.mark.parametrize(
    "frame",
    [
        Frame(FrameType.DATA, 1, bytes(SMALL + 1)),
        Frame(FrameType.MESSAGE, 1, bytes(SMALL + 1)),
        Frame(FrameType.RESULT, 1, b""),
        Frame(0x80, 0, b""),
    ],
)
def test_what_is_bounded_otherwise_has_no_budget(frame):
    """Credit bounds batches, flows bound results, and skipped frames are counted by themselves."""
    budget = Budget(Clock())
    for _ in range(1 + max(allowance.burst for allowance in BUDGETS.values())):
        budget.spend(frame)


def test_a_machine_with_a_clock_keeps_the_budgets(feed):
    """The peer is told that it floods, and nothing more is taken from it."""
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER, clock=Clock())
    for _ in range(BUDGETS["PING"].burst + 1):
        client.ping(0)
    with pytest.raises(RemoteProtocolError) as caught:
        feed(server, b"".join(client.data_to_send()))
    assert caught.value.code == "flood"
    assert b"too many PING frames" in b"".join(server.data_to_send())


def test_a_machine_without_a_clock_has_none(feed):
    """A flow in a file is read at once, however it was written."""
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    for _ in range(1000):
        client.ping(0)
    feed(server, b"".join(client.data_to_send()))


def test_an_honest_client_that_sends_packet_by_packet_is_in_no_danger(connect):
    """A whole window, each packet in a frame of its own, is within the budget."""
    assert Limits().window_packets < BUDGETS["small batch"].burst
    assert len(encode_packet({})) <= SMALL
