"""Threads for what may block: used again, as many as are needed, and ended."""

import os
import threading
import time

import pytest

from pyf.station.workers import LOOK, ElasticSlots, Slots, Workers

WAIT = 10.0


@pytest.fixture
def workers():
    workers = Workers("pyf.station-test", idle=2)
    yield workers
    workers.close()
    for thread in threads():
        thread.join(WAIT)
    assert threads() == []


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "pyf.station-test"]


def rested(workers: Workers, count: int) -> None:
    """
    Wait until so many threads have nothing to do.
    """
    deadline = time.monotonic() + WAIT
    while len(workers._idle) < count:
        assert time.monotonic() < deadline
        os.sched_yield()


def test_jobs_of_one_worker_are_done_in_their_order_in_one_thread(workers):
    done: list[tuple[int, int]] = []
    worker = workers.take()
    for number in range(100):
        worker.do(lambda number=number: done.append((number, threading.get_ident())))
    worker.release()
    rested(workers, 1)
    assert [number for number, _ in done] == list(range(100))
    assert len({thread for _, thread in done}) == 1


def test_a_thread_is_used_again(workers):
    ran: list[int] = []
    for _ in range(10):
        workers.do(lambda: ran.append(threading.get_ident()))
        rested(workers, 1)
    assert len(set(ran)) == 1


def test_there_are_as_many_threads_as_jobs_at_once_and_few_wait_for_the_next(workers):
    everybody = threading.Barrier(6)
    for _ in range(5):
        workers.do(lambda: everybody.wait(WAIT))
    everybody.wait(WAIT)
    rested(workers, 2)
    assert len(workers._idle) == 2


def test_a_thread_that_is_busy_ends_once_it_is_done_where_nobody_needs_it_any_more(workers):
    go_on = threading.Event()
    workers.do(lambda: go_on.wait(WAIT))
    (thread,) = threads()
    workers.close()
    assert thread.is_alive()
    go_on.set()
    thread.join(WAIT)
    assert not thread.is_alive()


def test_they_can_be_used_again_after_their_end(workers):
    workers.close()
    done = threading.Event()
    workers.do(done.set)
    assert done.wait(WAIT)


def test_no_thread_keeps_the_process(workers):
    workers.do(bool)
    assert all(each.daemon for each in threads())


def test_a_job_is_forgotten_once_it_is_done(workers):
    """
    It would keep what it is about as long as its thread waits for another one.
    """

    class Job:
        def __call__(self) -> None:
            pass

        def __del__(self) -> None:
            gone.set()

    gone = threading.Event()
    worker = workers.take()
    worker.do(Job())
    assert gone.wait(WAIT)
    worker.release()


def test_a_system_without_threads_is_told_of_at_once(workers, monkeypatch):
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="new thread"):
        workers.do(bool)


def stand_in_line(slots: Slots, count: int) -> list[int]:
    """
    Have so many ask for a slot, by their numbers; return who has had one, as it goes on.
    """
    admitted: list[int] = []

    def ask(number: int) -> None:
        if slots.take(lambda: ask(number)):
            admitted.append(number)

    for number in range(count):
        ask(number)
    return admitted


def test_so_many_have_a_slot_and_others_have_one_in_their_turn_once_it_is_given_back():
    slots = Slots(2)
    admitted = stand_in_line(slots, 5)
    assert admitted == [0, 1]
    slots.give()
    assert admitted == [0, 1, 2]
    slots.give()
    slots.give()
    assert admitted == [0, 1, 2, 3, 4]


def test_who_needs_no_slot_any_more_leaves_it_to_the_next():
    slots = Slots(1)
    asked: list[str] = []
    assert slots.take(bool)
    assert not slots.take(lambda: asked.append("gone"))
    assert not slots.take(lambda: asked.append("next") or slots.take(bool))
    slots.give()
    assert asked == ["gone", "next"]
    assert not slots.take(bool)


def test_a_slot_that_nobody_waits_for_is_there_for_the_next():
    slots = Slots(1)
    assert slots.take(bool)
    slots.give()
    assert slots.take(bool)


class Meter:
    """
    A clock, and how much of that time a process had.
    """

    def __init__(self) -> None:
        self.now = self.had = 0.0

    def pass_by(self, share: float) -> None:
        self.now += 2 * LOOK
        self.had += 2 * LOOK * share


@pytest.fixture
def meter():
    return Meter()


@pytest.fixture
def elastic(meter):
    return ElasticSlots(2, 4, lambda: meter.now, lambda: meter.had)


def taken(slots: Slots) -> int:
    """
    Take all slots there are; return how many that were.
    """
    return [slots.take(bool) for _ in range(10)].count(True)


@pytest.mark.parametrize(("share", "counts"), [(0.9, [2, 1, 1, 1]), (0.1, [2, 2, 2, 1])])
def test_there_are_more_slots_up_to_the_most_with_each_look_that_finds_an_idle_core(
    elastic, meter, share, counts
):
    found = []
    for _ in counts:
        found.append(taken(elastic))
        meter.pass_by(share)
        elastic.give()
    assert found == counts


def test_who_waits_gets_a_slot_that_is_there_since_a_core_is_idle(elastic, meter):
    admitted = stand_in_line(elastic, 5)
    assert admitted == [0, 1]
    meter.pass_by(0.1)
    elastic.give()
    assert admitted == [0, 1, 2, 3]


def test_a_slot_that_is_given_back_is_gone_where_there_are_fewer_by_now(elastic, meter):
    taken(elastic)
    for _ in range(2):
        meter.pass_by(0.1)
        elastic.give()
        taken(elastic)
    for _ in range(2):
        meter.pass_by(0.9)
        elastic.give()
        assert not elastic.take(bool)
    elastic.give()
    assert taken(elastic) == 1


def test_nobody_looks_how_busy_a_core_is_more_often_than_that_changes(meter):
    looks = []
    slots = ElasticSlots(1, 2, lambda: meter.now, lambda: looks.append(meter.now) or 0.0)
    for _ in range(10):
        slots.take(bool)
        slots.give()
    assert looks == [0.0]
