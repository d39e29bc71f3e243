"""Queues whose threads are woken one after the other: who is woken, by whom, and with what."""

import threading
from collections.abc import Callable
from queue import Queue
from typing import Any

import pytest

from pyf.station.relay import Relay, RelayQueue

WAIT = 30.0


class Bell:
    """
    What wakes a thread, as soon as the test says that it has been scheduled.
    """

    def __init__(self) -> None:
        self.sleeps, self.rung, self._wakes = (threading.Event() for _ in range(3))

    def acquire(self, *, blocking: bool = True) -> None:
        self.sleeps.set()
        assert self._wakes.wait(WAIT) or not blocking

    def release(self) -> None:
        self.rung.set()

    def wake(self) -> None:
        assert self.rung.wait(WAIT)
        self._wakes.set()


@pytest.fixture
def relay():
    return Relay()


@pytest.fixture
def sleeper(relay):
    """
    Start a thread that waits at a queue; return that, its bell, and where the thread says it all.
    """
    threads = []

    def start() -> tuple[RelayQueue[int], Bell, Queue[int]]:
        queue: Any = RelayQueue[int](relay)
        queue._bell = bell = Bell()
        taken = Queue[int]()
        threads.append(threading.Thread(target=lambda: taken.put(queue.get())))
        threads[-1].start()
        assert bell.sleeps.wait(WAIT)
        return queue, bell, taken

    yield start
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()


def test_what_is_there_is_taken_in_its_order_without_waiting(relay):
    queue = RelayQueue[int](relay)
    for number in range(3):
        queue.put(number)

    assert [queue.get() for _ in range(3)] == [0, 1, 2]
    assert not relay.waking


def test_who_waits_is_woken_with_the_first_item_and_finds_those_behind(sleeper):
    queue, bell, taken = sleeper()
    queue.put(1)
    queue.put(2)
    bell.wake()

    assert taken.get(timeout=WAIT) == 1
    assert queue.get() == 2


def test_the_next_is_woken_by_who_was_woken_before(sleeper):
    """
    Until that one runs, it would only wait for the interpreter.
    """
    (first, first_bell, first_taken), (second, second_bell, second_taken) = sleeper(), sleeper()
    first.put(1)
    second.put(2)
    assert first_bell.rung.is_set()
    assert not second_bell.rung.is_set()

    first_bell.wake()

    assert first_taken.get(timeout=WAIT) == 1
    second_bell.wake()
    assert second_taken.get(timeout=WAIT) == 2


def test_what_comes_while_another_one_is_to_be_woken_keeps_its_order(sleeper):
    (first, first_bell, _), (second, second_bell, taken) = sleeper(), sleeper()
    first.put(0)
    for number in range(3):
        second.put(number)
    first_bell.wake()
    second_bell.wake()

    assert [taken.get(timeout=WAIT), second.get(), second.get()] == [0, 1, 2]


def test_all_are_woken_in_the_order_in_which_there_was_something_for_them(sleeper):
    sleepers = [sleeper() for _ in range(5)]
    order = [3, 0, 4, 1, 2]
    for number in order:
        sleepers[number][0].put(number)
    for place, number in enumerate(order, 1):
        _, bell, taken = sleepers[number]
        assert bell.rung.wait(WAIT)
        assert sum(bell.rung.is_set() for _, bell, _ in sleepers) == place
        bell.wake()
        assert taken.get(timeout=WAIT) == number


def test_once_all_are_awake_the_next_is_woken_at_once(sleeper, relay):
    for number in range(3):
        queue, bell, taken = sleeper()
        queue.put(number)
        assert bell.rung.is_set()
        bell.wake()
        assert taken.get(timeout=WAIT) == number
    assert not relay.waking


def test_who_is_busy_is_not_woken_and_keeps_nobody_asleep(sleeper, relay):
    busy = RelayQueue[int](relay)
    busy.put(1)
    queue, bell, taken = sleeper()
    queue.put(2)
    bell.wake()

    assert taken.get(timeout=WAIT) == 2


