"""One flow at the server: what has come, what is to go, and how it ends.

A session belongs to its flow, not to the connection that happens to carry it. Methods are called in the
reactor's thread, but for those whose docstring says otherwise.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from traceback import format_exception
from typing import TYPE_CHECKING, Any, Protocol

from uuid import uuid4

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from pyf.transport import (
    DeadlineExceeded,
    FlowCancelled,
    LocalProtocolError,
    Packet,
    PacketTooLarge,
    RemoteProtocolError,
    StationError,
    encode_packet,
)
from pyf.transport.frames import Batch
from pyf.transport.limits import BATCH_BYTES, BATCH_PACKETS, Limits

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress

log = Logger()

END = None
"""What the inbox holds where the flow is whole."""

Item = Batch | StationError | None


class Inbox(Protocol):
    """Where a handler waits for its flow: a ``queue.SimpleQueue`` or a Deferred one."""

    def put(self, item: Item, /) -> None:
        """Add *item*, and wake the handler."""


class Carrier(Protocol):
    """The connection, as a session sees it. All in the reactor's thread, but for ``call_soon``."""

    limits: Limits
    peer: IAddress
    expose_errors: bool

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call *function* in the reactor's thread. Callable from any thread."""

    def send_messages(self, flow_id: int, pending: deque[bytes]) -> int:
        """Send what credit allows of *pending*; return the number of messages sent."""

    def send_result(self, flow_id: int, consumed: int, status: str, facts: dict[str, Any]) -> None:
        """Say the last word on the flow."""

    def consume(self, flow_id: int, packets: int, size: int) -> None:
        """Count packets as taken by the handler."""

    def break_off(self, error: RemoteProtocolError) -> None:
        """Tell the peer of its breach, and close the connection."""


