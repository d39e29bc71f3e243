"""What a link is made of: a socket, a machine, and a keeper that minds them.

Two threads share a link: the user's, and a keeper of the link's own which takes the socket over
while the user's thread is in user code. One lock guards the machine and the socket; whoever waits
on the socket waits outside it.
"""

from __future__ import annotations

import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

from pyf.station.burst import Gate
from pyf.station.forks import owned
from pyf.station.nursery import nursery
from pyf.station.outcome import lost, refusal
from pyf.station.wire import Wire, deadline_error, set_user_timeout
from pyf.transport import (
    Connection,
    Limits,
    LocalProtocolError,
    PacketError,
    RemoteProtocolError,
    Role,
    StationError,
)
from pyf.transport.events import (
    ConnectionClosed,
    CreditReceived,
    Event,
    FlowStopped,
    GoAwayReceived,
    HelloReceived,
    LateResult,
    PacketsReceived,
    PongReceived,
    ResultReceived,
)
from pyf.transport.frames import Batch
from pyf.transport.patience import Patience
from pyf.transport.pieces import Pending
from pyf.transport.states import FlowState

TICK = 0.004
"""Seconds between the keeper's looks at a fast source. At the second look that finds the user's
thread away, what a source which stopped has left behind is sent: within the 10 ms promised."""

CALM = 25
"""The keeper's looks without change at which a thread that waits for the server is left alone: to
wake the keeper behind each short wait would cost more than it to look now and then."""

PARKED = 1.0
"""Seconds between the keeper's looks where nothing can be left behind."""

LAST_WORD = 1.0
"""Seconds that a client which leaves gives the server to hear of it."""

Selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)
"""One that takes no file descriptor."""


