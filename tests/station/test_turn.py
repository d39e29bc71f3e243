"""What is asked for in a turn of the reactor, and when it is done."""

import pytest

from pyf.station.turn import Turn


@pytest.fixture
def later():
    """
    What was left for another turn.
    """
    return []


def test_what_is_asked_for_in_a_turn_is_done_at_its_end(later):
    done = []
    turn = Turn(later.append)
    with turn:
        turn.call(lambda: done.append(1))
        turn.call(lambda: done.append(2))
        assert not done
    assert (done, later) == ([1, 2], [])


def test_what_is_asked_for_at_the_end_is_for_another_turn(later):
    turn = Turn(later.append)
    with turn:
        turn.call(lambda: turn.call(later.clear))
    assert later == [later.clear]


def test_what_is_asked_for_outside_or_by_another_thread_is_for_another_turn(later, thread):
    turn = Turn(later.append)
    turn.call(later.clear)
    with turn:
        thread(turn.call, later.copy)()
    assert later == [later.clear, later.copy]


def test_a_turn_that_fails_is_over(later):
    turn = Turn(later.append)
    with pytest.raises(KeyError), turn:
        raise KeyError
    turn.call(later.clear)
    assert later == [later.clear]