class Session:
    """State of one flow, shared by the handler's thread and the reactor's."""

    def __init__(
        self, carrier: Carrier, flow_id: int, header: Packet | None, inbox: Inbox, waits: bool
    ) -> None:
        self.carrier = carrier
        self.flow_id = flow_id
        self.header = header
        self.inbox = inbox
        self.identity: object = None
        self.ending: StationError | None = None
        """Why the flow ended before its time, once it has."""
        self.whole = False
        """Whether the END has come."""
        self.consumed: Callable[[], int] = lambda: 0
        """How many packets the handler has taken. Callable from any thread."""
        self.cancel_handler: Callable[[], None] | None = None
        """Interrupts a coroutine, whatever it waits for."""
        self._waits = waits
        self._changed = threading.Condition()
        self._pending: deque[bytes] = deque()
        self._pending_size = 0
        self._result: tuple[int, str, dict[str, Any]] | None = None
        self._closed = False
        self._scheduled = False
        self._waiters: list[Callable[[], None]] = []

    # What comes from the client

    def receive(self, batch: Batch) -> None:
        """Hand a batch to the handler."""
        self.inbox.put(batch)

    def end(self) -> None:
        """Note that the flow is whole."""
        self.whole = True
        self.inbox.put(END)

    def fail(self, error: StationError, status: str | None = None) -> None:
        """End the flow before its time: the handler gets *error*; the client, if it listens, a result of *status*."""
        if self._closed:
            return
        waiting_on_us = bool(self._waiters or getattr(self.inbox, "waiting", None))
        self._close(error)
        self.inbox.put(error)
        self._wake_waiters()
        if self.cancel_handler and not waiting_on_us and isinstance(error, FlowCancelled | DeadlineExceeded):
            self.cancel_handler()
        if status is not None:
            facts = {"code": status, "message": str(error)}
            self.carrier.send_result(self.flow_id, self.consumed(), status, facts)

    def lose(self, error: StationError) -> None:
        """Note that the connection is gone: *error* for a handler that still needs it."""
        if self.whole and not self._waits:
            self._close(None)
            self._wake_waiters()
        else:
            self.fail(error)

    def flush(self) -> None:
        """Send what may be sent: messages under credit, and the result behind them."""
        with self._changed:
            self._scheduled = False
            if self._closed:
                return
            if self._pending and self.carrier.send_messages(self.flow_id, self._pending):
                self._pending_size = sum(map(len, self._pending))
                self._changed.notify_all()
            result = self._result if not self._pending else None
            if result is not None:
                self._closed = True
        self._wake_waiters()
        if result is not None:
            consumed, status, facts = result
            self.carrier.send_result(self.flow_id, consumed, status, facts)

    # What the handler does; callable from any thread

    def add_message(self, packet: dict[str, Any]) -> bool:
        """Queue a message; return whether the handler should wait before the next. Callable from any thread.

        Raises UnsupportedValue or TypeError for what cannot travel, LocalProtocolError after the answer, and
        the flow's ending, once it has ended before its time.
        """
        data = encode_packet(packet)
        with self._changed:
            self._check_open("a message")
            if not self._closed:
                self._pending.append(data)
                self._pending_size += len(data)
                self._schedule()
            return self._full()

    def wait_for_room(self) -> None:
        """Block until a message can be queued. For the handler's thread alone; raises the flow's ending."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._full())
            if self.ending is not None:
                raise self.ending

    def call_with_room(self, function: Callable[[], None]) -> None:
        """Call *function* once a message can be queued, or never will. In the reactor's thread."""
        with self._changed:
            if self._full() and not self._closed:
                self._waiters.append(function)
                return
        function()

    def succeed(self, value: Any) -> None:
        """Give the result. Callable from any thread; raises as ``_answer`` does."""
        self._answer("success", {"value": value})

    def report_error(self, error: BaseException | str) -> None:
        """Give an error as the result. Callable from any thread; raises as ``_answer`` does."""
        facts = failure_facts(error, "handler_error", expose=self.carrier.expose_errors)
        log.info(
            "a handler reported {error_class} to its client, as error {error_id}",
            error_class=facts["error_class"],
            error_id=facts["error_id"],
        )
        self._answer("error", facts)

    def report_failure(self, error: BaseException) -> None:
        """Log that the handler failed, and give that as the result where one is still wanted. Callable from any thread."""
        if error is self.ending or isinstance(error, CancelledError):
            return
        facts = failure_facts(error, "handler_failed", expose=self.carrier.expose_errors)
        log.failure(
            "a handler failed, as error {error_id}",
            failure=Failure(error),
            error_id=facts["error_id"],
        )
        with suppress(LocalProtocolError, *([type(self.ending)] if self.ending else [])):
            self._answer("error", facts)

    def break_off(self, error: RemoteProtocolError) -> None:
        """Close the connection, whose peer sent what it may not. Callable from any thread."""
        self.carrier.call_soon(lambda: self.carrier.break_off(error))

    def _answer(self, status: str, facts: dict[str, Any]) -> None:
        """Give the result.

        Raises LocalProtocolError if it was given already, PacketError if it cannot travel, and the flow's
        ending, once it has ended before its time.
        """
        size = len(encode_packet(facts))
        if size > self.carrier.limits.max_packet:
            limit = self.carrier.limits.max_packet
            raise PacketTooLarge(
                f"a result of {size} bytes, where {limit} are allowed (Limits.max_packet)",
                size=size,
                limit=limit,
                option="max_packet",
            )
        with self._changed:
            self._check_open("a result")
            self._result = (self.consumed(), status, facts)
            self._schedule()
        if not self.whole:
            text = "the handler has given its result: the rest of the flow is not sent"
            self.inbox.put(FlowCancelled(text))

    @property
    def answered(self) -> bool:
        """Whether the handler has given its result. Callable from any thread."""
        return self._result is not None

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the handler any more. Callable from any thread."""
        return self.ending is not None

    def report_consumed(self, packets: int, size: int) -> None:
        """Count packets as taken by the handler. Callable from any thread."""
        self.carrier.call_soon(lambda: self.carrier.consume(self.flow_id, packets, size))

    # What they share

    def _check_open(self, what: str) -> None:
        if self._result is not None:
            text = f"{what} after the result: the first word stands"
            raise LocalProtocolError(text, code="answered")
        if self.ending is not None:
            raise self.ending

    def _close(self, ending: StationError | None) -> None:
        with self._changed:
            self.ending = ending
            self._closed = True
            self._pending.clear()
            self._pending_size = 0
            self._changed.notify_all()

    def _full(self) -> bool:
        return len(self._pending) >= BATCH_PACKETS or self._pending_size >= BATCH_BYTES

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.carrier.call_soon(self.flush)

    def _wake_waiters(self) -> None:
        with self._changed:
            if self._full() and not self._closed:
                return
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()


def failure_facts(error: BaseException | str, code: str, *, expose: bool) -> dict[str, Any]:
    """Return what a client learns of *error*: never its text unless *expose* is set or it is a plain str."""
    facts: dict[str, Any] = {"code": code, "error_id": uuid4().hex[:12]}
    if isinstance(error, str):
        return facts | {"error_class": "Error", "message": error}
    facts["error_class"] = type(error).__name__
    if expose:
        facts["message"] = str(error)
        facts["traceback"] = "".join(format_exception(error))
    return facts


def deadline_error(timeout: float) -> DeadlineExceeded:
    """Return the error of a call that took longer than its client allowed."""
    return DeadlineExceeded(f"the client gave the call {timeout:g} s", timeout=timeout)
