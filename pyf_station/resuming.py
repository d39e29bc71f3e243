"""A link that survives its connection: it gets itself a new one, and the flow goes on there.

The user's thread does not notice. What it sends meanwhile goes to the machine of the connection
that was lost, until credit ends: it is kept, and leaves again once there is a new connection. The
keeper connects.
"""

from __future__ import annotations

import random
import selectors
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from math import inf
from typing import Any, Final, TypeVar

from pyf.station.backoff import pauses
from pyf.station.counts import Carried, Progress
from pyf.station.keeper import LAST_WORD, TICK, Selector
from pyf.station.link import Link
from pyf.station.outcome import cut_off
from pyf.station.wire import Wire
from pyf.transport import (
    ConnectFailed,
    Connection,
    ConnectionLost,
    DeadlineExceeded,
    FlowRefused,
    Limits,
    Role,
    StationError,
)
from pyf.transport.events import (
    Event,
    FlowRejected,
    FlowResumed,
    GoAwayReceived,
    HelloReceived,
    LateResult,
    ResultReceived,
    SessionOpened,
)
from pyf.transport.limits import LONGEST_WAIT
from pyf.transport.patience import Patience
from pyf.transport.resume import FlowMachine, Ticket

ASSUMED_TTL: Final = 120.0
"""Seconds that a client tries for, where no server has said how long its session lasts."""

Some = TypeVar("Some")
Connect = Callable[[float | None], Wire]


