"""What drives the flows of an async client, from connecting to their end; in any event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from pyf.station.counts import Progress
from pyf.station.flattened import flattened
from pyf.station.intercept import Interception, Interceptor, entered
from pyf.station.intercepted import note_success, passed
from pyf.station.listeners import Listeners
from pyf.station.loop import Loop
from pyf.station.outcome import outcome
from pyf.station.pump import Pump
from pyf.station.resuming import LOST, Persistence
from pyf.station.revival import ResumingStream
from pyf.station.stream import Stream
from pyf.station.trunk import Timeout, Trunk, sleep
from pyf.transport import (
    DeadlineExceeded,
    FlowCancelled,
    Packet,
    ServerError,
)

Value = Packet | Literal[True]
Values = Iterable[Value]


class FlowRun:
    """A flow of an async client, from connecting to its end."""

    stream: Stream | None = None
    _clock: Timeout | None = None
    _cancelled = False

    def __init__(
        self,
        trunk: Trunk,
        notify: Listeners,
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        waits: bool,
        resume: bool = False,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.progress: Progress = progress or Progress()
        self._trunk = trunk
        self._notify = notify
        self.header: dict[str, Any] | None = header
        self._timeout = timeout
        self._waits = waits or resume
        self._resume = resume
        self._name = name

    async def open(self) -> Stream:
        """Connect, if need be, and open the flow."""
        self._clock = Timeout(self._loop, self._timeout)
        connection = self._trunk.usable or await self._trunk.connected(self._clock)
        if self._cancelled:
            raise _cancelled()
        opening = self.header, self._timeout
        length = self.progress.length_hint
        if self._resume:
            revived = self.stream = ResumingStream(
                self._trunk, connection, *opening, length_hint=length, name=self._name
            )
            self._keep(revived)
            connection.flush()
            await revived.opened()
        else:
            self.stream = connection.open(*opening, waits=self._waits, length_hint=length)
            self._keep(self.stream)
        self.progress.follow(self.stream)
        return self.stream

    def _keep(self, stream: Stream) -> None:
        assert self._clock is not None
        self._clock.wake = stream.expire
        self._trunk.streams.add(stream)

    def cancel(self) -> None:
        """Give the flow up; whoever waits for it gets FlowCancelled."""
        self._cancelled = True
        if self.stream is not None:
            self.stream.cancel()
            self.stream.fail(_cancelled())

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

    def notify(self, packet: Packet) -> None:
        """Count a message, and tell listeners."""
        self.progress.came()
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

    pump: Pump | None = None

    def __init__(
        self,
        trunk: Trunk,
        notify: Listeners,
        make_pump: Callable[[Stream], Pump],
        header: dict[str, Any] | None,
        timeout: float | None,
        **options: Any,
    ) -> None:
        super().__init__(trunk, notify, header, timeout, **options)
        self._make_pump = make_pump

    async def steps(self) -> AsyncGenerator[Values, None]:
        """Yield what comes of the call, in batches. It must hold no reference to its Call."""
        try:
            while (step := await self._advance()) is not None:
                departed, maps = step
                if departed:
                    yield self.progress.departures(departed)
                for values in self.progress.messages(maps, self._notify):
                    yield values
            if (final := self._final()) is not None:
                yield (final,)
        except BaseException as error:
            self.fail(error)
            if isinstance(error, GeneratorExit):
                raise  # Nothing may be awaited: the garbage collector may be at it.
            if isinstance(error, Exception) and not isinstance(error, self._loop.cancelled):
                yield self.progress.departures(self._departures())
            await self.settle()
            raise
        finally:
            self._close()

    async def finish(self) -> Packet | None:
        """Do the whole call; return the packet of its success, if that was waited for."""
        try:
            while (step := await self._advance(tells=False)) is not None:
                for values in self.progress.messages(step[1], self._notify):
                    deque(values, maxlen=0)
            return self._final()
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, GeneratorExit):  # Then nothing may be awaited.
                await self.settle()
            raise
        finally:
            self._close()

    def _final(self) -> Packet | None:
        """Return the packet of the success, if the result has come; raise the error of another."""
        if self.stream is not None and self.stream.result is not None:
            self.progress.final = self.outcome(self.stream)
        return self.progress.final

    def _close(self) -> None:
        if self.pump is not None:
            self.pump.close()
        self.leave()

    async def settle(self) -> None:
        """Have the source closed; wait for that, but not for ever."""
        if self.pump is not None:
            await self.pump.settle()

    def _departures(self) -> int:
        """Return how many packets have left since this was asked last."""
        return 0 if self.stream is None else self.progress.departed()

    async def _advance(self, *, tells: bool = True) -> tuple[int, list[dict[str, Any]]] | None:
        """Return how many packets have left, and the messages that have come; None at the end.

        Unless somebody is told of what has left, nothing is returned for that alone.
        """
        stream, pump = self.stream, self.pump
        if stream is None or pump is None:
            stream = await self.open()
            pump = self.pump = self._make_pump(stream)
            pump.more()
            stream.flush()
        while True:
            since = stream.changes
            departed = self._departures() if tells else 0
            stream.told = stream.sent
            if stream.has_messages:
                return departed, await stream.take_maps()
            if departed:
                return departed, []
            if stream.result is not None:
                await pump.settle()
                if stream.changes == since:
                    return None
                continue
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


class Run(Protocol):
    """A call under way, or about to be."""

    def steps(self) -> AsyncGenerator[Values, None]:
        """Yield what comes of the call, in batches. It must hold no reference to its Call."""
        ...

    async def finish(self) -> Value | None:
        """Do the whole call, in place of ``steps()``; return the last of what comes of it."""
        ...

    async def settle(self) -> None:
        """Have the source closed; wait for that, but not for ever."""

    def cancel(self) -> None:
        """Give the flow up; whoever waits for it gets FlowCancelled."""


class OuterRun(ABC):
    """A call that is made of others, one at a time."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._cancelled = False

    @abstractmethod
    def steps(self) -> AsyncGenerator[Values, None]:
        """Yield what comes of the call, in batches. It must hold no reference to its Call."""

    async def finish(self) -> Value | None:
        """Do the whole call; return the last of what comes of it."""
        last: deque[Value] = deque(maxlen=1)
        async for values in self.steps():
            last.extend(values)
        return last.pop() if last else None

    def _begin(self, run: Run) -> AsyncGenerator[Values, None]:
        self._run = run
        if self._cancelled:
            run.cancel()
        return run.steps()

    async def settle(self) -> None:
        """Have the source closed; wait for that, but not for ever."""
        if self._run is not None:
            await self._run.settle()

    def cancel(self) -> None:
        """Give the flow up; whoever waits for it gets FlowCancelled."""
        self._cancelled = True
        if self._run is not None:
            self._run.cancel()


