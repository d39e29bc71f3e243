"""An event loop is left to others in time, and nothing is lost or out of order meanwhile."""

import threading
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pyf.station.pace import TURN, Decoder, Pace, Turns, in_thread, never, next_turn
from pyf.station.tx import ReactorLoop
from pyf.transport import RemoteProtocolError


@pytest.fixture
def loop(hand_reactor) -> ReactorLoop:
    return ReactorLoop(hand_reactor)


class Work:
    """
    Steps of work, each of which takes some seconds, and what became of them.
    """

    def __init__(self, reactor: Any, loop: ReactorLoop, seconds: float) -> None:
        self.reactor = reactor
        self.seconds = seconds
        self.steps = self.done = 0
        self.reads: list[bool] = []
        self.turns = Turns(loop.clock, loop.callLater, self.work, lambda: self)

    def work(self, pace: Pace | None) -> bool:
        while self.done < self.steps and not (pace is not None and pace.is_over()):
            self.done += 1
            self.reactor.rightNow += self.seconds
        return self.done == self.steps

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        self.reads.append(False)

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        self.reads.append(True)

    def come(self, steps: int) -> None:
        self.steps += steps
        self.turns.begin()


def test_work_of_a_moment_is_done_at_once(hand_reactor, loop):
    """It costs no turn, and reading goes on."""
    work = Work(hand_reactor, loop, TURN / 10)
    work.come(5)
    assert (work.done, work.reads) == (5, [])
    assert not hand_reactor.getDelayedCalls()


def test_long_work_goes_on_in_the_next_turns_and_nothing_is_read_before_its_end(hand_reactor, loop):
    work = Work(hand_reactor, loop, TURN / 2)
    work.come(8)
    assert (work.done, work.reads) == (3, [False])
    work.come(1)  # What had been read already waits behind it.
    assert (work.done, work.reads) == (3, [False])
    hand_reactor.advance(0)
    assert (work.done, work.reads) == (9, [False, True])
    assert not hand_reactor.getDelayedCalls()


def test_what_came_before_the_end_is_done_at_the_end(hand_reactor, loop):
    """All of it, for there is no other turn; and nobody reads any more."""
    work = Work(hand_reactor, loop, TURN)
    work.come(8)
    work.turns.finish()
    assert (work.done, work.reads) == (8, [False])
    work.turns.finish()
    assert not hand_reactor.getDelayedCalls()


def waiting(coroutine: Any) -> list[Any]:
    """
    Start a coroutine; return the list into which its result comes.
    """
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    return results


def until(reactor: Any, found: list[Any]) -> None:
    """
    Let a thread end, and who waits for it go on.
    """
    reactor.run_until(reactor.getDelayedCalls)
    reactor.advance(0)
    assert found


def decoder(loop: ReactorLoop) -> Decoder:
    return Decoder(loop.clock, lambda decode: in_thread(loop, decode), lambda: next_turn(loop))


def test_what_is_quick_is_decoded_at_once_until_a_turn_is_over(hand_reactor, loop):
    made = decoder(loop)
    first = waiting(made.run(lambda: 1, never))
    hand_reactor.rightNow += 2 * TURN
    second = waiting(made.run(lambda: 2, never))
    assert (first, second) == ([1], [])
    hand_reactor.advance(0)
    hand_reactor.advance(0)
    assert second == [2]
    assert waiting(made.run(lambda: 3, never)) == [3]


def test_a_pace_is_over_behind_a_turn_of_work_until_it_begins_anew(hand_reactor, loop):
    pace = Pace(loop.clock)
    assert not pace.is_over()
    hand_reactor.rightNow += 2 * TURN
    assert pace.is_over()
    pace.begin()
    assert not pace.is_over()


def test_what_takes_long_is_decoded_in_a_thread(hand_reactor, loop):
    found = waiting(decoder(loop).run(never, threading.current_thread))
    until(hand_reactor, found)
    assert found[0] is not threading.current_thread()


def test_what_a_thread_raises_is_raised_where_it_is_awaited(hand_reactor, loop):
    def fail() -> None:
        raise RemoteProtocolError("not this", code="malformed_batch")

    found = waiting(decoder(loop).run(never, fail))
    until(hand_reactor, found)
    assert found[0].check(RemoteProtocolError)


def test_a_thread_whose_loop_is_closed_ends_in_silence(loop, monkeypatch):
    closed = threading.Event()

    def refuse(_: Any) -> None:
        closed.set()
        raise RuntimeError("the loop is closed")

    monkeypatch.setattr(loop, "callFromThread", refuse)
    in_thread(loop, int).close()
    assert closed.wait(10)