class ResumingLink(Link):
    """A link whose flow goes on over new connections, which *connect* gives.

    *connect* is called with the seconds that are left, in the keeper's thread too. *name* is what
    the client calls the flow across sessions.
    """

    start: int

    def __init__(
        self,
        connect: Connect,
        limits: Limits,
        timeout: float | None = None,
        deadline: float | None = None,
        *,
        name: str | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(connect(timeout), limits, timeout, deadline)
        self._connect = connect
        self._name = name
        self._draw = draw
        self._opening: tuple[dict[str, Any] | None, bool, int | None] = (None, True, None)
        self._ticket: Ticket | None = None
        self._flow: FlowMachine | None = None
        # Under the lock; the event is set while it is false.
        self._reviving = False
        self._final = False
        self._heard: list[Event] = []
        self._settled = threading.Event()
        self._settled.set()

    def open(
        self, header: dict[str, Any] | None, *, waits: bool, length_hint: int | None = None
    ) -> None:
        """Open the flow, and wait until the server has given it a session, or has refused it.

        Raises PacketError for a header that cannot travel, and as ``send`` does.
        """
        self._opening = header, waits, length_hint
        super().open(header, waits=waits, length_hint=length_hint)
        self._turn()
        while self._ticket is None and self.result is None:
            self.wait()

    def _open_flow(
        self, machine: Connection, header: dict[str, Any] | None, waits: bool, length: int | None
    ) -> int:
        keeps = self._limits.retention
        return machine.open_flow(header, self.timeout, waits, length, resume=keeps, name=self._name)

    def _await_keeper(self) -> None:
        self.get_keeper(TICK)  # Which is to connect, whenever that is.

    # What a link does, while it has no connection

    def _service(self) -> None:
        if self._reviving:
            self._machine.data_to_send()  # What matters is kept.
            return
        super()._service()
        lost = isinstance(self._broken, ConnectionLost) and not self._final
        if lost and self.result is None and not self._lingering:
            self._broken = None
            self._reviving = self._fresh = True
            self._settled.clear()
            self._wake()

    def _wait(self, until: float | None) -> None:
        if not self._reviving:
            super()._wait(until)
            return
        self.check_deadline()
        left = min(inf if until is None else until, self._deadline or inf) - self._clock()
        self._settled.wait(min(max(0.0, left), LONGEST_WAIT))
        self.check_deadline()

    def _linger(self) -> None:
        if self._reviving and threading.current_thread() is not self._keeper:
            self._settled.wait(LAST_WORD)
        if self._reviving:
            self._lingering = False
        super()._linger()

    def disown(self) -> None:
        """Leave the flow to the process that this one was forked from."""
        super().disown()
        self._final, self._reviving = True, False
        self._settled = threading.Event()
        self._settled.set()

    def _handle(self, event: Event) -> None:
        match event:
            case SessionOpened(ticket=ticket):
                self._ticket, self._flow = ticket, self._machine.flow(self._flow_id)
                self.start = ticket.start
            case FlowResumed(token=token):
                assert self._ticket is not None
                self._ticket = self._ticket._replace(token=token)
            case GoAwayReceived(code="draining", message=message) if self._name is not None:
                # Another server can carry on: why wait until this one has to break the flow off?
                self._final = True
                self._broken = FlowRefused(message, code="draining")
            case _:
                super()._handle(event)

    # A new connection; in the keeper's thread

    def _keep_connected(self, selector: selectors.BaseSelector) -> None:
        if self._reviving:
            self._wire.unwatch(selector)
            try:
                self._revive()
            except Exception as error:  # noqa: BLE001 - nobody else would wake the user's thread
                self._settle(self._rejected("failed", f"connecting failed with {error!r}"))

    def _revive(self) -> None:
        """Try to go on over a new connection, until the server says no or it is too late."""
        until = time.monotonic() + (ASSUMED_TTL if self._ticket is None else self._ticket.ttl)
        for pause in pauses(self._draw):
            self._pause(min(pause, max(0.0, until - time.monotonic())))
            if self._closed:
                return
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                self._attempt(left)
            except (ConnectFailed, DeadlineExceeded):
                continue
            except StationError as error:
                self._settle(error)
            if not self._reviving:
                return
        self._settle(self._rejected("expired", "no server let it go on in time"))

    def _pause(self, seconds: float) -> None:
        """Wait, unless the link is closed meanwhile."""
        assert self._wake_receiver is not None
        until = time.monotonic() + seconds
        with Selector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            while not self._closed and (left := until - time.monotonic()) > 0:
                if selector.select(left):
                    self._wake_receiver.recv(64)

    def _attempt(self, left: float) -> None:
        """Connect, and ask for the flow to go on.

        Return where that may be tried again; raises what makes it useless.
        """
        wire = self._connect(left)
        machine = Connection(Role.CLIENT, self._limits, time.monotonic)
        adopted = False
        try:
            with self._lock:
                if self._ticket is None or self._flow is None:
                    flow_id = self._open_flow(machine, *self._opening)
                else:
                    flow_id = machine.resume_flow(self._flow, self._ticket)
            until = time.monotonic() + min(left, self._limits.handshake_timeout)
            while not (adopted or wire.ending or wire.failure) and time.monotonic() < until:
                with self._lock:
                    adopted = self._listen(wire, machine, flow_id)
                if not adopted:
                    wire.wait(min(max(0.0, until - time.monotonic()), LONGEST_WAIT))
        finally:
            if not adopted:
                wire.close()

    def _listen(self, wire: Wire, machine: Connection, flow_id: int) -> bool:
        """Take what has come on a new connection; return whether it carries the flow now."""
        wire.write(machine.data_to_send)
        machine.receive_data(wire.read() or b"")
        opens = FlowResumed | SessionOpened | ResultReceived | LateResult
        adopted = False
        while event := machine.next_event():
            if isinstance(event, opens) and not adopted:
                adopted = True
                self._adopt(wire, machine, flow_id)
                for each in self._heard:
                    self._handle(each)
            if adopted:
                self._handle(event)
            elif isinstance(event, HelloReceived):
                self._heard = [event]
            elif isinstance(event, FlowRejected) and event.final:
                raise self._rejected(event.code, event.message)
        if adopted:
            self._write()
            self._settle(self._broken)
        return adopted

    def _adopt(self, wire: Wire, machine: Connection, flow_id: int) -> None:
        self._wire.close()
        self._wire, self._machine, self._flow_id = wire, machine, flow_id
        self._patience = Patience(machine, lambda: wire.writes, self._clock())

    def _settle(self, broken: StationError | None) -> None:
        """Let the user's thread go on, or know that it cannot."""
        self._broken = broken
        self._final = self._final or broken is not None
        self._reviving = False
        self._fresh = True
        self._settled.set()

    def _rejected(self, code: str, message: str) -> ConnectionLost:
        facts = {"sent": self.sent, "consumed": self.consumed}
        return cut_off(code, message, whole=self._ended, **facts)


class Persistence:
    """Whether a call of a flow with a name may begin again, and when.

    Again where a server was lost, or goes: at once where there never was one it is final, and
    after ASSUMED_TTL seconds where none has been found again.
    """

    def __init__(
        self,
        progress: Progress,
        timeout: float | None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._draw = draw
        self._clock = clock
        self._deadline = None if timeout is None else clock() + timeout
        self._tries, self._until = pauses(draw), inf
        self._before: Carried | None = None

    def begin(self) -> float | None:
        """Note that the call begins; return the seconds that it has."""
        self._before = self._progress.link
        return None if self._deadline is None else max(0.0, self._deadline - self._clock())

    def again(self, error: StationError) -> float:
        """Return the seconds to wait before the next try; raises *error* where there is none."""
        link = self._progress.link
        if link is None or _is_final(error):
            raise error
        if link is not self._before:
            self._tries, self._until = pauses(self._draw), self._clock() + ASSUMED_TTL
        if self._clock() >= self._until:
            raise error
        return next(self._tries)


LOST: Final = (ConnectFailed, ConnectionLost, FlowRefused)
"""What a call of a flow with a name may begin again after."""


def persist(
    steps: Callable[[float | None], Generator[Some, None, None]], persistence: Persistence
) -> Generator[Some, None, None]:
    """Yield what *steps* yields, given the seconds left; call it again where that may help."""
    while True:
        try:
            with closing(steps(persistence.begin())) as values:
                yield from values
        except LOST as error:
            pause = persistence.again(error)
        else:
            return
        time.sleep(pause)


def _is_final(error: StationError) -> bool:
    return isinstance(error, FlowRefused) and error.code not in ("busy", "draining")
