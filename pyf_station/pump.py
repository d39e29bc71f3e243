"""How the packets of a flow get from the user's iterable into the connection of an async client.

A pump asks its source only for what there is credit for, and only as the caller comes by; a burst
of a fast source is one step. It sends by itself, whatever the caller does meanwhile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from operator import call
from typing import Any, Final

from pyf.station.burst import (
    BURST,
    BURST_BYTES,
    Gate,
    at_hand,
    encoded,
    most,
    next_burst,
)
from pyf.station.loop import Loop
from pyf.station.stream import Stream
from pyf.station.workers import Slots, Worker
from pyf.transport import PacketError, encode_packet
from pyf.transport.pieces import Encoded
from pyf.transport.speed import packets_in

TICK: Final = 0.004
"""Seconds after which a burst that goes on is sent as far as it is: within the 10 ms promised."""

LAST_WORD: Final = 1.0
"""Seconds that a source has to close before its caller goes on."""

Packets = Iterable[dict[str, Any]] | AsyncIterable[dict[str, Any]]
Source = Callable[[int], Any]
"""Makes a flow from the packet of the given number on, as often as it is asked."""


class Inline:
    """Does jobs where it is called: for sources that never block."""

    def do(self, job: Callable[[], object]) -> None:
        """Do *job* now."""
        job()

    def release(self) -> None:
        """Do nothing."""


class Pump(ABC):
    """What all pumps do. In the loop's thread."""

    failure: BaseException | None = None
    """What the source raised, or why a packet of it cannot travel."""
    closed: bool = False
    """Whether the source is done with: exhausted, failed or closed."""
    exhausted: bool = False
    """Whether the source has given all its packets."""
    _close_failure: BaseException | None = None

    def __init__(self, loop: Loop, stream: Stream) -> None:
        self._loop: Loop = loop
        self._stream: Stream = stream
        stream.on_room = self.deliver

    @property
    def failed(self) -> bool:
        """Whether the source failed, and all that came before has left."""
        return self.failure is not None and not self._stream.pending

    @abstractmethod
    def more(self) -> None:
        """Ask the source for more, where there is credit. The caller has come by."""

    @abstractmethod
    def close(self) -> None:
        """Close the source, if it has to be; ``closed`` says when that is done."""

    def deliver(self) -> None:
        """Send what may be sent; and the END behind it, once there is no more."""
        stream = self._stream
        try:
            stream.send()
        except PacketError as error:
            stream.pending.clear()
            self.failure = error
        if self.exhausted and self.failure is None and not stream.pending:
            stream.end()
        stream.flush()
        stream.touch()

    async def settle(self) -> None:
        """Close the source, and wait until that is done, LAST_WORD seconds at the most.

        Raises what the source raises as it is closed.
        """
        self.close()
        if not self.closed:
            await self._stream.until(lambda: self.closed, LAST_WORD)
        failure, self._close_failure = self._close_failure, None
        if failure is not None:
            raise failure

    def _done(self, failure: BaseException | None) -> None:
        """Note that the source is closed."""
        self.closed = True
        self._close_failure = failure
        self._stream.touch()