class KeptLink:
    """A connection that is read, written and left; what it carries is the link's to say.

    Methods that begin with ``_keep`` are the keeper's.
    """

    # Of 30 attributes or more CPython 3.11 finds each later, and each method.
    __slots__ = (  # noqa: SIM905 - a list would have a line for each
        "__weakref__ _broken _clock _closed _deadline _ended _flow_id _fresh _gate _gone_away "
        "_haste _keeper _last_words _limits _lingering _lock _machine _owner _patience _ponged "
        "_resting _spoiled _torn _wake_receiver _wake_sender _wire activity consumed messages "
        "packet_size pending result sent start timeout waiting wanted"
    ).split()

    def __init__(
        self,
        wire: Wire,
        limits: Limits,
        timeout: float | None = None,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pending: Pending = deque()
        """Encoded packets that have not left yet."""
        self.messages: deque[Batch] = deque()
        """What has come back and was not taken, still encoded."""
        self.result: ResultReceived | None = None
        """The server's last word, once it has come."""
        self.wanted: bool = True
        """Whether the handler takes more packets."""
        self.sent: int = 0
        """Packets that have left."""
        self.consumed: int = 0
        """Packets that the handler has taken, as last reported."""
        self.start: int = 0
        """Packets of the flow that are not asked for: earlier sessions have handled them."""
        self.packet_size: int = 1
        """Bytes of a packet of those that left last, on average."""
        self.timeout: float | None = timeout
        """Seconds that the call was given."""
        self._deadline = deadline
        self._limits = limits
        self._machine = Connection(Role.CLIENT, limits, time.monotonic)
        self._flow_id = 0
        self._ended = False
        self._ponged = False
        self._last_words: Callable[[], None] | None = None
        self._lingering = False
        self._gone_away = ""
        self._wire = wire
        self._clock = clock
        self._patience = Patience(self._machine, lambda: self._wire.writes, clock())
        self._broken: StationError | None = None
        self._spoiled: PacketError | None = None
        self._torn = False
        self._lock = threading.Lock()
        # What the user's thread and the keeper tell each other, under the lock.
        self._owner = threading.get_ident()
        self.activity: int = 0
        """What changes whenever the user's thread comes by."""
        self._fresh = False
        self.waiting: bool = False
        """Whether the user's thread waits for the server."""
        self._haste = True
        self._gate: Gate = []
        self._resting = False
        self._closed = False
        self._keeper: threading.Thread | None = None
        self._wake_receiver: socket.socket | None = None
        self._wake_sender: socket.socket | None = None
        owned.add(self)

    # Leaving

    def close(self) -> None:
        """Let go of the socket and the keeper, once a last word has been heard. Raises nothing.

        Waits for that, LAST_WORD seconds at the most, only in the thread that used the link last;
        in another, and in the garbage collector's, the keeper sees to it.
        """
        if not self._flow_id or sys.is_finalizing():
            # As the interpreter exits, the keeper does not run any more.
            self._release()
            return
        mine = threading.get_ident() == self._owner
        if mine and nursery.remove(self):
            self._closed = True
            self._keep_farewell()
            return
        try:
            if mine:
                self._linger()
        finally:
            # Without the lock: the collector may run in a keeper that holds it.
            self._closed = True
            self._wake()
        if mine and self._keeper is not None:
            self._keeper.join(LAST_WORD)

    def _say(self, word: Callable[[], None], *, wait: bool = True) -> None:
        if self.result is not None or self._lingering or self._last_words is not None:
            return
        self._last_words = word
        mine = threading.get_ident() == self._owner and not sys.is_finalizing()
        if self._lock.acquire(blocking=mine and wait):  # Otherwise the keeper finds the word.
            try:
                self._say_it()
            finally:
                self._lock.release()

    def _say_it(self) -> None:
        word, self._last_words = self._last_words, None
        self.pending.clear()
        if word is not None and self._broken is None:
            with suppress(StationError):
                word()
                self._lingering = True
            self._service()

    def _linger(self) -> None:
        """Wait until the server has heard the last word.

        Its result says so. A socket closed before could take the word back with a reset.
        """
        until = self._clock() + LAST_WORD
        while self._lingering:
            with self._lock:
                self.waiting = True
                self._service()
                self.messages.clear()
                closed = self._machine.flow_state(self._flow_id) is FlowState.CLOSED
                left = until - self._clock()
                self._lingering = self._broken is None and not closed and left > 0
            if self._lingering:
                self._wire.wait(left)

    def _release(self) -> None:
        self._wire.close()
        for sock in (self._wake_receiver, self._wake_sender):
            if sock is not None:
                sock.close()

    def disown(self) -> None:
        """Leave the connection to the process that this one was forked from.

        That has the keeper, and its close is none as long as another process has the socket open.
        """
        self._lock = threading.Lock()  # Another thread, which is not here, may have held it.
        self._lingering, self._last_words = False, None
        self._keeper = None  # It runs there, or was about to.
        text = "the flow belongs to the process that opened it, from which this one was forked"
        self._broken = LocalProtocolError(text, code="forked")
        self.result = None
        self._wire.failure = self._wire.ending = text
        self._release()

    def _come_by(self) -> None:
        """Show that the user's thread is there."""
        self.activity += 1

    # The socket

    def _turn(self, action: Callable[[], object] | None = None) -> None:
        """Do *action* on the machine, write what it says, and read what has come.

        Raises what broke the link, unless the result has come.
        """
        with self._lock:
            self.activity += 1
            self._fresh = False
            self._owner = threading.get_ident()
            if self._torn:
                text = "the flow cannot go on: an exception interrupted the client at its work"
                raise LocalProtocolError(text, code="interrupted")
            try:
                if action is not None and self._broken is None:
                    action()
                self._service()
            except StationError:
                raise
            except BaseException:  # A signal handler's: how far the machine came is not known.
                self._torn = True
                raise
            if self._wire.unsent:
                self._hand_over()
            if self._broken is not None and self.result is None:
                raise self._broken

    def _hand_over(self) -> None:
        """Leave what the system has not taken to the keeper: user code may run for long now."""
        if self._resting or not self._haste:
            self._haste = True
            self._wake()

    def _send_some(self) -> None:
        if self._spoiled is not None:
            raise self._spoiled
        if self.pending and self.wanted:
            machine = self._machine
            window = machine.flow(self._flow_id).send
            before = window.sent_bytes
            try:
                count = machine.send_packets(self._flow_id, self.pending)
            finally:
                self.sent = window.sent_packets
            if count:
                self.packet_size = (window.sent_bytes - before) // count

    def _send_last(self) -> None:
        # Where the connection has ended already, the END has not been sent.
        self._fresh = self._read(self._clock())
        if self._broken is None:
            self._send_some()
            left = self.wanted and self.pending
            if not (left or self._ended or self.result is not None):
                self._machine.end(self._flow_id)
                self._ended = True

    def check_deadline(self) -> None:
        """Raise DeadlineExceeded if the time given to the call is over."""
        if self._deadline is not None and self._clock() >= self._deadline:
            raise deadline_error(self.timeout or 0.0)

    def _wait(self, until: float | None) -> None:
        """Wait until the socket can be read (or written, if something is unsent), or a time."""
        self.check_deadline()
        until = min(inf if until is None else until, self._deadline or inf)
        try:
            with self._lock:
                if self._fresh or self._broken is not None:
                    return  # What is waited for may have come after it was looked for.
                self.waiting = True
                until = min(until, self._patience.due)
            self._wire.wait(max(0.0, until - self._clock()))
        finally:
            with self._lock:
                self.waiting = False
                self.activity += 1
                if self._resting:
                    self._wake()

    def _service(self) -> None:
        """Write and read what can be without waiting."""
        self._write()
        clock = self._clock
        now = clock()
        if self._read(now):
            self._fresh = True
            if self._machine.speaks:
                self._write()
        elif self._wire.failure and self._broken is None:
            self._broken = self._lost(self._wire.failure)
        patience = self._patience
        if self._wire.unsent:
            patience.stuck(now)
        else:
            patience.unstuck()
        if now >= patience.due:
            self._look(now)

    def _look(self, now: float) -> None:
        """Do what is due where the server is silent or slow, all that has come being read."""
        if self._broken is not None:
            self._patience.due = inf
            return
        overdue = self._patience.look(now)
        self._write()
        if overdue is not None:
            self._machine.go_away(overdue.code, overdue.text)
            self._break(self._lost(overdue.text, option=overdue.option, limit=overdue.limit))

    def _break(self, error: StationError) -> None:
        """Go no further, and let the server hear of it: user code may run for long."""
        self._broken = error
        self._write()
        self._wire.give_up(str(error))

    def _write(self) -> None:
        self._wire.write(self._machine.data_to_send)

    def _read(self, now: float) -> bool:
        """Take what has come; return whether anything has."""
        wire = self._wire
        if self._broken is not None or wire.ending:
            return False
        machine = self._machine
        patience = self._patience
        if patience.mid_frame and wire.in_place and (buffer := machine.get_buffer()) is not None:
            if (size := wire.read_into(buffer)) is None:
                return False
            machine.buffer_updated(size)
        else:
            if (data := wire.read()) is None:
                return False
            machine.receive_data(data)
        if self._wire.ending:
            machine.receive_eof()
        try:
            while event := machine.next_event():
                self._handle(event)
        except RemoteProtocolError as error:
            self._break(error)
        patience.received(now)
        return True

    def _handle(self, event: Event) -> None:
        match event:
            case PacketsReceived(batch=batch):
                self.messages.append(batch)
            case CreditReceived(consumed=consumed):
                self.consumed = consumed
            case FlowStopped():
                self.wanted = False
            case ResultReceived():
                self.consumed = event.consumed
                self.result = event
                self.wanted = False
            case LateResult():
                self._handle(event.decode())
            case PongReceived():
                self._ponged = True
            case HelloReceived():
                seconds = self._patience.greeted(event.min_ping_interval, self._clock())
                set_user_timeout(self._wire.socket, seconds)
            case GoAwayReceived(last_flow=last_flow) if last_flow < self._flow_id:
                self._broken = refusal(event)
            case GoAwayReceived(message=message):
                self._gone_away = message
            case ConnectionClosed():
                self._broken = self._broken or self._lost(self._gone_away or self._wire.ending)
            case _:
                pass

    def _lost(self, reason: str, **facts: Any) -> StationError:
        facts.update(sent=self.sent, consumed=self.consumed)
        return lost(reason, whole=self._ended, **facts)

    # The keeper

    def _await_keeper(self) -> None:
        nursery.add(self)

    def get_keeper(self, pause: float = 0.0) -> None:
        """Start a keeper, which looks after *pause* seconds for the first time.

        Raises RuntimeError or OSError where the system has none to give.
        """
        if self._wake_receiver is None:
            self._wake_receiver, self._wake_sender = socket.socketpair()
            self._wake_receiver.setblocking(False)
            self._wake_sender.setblocking(False)
        options: dict[str, Any] = {"name": "pyf.station-keeper", "daemon": True}
        self._keeper = threading.Thread(target=self._keep, args=(pause,), **options)
        try:
            self._keeper.start()
        except RuntimeError:
            self._keeper = None  # Nobody is to wait for its end.
            raise

    def _wake(self) -> None:
        if self._wake_sender is None:
            return  # The keeper, once there is one, has a look by itself.
        self._resting = False
        with suppress(OSError):  # It is full, which wakes as well, or closed already.
            self._wake_sender.send(b"\0")

    def _keep(self, pause: float | None) -> None:
        """Look after the link while user code runs; the keeper's thread."""
        assert self._wake_receiver is not None
        seen, looks = self.activity, 0
        with Selector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            while not self._closed:
                self._keep_connected(selector)
                tick = self._rest() if pause is None else pause
                pause = None
                woken = any(key.fileobj is self._wake_receiver for key, _ in selector.select(tick))
                with self._lock:
                    if woken:
                        self._wake_receiver.recv(64)
                    # While the user's thread comes by, look again later. Where it waits itself,
                    # or where the socket is being watched here, rest.
                    if woken or self.activity != seen:
                        seen = self.activity
                        looks = 0
                    else:
                        looks += 1
                    guarding = looks > 0 and not self.waiting
                    self._resting = guarding or looks >= CALM
                    if guarding:
                        self._keep_going()
                    elif self._clock() >= self._patience.due:
                        self._service()
                    if guarding and self._broken is None and not self._wire.ending:
                        self._wire.watch(selector)
                    elif len(selector.get_map()) > 1:  # It watches more than what wakes it.
                        self._wire.unwatch(selector)
        self._keep_farewell()

    def _rest(self) -> float | None:
        """Return the seconds until the keeper has to look, None where the user's thread does."""
        until = inf if self._resting and self.waiting else self._patience.due - self._clock()
        seconds = min(until, inf if self._resting else TICK if self._haste else PARKED)
        return None if seconds == inf else max(0.0, seconds)

    def _keep_connected(self, selector: selectors.BaseSelector) -> None:
        """Do nothing: this link has one connection. Another kind gets itself a new one here."""

    def _keep_going(self) -> None:
        # A source that has stopped in a burst is to be asked for no more than it is at.
        self._gate.clear()
        try:
            self._send_some()
        except PacketError as error:
            self._spoiled = error  # For the user's thread to raise.
        self._service()

    def _keep_farewell(self) -> None:
        try:
            with self._lock:
                self._say_it()
            self._linger()
        finally:
            self._release()
