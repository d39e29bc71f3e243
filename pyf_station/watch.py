"""When the client of a connection is late, told with one timer.

All in the reactor's thread. Durations are by a clock that nobody sets, which the reactor's own is
not: when that jumps, a timer may run early, and is then set again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pyf.station.wire import set_user_timeout
from pyf.transport import Connection
from pyf.transport.limits import LONGEST_WAIT
from pyf.transport.patience import Overdue, Patience

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

SHORTEST: Final = 0.001
"""Seconds that a timer is set to at least, where it was early: rounding must not make it spin."""

Clock = Callable[[], float]


class Alarm:
    """Calls *function* once, after *seconds* by *clock*; not if it was cancelled before."""

    def __init__(
        self, reactor: Any, clock: Clock, seconds: float, function: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._function = function
        self._due = clock() + seconds
        self._call: DelayedCall | None = reactor.callLater(min(seconds, LONGEST_WAIT), self._ring)

    def cancel(self) -> None:
        """Don't call. Harmless if it was called already, or cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _ring(self) -> None:
        left = self._due - self._clock()
        if left > 0:
            self._call = self._reactor.callLater(min(max(left, SHORTEST), LONGEST_WAIT), self._ring)
        else:
            self._call = None
            self._function()


class Watch:
    """Watches one connection, from its beginning to ``stop()``, by its machine and its transport.

    It calls *flush* where a PING is to be written, and *give_up* with what has lasted too long. It
    hears from the transport, as its producer, whether what is written leaves; it never stops
    anything from being written. *hear* has the reactor read what the system keeps, and returns
    whether it keeps anything.
    """

    def __init__(
        self,
        reactor: Any,
        clock: Clock,
        machine: Connection,
        transport: Any,
        *,
        flush: Callable[[], object],
        give_up: Callable[[Overdue], object],
        hear: Callable[[], bool] = bool,
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._transport = transport
        self._flush = flush
        self._give_up = give_up
        self._hear = hear
        self._patience = Patience(machine, partial(_progress, transport), clock())
        self.unread: int = 0
        """Bytes written without credit since what is written began to pile up."""
        self._call: DelayedCall | None = None
        transport.registerProducer(self, True)
        self._arm()

    def stop(self) -> None:
        """Watch no more. The transport must still be there."""
        self.forget()
        self._transport.unregisterProducer()

    def forget(self) -> None:
        """Watch no more: the transport has gone."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    # What the connection tells

    def greeted(self, min_ping_interval: float) -> None:
        """Note that the client's HELLO came, and how often it takes a PING."""
        seconds = self._patience.greeted(min_ping_interval, self._clock())
        get_handle = getattr(innermost(self._transport), "getHandle", None)
        if get_handle is not None:
            set_user_timeout(get_handle(), seconds)
        if self._patience.due < self._rings:
            self._arm()

    def received(self) -> None:
        """Note that bytes came, and have been handled; flows may have been opened or closed."""
        clock, patience = self._clock, self._patience
        now = clock()
        patience.received(now)
        patience.flows_changed(now)

    def changed(self) -> None:
        """Note that flows may have been opened or closed."""
        self._patience.flows_changed(self._clock())

    def replied(self, size: int) -> None:
        """Note that *size* bytes were written that no credit bounds."""
        if self._patience.is_stuck:
            self.unread += size

    # What the transport tells, in Twisted's names for a producer

    def pauseProducing(self) -> None:  # noqa: N802
        """Note that what is written piles up."""
        self._patience.stuck(self._clock())

    def resumeProducing(self) -> None:  # noqa: N802
        """Note that all has been written."""
        self.unread = 0
        self._patience.unstuck()

    def stopProducing(self) -> None:  # noqa: N802
        """Do nothing: the connection hears of its end by itself."""

    # The timer

    def _arm(self) -> None:
        """Set the timer to the earliest moment at which something could be late."""
        self._rings = self._patience.due
        self._set(max(self._rings - self._clock(), SHORTEST))

    def _set(self, seconds: float, *, sure: bool = False) -> None:
        self.forget()
        self._call = self._reactor.callLater(seconds, partial(self._look, sure=sure))

    def _look(self, *, sure: bool) -> None:
        self._call = None
        if not sure and self._hear():
            self._set(0.0, sure=True)
            return
        overdue = self._patience.look(self._clock())
        if overdue is None:
            self._flush()
            self._arm()
        elif sure:
            self._give_up(overdue)
        else:
            # First the reactor reads what came while something else kept it.
            self._set(0.0, sure=True)


def innermost(transport: Any) -> Any:
    """Return the transport that has the socket, beneath TLS."""
    while (inner := getattr(transport, "transport", None)) is not None:
        transport = inner
    return transport


def _progress(transport: Any) -> tuple[int, object]:
    """Return what changes whenever bytes leave; a transport that doesn't tell never changes."""
    transport = innermost(transport)
    return len(getattr(transport, "dataBuffer", b"")), getattr(transport, "offset", 0)
