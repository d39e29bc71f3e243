"""A source is asked for what it gives in a moment: one packet of a slow one, many of a fast one."""

from hypothesis import given
from hypothesis import strategies as st

from pyf.station.burst import (
    BURST,
    BURST_BYTES,
    GROWTH,
    SECONDS,
    SLOW,
    first_burst,
    most,
    next_burst,
)
from pyf.transport.limits import LARGE, TURN_BYTES


def test_a_slow_source_is_asked_for_one_packet():
    for given_, seconds in ((1, SLOW), (1, 60), (7, 7 * SLOW), (0, 0.0)):
        assert next_burst(given_, seconds, 50) == 1


def test_a_fast_source_is_asked_for_more_and_more_until_a_burst_takes_a_moment():
    each = SECONDS / 1000
    asked = [1]
    while len(asked) < 6:
        asked.append(next_burst(asked[-1], asked[-1] * each, 50))
    assert asked[1:3] == [GROWTH, GROWTH**2]
    assert asked[3:] == [asked[3]] * 3
    assert 990 <= asked[3] <= 1000


def test_a_source_that_becomes_slow_is_asked_for_less_at_once():
    assert next_burst(100, 20 * SECONDS, 50) == 5
    assert next_burst(100, 100 * SLOW, 50) == 1


def test_only_of_a_packet_that_is_there_already_is_the_end_asked_for_at_once():
    for source in (iter([1]), iter((1,))):
        assert first_burst(source) == 2
    for source in (iter([]), iter([1, 2]), iter({1: 2}), (each for each in [1])):
        assert first_burst(source) == 1


def test_large_packets_come_in_shorter_bursts():
    assert most(1) == BURST
    assert most(LARGE - 1) == BURST_BYTES // (LARGE - 1)
    assert most(LARGE) == TURN_BYTES // LARGE
    assert next_burst(1000, 0.0, TURN_BYTES) == most(2 * TURN_BYTES) == 1


@given(st.integers(0, BURST), st.floats(0, 1e9), st.integers(1, 2**32))
def test_a_burst_has_one_packet_at_least_and_keeps_to_its_bounds(given_, seconds, size):
    count = next_burst(given_, seconds, size)
    assert 1 <= count <= BURST
    assert count == 1 or count * size <= TURN_BYTES
