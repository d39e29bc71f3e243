"""Interceptors at the server: around a handler, between it and its flow and its client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from threading import Lock
from typing import Any

from pyf.station.flow import AsyncClient, AsyncFlow, Client, Flow
from pyf.station.handlers import HandlerRunner
from pyf.station.intercept import (
    AWAITED,
    PULLED,
    TURNED,
    Interception,
    Interceptor,
    Pipe,
    checked,
    entered,
)
from pyf.station.session import Session
from pyf.station.turned import AwaitedTurned, Turned
from pyf.transport import Packet


class InterceptedRunner(HandlerRunner):
    """Runs a handler inside *interceptors*; the other arguments are HandlerRunner's."""

    _ends_with_answer = False  # The interceptors end behind it, and may take their time.

    def __init__(self, interceptors: Sequence[Interceptor], *args: Any) -> None:
        super().__init__(*args)
        self._interceptors = checked(interceptors)

    def _handle(self, session: Session, flow: Any, client: Client) -> None:
        call = _interception(session, PULLED)
        with entered(self._interceptors, call), ExitStack() as stack:
            if call.packets_pipe:
                flow = PipedFlow(flow, call.packets_pipe.iterate(iter(flow)))
            if call.messages_pipe:
                client = PipedClient(session, call.messages_pipe, stack)
            super()._handle(session, flow, client)
            _conclude(call, session)

    async def _handle_async(self, session: Session, flow: Any, client: AsyncClient) -> None:
        call = _interception(session, AWAITED)
        with entered(self._interceptors, call), ExitStack() as stack:
            if call.packets_pipe:
                flow = PipedAsyncFlow(flow, call.packets_pipe.iterate(flow))
            if call.messages_pipe:
                client = PipedAsyncClient(session, call.messages_pipe, stack)
            await super()._handle_async(session, flow, client)
            _conclude(call, session)


def _interception(session: Session, kind: str) -> Interception:
    call = Interception(
        *("server", session.header, session.carrier.peer),
        lambda: (session.consumed, session.sent),
        packets=kind,
        messages=TURNED,
    )
    call.identity = session.identity
    return call


def _conclude(call: Interception, session: Session) -> None:
    """Have interceptors see how the flow ended, also where its handler has let that pass."""
    call.status = session.status
    if call.status is None and session.ending is not None:
        raise session.ending


class _Piped:
    """A flow whose packets pass interceptors; all else is as the flow has it."""

    def __init__(self, flow: Any, packets: Any) -> None:
        self._flow = flow
        self._packets = packets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._flow, name)


class PipedFlow(_Piped):
    """For a handler in a thread."""

    def __init__(self, flow: Flow, packets: Iterator[Packet]) -> None:
        super().__init__(flow, packets)
        self._lock = Lock()

    def __iter__(self) -> Iterator[Packet]:
        return self

    def __next__(self) -> Packet:
        with self._lock:  # Threads may share a flow, but no generator.
            packet: Packet = next(self._packets)
        return packet

    next = __next__


class PipedAsyncFlow(_Piped):
    """For a coroutine."""

    def __init__(self, flow: AsyncFlow, packets: Any) -> None:
        super().__init__(flow, packets)

    def __aiter__(self) -> PipedAsyncFlow:
        return self

    async def __anext__(self) -> Packet:
        packet: Packet = await anext(self._packets)
        return packet

    next = __anext__


class PipedClient(Client):
    """A client whose messages pass interceptors, for a handler in a thread.

    *stack* is left once the handler has returned.
    """

    def __init__(self, session: Session, pipe: Pipe, stack: ExitStack) -> None:
        super().__init__(session)
        self._pipe = pipe
        self._turned: Turned | None = None
        if pipe.wrapped:
            self._turned = Turned(pipe.iterate)
            stack.callback(self._turned.drop)

    def message(self, packet: dict[str, Any], /) -> None:
        """Send what interceptors make of *packet*."""
        if self._turned is not None:
            for each in self._turned.push(packet):
                super().message(each)
        elif (mapped := self._pipe.push(packet)) is not None:
            super().message(mapped)

    def success(self, value: Any = None) -> None:
        """End the flow well, behind what interceptors have to say yet."""
        for each in self._turned.finish() if self._turned is not None else ():
            super().message(each)
        super().success(value)


class PipedAsyncClient(AsyncClient):
    """The same, for a coroutine."""

    def __init__(self, session: Session, pipe: Pipe, stack: ExitStack) -> None:
        super().__init__(session)
        self._pipe = pipe
        self._turned: AwaitedTurned | None = None
        if pipe.wrapped:
            self._turned = AwaitedTurned(pipe.iterate)
            stack.callback(self._turned.drop)

    async def message(self, packet: dict[str, Any], /) -> None:
        """Send what interceptors make of *packet*."""
        if self._turned is not None:
            for each in await self._turned.push(packet):
                await super().message(each)
        elif (mapped := self._pipe.push(packet)) is not None:
            await super().message(mapped)

    async def success(self, value: Any = None) -> None:
        """End the flow well, behind what interceptors have to say yet."""
        for each in await self._turned.finish() if self._turned is not None else ():
            await super().message(each)
        await super().success(value)
