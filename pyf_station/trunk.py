"""The connection of an async client, made when it is needed and made again when it is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import copy
from typing import Final

from pyf.station.backoff import pauses
from pyf.station.loop import Loop
from pyf.station.multiplex import Multiplex
from pyf.station.pump import LAST_WORD
from pyf.station.stream import Stream
from pyf.station.watch import Alarm
from pyf.station.wire import deadline_error
from pyf.station.workers import ElasticSlots, Slots, Workers
from pyf.transport import ConnectFailed, FlowRefused, Limits, LocalProtocolError

IDLE_THREADS: Final = 8
"""Threads that wait for the next source."""

FAST_SOURCES: Final = 2
"""Sources that are asked for a burst at once: one computes while the other's change of threads is
under way. One that takes long over its burst counts no more."""

MOST_SOURCES: Final = 8
"""The same where they leave a core idle, since they wait in the middle."""

Dial = Callable[["Trunk"], Awaitable[Multiplex]]


class Timeout:
    """The time given to one call, from its first step on."""

    def __init__(self, loop: Loop, seconds: float | None) -> None:
        self.wake: Callable[[], object] = bool
        """What is called when the time is over."""
        self._seconds = seconds
        self._over = False
        self._alarm = None if seconds is None else Alarm(loop, loop.clock, seconds, self._ring)

    def _ring(self) -> None:
        self._over = True
        self.wake()

    def check(self) -> None:
        """Raise DeadlineExceeded if the time is over."""
        if self._over:
            raise deadline_error(self._seconds or 0.0)

    def cancel(self) -> None:
        """Stop the clock."""
        if self._alarm is not None:
            self._alarm.cancel()


class Trunk:
    """The connection that carries the flows of a client. For the loop's thread.

    *dial* makes a connection, and raises ConnectFailed. Where the server has been there before, new
    flows wait while it is dialled again and again, ``Limits.connect_timeout`` at the most. One
    attempt has to do the first time of all, and behind a server that drains: a successor may be
    there already, and who is told to go elsewhere is not to be kept. *rng* draws the
    :func:`~pyf.station.backoff.pauses`.
    """

    def __init__(self, loop: Loop, limits: Limits, dial: Dial, rng: Callable[[], float]) -> None:
        self.loop: Loop = loop
        self.limits: Limits = limits
        self.streams: set[Stream] = set()
        """The flows that somebody waits for."""
        self.reviving: dict[Stream, Callable[[], object]] = {}
        """The flows that wait for a new connection, and what ends their wait."""
        self.workers: Workers = Workers("pyf.station-source", IDLE_THREADS)
        """Threads for sources that may block."""
        self.slots: Slots = ElasticSlots(FAST_SOURCES, MOST_SOURCES)
        """For those of them that give burst after burst."""
        self._dial = dial
        self.rng: Callable[[], float] = rng
        self._pauses = pauses(rng)
        self._connection: Multiplex | None = None
        self._connections: set[Multiplex] = set()
        self._connecting = False
        self._cancel_connecting: Callable[[], object] = bool
        self._connect_failure: BaseException | None = None
        self._connect_wakes: list[Callable[[], None]] = []
        self._proven = False
        self._closed = False

    @property
    def usable(self) -> Multiplex | None:
        """The connection that takes a new flow now, if there is one."""
        connection = self._connection
        if self._closed or connection is None or not connection.usable:
            return None
        return connection

    async def connected(self, timeout: Timeout) -> Multiplex:
        """Return the connection for a new flow: the one there is, or a new one.

        A new one that has ended again is returned, too: it says why.
        """
        while True:
            if self._closed:
                raise LocalProtocolError("the client is closed", code="closed")
            if connection := self.usable:
                return connection
            if not self._connecting:
                self._connecting = True
                self._connect_failure = None
                self._cancel_connecting = self.loop.spawn(self._establish())
            waiting, wake = self.loop.waiter()
            self._connect_wakes.append(wake)
            timeout.wake = wake
            if self._connecting:
                await waiting
            timeout.check()
            if self._connecting:
                continue
            if self._connect_failure is not None:
                # One for each that waited: a traceback belongs to one of them.
                raise copy(self._connect_failure) from self._connect_failure.__cause__
            if self._connection is not None:
                return self._connection

    async def _establish(self) -> None:
        """Connect, for all that wait: again and again where that has been possible before."""
        failure: BaseException | None = None
        try:
            self._connection = await self._attempts()
            if not self._connection.closed:  # It may have ended already.
                self._connections.add(self._connection)
        except BaseException as error:  # noqa: BLE001 - for those that wait
            failure = error
        if isinstance(failure, self.loop.cancelled):
            failure = LocalProtocolError("the client is closed", code="closed")
        self._connect_failure = failure
        self._connecting = False
        wakes, self._connect_wakes = self._connect_wakes, []
        for wake in wakes:
            wake()

    async def _attempts(self) -> Multiplex:
        loop = self.loop
        until = loop.clock() + self.limits.connect_timeout
        drained = self._drained()
        while True:
            # Until the server has introduced itself, each attempt counts as failed.
            if self._proven and drained is None and (pause := next(self._pauses)):
                await sleep(loop, min(pause, max(0.0, until - loop.clock())))
            try:
                return await self._dial(self)
            except ConnectFailed as error:
                if drained is not None:
                    raise copy(drained) from error
                if not self._proven or loop.clock() >= until:
                    raise

    def _drained(self) -> FlowRefused | None:
        """Return what the server said as it was about to go, if that was its last word."""
        ending = None if self._connection is None else self._connection.ending
        return ending if isinstance(ending, FlowRefused) and ending.code == "draining" else None

    def greeted(self) -> None:
        """Note that the server has introduced itself."""
        self._proven = True
        self._pauses = pauses(self.rng)

    def left(self, connection: Multiplex, reason: str) -> None:
        """Note that a connection has ended."""
        self._connections.discard(connection)
        connection.lost(reason)

    async def close(self) -> None:
        """Cancel the flows that are open, and close the connection."""
        self._closed = True
        if self._connecting:
            self._cancel_connecting()
        for stream in list(self.streams):
            stream.cancel()
            stream.fail(LocalProtocolError("the client was closed", code="closed"))
        for cancel in list(self.reviving.values()):
            cancel()
        self.reviving.clear()  # One that had not begun yet does not note its end.
        for connection in list(self._connections):
            await connection.emptied(LAST_WORD)
            connection.close()
        self.workers.close()


async def sleep(loop: Loop, seconds: float) -> None:
    """Wait for some seconds."""
    waiting, wake = loop.waiter()
    alarm = Alarm(loop, loop.clock, seconds, wake)
    try:
        await waiting
    finally:
        alarm.cancel()
