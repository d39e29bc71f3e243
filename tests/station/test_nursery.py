"""Links that are young: which of them get a keeper, and when."""

import threading
from queue import SimpleQueue

import pytest

from pyf.station.nursery import AGE, REST, Nursery

WAIT = 30.0


class Ward:
    """
    A link that notes its keepers, and is denied some first.
    """

    def __init__(self, *denials: Exception) -> None:
        self.keepers = 0
        self._denials = list(denials)

    def get_keeper(self) -> None:
        if self._denials:
            raise self._denials.pop()
        self.keepers += 1


class Hands:
    """
    A nursery whose time passes as the test says.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._asleep = SimpleQueue[None]()
        self._awake = SimpleQueue[None]()
        self.nursery = Nursery(self._sleep, lambda: self.now)

    def _sleep(self, seconds: float) -> None:
        assert seconds == AGE
        self._asleep.put(None)
        self._awake.get(timeout=WAIT)

    def settle(self) -> None:
        """
        Wait until the nursery has looked.
        """
        self._asleep.get(timeout=WAIT)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._awake.put(None)


@pytest.fixture
def hands():
    made = Hands()
    yield made
    made.pass_time(1000.0)
    made.pass_time(1000.0)


def test_a_link_of_age_has_a_keeper(hands):
    ward = Ward()
    hands.nursery.add(ward)
    hands.settle()
    assert ward.keepers == 0
    hands.pass_time(AGE)
    hands.settle()
    assert ward.keepers == 1
    assert not hands.nursery.remove(ward)


def test_a_link_that_leaves_before_has_none(hands):
    ward = Ward()
    hands.nursery.add(ward)
    hands.settle()
    assert hands.nursery.remove(ward)
    hands.pass_time(AGE)
    hands.settle()
    assert ward.keepers == 0


@pytest.mark.parametrize("denial", [RuntimeError("no thread"), OSError("no file")])
def test_a_keeper_that_cannot_be_had_is_asked_for_again(hands, denial):
    ward = Ward(denial)
    hands.nursery.add(ward)
    hands.settle()
    for keepers in range(2):
        hands.pass_time(AGE)
        hands.settle()
        assert ward.keepers == keepers


def test_one_thread_minds_them_all_and_ends_once_there_have_been_none_for_long(hands):
    before = set(threading.enumerate())
    for _ in range(3):
        hands.nursery.add(Ward())
    hands.settle()
    (minder,) = set(threading.enumerate()) - before
    hands.pass_time(AGE)
    hands.settle()
    hands.pass_time(REST)
    minder.join(WAIT)
    assert not minder.is_alive()


def test_after_a_fork_it_begins_anew(hands):
    ward = Ward()
    hands.nursery.add(ward)
    hands.settle()
    hands.nursery.forget()
    assert not hands.nursery.remove(ward)