class IteratorPump(Pump):
    """Takes packets from an iterator: in a thread, where it may block, in bursts."""

    _queued = _released = False
    _count = 1
    _asked = _before = 0
    _guard: Any = None

    def __init__(
        self,
        loop: Loop,
        stream: Stream,
        source: Iterator[dict[str, Any]],
        worker: Worker | Inline,
        slots: Slots,
    ) -> None:
        super().__init__(loop, stream)
        self._slots = slots
        self._source: Any = source
        self._worker = worker
        self._inline = isinstance(worker, Inline)
        # A generator sees the context of its caller, as it would where it is iterated there.
        self._run: Any = call if self._inline else copy_context().run
        self._gate: Gate = []

    def more(self) -> None:
        """Ask the source for more, where there is credit. The caller has come by."""
        stream = self._stream
        if self._released or self._asked or self._queued or stream.pending:
            return
        if self.failure is not None:
            return
        if self._inline:
            self._count = min(most(stream.packet_size), at_hand(self._source))
        count = min(self._count, stream.room())
        if not count:
            return
        if count > 1 and not self._inline:
            if not self._slots.take(self._admit):
                self._queued = True
                return
            self._guard = self._loop.callLater(TICK, self._cut)
        self._asked, self._before = count, stream.sent
        self._gate, packets = encoded(self._source, count, stream.packet_size)
        if self._inline:
            self._arrived(0.0, self._take(packets))
        else:
            self._worker.do(partial(self._run, self._burst, packets))

    def _admit(self) -> None:
        self._queued = False
        self.more()

    def close(self) -> None:
        """Close the source, if it has to be; ``closed`` says when that is done."""
        if self._released:
            return
        self._gate.clear()
        if isinstance(self._source, Generator):
            self._release(partial(self._run, self._close_source))
        else:  # There is nothing to close, and nothing to wait for while it blocks.
            self._release(bool)
            self._done(None)

    def _release(self, last: Callable[[], object]) -> None:
        self._released = True
        self._worker.do(last)
        self._worker.release()

    # In the worker's thread

    def _burst(self, packets: Iterator[Encoded]) -> None:
        began = self._loop.clock()
        failure = self._take(packets)
        self._tell(partial(self._arrived, self._loop.clock() - began, failure))

    def _take(self, packets: Iterator[Encoded]) -> BaseException | None:
        """Take the *packets* of a burst; return what their source failed with, if it did."""
        try:
            self._stream.pending.extend(packets)
        except BaseException as error:  # noqa: BLE001 - for the caller, whatever it is
            return error
        return None

    def _close_source(self) -> None:
        failure = None
        try:
            self._source.close()
        except BaseException as error:  # noqa: BLE001 - as above
            failure = error
        self._tell(partial(self._done, failure))

    def _tell(self, function: Callable[[], object]) -> None:
        if self._inline:
            function()
            return
        with suppress(RuntimeError):  # The loop has been closed: nobody waits.
            self._loop.callFromThread(function)

    # In the loop's thread

    def _cut(self) -> None:
        """A burst takes long: send what it has given, have it stop at the packet that it is at."""
        self._guard = None
        self._gate.clear()
        self._slots.give()
        self.deliver()

    def _arrived(self, seconds: float, failure: BaseException | None) -> None:
        stream = self._stream
        asked, self._asked = self._asked, 0
        if self._guard is not None:
            self._guard.cancel()
            self._guard = None
            self._slots.give()
        if self._released:
            stream.pending.clear()
            return
        waiting = packets_in(stream.pending)
        given = stream.sent + waiting - self._before
        if waiting:
            stream.packet_size = sum(map(len, stream.pending)) // waiting
        if not self._inline:
            self._count = next_burst(given, seconds, stream.packet_size)
        if self.failure is None:
            self.failure = failure
        # What the gate has left says that nothing cut the burst short but the source itself.
        cut = stream.over or not self._gate
        self.exhausted: bool = failure is None and given < asked and not cut
        over = self.exhausted or failure is not None
        if over:
            self.closed = True
            self._release(bool)
        self.deliver()
        if not over and self._count > 1 and stream.sent - stream.told <= BURST:
            self._loop.soon(self.more) if self._inline else self.more()


class TaskPump(Pump):
    """Takes packets from an async iterable, in a coroutine beside the caller's."""

    def __init__(self, loop: Loop, stream: Stream, source: AsyncIterable[dict[str, Any]]) -> None:
        super().__init__(loop, stream)
        self._source = source
        self._scheduled = False
        self._wanted: Callable[[], None] | None = None
        self._cancel: Callable[[], object] | None = None
        self._closing = False

    def more(self) -> None:
        """Ask the source for more, where there is credit. The caller has come by."""
        if self._cancel is None and not self._closing:
            self._cancel = bool  # It may finish before it has returned.
            self._cancel = self._loop.spawn(self._run())
        elif self._wanted is not None and self._may_ask():
            self._wanted()

    def close(self) -> None:
        """Close the source, if it has to be; ``closed`` says when that is done."""
        if self._closing:
            return
        self._closing = True
        if self._cancel is None:
            self.closed = True
        elif not self.closed:
            self._cancel()

    def deliver(self) -> None:
        """Send what may be sent, and have the source go on where there is room."""
        super().deliver()
        if self._wanted is not None and self._may_ask():
            self._wanted()

    def _may_ask(self) -> bool:
        stream = self._stream
        ahead = stream.sent - stream.told
        return not stream.pending and ahead <= BURST and bool(stream.room())

    async def _run(self) -> None:
        failure: BaseException | None = None
        iterator = aiter(self._source)
        try:
            await self._take_all(iterator)
        except BaseException as error:  # noqa: BLE001 - for the caller, whatever it is
            failure = error
        try:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()
        except BaseException as error:  # noqa: BLE001 - as above
            failure = error
        self._end(failure)

    def _end(self, failure: BaseException | None) -> None:
        if self._closing:
            self._done(None if isinstance(failure, self._loop.cancelled) else failure)
            return
        self.closed: bool = True
        self.failure: BaseException | None = self.failure or failure
        self.deliver()

    async def _take_all(self, iterator: Any) -> None:
        pending = self._stream.pending
        while not self._closing:
            if not self._may_ask() or self._scheduled:
                await self._until_wanted()
            left = min(BURST, self._stream.room())
            size = BURST_BYTES
            async for packet in iterator:
                data = encode_packet(packet)
                pending.append(data)
                if not self._scheduled:
                    self._scheduled = True
                    self._loop.soon(self._flush)
                left -= 1
                size -= len(data)
                if left <= 0 or size <= 0 or self._closing:
                    break
            else:
                self.exhausted = True
                return

    async def _until_wanted(self) -> None:
        waiting, self._wanted = self._loop.waiter()
        try:
            await waiting
        finally:
            self._wanted = None

    def _flush(self) -> None:
        """Send what the source has given until it waited for something, or until its burst."""
        self._scheduled = False
        pending = self._stream.pending
        if pending:
            self._stream.packet_size = max(1, sum(map(len, pending)) // packets_in(pending))
        self.deliver()