def test_a_thread_that_is_made_to_raise_as_it_waits_keeps_nobody_asleep(sleeper, relay):
    class Interrupted(Bell):
        def acquire(self, *, blocking: bool = True) -> None:
            super().acquire()
            if blocking:
                raise KeyboardInterrupt

    queue: Any = RelayQueue[int](relay)
    bell = queue._bell = Interrupted()

    def wait() -> None:
        with pytest.raises(KeyboardInterrupt):
            queue.get()

    thread = threading.Thread(target=wait)
    thread.start()
    assert bell.sleeps.wait(WAIT)
    queue.put(0)
    other, other_bell, taken = sleeper()
    other.put(1)
    bell.wake()
    other_bell.wake()

    assert taken.get(timeout=WAIT) == 1
    thread.join(WAIT)


@pytest.mark.parametrize("others", [0, 1])
def test_nobody_relies_on_a_thread_that_left_before_it_was_woken(sleeper, relay, others):
    """
    Neither where there was nothing for it yet, nor where it was to be woken behind others.
    """
    queue: Any = RelayQueue[int](relay)
    before = [sleeper() for _ in range(others)]

    class Interrupted:
        def acquire(self) -> None:
            for each, _, _ in before:
                each.put(0)
                queue.put(1)
            raise KeyboardInterrupt

    queue._bell = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        queue.get()
    for _, bell, taken in before:
        bell.wake()
        assert taken.get(timeout=WAIT) == 0
    queue.put(2)
    assert queue.get() == (1 if others else 2)

    _, bell, taken = other = sleeper()
    other[0].put(3)
    bell.wake()
    assert taken.get(timeout=WAIT) == 3
    assert not relay.waking


def test_the_garbage_collector_may_put_something_whatever_it_interrupts(sleeper, relay):
    """
    It runs wherever a function is called: in the thread that has the lock.
    """
    (first, first_bell, first_taken), (second, second_bell, second_taken) = sleeper(), sleeper()
    with relay.lock:
        first.put(1)
        second.put(2)
    first_bell.wake()
    second_bell.wake()

    assert first_taken.get(timeout=WAIT) == 1
    assert second_taken.get(timeout=WAIT) == 2


def test_a_new_process_has_nobody_to_wake(sleeper, relay):
    """
    Those who were to be woken, and who was to wake them, are in the other one.
    """
    queue, bell, _ = sleeper()
    queue.put(1)
    assert relay.waking
    relay.forget()

    _, other_bell, taken = other = sleeper()
    other[0].put(2)
    other_bell.wake()
    assert taken.get(timeout=WAIT) == 2
    bell.wake()


def test_nobody_is_woken_for_what_has_been_taken_already(relay):
    """
    Whoever wakes may be slow: the thread has run, and sleeps again, between two of its steps.
    """
    queue: Any = RelayQueue[int](relay)
    bell = queue._bell = Bell()
    taken = Queue[int]()
    thread = threading.Thread(target=lambda: [taken.put(queue.get()) for _ in range(2)])

    class Slow:
        lock, __exit__ = relay.lock, relay.lock.__exit__

        def __enter__(self) -> None:
            relay.lock = self.lock
            thread.start()
            assert bell.sleeps.wait(WAIT)
            self.lock.acquire()

    relay.lock = Slow()
    queue.put(1)
    assert bell.rung.is_set() == bool(queue._items)

    bell.wake()
    queue.put(2)
    assert [taken.get(timeout=WAIT) for _ in range(2)] == [1, 2]
    thread.join(WAIT)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("threads", [2, 20])
def test_many_threads_that_feed_each_other_get_all_that_is_for_them(relay, threads):
    """
    With the locks of the system: each passes on what it got, and nobody sleeps for ever.
    """
    rounds = 200
    queues = [RelayQueue[int](relay) for _ in range(threads)]
    done = Queue[int]()

    def pass_on(number: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(rounds):
                queues[(number + 1) % threads].put(queues[number].get() + 1)
            done.put(number)

        return run

    running = [threading.Thread(target=pass_on(number)) for number in range(threads)]
    for thread in running:
        thread.start()
    for queue in queues:
        queue.put(0)
    for _ in running:
        done.get(timeout=WAIT)
    for thread in running:
        thread.join(WAIT)

    # Whose was there first may have gone round more often.
    assert sum(queue.get() for queue in queues) == rounds * threads
