"""The flows of an async client: calls and conversations, as coroutines for any event loop."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from itertools import repeat
from types import TracebackType
from typing import Any, Literal, Self

from pyf.station.base import check_call
from pyf.station.loop import Loop
from pyf.station.multiplex import Stream
from pyf.station.outcome import Notify, outcome
from pyf.station.pump import Pump
from pyf.station.trunk import Timeout, Trunk
from pyf.transport import DeadlineExceeded, LocalProtocolError, Packet, encode_packet

Value = Packet | Literal[True]


class FlowRun:
    """A flow of an async client, from connecting to its end."""

    def __init__(
        self,
        trunk: Trunk,
        notify: Notify,
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        waits: bool,
        length_hint: int | None = None,
    ) -> None:
        self.stream: Stream | None = None
        self.length_hint: int | None = length_hint
        """Packets that the flow will probably have, where its source knows."""
        self.received: int = 0
        """Packets that have come back."""
        self._trunk = trunk
        self._notify = notify
        self._header = header
        self._timeout = timeout
        self._waits = waits
        self._clock: Timeout | None = None

    @property
    def sent(self) -> int:
        """Packets that have left."""
        return self.stream.sent if self.stream else 0

    @property
    def consumed(self) -> int:
        """Packets that the handler has taken, as last reported."""
        return self.stream.consumed if self.stream else 0

    async def open(self) -> Stream:
        """Connect, if need be, and open the flow."""
        self._clock = Timeout(self._loop, self._timeout)
        connection = await self._trunk.connected(self._clock)
        self.stream = stream = connection.open(
            self._header, self._timeout, waits=self._waits, length_hint=self.length_hint
        )
        self._clock.wake = stream.expire
        self._trunk.streams.add(stream)
        return stream

    def leave(self) -> None:
        """Hold on to nothing any more."""
        if self._clock is not None:
            self._clock.cancel()
        if self.stream is not None:
            self._trunk.streams.discard(self.stream)
            self.stream.leave()

    def fail(self, error: BaseException) -> None:
        """Tell the handler why nobody goes on."""
        if self.stream is None:
            return
        given_up = (GeneratorExit, KeyboardInterrupt, DeadlineExceeded, self._loop.cancelled)
        if isinstance(error, given_up):
            self.stream.cancel()
        else:
            self.stream.abort(type(error).__name__)

    def count(self) -> None:
        """Count a packet that has come back."""
        self.received += 1

    def notify(self, packet: Packet) -> None:
        """Tell listeners of a message."""
        self.received += 1
        self._notify(packet)

    def outcome(self, stream: Stream) -> Packet:
        """Return the packet of the success, raise the error of anything else."""
        assert stream.result is not None
        return outcome(stream.result, stream.sent, stream.timeout, self._notify)

    @property
    def _loop(self) -> Loop:
        return self._trunk.loop


class CallRun(FlowRun):
    """One call of an async client."""

    def __init__(
        self,
        trunk: Trunk,
        notify: Notify,
        make_pump: Callable[[Stream], Pump],
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        waits: bool,
        length_hint: int | None,
    ) -> None:
        super().__init__(trunk, notify, header, timeout, waits=waits, length_hint=length_hint)
        self.pump: Pump | None = None
        self._make_pump = make_pump

    async def steps(self) -> AsyncGenerator[Value, None]:
        """Yield what comes of the call. It must hold no reference to its Call."""
        try:
            while (step := await self._advance()) is not None:
                departed, packets = step
                for _ in repeat(None, departed):
                    yield True
                for packet in packets:
                    self.notify(packet)
                    yield packet
            if self.stream is not None and self.stream.result is not None:
                self.count()
                yield self.outcome(self.stream)
        except BaseException as error:
            self.fail(error)
            if isinstance(error, GeneratorExit):
                raise  # Nothing may be awaited: the garbage collector may be at it.
            if isinstance(error, Exception) and not isinstance(error, self._loop.cancelled):
                for _ in repeat(None, self._departures()):
                    yield True
            await self.settle()
            raise
        finally:
            if self.pump is not None:
                self.pump.close()
            self.leave()

    async def settle(self) -> None:
        """Have the source closed; wait for that, but not for ever."""
        if self.pump is not None:
            await self.pump.settle()

    def _departures(self) -> int:
        """Return how many packets have left since this was asked last."""
        stream = self.stream
        if stream is None:
            return 0
        departed = stream.sent - stream.told
        stream.told = stream.sent
        return departed

    async def _advance(self) -> tuple[int, list[Packet]] | None:
        """Return how many packets have left, and the messages that have come; None at the end."""
        stream, pump = self.stream, self.pump
        if stream is None or pump is None:
            stream = await self.open()
            pump = self.pump = self._make_pump(stream)
            pump.more()
            stream.flush()
        while True:
            since = stream.changes
            step = self._departures(), stream.take()
            if any(step):
                return step
            if stream.result is not None:
                await pump.settle()
                step = self._departures(), stream.take()
                return step if any(step) else None
            if stream.error is not None:
                raise stream.error
            if not (stream.wanted or stream.ended):
                await pump.settle()
                stream.end()
                stream.flush()
            if pump.failure is not None and pump.failed:
                raise pump.failure
            if stream.ended and not self._waits:
                await self._confirm(stream)
                self._waits = stream.result is not None
                return None
            pump.more()
            await stream.changed(since)

    async def _confirm(self, stream: Stream) -> None:
        """Wait until the server has received all, or has given its result; not for ever."""
        stream.confirm()
        await stream.until(
            lambda: stream.confirmed or stream.has_ended, self._trunk.limits.close_timeout
        )
        if stream.error is not None:
            raise stream.error


class Call(AsyncIterator[Value]):
    """A call that goes on as it is iterated. Closing it, or dropping it, cancels the flow."""

    def __init__(self, steps: AsyncGenerator[Value, None], run: CallRun) -> None:
        self._steps = steps
        self._run = run

    @property
    def sent(self) -> int:
        """Packets of the flow that have left."""
        return self._run.sent

    @property
    def consumed(self) -> int:
        """Packets that the handler has taken, as last reported; exact once there is a result."""
        return self._run.consumed

    @property
    def length_hint(self) -> int | None:
        """Packets that the flow will probably have; None if it doesn't know its length."""
        return self._run.length_hint

    @property
    def received(self) -> int:
        """Packets that have come back."""
        return self._run.received

    def __aiter__(self) -> AsyncIterator[Value]:  # noqa: PYI034 - a generator's packets cost no call
        return self._steps

    async def __anext__(self) -> Value:
        return await anext(self._steps)

    async def aclose(self) -> None:
        """Give the flow up: the handler is told, and the flow's generator closed."""
        await self._steps.aclose()
        await self._run.settle()

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def answers(call: Call) -> AsyncGenerator[Packet, None]:
    """Yield what comes back from *call*, and nothing else."""
    async with call:
        async for value in call:
            if value is not True:
                yield value


