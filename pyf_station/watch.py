"""When the client of a connection is late, told with one timer.

All in the reactor's thread. Durations are by a clock that nobody sets, which the reactor's own is
not: when that jumps, a timer may run early, and is then set again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from twisted.internet.base import DelayedCall

from pyf.transport import Connection, Limits
from pyf.transport.liveness import Liveness, Verdict

SHORTEST: Final = 0.001
"""Seconds that a timer is set to at least, where it was early: rounding must not make it spin."""

LATE: Final = 1.0
"""Seconds by which a timer may run late. With more, this process was suspended, or its reactor
blocked, for a time that is not the peer's to answer for."""

Clock = Callable[[], float]

_TEXTS: Final = {
    "handshake_timeout": "no HELLO within {limit:g} s",
    "frame_timeout": "a frame was not complete within {limit:g} s",
    "write_timeout": "nothing of what the client is to read could be written for {limit:g} s",
    "idle_timeout": "no flow was open for {limit:g} s",
}


class Alarm:
    """Calls *function* once, after *seconds* by *clock*; not if it was cancelled before."""

    def __init__(
        self, reactor: Any, clock: Clock, seconds: float, function: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._function = function
        self._due = clock() + seconds
        self._call: DelayedCall | None = reactor.callLater(seconds, self._ring)

    def cancel(self) -> None:
        """Don't call. Harmless if it was called already, or cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _ring(self) -> None:
        left = self._due - self._clock()
        if left > 0:
            self._call = self._reactor.callLater(max(left, SHORTEST), self._ring)
        else:
            self._call = None
            self._function()


class Watch:
    """Watches one connection, from its beginning to ``stop()``, by its machine and its transport.

    It calls *ping* to ask for a sign of life, and *give_up* with the code of what happened and a
    sentence that names the limit. It hears from the transport, as its producer, whether what is
    written leaves; it never stops anything from being written.
    """

    def __init__(
        self,
        reactor: Any,
        clock: Clock,
        limits: Limits,
        machine: Connection,
        transport: Any,
        *,
        ping: Callable[[], object],
        give_up: Callable[[str, str], object],
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._limits = limits
        self._machine = machine
        self._transport = transport
        self._ping = ping
        self._give_up = give_up
        self._liveness: Liveness | None = None
        # Since when each limit counts, by its name; one that doesn't is absent.
        self._since: dict[str, float] = {"handshake_timeout": clock()}
        self.unread: int = 0
        """Bytes written without credit since what is written began to pile up."""
        self._frames = 0
        self._progress: object = None
        self._call: DelayedCall | None = None
        self._due = 0.0
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
        self._since.pop("handshake_timeout", None)
        limits = self._limits
        interval = max(limits.ping_interval, min_ping_interval)
        self._liveness = Liveness(interval, limits.ping_misses, self._clock())
        _set_user_timeout(self._transport, self._liveness.patience)
        self._arm()

    def received(self) -> None:
        """Note that bytes came, and have been handled."""
        now = self._clock()
        machine = self._machine
        if self._liveness is not None:
            self._liveness.received(now)
        if not machine.mid_frame:
            self._since.pop("frame_timeout", None)
        elif machine.frames_received != self._frames:
            self._since["frame_timeout"] = now
        else:
            self._since.setdefault("frame_timeout", now)
        self._frames = machine.frames_received

    def changed(self) -> None:
        """Note that flows may have been opened or closed."""
        if not self._machine.idle or self._liveness is None:
            self._since.pop("idle_timeout", None)
        elif "idle_timeout" not in self._since:
            self._since["idle_timeout"] = self._clock()

    def replied(self, size: int) -> None:
        """Note that *size* bytes were written that no credit bounds."""
        if "write_timeout" in self._since:
            self.unread += size

    # What the transport tells, in Twisted's names for a producer

    def pauseProducing(self) -> None:  # noqa: N802
        """Note that what is written piles up."""
        if "write_timeout" not in self._since:
            self._since["write_timeout"] = self._clock()
            self._progress = _progress(self._transport)

    def resumeProducing(self) -> None:  # noqa: N802
        """Note that all has been written."""
        self.unread = 0
        self._since.pop("write_timeout", None)

    def stopProducing(self) -> None:  # noqa: N802
        """Do nothing: the connection hears of its end by itself."""

    # The timer

    def _arm(self) -> None:
        """Set the timer to the earliest moment at which something could be late."""
        now = self._clock()
        names = ("handshake_timeout",) if self._liveness is None else tuple(_TEXTS)[1:]
        dues = [self._since.get(name, now) + getattr(self._limits, name) for name in names]
        if self._liveness is not None:
            dues.append(self._liveness.next_check())
        self._set(max(min(dues) - now, SHORTEST), now)

    def _set(self, seconds: float, now: float, *, sure: bool = False) -> None:
        self.forget()
        self._due = now + seconds
        self._call = self._reactor.callLater(seconds, partial(self._look, sure=sure))

    def _look(self, *, sure: bool) -> None:
        self._call = None
        now = self._clock()
        if now - self._due > LATE:
            # Nobody knows when it began; so all that is awaited has its whole time again.
            self._since = dict.fromkeys(self._since, now)
        found = self._overdue(now)
        if found is None:
            self._arm()
        elif sure:
            self._give_up(*found)
        else:
            # First the reactor reads what came while something else kept it.
            self._set(0.0, now, sure=True)

    def _overdue(self, now: float) -> tuple[str, str] | None:
        """Return code and sentence of what is late; send the PING that is due."""
        for name, since in self._since.items():
            limit = getattr(self._limits, name)
            if now >= since + limit and not (name == "write_timeout" and self._progressed(now)):
                return name, f"{_TEXTS[name].format(limit=limit)} (Limits.{name})"
        liveness = self._liveness
        verdict = Verdict.NOTHING if liveness is None else liveness.check(now)
        if verdict is Verdict.PING:
            self._ping()
        if liveness is None or verdict is not Verdict.DEAD:
            return None
        text = (
            f"nothing came for {liveness.patience:g} s, in spite of {liveness.misses} PINGs "
            "(Limits.ping_interval, Limits.ping_misses)"
        )
        return "ping_timeout", text

    def _progressed(self, now: float) -> bool:
        """Whether something has left since the last look, where the transport tells."""
        progress, self._progress = self._progress, _progress(self._transport)
        if progress == self._progress:
            return False
        self._since["write_timeout"] = now
        return True


def _innermost(transport: Any) -> Any:
    """Return the transport that has the socket, beneath TLS."""
    while (inner := getattr(transport, "transport", None)) is not None:
        transport = inner
    return transport


def _progress(transport: Any) -> tuple[int, object]:
    """Return what changes whenever bytes leave; a transport that doesn't tell never changes."""
    transport = _innermost(transport)
    return len(getattr(transport, "dataBuffer", b"")), getattr(transport, "offset", 0)


def _set_user_timeout(transport: Any, seconds: float) -> None:
    """Have the system give the connection up, too, where it can: it notices in mid-data."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    get_handle = getattr(_innermost(transport), "getHandle", None)
    if option is not None and get_handle is not None:
        # A handle that is no TCP socket doesn't know the option, or has no options at all.
        with suppress(AttributeError, OSError):
            get_handle().setsockopt(socket.IPPROTO_TCP, option, max(1, round(seconds * 1000)))
