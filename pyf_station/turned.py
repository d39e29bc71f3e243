"""Iterators turned round: what takes packets from an iterator is given them, one after the other.

So an interceptor's generator can stand where a handler sends its messages one by one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from types import coroutine as awaitable
from typing import Any, Final

Wrap = Callable[[Any], Any]

_END: Final = object()
_NEED: Final = object()


class _Dropped(BaseException):
    """What an iterator is ended with that nobody needs any more."""


class Turned:
    """The iterator that *wrap* makes of another one, which gives what is pushed.

    It runs in a thread of its own, but only while somebody pushes: as if it ran there. Callable
    from any thread. Whatever it raises is raised by the push.
    """

    def __init__(self, wrap: Wrap) -> None:
        self._wrap = wrap
        self._lock = threading.Lock()
        self._given: SimpleQueue[Any] = SimpleQueue()
        self._ready: SimpleQueue[None] = SimpleQueue()
        self._out: list[Any] = []
        self._failure: BaseException | None = None
        self._begun = self._over = False

    def push(self, packet: Any) -> list[Any]:
        """Give *packet*; return what comes out until the next one is asked for."""
        with self._lock:
            if self._over:
                return []
            if not self._begun:
                self._begun = True
                run = copy_context().run  # As if it ran here.
                args = (run, self._run)
                threading.Thread(
                    target=_call, args=args, name="pyf.station-turned", daemon=True
                ).start()
            self._given.put(packet)
            self._ready.get()
            out, self._out = self._out, []
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            return out

    def finish(self) -> list[Any]:
        """Say that there is no more; return what comes out yet."""
        return self.push(_END)

    def drop(self) -> None:
        """End it: whatever it has to close is closed."""
        if self._begun:
            self.push(_Dropped())

    def _run(self) -> None:
        try:
            for packet in self._wrap(self._source()):
                self._out.append(packet)
        except _Dropped:
            pass
        except BaseException as error:  # noqa: BLE001 - for who pushes, whatever it is
            self._failure = error
        finally:
            self._over = True
            self._ready.put(None)

    def _source(self) -> Generator[Any]:
        while (packet := self._given.get()) is not _END:
            if isinstance(packet, _Dropped):
                raise packet
            yield packet
            self._ready.put(None)


def _call(run: Callable[[Callable[[], None]], None], function: Callable[[], None]) -> None:
    run(function)


class AwaitedTurned:
    """The same for async iterators, in whatever event loop it is awaited. For one thread.

    What is pushed while another push is awaited comes out there.
    """

    def __init__(self, wrap: Wrap) -> None:
        self._given: deque[Any] = deque()
        self._packets: Any = aiter(wrap(self._source()))
        self._step: Coroutine[Any, Any, Any] | None = None
        self._turning = self._over = False

    async def push(self, packet: Any) -> list[Any]:
        """Give *packet*; return what comes out until the next one is asked for."""
        out: list[Any] = []
        if self._over:
            return out
        self._given.append(packet)
        if not self._turning:
            self._turning = True
            try:
                await self._turn(out)
            except StopAsyncIteration:
                self._over = True
            except BaseException:
                self._over = True
                raise
            finally:
                self._turning = False
        return out

    async def finish(self) -> list[Any]:
        """Say that there is no more; return what comes out yet."""
        return await self.push(_END)

    def drop(self) -> None:
        """End it: whatever it has to close is closed, and may await nothing as it is."""
        over, self._over = self._over, True
        if self._step is not None and not over:
            step, self._step = self._step, None
            with suppress(_Dropped, StopIteration, StopAsyncIteration):
                step.throw(_Dropped())

    @awaitable
    def _turn(self, out: list[Any]) -> Generator[Any, Any, None]:
        """Go on to where the next packet is needed; what is awaited before is for the loop."""
        failure: BaseException | None = None
        while True:
            step = self._step = self._step or _next(self._packets)
            try:
                waited = step.send(None) if failure is None else step.throw(failure)
            except StopIteration as end:
                self._step = failure = None
                out.append(end.value)
                continue
            failure = None
            if waited is _NEED:
                return
            try:
                yield waited
            except BaseException as error:  # noqa: BLE001 - a cancellation, for the iterator
                failure = error

    async def _source(self) -> AsyncGenerator[Any]:
        while True:
            while not self._given:
                await _need()
            if (packet := self._given.popleft()) is _END:
                return
            yield packet


async def _next(packets: Any) -> Any:
    return await packets.__anext__()


@awaitable
def _need() -> Generator[Any]:
    yield _NEED