class CoConversation:
    """A flow that is sent packet by packet, for use in ``async with``.

    One task may send while another one receives. Leaving the ``async with`` without ``end()``
    cancels the flow; leaving it with an exception tells the handler that the client failed.
    """

    def __init__(
        self,
        trunk: Trunk,
        notify: Notify,
        header: dict[str, Any] | None,
        timeout: float | None,
    ) -> None:
        check_call(header, timeout)
        self._run = FlowRun(trunk, notify, header, timeout, waits=True)
        self._loop = trunk.loop
        self._received: deque[Packet] = deque()
        self._finished = False
        self._left = False
        self._value: Any = None

    @property
    def sent(self) -> int:
        """Packets that have left."""
        return self._run.sent

    @property
    def consumed(self) -> int:
        """Packets that the handler has taken, as last reported."""
        return self._run.consumed

    @property
    def received(self) -> int:
        """Messages that have been received."""
        return self._run.received

    async def _send(self, packet: dict[str, Any]) -> None:
        stream = self._check_open("send")
        data = encode_packet(packet)
        stream.pending.append(data)
        try:
            stream.send()
            stream.flush()
            while stream.pending and not stream.over:
                self._collect(stream)
                await stream.changed()
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
                self._finish(stream)
            over = self._finished
            did, code = ("succeeded", "answered") if over else ("closed its flow", "stopped")
            text = f"the handler has {did} already: it takes no more"
            raise LocalProtocolError(text, code=code)

    async def _receive(self, timeout: float | None) -> Packet | None:
        while not self._received:
            if self._finished:
                return None
            stream = self._check_open("receive")
            self._received.extend(stream.take())
            if self._received:
                break
            if stream.result is not None:
                self._finish(stream)
            elif stream.error is not None:
                raise stream.error
            elif timeout is None:
                await stream.changed()
            elif not await stream.until(self._has_news, timeout):
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
                self._collect(stream)
                if stream.error is not None:
                    raise stream.error
                await stream.changed()
            self._finish(stream)
        return self._value

    def _leave(self) -> None:
        """Give the flow up, and tell the handler. Does nothing where it is over."""
        if not self._left:
            self._left = True
            if self._run.stream is not None:
                self._run.stream.cancel()
            self._run.leave()

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
        self._leave()

    def _check_open(self, what: str) -> Stream:
        stream = self._run.stream
        if self._left or self._finished or stream is None:
            raise LocalProtocolError(f"{what}: the flow is over", code="flow_over")
        return stream

    def _collect(self, stream: Stream) -> None:
        """Take every message that has come."""
        while packets := stream.take():
            self._received.extend(packets)

    def _finish(self, stream: Stream) -> None:
        """Take the result: keep the value of a success, raise the error of anything else."""
        try:
            self._collect(stream)
            self._value = self._run.outcome(stream)["message"]
            self._finished = True
        finally:
            self._leave()
