"""A flow that the blocking client sends packet by packet, for use in ``with``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from pyf.station.link import Link
from pyf.station.listeners import Listeners
from pyf.station.outcome import outcome
from pyf.transport import DeadlineExceeded, LocalProtocolError, Packet, encode_packet


class Conversation:
    """A flow that is sent packet by packet, for use in ``with``. For one thread at a time.

    Leaving the ``with`` without ``end()`` cancels the flow; leaving it with an exception tells the
    handler that the client failed.
    """

    def __init__(self, link: Link, notify: Listeners) -> None:
        self._closed = False
        self._link = link
        self._notify = notify
        self._received: deque[Packet] = deque()
        self._count = 0
        self._done = False
        self._value: Any = None

    @property
    def sent(self) -> int:
        """Packets that have left."""
        return self._link.sent

    @property
    def consumed(self) -> int:
        """Packets that the handler has taken, as last reported."""
        return self._link.consumed

    @property
    def received(self) -> int:
        """Messages that have been received."""
        return self._count

    def send(self, packet: dict[str, Any]) -> None:
        """Send *packet* at once. Blocks while the handler does not read.

        Messages that come meanwhile are kept: a handler that answers each packet is not held up.
        Raises PacketError or TypeError for what cannot travel; LocalProtocolError after ``end()``,
        or once the handler has succeeded or closed its flow; and what ``StationClient.call`` raises
        once it has failed, or the connection has. Where it raises, the packet has not left.
        """
        self._check_open("send")
        link = self._link
        link.pending.append(encode_packet(packet))
        try:
            while not link.send():
                self._collect()
                link.wait()
        except BaseException:
            link.forget_pending()
            raise
        if link.pending:
            if link.result is not None:
                self._finish()
            link.forget_pending()
            did, code = ("succeeded", "answered") if self._done else ("closed its flow", "stopped")
            text = f"the handler has {did} already: it takes no more"
            raise LocalProtocolError(text, code=code)

    def receive(self, timeout: float | None = None) -> Packet | None:
        """Return the next message, or None once the handler has succeeded.

        Waits *timeout* seconds at the most, then raises DeadlineExceeded; the flow goes on.
        Raises what ``StationClient.call`` raises where the handler or the connection has failed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        link, received = self._link, self._received
        while not received:
            if self._done:
                return None
            self._check_open("receive")
            if link.messages:
                received.extend(link.take_messages())
            elif link.result is not None:
                self._finish()
            elif until is not None and time.monotonic() >= until:
                raise DeadlineExceeded(f"no message came within {timeout:g} s", timeout=timeout)
            else:
                link.wait(until)
        packet = received.popleft()
        self._count += 1
        self._notify(packet)
        return packet

    def __iter__(self) -> Iterator[Packet]:
        return iter(self.receive, None)

    def end(self) -> Any:
        """Say that the flow is whole, wait for the handler, and return what it succeeded with.

        Messages that come meanwhile are kept: they can still be received. Raises what
        ``StationClient.call`` raises, LocalProtocolError once the flow was given up.
        """
        if not self._done:
            self._check_open("end")
            self._link.end()
            while self._link.result is None:
                self._collect()
                self._link.wait()
            self._finish()
        return self._value

    def cancel(self) -> None:
        """Give the flow up, and tell the handler. Does nothing where it is over."""
        if not self._closed:
            self._closed = True
            self._link.cancel()
            self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and not issubclass(kind, KeyboardInterrupt | GeneratorExit):
            self._link.abort(kind.__name__)
        self.cancel()

    def __del__(self) -> None:
        self.cancel()

    def _check_open(self, what: str) -> None:
        if self._closed or self._done:
            raise LocalProtocolError(f"{what}: the flow is over", code="flow_over")

    def _collect(self) -> None:
        """Take every message that has come."""
        while packets := self._link.take_messages():
            self._received.extend(packets)

    def _finish(self) -> None:
        """Take the result: keep the value of a success, raise the error of anything else."""
        link = self._link
        assert link.result is not None
        try:
            self._collect()
            self._value = outcome(link.result, link.sent, link.timeout, self._notify)["message"]
            self._done = True
        finally:
            self.cancel()