class PersistentRun(OuterRun):
    """One call of a flow with a name: as many runs, of *make_run*, as it takes.

    *make_run* is given the seconds that are left.
    """

    def __init__(
        self, loop: Loop, persistence: Persistence, make_run: Callable[[float | None], Run]
    ) -> None:
        super().__init__()
        self._loop = loop
        self._persistence = persistence
        self._make_run = make_run

    async def steps(self) -> AsyncGenerator[Values, None]:
        """Yield what comes of the call, in batches. It must hold no reference to its Call."""
        while True:
            steps = self._begin(self._make_run(self._persistence.begin()))
            try:
                async for values in steps:
                    yield values
            except LOST as error:
                pause = self._persistence.again(error)
            else:
                return
            finally:
                # This waits for nothing, if the garbage collector is at it.
                await steps.aclose()
            await sleep(self._loop, pause)


class InterceptedRun(OuterRun):
    """A call inside *interceptors*, which see *call*.

    *make_run* is given the header, and what the source has to pass.
    """

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        call: Interception,
        progress: Progress,
        make_run: Callable[[Any, Callable[[Any], Any]], Run],
    ) -> None:
        super().__init__()
        self._interceptors = interceptors
        self._call = call
        self._progress = progress
        self._make_run = make_run

    async def steps(self) -> AsyncGenerator[Values, None]:
        """Yield what comes of the call, in batches. It must hold no reference to its Call."""
        call = self._call
        with entered(self._interceptors, call):
            steps = self._begin(self._make_run(call.header, partial(passed, call)))
            values = call.messages_pipe.iterate(flattened(steps))
            try:
                async for value in values:
                    yield (value,)
            except ServerError:
                call.status = "error"
                raise
            finally:
                if isinstance(values, AsyncGenerator):
                    await values.aclose()
                await steps.aclose()
            note_success(call, self._progress)


def _cancelled() -> FlowCancelled:
    return FlowCancelled("the call was cancelled")
