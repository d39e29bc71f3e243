"""What keeps an event loop free for others: work in turns, and what takes long in a thread."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from pyf.station.loop import Loop

T = TypeVar("T")

TURN: Final = 0.01
"""Seconds of work after which an event loop is left to others for a turn: a fifth of what anybody
may have to wait for his own."""


class Pace:
    """Tells whether the work that began with ``begin()`` has lasted a turn by *clock*."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """Begin to count: others have had their turn."""
        clock = self._clock
        self._until: float = clock() + TURN

    def is_over(self) -> bool:
        """Return whether it is the turn of others."""
        clock = self._clock
        return clock() > self._until


class Turns:
    """Has *work* done as it comes, in turns: where there is more, it goes on in the loop's next.

    *work* is given a Pace, None where it is to do all there is, and returns whether it did. While
    there is work left, nothing more is read from what *transport* returns.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], object]], Any],
        work: Callable[[Pace | None], bool],
        transport: Callable[[], Any],
    ) -> None:
        self._pace = Pace(clock)
        self._call_later = call_later
        self._work = work
        self._transport = transport
        self._next: Any = None

    def begin(self) -> None:
        """Do what there is to do, unless that is under way."""
        if self._next is None:
            self._go_on(first=True)

    def finish(self) -> None:
        """Do at once what is left: nothing more will come."""
        following, self._next = self._next, None
        if following is not None:
            following.cancel()
            self._work(None)

    def _go_on(self, *, first: bool) -> None:
        self._next = None
        self._pace.begin()
        work = self._work
        done = work(self._pace)
        if not done:
            self._next = self._call_later(0.0, partial(self._go_on, first=False))
        if first is not done:
            transport = self._transport()
            transport.resumeProducing() if done else transport.pauseProducing()


class Decoder:
    """Decodes what comes, for a coroutine: in turns, and in a thread where that takes long.

    Mostly neither is needed, while the *pace* is not over, and to wait for nothing would cost as
    much as decoding a packet: ``run`` is for what is left.

    *in_thread* has a function called in a thread, *pause* waits for the loop's next turn.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        pause: Callable[[], Awaitable[object]],
    ) -> None:
        self.pace: Pace = Pace(clock)
        """For its owner to ``begin()`` anew where it had to wait for what comes."""
        self._in_thread = in_thread
        self._pause = pause

    async def run(self, quickly: Callable[[], T | None], decode: Callable[[], T]) -> T:
        """Return what *decode* returns; raises as it does.

        *quickly* does the same, but returns None where it would take long.
        """
        if self.pace.is_over():
            await self._pause()
            self.pace.begin()
        found = quickly()
        if found is None:
            try:
                found = await self._in_thread(decode)
            finally:
                self.pace.begin()
        return found


def never() -> None:
    """Return None: for what always takes long."""


def in_thread(loop: Loop, function: Callable[[], T]) -> Coroutine[Any, Any, T]:
    """Call *function* in a thread of its own; return what to await for its result."""
    waiting, wake = loop.waiter()
    results: list[Callable[[], T]] = []

    def work() -> None:
        try:
            found = function()
        except BaseException as error:  # noqa: BLE001 - for who waits, whatever it is
            results.append(partial(_raise, error))
        else:
            results.append(lambda: found)
        with suppress(RuntimeError):  # The loop has been closed: nobody waits.
            loop.callFromThread(wake)

    async def result() -> T:
        await waiting
        return results.pop()()

    threading.Thread(target=work, name="pyf.station-decoder", daemon=True).start()
    return result()


async def next_turn(loop: Loop) -> None:
    """Wait for the loop's next turn."""
    waiting, wake = loop.waiter()
    loop.soon(wake)
    await waiting


def _raise(error: BaseException) -> Any:
    raise error
