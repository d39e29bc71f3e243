"""Links without a keeper: which of them get one, and when."""

import gc
import threading
import time
from queue import SimpleQueue
from typing import Any

import pytest

from pyf.station.nursery import (
    AWAY,
    CALM,
    CROWDED,
    LATE,
    MANY,
    REST,
    SHARE,
    TICK,
    Nursery,
)

WAIT = 30.0


class Ward:
    """
    A link that notes its keepers, and is denied some first.
    """

    def __init__(self, *denials: Exception) -> None:
        self.keepers = 0
        self.activity = 0
        self.waiting = False
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
        self.pause = TICK
        self._over = False
        self.nursery = Nursery(self._sleep, lambda: self.now)

    def _sleep(self, seconds: float) -> None:
        assert seconds == pytest.approx(self.pause)
        if self._over:
            self.now += 1000.0
            return
        self._asleep.put(None)
        self._awake.get(timeout=WAIT)

    def end(self) -> None:
        """
        Have the nursery's thread end, also where it has not begun yet, as it finds nobody.
        """
        self.nursery.forget()
        self._over = True
        self.pass_time(1000.0)

    def settle(self) -> None:
        """
        Wait until the nursery has looked.
        """
        self._asleep.get(timeout=WAIT)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._awake.put(None)

    def look(self, times: int = 1) -> None:
        """
        Have the nursery look so often.
        """
        for _ in range(times):
            self.pass_time(TICK)
            self.settle()


@pytest.fixture
def hands():
    made = Hands()
    yield made
    made.end()


def test_a_link_whose_thread_stays_away_gets_a_keeper(hands):
    """
    The second look that finds nothing new says so.
    """
    ward = Ward()
    hands.nursery.add(ward)
    hands.settle()
    hands.look(AWAY - 1)
    assert ward.keepers == 0
    hands.look()
    assert ward.keepers == 1
    assert not hands.nursery.remove(ward)


class Dropped:
    """
    A call that nobody holds any more: the garbage collector closes its link.
    """

    def __init__(self, nursery: Nursery, ward: Ward) -> None:
        nursery.add(ward)
        self._close = lambda: nursery.remove(ward)
        self._itself = self

    def __del__(self) -> None:
        self._close()


@pytest.mark.parametrize("allocations", range(1, 25))
def test_links_that_the_garbage_collector_closes_meanwhile_do_no_harm(allocations):
    """
    It may run within anything that makes an object, which is as good as anywhere.
    """
    nursery = Nursery()
    nursery._minded = True  # No thread looks but this one.
    kept = Ward()
    nursery.add(kept)
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        Dropped(nursery, Ward())
        gc.set_threshold(gc.get_count()[0] + allocations)
        gc.enable()
        nursery._look(1e9)
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
    for _ in range(AWAY):
        nursery._look(1e9)
    assert kept.keepers == 1


@pytest.mark.parametrize("waiting", [False, True])
def test_a_link_whose_thread_comes_by_needs_none(hands, waiting):
    ward = Ward()
    ward.waiting = waiting
    hands.nursery.add(ward)
    hands.settle()
    for _ in range(2 * CALM):
        ward.activity += 1
        hands.look()
    assert ward.keepers == 0
    hands.look(CALM if waiting else AWAY)
    assert ward.keepers == 1


def test_a_link_whose_thread_waits_for_long_gets_a_keeper_that_can_rest(hands):
    """
    The nursery would look all the time.
    """
    ward = Ward()
    ward.waiting = True
    hands.nursery.add(ward)
    hands.settle()
    hands.look(CALM - 1)
    assert ward.keepers == 0
    hands.look()
    assert ward.keepers == 1


def test_a_link_that_leaves_before_has_none(hands):
    ward = Ward()
    hands.nursery.add(ward)
    hands.settle()
    assert hands.nursery.remove(ward)
    hands.look(3)
    assert ward.keepers == 0


def test_links_come_and_go_without_the_lock(hands):
    """
    Of a thousand threads that wait for their turn, one would have it, and all of the others wait.
    """
    first, second = Ward(), Ward()
    hands.nursery.add(first)
    hands.settle()
    done = SimpleQueue[bool]()

    def come_and_go() -> None:
        hands.nursery.add(second)
        done.put(hands.nursery.remove(second))

    with hands.nursery._lock:
        threading.Thread(target=come_and_go).start()
        assert done.get(timeout=WAIT)


def test_a_link_that_comes_behind_the_last_look_is_minded(hands):
    """
    The nursery closes before it looks whether somebody is there; a link looks last whether it has.
    """
    late, come, threads = Ward(), threading.Event(), []

    class Wards(dict[Any, Any]):
        def __setitem__(self, ward: Any, watch: Any) -> None:
            super().__setitem__(ward, watch)
            come.set()

        def __bool__(self) -> bool:
            any_there = len(self) > 0
            if not hands.nursery._minded and not threads:
                threads.append(threading.Thread(target=hands.nursery.add, args=(late,)))
                threads[0].start()
                assert come.wait(WAIT)
            return any_there

    hands.nursery._wards = Wards()
    hands.nursery.add(first := Ward())
    hands.settle()
    assert hands.nursery.remove(first)
    come.clear()
    hands.pass_time(REST)
    hands.settle()
    hands.look(AWAY)
    assert late.keepers == 1


