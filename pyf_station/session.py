"""One flow at the server: what has come, what is to go, and how it ends.

A session belongs to its flow, not to the connection that happens to carry it. Methods are called in
the reactor's thread, but for those whose docstring says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import length_hint
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from pyf.station.blame import described, failure, failure_facts
from pyf.station.outbox import Outbox
from pyf.station.relay import RelayQueue
from pyf.station.store import Effects, Progress
from pyf.transport import (
    AuthenticationFailed,
    ClientError,
    DeadlineExceeded,
    FlowCancelled,
    Limits,
    LocalProtocolError,
    Packet,
    PacketError,
    RemoteProtocolError,
    StationError,
)
from pyf.transport.census import Bounds
from pyf.transport.errors import packet_too_large
from pyf.transport.frames import Batch
from pyf.transport.limits import BATCH_PACKETS
from pyf.transport.payloads import encode_outcome
from pyf.transport.pieces import Encoded, Pending, flatten, weigh

_log: Final = Logger()

_GIVEN_UP: Final = (FlowCancelled, DeadlineExceeded, AuthenticationFailed)

END: Final = None
"""What the inbox holds where the flow is whole."""

TICK: Final = 0.002
"""Seconds between looks at what a thread says, where it says one thing after another. The first
leaves at once; so does all of it once the thread waits for its flow, or has said very much."""

Item = Batch | StationError | None

Failed = BaseException | type[BaseException] | str
"""What a handler can report as an error."""

Decoded = tuple[int, Iterator[dict[str, Any]], Iterator[Packet]]
"""How many packets have been decoded; those of them that have not been taken, whose number can be
asked; and what makes Packets of these as they are taken."""


class Inbox(Protocol):
    """Where a handler waits for its flow: a ``RelayQueue`` or an ``AsyncInbox``."""

    def put(self, item: Item, /) -> object:
        """Add *item*, and wake the handler."""
        ...


class Carrier(Protocol):
    """The connection, as a session sees it. All in the reactor's thread, but for ``call_soon``."""

    limits: Limits
    bounds: Bounds
    peer: Any
    expose_errors: bool
    max_packet: int
    """Bytes of the largest packet, or result, that the client takes."""
    clock: Callable[[], float]
    """The time of a clock that nobody sets, in seconds."""

    def call_soon(self, function: Callable[[], None], /) -> None:
        """Call *function* in the reactor's thread. Callable from any thread."""
        ...

    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        """Call *function* after some seconds; what is returned has ``cancel()``."""
        ...

    def call_in_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Call what blocks in a thread; return what fires with its result."""
        ...

    def send_messages(self, flow_id: int, pending: Pending) -> int:
        """Send what credit allows of *pending*; return the number of messages sent."""
        ...

    def send_result(self, flow_id: int, consumed: int, outcome: bytes) -> None:
        """Say the last word on the flow: the fields of a RESULT, encoded."""
        ...

    def consume(self, flow_id: int, packets: int, size: int) -> None:
        """Count packets as taken by the handler."""
        ...

    def send_stop(self, flow_id: int) -> None:
        """Ask the client for no more packets."""
        ...

    def break_off(self, error: RemoteProtocolError) -> None:
        """Tell the client of its breach, and close the connection."""
        ...

    def recognise(self, flow_id: int) -> None:
        """Note that the client of the flow is known now."""
        ...


class Session:
    """State of one flow, shared by the handler's thread and the reactor's.

    *waits* is whether the client waits for the result; one that doesn't may leave behind its END.
    """

    identity: object = None
    length_hint: int | None = None
    """Packets that the client expects to send, where it knows."""
    deadline: Any = None
    """The alarm of the time that the client gave the call; it has ``cancel()``."""
    stranger: Any = None
    """The alarm of the time in which the client has to be known; likewise."""
    start: int = 0
    """Packets of a flow with a name that earlier sessions have handled for good."""
    progress: Progress | None = None
    """Where the handler notes how far it is, for a flow with a name."""
    ending: StationError | None = None
    """Why the flow ended before its time, once it has."""
    whole: bool = False
    """Whether the END has come."""
    received: int = 0
    """Packets that have come."""
    sent: int = 0
    """Messages that have left."""
    reading: bool = False
    """Whether the handler waits for the inbox."""
    cancel_handler: Callable[[], object] | None = None
    """Interrupts a coroutine, whatever it waits for."""
    returned: bool = False
    """Whether the handler has nothing left to do, once it has given its result."""
    frees: bool = False
    """Whether it had nothing left as that was given: its place is free once the reactor knows."""
    status: str | None = None
    """What the handler has answered, ``success`` or ``error``."""
    _result: tuple[int, bytes] | None = None
    _closed = _woken = False
    _ticking: Any = None
    # Messages that nobody hears any more, since the handler had taken so many packets.
    _unheard = _unheard_at = 0

    def __init__(
        self, carrier: Carrier, flow_id: int, header: Packet | None, inbox: Inbox, *, waits: bool
    ) -> None:
        self.carrier: Carrier = carrier
        self.flow_id: int = flow_id
        self.header: Packet | None = header
        """The header, once it is known."""
        self.inbox: Inbox = inbox
        self.window_bytes: int = carrier.limits.window_bytes
        """Bytes of packets that the client may have on the way, or waiting here."""
        first = iter(() if header is None else (header,))
        self.decoded: Decoded = (0, first, first)
        """Replaced as one, since the reactor counts while the handler takes."""
        self.on_end: Callable[[Session], object] = bool
        """Called once the flow is over, by those who observe."""
        self.on_return: Callable[[Session], object] = bool
        """Called before a result that ``frees`` the handler's place leaves."""
        self._waits = waits
        most = min(carrier.max_packet, carrier.bounds.harmless)
        self.outbox: Outbox = Outbox(self._wake, self._weigh, self._check_open, most)
        """The handler's messages, on their way."""
        # Guards the result, and whether the flow is over.
        self._lock = self.outbox.lock
        # A coroutine waits, for something, at the end of each of the reactor's turns.
        self._paced = isinstance(inbox, RelayQueue)
        self._errors: list[StationError] = []
        # Looked at for each batch: Python finds sooner what is no attribute of the class.
        self.ending, self.frees, self._result, self._ticking = None, False, None, None

    # What comes from the client

    def receive(self, batch: Batch) -> None:
        """Hand a batch to the handler."""
        self.received += batch.packets
        self.inbox.put(batch)

    def end(self) -> None:
        """Note that the flow is whole."""
        self.whole = True
        self.inbox.put(END)

    def fail(self, error: StationError, status: str | None = None, code: str = "") -> None:
        """End the flow before its time.

        The handler gets *error*; the client, if it listens, a result of *status*, whose code is the
        same unless *code* says more.
        """
        if self._closed:
            return
        interrupted = self._interrupted_by(error)
        self._close(error)
        if self.given_up:
            self.drop()
        self.inbox.put(error)
        self.outbox.wake_waiters()
        if interrupted is not None:
            interrupted()
        if status is not None:
            facts = {"code": code or status, "message": str(error)}
            self.carrier.send_result(self.flow_id, self.consumed, encode_outcome(status, facts))
        self.on_end(self)

    def lose(self, error: StationError) -> None:
        """Note that the connection is gone: *error* for a handler that still needs it."""
        if self.whole and not self._waits:
            self._close(None)
            self.outbox.wake_waiters()
            self.on_end(self)
        else:
            self.fail(error)

    def flush(self) -> None:
        """Send what may be sent: messages under credit, and the result behind them."""
        self._woken = False
        # In this order: a result that comes meanwhile wakes again, and leaves behind its return.
        answer, outbox, pending = self._result, self.outbox, self.outbox.pending
        if self.frees:
            self.on_return(self)
        if self._closed:
            return
        silent = not pending
        sent = 0 if silent else self.carrier.send_messages(self.flow_id, pending)
        with self._lock:
            if sent:
                self.sent += sent
                outbox.count()
                if self._ticking is None and (self._paced or pending):
                    outbox.resting = False
                    self._ticking = self.carrier.call_later(TICK, self._tick)
            result = answer if not pending else None
            self._closed = result is not None
            # What is left waits for credit, unless it has come since.
            late = self._ticking is None and not outbox.rest() and silent
        if late:
            self._wake()
        outbox.wake_waiters()
        if result is not None:
            self._stop_ticking()
            self.carrier.send_result(self.flow_id, *result)
            self.on_end(self)

    def _tick(self) -> None:
        self._ticking = None
        with self._lock:
            silent = self.outbox.rest()
        if not silent:
            self.flush()

    def _stop_ticking(self) -> None:
        ticking, self._ticking = self._ticking, None
        if ticking is not None:
            ticking.cancel()

    def recognise(self) -> None:
        """Note that its client is known now."""
        if self.stranger is not None:
            self.stranger.cancel()
        if not self._closed:
            self.carrier.recognise(self.flow_id)

    # What the handler does; callable from any thread

    def hurry(self) -> None:
        """Have what is pending leave: the handler is about to wait. Callable from any thread."""
        if self.outbox.pending:
            self._wake()

    def wait_for_room(self) -> None:
        """Block until there is room for a message; raises as ``check_heard``. For threads alone."""
        self.outbox.wait()
        self.check_heard()

    async def until_room(self) -> None:
        """Wait until there is room for a message; raises as ``check_heard``. For coroutines."""
        await self.outbox.room()
        self.check_heard()

    def check_heard(self) -> None:
        """Raise the flow's ending, if it has one. Callable from any thread.

        Where the client's generator failed, what came before is still to be handled: as long as
        the handler goes on reading, it hears of it behind that.
        """
        if self.ending is None:
            return
        if not isinstance(self.ending, ClientError) or not self._reads_on():
            raise self.ending

    def succeed(self, value: Any) -> None:
        """Give the result. Callable from any thread.

        Raises LocalProtocolError if it was given before, PacketError if it cannot travel, and the
        flow's ending, once it has ended before its time.
        """
        self._answer("success", {"value": value})

    def report_error(self, error: Failed) -> None:
        """Give an error as the result. Callable from any thread; raises as ``succeed`` does.

        Raises TypeError for what is neither an exception nor a str.
        """
        if isinstance(error, type) and issubclass(error, BaseException):
            error = error()  # As raise does.
        if not isinstance(error, BaseException | str):
            raise TypeError(f"an error is an exception or a str, not {error!r}")
        exposed = self.carrier.expose_errors
        facts = failure_facts(error, "handler_error", expose=exposed)
        if isinstance(error, str):
            self._answer("error", facts)
        else:
            self._answer_failure(facts)
        _log.info(
            "a handler reported error {error_id} to its client: {text}",
            error_id=facts["error_id"],
            text=described(error, exposed=exposed),
        )

    def report_failure(self, error: BaseException) -> None:
        """Log that the handler failed, and give that as the result where none was given.

        A handler that let pass what the flow itself raised has not failed. Callable from any
        thread; raises nothing.
        """
        if any(error is known for known in self._errors):
            # The session keeps it; it would keep the handler's frames, and what they hold.
            error.__traceback__ = None
            return
        cancelled = isinstance(error, CancelledError | asyncio.CancelledError)
        if cancelled and self.ending is not None:
            return
        facts = failure_facts(error, "handler_failed", expose=self.carrier.expose_errors)
        _log.failure(
            "a handler failed, as error {error_id}",
            failure=failure(error, exposed=self.carrier.expose_errors),
            error_id=facts["error_id"],
        )
        self.returned = True
        with suppress(StationError):
            self._answer_failure(facts)

    def break_off(self, error: RemoteProtocolError) -> None:
        """Close the connection, whose client sent what it may not. Callable from any thread."""
        self._errors.append(error)
        self.carrier.call_soon(lambda: self.carrier.break_off(error))

    def report_consumed(self, packets: int, size: int) -> None:
        """Count packets as taken by the handler. Callable from any thread."""
        self.carrier.call_soon(lambda: self.carrier.consume(self.flow_id, packets, size))

    def stop(self) -> None:
        """Ask the client for no more packets. Callable from any thread."""
        if not self.whole:
            self.carrier.call_soon(lambda: self.carrier.send_stop(self.flow_id))

    def drop(self) -> None:
        """Forget what has been decoded and not taken. Callable from any thread."""
        with self._lock:  # The handler may drop it, too.
            count, left, _ = self.decoded
            # Emptied, since the handler may be iterating it; in C: no packet is taken meanwhile.
            dropped = len(list(left))
            self.decoded = (count - dropped, left, iter(()))

    def checkpoint(self, sequence: int, effects: Effects | None) -> None:
        """Note that *sequence* packets are handled for good. Blocks; callable from any thread.

        Raises LocalProtocolError for a flow without a name, ValueError for packets that have not
        been taken, and what the store raises.
        """
        if self.progress is None:
            text = "only a flow that its client gave a name (flow_id=) has checkpoints"
            raise LocalProtocolError(text, code="no_name")
        if not self.start <= sequence <= self.start + self.consumed:
            taken = self.start + self.consumed
            raise ValueError(f"a checkpoint at {sequence}, where {taken} packets were taken")
        try:
            self.progress.checkpoint(sequence, effects)
        except FlowCancelled as error:
            # The client has gone on elsewhere: nobody waits for this handler any more.
            self._errors.append(error)
            ending = error
            self.carrier.call_soon(lambda: self.fail(ending, "cancelled"))
            raise

    @property
    def consumed(self) -> int:
        """Packets that the handler has taken. Callable from any thread.

        A header that the client gave as ``header=`` is not counted.
        """
        count, left, _ = self.decoded
        return max(0, count - length_hint(left))

    @property
    def answered(self) -> bool:
        """Whether the handler has given its result. Callable from any thread."""
        return self._result is not None

    @property
    def awaited(self) -> str:
        """Who is waited for, ``client`` or ``handler``. Callable from any thread."""
        idle = self.reading or self.outbox.pending or self._result is not None
        return "client" if idle and self.ending is None else "handler"

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the handler any more. Callable from any thread."""
        return self.ending is not None

    @property
    def given_up(self) -> bool:
        """Whether not even what has come is to be handled. Callable from any thread."""
        return isinstance(self.ending, _GIVEN_UP)

    # What they share

    def _answer(self, status: str, facts: dict[str, Any]) -> None:
        """Give the result; raises as ``succeed`` does."""
        outcome = encode_outcome(status, facts)
        self._weigh(outcome)
        with self._lock:
            self._check_open("a result")
            self.frees, self.status = self.returned, status
            self._result = self.consumed, outcome
            self.outbox.close()
        self._wake()
        if not self.whole:
            text = "the handler has given its result: the rest of the flow is not sent"
            error = FlowCancelled(text)
            self._errors.append(error)
            self.inbox.put(error)

    def _answer_failure(self, facts: dict[str, Any]) -> None:
        """Give an error as the result, without its texts if they cannot travel."""
        try:
            self._answer("error", facts)
        except PacketError:
            self._answer("error", facts | {"message": None, "traceback": None})

    def _weigh(self, data: Encoded) -> None:
        limit, size = self.carrier.max_packet, len(data)
        if size > limit:
            raise packet_too_large(size, limit, "max_packet")
        weigh(flatten([data]), self.carrier.bounds)

    def _check_open(self, what: str = "a message") -> None:
        if self._result is not None:
            text = f"{what} after the result: the first word stands"
            raise LocalProtocolError(text, code="answered")
        self.check_heard()

    def _interrupted_by(self, error: StationError) -> Callable[[], object] | None:
        """Return what interrupts a coroutine that waits for something else than its client."""
        if self.reading or self.outbox.has_waiters or not isinstance(error, _GIVEN_UP):
            return None
        return self.cancel_handler

    def _close(self, ending: StationError | None) -> None:
        with self._lock:
            if ending is not None:
                self._errors.append(ending)
            self.ending = ending
            self._closed = True
            self.outbox.pending.clear()
            self.outbox.close()
        self._stop_ticking()

    def _reads_on(self) -> bool:
        """Whether packets that came are left, and the handler takes one now and then."""
        consumed = self.consumed
        if consumed != self._unheard_at:
            self._unheard_at, self._unheard = consumed, 0
        self._unheard += 1
        return consumed < self.received and self._unheard <= BATCH_PACKETS

    def _wake(self) -> None:
        """Have the reactor look at what there is to say."""
        if not self._woken:
            self._woken = True
            self.carrier.call_soon(self.flush)
