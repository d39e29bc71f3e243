"""The line of busy threads: who waits, and for whom."""

import threading
from queue import Queue
from typing import Any

import pytest

from pyf.station.line import Line

WAIT = 30.0


class Head:
    """
    The head of a line, that tells who asks for it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = Queue[str]()
        self.locked = self.lock.locked

    def __enter__(self) -> None:
        self.asked.put(threading.current_thread().name)
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_who_is_alone_lets_others_run_without_waiting_for_time():
    pauses = []

    Line(pauses.append).give_way()

    assert pauses == [0]


def test_who_lets_others_run_is_the_only_one_who_waits_for_that():
    """
    Others wait for it, asleep, and not for the interpreter.
    """
    taken = []
    line = Line(lambda _: taken.append(line._head.locked()))

    line.give_way()

    assert taken == [True]
    assert not line._head.locked()


def test_who_waited_behind_others_has_let_them_run():
    """
    Having its turn, it does not give that away again.
    """
    pauses = []
    line = Line(pauses.append)
    head: Any = Head()
    line._head = head
    thread = threading.Thread(target=line.give_way, name="behind")
    with head:
        assert head.asked.get(timeout=WAIT) != "behind"
        thread.start()
        assert head.asked.get(timeout=WAIT) == "behind"
    thread.join(WAIT)

    assert not thread.is_alive()
    assert pauses == []


def test_a_thread_that_is_interrupted_at_the_head_of_the_line_keeps_nobody_from_it():
    def interrupted(_):
        raise KeyboardInterrupt

    line = Line(interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            line.give_way()


def test_a_new_process_has_a_line_of_its_own():
    pauses = []
    line = Line(pauses.append)
    with line._head:
        line.forget()
        line.give_way()

    assert pauses == [0]