def test_a_link_that_leaves_while_it_is_looked_at_has_none(hands):
    """
    The garbage collector may close it then.
    """

    class Leaving(Ward):
        def __getattribute__(self, name: str) -> Any:
            if name == "activity":
                looks.append(None)
                if len(looks) == AWAY + 1:
                    assert hands.nursery.remove(self)
            return super().__getattribute__(name)

    looks: list[None] = []
    ward = Leaving()
    hands.nursery.add(ward)
    hands.settle()
    hands.look(AWAY + 1)
    assert len(looks) == AWAY + 1
    assert ward.keepers == 0


def test_a_link_that_begins_does_not_wait_for_the_keeper_of_another(hands, thread):
    """
    The system may take its time to start a thread.
    """

    class Adding(Ward):
        def get_keeper(self) -> None:
            thread(hands.nursery.add, Ward())()
            super().get_keeper()

    ward = Adding()
    hands.nursery.add(ward)
    hands.settle()
    hands.look(AWAY)
    assert ward.keepers == 1


def test_who_leaves_while_his_keeper_is_started_waits_for_that(hands, thread):
    """
    Then he can wait for its end, too.
    """

    class Leaving(Ward):
        def get_keeper(self) -> None:
            left.append(thread(lambda: (hands.nursery.remove(self), self.keepers)))
            until = time.monotonic() + WAIT
            while not hands.nursery._started._waiters:
                assert time.monotonic() < until, "he does not wait"
            super().get_keeper()

    left: list[Any] = []
    hands.nursery.add(Leaving())
    hands.settle()
    hands.look(AWAY)
    assert left[0]() == (False, 1)


@pytest.mark.parametrize(("count", "soon"), [(MANY, MANY), (MANY + 1, 0)])
def test_where_many_threads_wait_for_each_other_few_get_a_keeper(hands, count, soon):
    """
    That they do, a look shows which is late itself.
    """
    wards = [Ward() for _ in range(count)]
    for ward in wards:
        hands.nursery.add(ward)
    hands.settle()
    hands.pass_time(TICK + LATE)
    hands.settle()
    hands.look(AWAY)
    assert sum(ward.keepers for ward in wards) == soon
    if not soon:
        hands.look(CALM)
    assert sum(ward.keepers for ward in wards) == count


def test_many_links_get_keepers_at_once_where_no_look_was_late_of_late(hands):
    """
    Many slow sources are no crowd.
    """

    class Busy(Ward):
        def __getattribute__(self, name: str) -> Any:
            return object() if name == "activity" else super().__getattribute__(name)

    hands.nursery.add(Busy())
    hands.settle()
    hands.pass_time(TICK + LATE)
    hands.settle()
    hands.look(round(CROWDED / TICK) + 1)
    wards = [Ward() for _ in range(2 * MANY)]
    for ward in wards:
        hands.nursery.add(ward)
    hands.look(AWAY + 1)
    assert sum(ward.keepers for ward in wards) == 2 * MANY


@pytest.mark.parametrize("denial", [RuntimeError("no thread"), OSError("no file")])
def test_a_keeper_that_cannot_be_had_is_asked_for_again(hands, denial):
    ward = Ward(denial)
    hands.nursery.add(ward)
    hands.settle()
    hands.look(AWAY)
    assert ward.keepers == 0
    hands.look()
    assert ward.keepers == 1


def test_where_its_thread_died_the_next_link_starts_another(hands, monkeypatch):
    """
    That it died, and of what, is told as of any thread.
    """
    told = SimpleQueue[Any]()
    monkeypatch.setattr(threading, "excepthook", told.put)
    hands.nursery.add(first := Ward(MemoryError("none left")))
    hands.settle()
    for _ in range(AWAY):
        hands.pass_time(TICK)
    died = told.get(timeout=WAIT)
    assert str(died.exc_value) == "none left"
    died.thread.join(WAIT)
    hands.nursery.add(second := Ward())
    hands.settle()
    hands.look(AWAY)
    assert (first.keepers, second.keepers) == (0, 1)


def test_very_many_links_are_looked_at_less_often(hands):
    """
    The nursery leaves most of the time to those that it looks at.
    """

    class Slow(Ward):
        def __getattribute__(self, name: str) -> Any:
            if name == "activity":
                hands.now += 0.01
                hands.pause = SHARE * 0.01
            return super().__getattribute__(name)

    hands.nursery.add(Slow())
    hands.settle()
    hands.look()
    assert hands.pause > TICK


def test_one_thread_minds_them_all_and_ends_once_there_have_been_none_for_long(hands):
    before = set(threading.enumerate())
    for _ in range(3):
        hands.nursery.add(Ward())
    hands.settle()
    (minder,) = set(threading.enumerate()) - before
    hands.look(2)
    hands.pass_time(REST)
    minder.join(WAIT)
    assert not minder.is_alive()


def test_after_a_fork_it_begins_anew(hands):
    ward = Ward()
    hands.nursery.add(ward)
    hands.settle()
    hands.nursery.forget()
    assert not hands.nursery.remove(ward)
