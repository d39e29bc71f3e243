"""Interceptors at the clients: around a call, and around a conversation."""

from __future__ import annotations

import sys
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AbstractContextManager, closing
from functools import partial
from itertools import chain
from typing import Any

from pyf.station.conversation import Conversation
from pyf.station.counts import Progress
from pyf.station.intercept import PULLED, PUSHED, Interception, Interceptor, Lift, entered
from pyf.station.link import Link
from pyf.station.listeners import Listeners
from pyf.transport import FlowCancelled, Packet, ServerError

Through = Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]]


def intercepted(
    interceptors: Sequence[Interceptor],
    peer: tuple[str, int],
    header: dict[str, Any] | None,
    progress: Progress,
    steps: Callable[[Through, Any], Generator[Iterable[Any], None, None]],
) -> Generator[Iterable[Any], None, None]:
    """Run the *steps* of a call inside *interceptors*, which see one value after the other.

    They are given what their packets have to pass, and the header.
    """
    call = interception(peer, header, progress)
    with entered(interceptors, call):
        values = steps(partial(passed, call), call.header)
        with closing(values):
            try:
                for value in call.messages_pipe.iterate(chain.from_iterable(values)):
                    yield (value,)
            except ServerError:
                call.status = "error"
                raise
        note_success(call, progress)


def interception(
    peer: tuple[str, int],
    header: dict[str, Any] | None,
    progress: Progress,
    lift: Lift | None = None,
) -> Interception:
    """Return what interceptors see of a call."""

    def counts() -> tuple[int, int]:
        return progress.sent, progress.received - (progress.final is not None)

    return Interception(
        *("client", _copy(header), peer, counts),
        packets=PULLED,
        messages=PULLED,
        final=lambda: progress.final,
        lift=lift,
    )


def note_success(call: Interception, progress: Progress) -> None:
    """Have interceptors see what the handler has succeeded with, if it has."""
    if progress.final is not None:
        call.status, call.value = "success", progress.final.message


def passed(call: Interception, source: Any) -> Any:
    """Return the packets of *source* as they come out behind what they pass.

    Closing that closes the source, too.
    """
    pipe = call.packets_pipe
    if not pipe:
        return source
    piped = _apiped if isinstance(source, AsyncIterable) else _piped
    return piped(source, pipe.iterate(source))


def _copy(header: dict[str, Any] | None) -> Packet | None:
    return None if header is None else Packet(header)


def _piped(source: Any, packets: Iterator[Any]) -> Generator[Any, None, None]:
    """Yield from *packets*, and close the *source* that they come from."""
    try:
        yield from packets
    finally:
        if isinstance(source, Generator):
            source.close()


async def _apiped(source: Any, packets: Any) -> AsyncGenerator[Any]:
    try:
        async for packet in packets:
            yield packet
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()


class Around:
    """Interceptors around a conversation, from ``enter()`` to ``leave()``."""

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        peer: tuple[str, int],
        header: dict[str, Any] | None,
        counts: Callable[[], tuple[int, int]],
    ) -> None:
        self.call: Interception = Interception(
            *("client", _copy(header), peer), counts, packets=PUSHED, messages=PUSHED
        )
        self._interceptors = interceptors
        self._entered: AbstractContextManager[None] | None = None

    def enter(self) -> Any:
        """Let the interceptors begin; return the header that they want."""
        around = entered(self._interceptors, self.call)
        around.__enter__()
        self._entered = around
        return self.call.header

    def conclude(self, *, done: bool, value: Any, error: BaseException | None) -> None:
        """Tell how the conversation ended: *done*, with a *value*, or with an *error*, or left."""
        if done:
            self.call.status, self.call.value = "success", value
            self.leave(None)
        else:
            self.call.status = "error" if isinstance(error, ServerError) else None
            self.leave(error or FlowCancelled("the flow was given up"))

    def leave(self, error: BaseException | None) -> None:
        """Let the interceptors end, with an *error* or without. Does nothing where they have."""
        around, self._entered = self._entered, None
        if around is not None:
            around.__exit__(type(error) if error else None, error, None)


class InterceptedConversation(Conversation):
    """A conversation inside *interceptors*; the other arguments are Conversation's.

    *connect* gives the link, with the flow opened by the given header.
    """

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        peer: tuple[str, int],
        header: dict[str, Any] | None,
        connect: Callable[[Any], Link],
        notify: Listeners,
    ) -> None:
        # Until there is a link, there is nothing to cancel.
        self._closed, self._done = True, False
        self._around = Around(interceptors, peer, header, self._counts)
        header = self._around.enter()
        try:
            super().__init__(connect(header), notify)
        except BaseException as error:
            self._around.leave(error)
            raise

    def send(self, packet: dict[str, Any]) -> None:
        """Send what interceptors make of *packet*."""
        if (mapped := self._around.call.packets_pipe.push(packet)) is not None:
            super().send(mapped)

    def receive(self, timeout: float | None = None) -> Packet | None:
        """Return the next message that interceptors let pass."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            packet = super().receive(left)
            mapped: Packet | None = self._around.call.messages_pipe.push(packet)
            if packet is None or mapped is not None:
                return mapped

    def cancel(self) -> None:
        """Give the flow up; also where it is over."""
        super().cancel()
        value = self._value if self._done else None
        self._around.conclude(done=self._done, value=value, error=sys.exception())

    def _counts(self) -> tuple[int, int]:
        return self.sent, self.received
