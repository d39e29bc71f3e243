"""Interceptors at the blocking client: around a call, and around a conversation."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

from pyf.station.conversation import Conversation
from pyf.station.intercept import PULLED, PUSHED, Interception, Interceptor, entered
from pyf.station.link import Link
from pyf.station.outcome import Notify
from pyf.station.resuming import Progress
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

    def counts() -> tuple[int, int]:
        return progress.sent, progress.received - (progress.final is not None)

    call = Interception(
        *("client", _copy(header), peer, counts),
        packets=PULLED,
        messages=PULLED,
        final=lambda: progress.final,
    )
    with entered(interceptors, call):
        pipe = call.packets_pipe

        def through(source: Iterator[Any]) -> Iterator[Any]:
            return _piped(source, pipe.iterate(source)) if pipe else source

        values = steps(through, call.header)
        with closing(values):
            try:
                for value in call.messages_pipe.iterate(chain.from_iterable(values)):
                    yield (value,)
            except ServerError:
                call.status = "error"
                raise
        if progress.final is not None:
            call.status, call.value = "success", progress.final.message


def _copy(header: dict[str, Any] | None) -> Packet | None:
    return None if header is None else Packet(header)


def _piped(source: Any, packets: Iterator[Any]) -> Generator[Any, None, None]:
    """Yield from *packets*, and close the *source* that they come from."""
    try:
        yield from packets
    finally:
        if isinstance(source, Generator):
            source.close()


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
        notify: Notify,
    ) -> None:
        call = Interception(
            *("client", _copy(header), peer), self._counts, packets=PUSHED, messages=PUSHED
        )
        self._call = call
        # Until there is a link, there is nothing to cancel.
        self._closed, self._done = True, False
        self._around: Any = None
        around = entered(interceptors, call)
        around.__enter__()
        self._around = around
        try:
            super().__init__(connect(call.header), notify)
        except BaseException as error:
            self._leave(error)
            raise

    def send(self, packet: dict[str, Any]) -> None:
        """Send what interceptors make of *packet*."""
        if (mapped := self._call.packets_pipe.push(packet)) is not None:
            super().send(mapped)

    def receive(self, timeout: float | None = None) -> Packet | None:
        """Return the next message that interceptors let pass."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            packet = super().receive(left)
            mapped: Packet | None = self._call.messages_pipe.push(packet)
            if packet is None or mapped is not None:
                return mapped

    def cancel(self) -> None:
        """Give the flow up; also where it is over."""
        super().cancel()
        if self._done:
            self._call.status, self._call.value = "success", self._value
            self._leave(None)
        else:
            error = sys.exception()
            self._call.status = "error" if isinstance(error, ServerError) else None
            self._leave(error or FlowCancelled("the flow was given up"))

    def _leave(self, error: BaseException | None) -> None:
        around, self._around = self._around, None
        if around is not None:
            around.__exit__(type(error) if error else None, error, None)

    def _counts(self) -> tuple[int, int]:
        return self.sent, self.received
