"""The flows of an async client: calls and conversations, as coroutines for any event loop."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from types import TracebackType
from typing import Any, Self

from pyf.station.base import check_call
from pyf.station.corun import FlowRun, Run, Value
from pyf.station.counts import Counted, Progress
from pyf.station.flattened import flattened
from pyf.station.intercept import Interceptor
from pyf.station.intercepted import Around
from pyf.station.listeners import Listeners
from pyf.station.stream import Stream
from pyf.station.trunk import Trunk
from pyf.transport import (
    DeadlineExceeded,
    LocalProtocolError,
    Packet,
    encode_packet,
)
from pyf.transport.speed import unroll


class Call(Counted, AsyncIterator[Value]):
    """A call that goes on as it is iterated. Closing it, or dropping it, cancels the flow."""

    def __init__(self, run: Run, progress: Progress) -> None:
        self._steps = run.steps()
        self._values = flattened(self._steps)
        self._run = run
        self._progress = progress

    def __aiter__(self) -> AsyncIterator[Value]:  # noqa: PYI034 - its packets cost no call of ours
        return self._values

    async def __anext__(self) -> Value:
        value: Value = await anext(self._values)
        return value

    def cancel(self) -> None:
        """Give the flow up, and tell the handler; whoever iterates the call gets FlowCancelled.

        For the loop's thread. Does nothing where the call is over.
        """
        self._run.cancel()

    async def aclose(self) -> None:
        """Give the flow up: the handler is told, and the flow's generator closed."""
        await self._steps.aclose()
        self._progress.stop()
        await self._run.settle()

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def answers(call: Call) -> AsyncGenerator[Packet, None]:
    """Yield what comes back from *call*, and nothing else."""
    async with call:
        async for values in call._steps:  # noqa: SLF001 - a value less costs a step less
            for value in values:
                if value is not True:
                    yield value


class CoConversation(Counted):
    """A flow that is sent packet by packet, for use in ``async with``.

    One task may send while another one receives. Leaving the ``async with`` without ``end()``
    cancels the flow; leaving it with an exception tells the handler that the client failed.
    """

    def __init__(
        self,
        trunk: Trunk,
        notify: Listeners,
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        resume: bool = False,
        interceptors: Sequence[Interceptor] = (),
        peer: tuple[str, int] = ("", 0),
    ) -> None:
        check_call(header, timeout)
        self._run = FlowRun(trunk, notify, header, timeout, waits=True, resume=resume)
        self._progress = self._run.progress
        self._around = Around(interceptors, peer, header, lambda: (self.sent, self.received))
        self._loop = trunk.loop
        self._received: deque[Packet] = deque()
        self._finished = False
        self._left = False
        self._value: Any = None

    async def _send(self, packet: dict[str, Any]) -> None:
        stream = self._check_open("send")
        mapped = self._around.call.packets_pipe.push(packet)
        if mapped is None:
            return
        data = encode_packet(mapped)
        stream.pending.append(data)
        try:
            stream.send()
            stream.flush()
            while stream.pending and not stream.over:
                since = stream.changes
                await self._collect(stream)
                await stream.changed(since)
                stream.send()
                stream.flush()
        except BaseException:
            stream.pending.clear()
            raise
        if stream.error is not None:
            raise stream.error
        self._check_open("send")  # Another task may have given it up.
        if not stream.wanted:
            if stream.result is not None:
                await self._finish(stream)
            over = self._finished
            did, code = ("succeeded", "answered") if over else ("closed its flow", "stopped")
            text = f"the handler has {did} already: it takes no more"
            raise LocalProtocolError(text, code=code)

    async def _receive(self, timeout: float | None) -> Packet | None:
        clock = self._loop.clock
        until = None if timeout is None else clock() + timeout
        while True:
            left = None if until is None else max(0.0, until - clock())
            packet = await self._next(timeout, left)
            mapped: Packet | None = self._around.call.messages_pipe.push(packet)
            if packet is None or mapped is not None:
                return mapped

    async def _next(self, timeout: float | None, left: float | None) -> Packet | None:
        while not self._received:
            if self._finished:
                return None
            stream = self._check_open("receive")
            self._received.extend(unroll(await stream.take_maps())[1])
            if self._received:
                break
            if stream.result is not None:
                await self._finish(stream)
            elif stream.error is not None:
                raise stream.error
            elif left is None:
                await stream.changed()
            elif not await stream.until(self._has_news, left):
                raise DeadlineExceeded(f"no message came within {timeout:g} s", timeout=timeout)
        packet = self._received.popleft()
        self._run.notify(packet)
        return packet

    def _has_news(self) -> bool:
        return self._left or self._check_open("receive").has_news

    async def _end(self) -> Any:
        if not self._finished:
            stream = self._check_open("end")
            stream.end()
            stream.flush()
            while stream.result is None:
                since = stream.changes
                await self._collect(stream)
                if stream.error is not None:
                    raise stream.error
                await stream.changed(since)
            await self._finish(stream)
        return self._value

    def _leave(self, error: BaseException | None = None) -> None:
        """Give the flow up, and tell the handler. Does nothing where it is over."""
        if not self._left:
            self._left = True
            if self._run.stream is not None:
                self._run.stream.cancel()
            self._run.leave()
            error = error or sys.exception()
            self._around.conclude(done=self._finished, value=self._value, error=error)

    @abstractmethod
    def receive(self, timeout: float | None = None) -> Awaitable[Packet | None]:
        """Give the next message, or None once the handler has succeeded."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Packet:
        packet = await self._receive(None)
        if packet is None:
            raise StopAsyncIteration
        return packet

    async def __aenter__(self) -> Self:
        self._run.header = self._around.enter()
        try:
            stream = await self._run.open()
            stream.flush()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and kind is not None:
            self._run.fail(error)
        self._leave(error)

    def _check_open(self, what: str) -> Stream:
        stream = self._run.stream
        if self._left or self._finished or stream is None:
            raise LocalProtocolError(f"{what}: the flow is over", code="flow_over")
        return stream

    async def _collect(self, stream: Stream) -> None:
        """Take every message that has come."""
        while maps := await stream.take_maps():
            self._received.extend(unroll(maps)[1])

    async def _finish(self, stream: Stream) -> None:
        """Take the result: keep the value of a success, raise the error of anything else."""
        try:
            await self._collect(stream)
            if not self._finished:  # Another task may have been as far.
                self._value = self._run.outcome(stream)["message"]
                self._finished = True
        finally:
            self._leave()
