"""Handlers for checks: one script, played by each kind of handler there is."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Final, Literal

from twisted.internet.defer import Deferred

from pyf.station.handlers import Handler
from pyf.transport import Packet

Kind = Literal["function", "class", "generator", "coroutine", "async generator"]
"""A kind of handler."""

KINDS: Final[tuple[Kind, ...]] = (
    "function",
    "class",
    "generator",
    "coroutine",
    "async generator",
)
"""All kinds of handlers."""


class Take:
    """Take the next packet of the flow: the script gets it, or None at the end of the flow."""


class Stop:
    """Take no more of the flow, and go on."""


@dataclass(frozen=True)
class Say:
    """Send a message to the client."""

    packet: Packet


class Hold:
    """Do nothing until ``release()`` is called, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._released = False
        self._waiting: list[Callable[[], object]] = []

    def release(self) -> None:
        """Let all that wait go on, and all that come later pass."""
        with self._lock:
            self._released = True
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def wait(self) -> None:
        """Wait in a thread."""
        released = threading.Event()
        self.tell(released.set)
        released.wait()

    def tell(self, wake: Callable[[], object]) -> None:
        """Have *wake* called once released: now or later, in any thread."""
        with self._lock:
            if not self._released:
                self._waiting.append(wake)
                return
        wake()


class Drain(Hold):
    """Have the server drain, and go on once it does."""

    def begin(self, flow: Any) -> None:
        """Have the server of *flow* drain, from any thread."""
        carrier = flow._session.carrier  # noqa: SLF001 - the session knows its server

        def drain() -> None:
            carrier.factory.drain()
            self.release()

        carrier.call_soon(drain)


TAKE: Final = Take()
STOP: Final = Stop()

Script = Generator[Take | Stop | Say | Hold, Packet | None, Any]
"""What a handler does, step by step; what it returns is the success."""


def handler_of(script: Callable[[], Script], kind: Kind) -> Handler:
    """Return a handler of the given *kind* that plays what *script* makes, for each flow anew."""

    def function(flow: Any, client: Any) -> None:
        client.success(_run(script(), flow, client))

    class Class:
        def __init__(self, flow: Any, client: Any) -> None:
            self.flow = flow
            self.client = client

        def handle_data(self) -> Any:
            return _run(script(), self.flow, self.client)

    def generator(flow: Any, client: Any) -> Generator[Packet, None, Any]:  # noqa: ARG001 - a handler's
        return (yield from _play(script(), flow))

    async def coroutine(flow: Any, client: Any) -> Any:
        result: list[Any] = []
        async with aclosing(_play_async(script(), flow, client, result)) as playing:
            async for packet in playing:
                await client.message(packet)
        return result.pop()

    async def async_generator(flow: Any, client: Any) -> AsyncGenerator[Packet, None]:
        result: list[Any] = []
        async with aclosing(_play_async(script(), flow, client, result)) as playing:
            async for packet in playing:
                yield packet
        await client.success(result.pop())

    kinds: dict[Kind, Handler] = {
        "function": function,
        "class": Class,
        "generator": generator,
        "coroutine": coroutine,
        "async generator": async_generator,
    }
    return kinds[kind]


def _run(steps: Script, flow: Any, client: Any) -> Any:
    """Do what *steps* ask for in a thread; return the success."""
    with closing(_play(steps, flow)) as playing:
        try:
            while True:
                client.message(next(playing))
        except StopIteration as end:
            return end.value


def _play(steps: Script, flow: Any) -> Generator[Packet, None, Any]:
    """Do what *steps* ask for in a thread, and yield what is to be said; return the success."""
    with closing(steps):
        try:
            step = next(steps)
            while True:
                if isinstance(step, Take):
                    try:
                        packet = next(flow, None)
                    except Exception as error:  # noqa: BLE001 - the script is to see any
                        step = steps.throw(error)
                    else:
                        step = steps.send(packet)
                else:
                    if isinstance(step, Say):
                        yield step.packet
                    elif isinstance(step, Stop):
                        flow.close()
                    else:
                        _begin(step, flow)
                        step.wait()
                    step = next(steps)
        except StopIteration as end:
            return end.value


async def _play_async(
    steps: Script, flow: Any, client: Any, result: list[Any]
) -> AsyncGenerator[Packet, None]:
    """Do what *steps* ask for on the reactor, yield what is to be said; put the success away."""
    with closing(steps):
        try:
            step = next(steps)
            while True:
                if isinstance(step, Take):
                    try:
                        packet = await anext(flow, None)
                    except Exception as error:  # noqa: BLE001 - as above
                        step = steps.throw(error)
                    else:
                        step = steps.send(packet)
                else:
                    if isinstance(step, Say):
                        yield step.packet
                    elif isinstance(step, Stop):
                        flow.close()
                    else:
                        _begin(step, flow)
                        await _released(step, client)
                    step = next(steps)
        except StopIteration as end:
            result.append(end.value)


def _begin(hold: Hold, flow: Any) -> None:
    if isinstance(hold, Drain):
        hold.begin(flow)


async def _released(hold: Hold, client: Any) -> None:
    """Wait on the reactor until *hold* is released."""
    released: Deferred[None] = Deferred()

    def wake() -> None:
        if not released.called:
            released.callback(None)

    # The session knows its reactor, whichever it is.
    call_soon = client._session.carrier.call_soon  # noqa: SLF001
    hold.tell(lambda: call_soon(wake))
    await released
