"""Where a coroutine waits for its flow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from pyf.station.session import Item


class Arrival(Deferred[Any]):
    """A Deferred that calls whoever awaits it straight away.

    A handler awaits one for each frame, and its chain of callbacks would cost as much as all else
    that is done for the frame there. To others, it is a Deferred as any.
    """

    called: bool
    result: Any
    _waiter: tuple[Callable[..., Any], Any, Any] | None = None
    _is_alone = True

    def addBoth(self, callback: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Twisted's
        """Have *callback* called with what arrives, or the failure; what ``await`` ends in."""
        if self._waiter is None and self._is_alone and not self.called:
            self._waiter = callback, args, kwargs
            return self
        self._line_up()
        return super().addBoth(callback, *args, **kwargs)

    def addCallbacks(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Twisted's
        """Do as any Deferred does."""
        self._line_up()
        return super().addCallbacks(*args, **kwargs)

    def addCallback(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Twisted's
        """Do as any Deferred does."""
        self._line_up()
        return super().addCallback(*args, **kwargs)

    def addErrback(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Twisted's
        """Do as any Deferred does."""
        self._line_up()
        return super().addErrback(*args, **kwargs)

    def cancel(self) -> None:
        """Do as any Deferred does."""
        self._line_up()
        super().cancel()

    def callback(self, result: Any) -> None:
        """Tell whoever waits of *result*."""
        if self._waiter is None:
            super().callback(result)
            return
        (callback, args, kwargs), self._waiter = self._waiter, None
        self.called, self.result = True, result
        try:
            self.result = callback(result, *args, **kwargs)
        except BaseException:  # noqa: BLE001 - as any Deferred does
            self.called = False
            self.errback()

    def _line_up(self) -> None:
        """Have the one who waits be one of those that a Deferred calls."""
        self._is_alone = False
        if self._waiter is not None:
            (callback, args, kwargs), self._waiter = self._waiter, None
            super().addBoth(callback, *args, **kwargs)


class AsyncInbox:
    """What has come of a flow, for one coroutine. For the reactor's thread."""

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        """What has come, and was not taken."""
        self._arrival: Arrival | None = None

    def put(self, item: Item) -> None:
        """Give *item* to who waits for it; keep it where nobody does."""
        arrival, self._arrival = self._arrival, None
        if arrival is None:
            self.items.append(item)
        else:
            arrival.callback(item)

    def arrival(self) -> Arrival:
        """Return what fires with the next item, there being none. For one who waits at a time."""
        self._arrival = arrival = Arrival(self._forget)
        return arrival

    def _forget(self, _: object) -> None:
        """Keep what comes for another one: who waited was cancelled."""
        self._arrival = None
