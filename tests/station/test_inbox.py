"""Where a coroutine waits: it is called straight away, and all else is as with any Deferred."""

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from pyf.station.inbox import Arrival, AsyncInbox
from pyf.transport.frames import Batch

ITEM: Any = Batch(0, 1, b"")


async def take(inbox: AsyncInbox) -> Any:
    return inbox.items.popleft() if inbox.items else await inbox.arrival()


def test_what_came_before_is_kept_in_order():
    inbox = AsyncInbox()
    inbox.put(ITEM)
    inbox.put(None)
    assert list(inbox.items) == [ITEM, None]


def test_who_waits_gets_what_comes_and_the_next_one_waits_anew():
    inbox = AsyncInbox()
    taken: list[Any] = []

    async def reader() -> None:
        while (item := await take(inbox)) is not None:
            taken.append(item)

    running = Deferred.fromCoroutine(reader())
    inbox.put(ITEM)
    assert taken == [ITEM]
    inbox.put(ITEM)
    inbox.put(None)
    assert (taken, running.called) == ([ITEM, ITEM], True)
    assert not inbox.items


def test_who_is_cancelled_leaves_what_comes_to_the_next_one():
    inbox = AsyncInbox()
    failures: list[Failure] = []
    running = Deferred.fromCoroutine(take(inbox)).addErrback(failures.append)
    running.cancel()
    assert failures[0].check(CancelledError)
    inbox.put(ITEM)
    assert list(inbox.items) == [ITEM]


def test_to_others_it_is_a_deferred_as_any():
    """
    Each is given what the one before has returned.
    """

    def doubled(deferred: Any) -> list[Any]:
        told: list[Any] = []
        deferred.addBoth(lambda value: value * 2)
        deferred.addCallback(lambda value: told.append(value) or 1 // 0)
        deferred.addErrback(lambda failure: told.append(failure.type) or 5)
        deferred.addCallbacks(told.append, told.append)
        deferred.addBoth(told.append)
        deferred.callback(3)
        deferred.addBoth(lambda value: told.append(value) or 7)
        deferred.addBoth(told.append)
        return told

    assert doubled(Arrival()) == doubled(Deferred()) == [6, ZeroDivisionError, 5, None, None, 7]


@pytest.mark.parametrize("kind", [Arrival, Deferred])
def test_what_is_added_behind_has_what_the_first_returned(kind):
    told: list[Any] = []
    deferred = kind()
    deferred.addBoth(lambda value: value * 2)
    deferred.callback(3)
    deferred.addBoth(told.append)
    assert told == [6]


@pytest.mark.parametrize("kind", [Arrival, Deferred])
def test_who_fails_at_once_fails_for_whoever_is_behind(kind):
    told: list[Any] = []
    deferred = kind()
    deferred.addBoth(lambda _: 1 // 0)
    deferred.callback(3)
    deferred.addErrback(lambda failure: told.append(failure.type))
    assert told == [ZeroDivisionError]


def test_nobody_has_to_wait_before_it_fires():
    deferred = Arrival()
    deferred.callback(3)
    told: list[Any] = []
    deferred.addBoth(told.append)
    assert told == [3]
