"""Who is silent is asked, and dead only if it had the time to answer."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport.liveness import Liveness, Verdict

INTERVALS = st.floats(0.01, 1000)
MISSES = st.integers(1, 5)
START = st.floats(-1e6, 1e6)


def verdicts(liveness, *times):
    return [liveness.check(time) for time in times]


def test_a_silent_peer_is_asked_as_often_as_it_may_miss_and_is_dead_then():
    liveness = Liveness(10.0, 2, 100.0)
    assert liveness.patience == 30.0
    assert verdicts(liveness, 109.9, 110.0) == [Verdict.NOTHING, Verdict.PING]
    assert verdicts(liveness, 119.9, 120.0) == [Verdict.NOTHING, Verdict.PING]
    assert verdicts(liveness, 129.9, 130.0) == [Verdict.NOTHING, Verdict.DEAD]
    assert verdicts(liveness, 130.0) == [Verdict.DEAD]


@pytest.mark.parametrize("heard", [105.0, 111.0, 125.0, 130.0])
def test_any_byte_at_any_time_begins_anew(heard):
    liveness = Liveness(10.0, 2, 100.0)
    verdicts(liveness, *(time for time in (110.0, 120.0, 130.0) if time <= heard))
    liveness.received(heard)
    assert liveness.next_check() == heard + 10.0
    times = (heard + 9.9, heard + 10.0, heard + 20.0, heard + 30.0)
    expected = [Verdict.NOTHING, Verdict.PING, Verdict.PING, Verdict.DEAD]
    assert verdicts(liveness, *times) == expected


def test_a_check_that_comes_a_little_late_counts():
    liveness = Liveness(10.0, 1, 0.0)
    assert verdicts(liveness, 10.3, 20.8) == [Verdict.PING, Verdict.DEAD]


def test_after_a_jump_forward_the_peer_gets_one_more_ping():
    liveness = Liveness(10.0, 1, 0.0)
    assert verdicts(liveness, 10.0, 10_000.0) == [Verdict.PING, Verdict.PING]
    assert verdicts(liveness, 10_009.9, 10_010.0) == [Verdict.NOTHING, Verdict.DEAD]


def test_after_a_jump_back_the_peer_is_asked_within_an_interval():
    liveness = Liveness(10.0, 1, 1000.0)
    assert verdicts(liveness, 5.0) == [Verdict.NOTHING]
    assert liveness.next_check() == 15.0
    assert verdicts(liveness, 15.0, 25.0) == [Verdict.PING, Verdict.DEAD]


@given(INTERVALS, MISSES, START)
def test_silence_has_its_end_after_the_patience(interval, misses, start):
    liveness = Liveness(interval, misses, start)
    found, now = [], start
    while Verdict.DEAD not in found:
        now = liveness.next_check()
        found.append(liveness.check(now))
    assert found == [Verdict.PING] * misses + [Verdict.DEAD]
    assert now == pytest.approx(start + liveness.patience)


@given(INTERVALS, MISSES, START, st.lists(st.floats(0, 3), max_size=30))
def test_nobody_is_asked_more_often_than_the_interval_allows(interval, misses, start, steps):
    liveness = Liveness(interval, misses, start)
    now, asked = start, []
    for step in steps:
        now += step * interval
        if liveness.check(now) is Verdict.PING:
            asked.append(now)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert all(gap >= interval * (1 - 1e-6) - 1e-6 for gap in gaps)


@given(
    INTERVALS,
    MISSES,
    START,
    st.lists(st.tuples(st.floats(0, 0.7), st.floats(-50, 0) | st.floats(1.3, 50)), max_size=30),
)
def test_a_peer_that_answers_is_never_dead_whatever_the_clock_does(interval, misses, start, turns):
    """
    It answers each PING within 0.7 intervals of this process's own time; the clock jumps between,
    back or by more than an interval forward.
    """
    liveness = Liveness(interval, misses, start)
    now = start
    for delay, jump in turns:
        # To the next check, with a jump on the way; then until it is a PING, and its answer.
        now = liveness.next_check() + jump * interval
        while (verdict := liveness.check(now)) is Verdict.NOTHING:
            now = liveness.next_check()
        assert verdict is Verdict.PING
        now += (delay + jump) * interval
        assert liveness.check(now) is not Verdict.DEAD
        liveness.received(now)


@given(INTERVALS, MISSES, START, st.lists(st.floats(-50, 50), max_size=30))
def test_the_next_check_is_never_further_than_an_interval(interval, misses, start, jumps):
    liveness = Liveness(interval, misses, start)
    for jump in jumps:
        now = start + jump * interval
        verdict = liveness.check(now)
        assert verdict is Verdict.DEAD or liveness.next_check() <= now + interval * (1 + 1e-6)
