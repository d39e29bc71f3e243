"""The blocking client's connection: a socket, a machine, and a keeper that minds them while user code runs."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

from pyf.transport import (
    Connection,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    FlowRefused,
    Limits,
    LocalProtocolError,
    OutcomeUnknown,
    Packet,
    RemoteProtocolError,
    Role,
    StationError,
)
from pyf.transport.events import (
    ConnectionClosed,
    CreditReceived,
    Event,
    GoAwayReceived,
    PacketsReceived,
    PongReceived,
    ResultReceived,
)
from pyf.transport.frames import Batch
from pyf.transport.states import FlowState

RECEIVE_BYTES = 256 * 1024
"""Bytes read at once: a system call costs as much as copying a few KiB."""

TICK = 0.005
"""Seconds after which packets that a blocked source has left behind are sent. Half of the 10 ms promised."""

PARKED = 1.0
"""Seconds after which the keeper looks whether user code has been running all the time."""

LAST_WORD = 1.0
"""Seconds that a client which leaves gives the server to hear of it."""

MAX_BUFFERS = 64
"""Buffers written at once; systems take at least 16, Linux 1024."""

_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


def connect(host: str, port: int, limits: Limits) -> socket.socket:
    """Return a socket connected to *host*, an IPv4 or IPv6 address or a name of some; raises ConnectFailed."""
    where = f"{host}:{port}"
    deadline = time.monotonic() + limits.connect_timeout
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        text = f"cannot connect to {where}: the name {host!r} is not known ({error.strerror or error})"
        raise ConnectFailed(text, host=host, port=port) from error
    tried: list[str] = []
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            reason = error.strerror or f"{error} after {limits.connect_timeout:g} s (Limits.connect_timeout)"
            tried.append(f"{address[0]} port {port}: {reason}")
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    text = f"cannot connect to {where}: {'; '.join(tried)}"
    raise ConnectFailed(text, host=host, port=port, tried=tuple(tried))


class Link:
    """One connection with one flow.

    The user's thread calls everything here but what begins with ``_keep``. While it is in user code, the keeper
    takes the socket over: it answers, reads what credit allows, and sends what a blocked source left in ``pending``.
    """

    def __init__(self, sock: socket.socket, limits: Limits, timeout: float | None) -> None:
        self.pending: deque[bytes] = deque()
        """Encoded packets that have not left yet."""
        self.result: ResultReceived | None = None
        """The server's last word, once it has come."""
        self.sent = 0
        """Packets that have left."""
        self.consumed = 0
        """Packets that the handler has taken, as last reported."""
        self._limits = limits
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._machine = Connection(Role.CLIENT, limits)
        self._flow_id = 0
        self._messages: deque[Batch] = deque()
        self._ended = False
        self._ponged = False
        self._socket = sock
        self._unsent: deque[memoryview] = deque()
        self._deaf = False
        self._broken: StationError | None = None
        self._lock = threading.Lock()
        self._selector = _Selector()
        self._selector.register(sock, selectors.EVENT_READ)
        # What the keeper looks at, under the lock.
        self._activity = 0
        self._fresh = False
        self._waiting = False
        self._burst = False
        self._asleep = False
        self._closed = False
        self._keeper: threading.Thread | None = None
        self._wake_receiver: socket.socket | None = None
        self._wake_sender: socket.socket | None = None

    # The flow

    def open(self, header: dict[str, Any] | None, waits: bool) -> None:
        """Open the flow. Nothing is written yet: it leaves with the first packets, or a TICK later."""
        self._flow_id = self._machine.open_flow(header, self._timeout, waits)

    def send_pending(self, seconds: float | None = None) -> None:
        """Give ``pending`` to the socket as credit allows, and wait until all of it has left.

        Returns early, with packets left in ``pending``, where a result has come, or after *seconds*. Raises
        ConnectionLost, DeadlineExceeded, PacketTooLarge, RemoteProtocolError or FlowRefused.
        """
        until = None if seconds is None else time.monotonic() + seconds
        self._turn(self._send_some)
        while (self.pending or self._unsent) and self.result is None:
            if until is not None and time.monotonic() >= until:
                return
            self._wait(until)
            self._turn(self._send_some)

    def end(self) -> None:
        """Send the END; raises as ``send_pending`` does."""
        if self.result is None:
            self._turn(self._end)
        while self._unsent and self.result is None:
            self.wait()

    def abort(self, error_class: str) -> None:
        """Tell the handler that the generator failed, if it can still be told. Raises nothing."""
        self._last_word(lambda: self._machine.abort(self._flow_id, error_class))

    def cancel(self) -> None:
        """Tell the handler that nobody waits for it, if it can still be told. Raises nothing."""
        self._last_word(lambda: self._machine.cancel(self._flow_id))

    def wait(self, until: float | None = None) -> None:
        """Wait until something has come, or until the time *until*; raises as ``send_pending`` does."""
        self._wait(until)
        self._turn()

    def take_messages(self) -> list[Packet]:
        """Return the packets of one batch that has come back, none if none has."""
        if not self._messages:
            return []
        batch = self._messages.popleft()
        try:
            packets = list(batch.decode())
        except RemoteProtocolError as error:
            with self._lock:
                self._machine.fail(error)
                self._broken = error
                self._service()
            raise
        with self._lock:
            self._machine.consume(self._flow_id, batch.packets, batch.size)
            self._service()
        return packets

    def confirm(self) -> None:
        """Wait until the server has received all that was sent, for ``Limits.close_timeout`` at the most."""
        until = time.monotonic() + self._limits.close_timeout
        with suppress(StationError):
            self._turn(lambda: self._machine.ping(0))
            while not self._ponged and self.result is None and time.monotonic() < until:
                self.wait(until)

    def arm(self, *, burst: bool) -> None:
        """Have the keeper look after the link while user code runs.

        In a *burst*, packets may be left in ``pending``; otherwise there is no haste.
        """
        if self._keeper is None:
            self._burst = burst
            self._wake_receiver, self._wake_sender = socket.socketpair()
            self._wake_receiver.setblocking(False)
            self._wake_sender.setblocking(False)
            self._keeper = threading.Thread(target=self._keep, name="pyf.station-keeper", daemon=True)
            self._keeper.start()
        elif burst and not self._burst:
            with self._lock:
                self._burst = True
                self._wake()
        else:
            self._burst = burst

    def left(self) -> int:
        """Return how many packets have been put into ``pending`` in all, those that have left included."""
        with self._lock:
            return self.sent + len(self.pending)

    def close(self) -> None:
        """Let go of the socket and the keeper. Raises nothing."""
        with self._lock:
            self._closed = True
            self._wake()
        if self._keeper is not None and self._keeper is not threading.current_thread():
            # Bounded: at the interpreter's exit a daemon thread no longer runs.
            self._keeper.join(1.0)
        self._selector.close()
        for sock in (self._socket, self._wake_receiver, self._wake_sender):
            if sock is not None:
                sock.close()

    def _send_some(self) -> None:
        if self.pending and self.result is None:
            self.sent += self._machine.send_packets(self._flow_id, self.pending)

    def _end(self) -> None:
        if self.result is None:
            self._machine.end(self._flow_id)
            self._ended = True

    def _last_word(self, action: Callable[[], None]) -> None:
        until = time.monotonic() + LAST_WORD
        # The server's result acknowledges it. A socket closed before could take the word back with a reset.
        with suppress(StationError):
            self._turn(action)
            while self._machine.flow_state(self._flow_id) is not FlowState.CLOSED and time.monotonic() < until:
                self.wait(until)
                self._messages.clear()

    # The socket

    def _turn(self, action: Callable[[], object] | None = None) -> None:
        """Do *action* on the machine, write what it says, and read what has come; raise what broke the link."""
        with self._lock:
            self._activity += 1
            self._fresh = False
            if action is not None and self._broken is None:
                action()
            self._service()
            if self._broken is not None and self.result is None:
                raise self._broken

    def _wait(self, until: float | None) -> None:
        """Wait until the socket can be read (or written, where something is unsent), or a time has come."""
        ends = [moment for moment in (until, self._deadline) if moment is not None]
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            raise self.deadline_error()
        with self._lock:
            if self._fresh or self._broken is not None:
                return  # What is waited for may have come after it was looked for.
            self._waiting = True
            self._watch(self._selector)
        try:
            self._selector.select(max(0.0, min(ends) - now) if ends else None)
        finally:
            with self._lock:
                self._waiting = False
                self._activity += 1
                if self._asleep:
                    self._wake()

    def check_deadline(self) -> None:
        """Raise DeadlineExceeded if the time given to the call is over."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise self.deadline_error()

    def deadline_error(self) -> DeadlineExceeded:
        """Return the error of a call that takes too long."""
        timeout = self._timeout or 0.0
        return DeadlineExceeded(f"the call took longer than its timeout of {timeout:g} s", timeout=timeout)

    def _watch(self, selector: selectors.BaseSelector) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if selector.get_key(self._socket).events != events:
            selector.modify(self._socket, events)

    def _service(self) -> None:
        self._write()
        if self._read():
            self._fresh = True
            self._write()

    def _write(self) -> None:
        self._unsent.extend(map(memoryview, self._machine.data_to_send()))
        while self._unsent:
            try:
                written = self._socket.sendmsg(islice(self._unsent, MAX_BUFFERS))
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # What the server said before it closed is still to be read, and says more than this error.
                self._unsent.clear()
                return
            while written:
                head = self._unsent.popleft()
                if written < len(head):
                    self._unsent.appendleft(head[written:])
                written -= min(written, len(head))

    def _read(self) -> bool:
        """Read what has come; return whether anything has."""
        some = False
        while self._broken is None and not self._deaf:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                data, reason = b"", error.strerror or str(error)
            else:
                reason = "the server closed the connection"
            some = True
            self._deaf = not data
            self._take(data, reason)
            if len(data) < RECEIVE_BYTES:
                break
        return some

    def _take(self, data: bytes, reason: str) -> None:
        if data:
            self._machine.receive_data(data)
        else:
            self._machine.receive_eof()
        try:
            while event := self._machine.next_event():
                self._handle(event, reason)
        except RemoteProtocolError as error:
            self._broken = error

    def _handle(self, event: Event, reason: str) -> None:
        match event:
            case PacketsReceived(batch=batch):
                self._messages.append(batch)
            case CreditReceived(consumed=consumed):
                self.consumed = consumed
            case ResultReceived():
                self.result = event
                self.consumed = event.consumed
            case PongReceived():
                self._ponged = True
            case GoAwayReceived(last_flow=last_flow) if last_flow < self._flow_id:
                self._broken = self._refusal(event)
            case ConnectionClosed():
                self._broken = self._broken or self._lost(reason)
            case _:
                pass

    def _refusal(self, event: GoAwayReceived) -> StationError:
        if event.code in ("busy", "draining"):
            return FlowRefused(f"{event.message}: it is safe to try elsewhere", code=event.code)
        return LocalProtocolError(f"the server gave up: {event.message}", code=event.code)

    def _lost(self, reason: str) -> ConnectionLost:
        facts = {"sent": self.sent, "consumed": self.consumed}
        if self._ended:
            text = f"the whole flow of {self.sent} packets was sent, but its result never came: {reason}"
            return OutcomeUnknown(text, **facts)
        return ConnectionLost(f"the connection was lost after {self.sent} packets: {reason}", **facts)

    # The keeper's thread

    def _wake(self) -> None:
        self._asleep = False
        if self._wake_sender is not None:
            with suppress(BlockingIOError):  # A full buffer wakes as well.
                self._wake_sender.send(b"\0")

    def _keep(self) -> None:
        assert self._wake_receiver is not None
        seen = self._activity
        guarding = False
        with _Selector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            while True:
                # While the user's thread comes by, look again; where it waits itself, or this one does, sleep.
                tick = None if guarding or self._asleep else TICK if self._burst else PARKED
                woken = any(key.fileobj is self._wake_receiver for key, _ in selector.select(tick))
                with self._lock:
                    if woken:
                        self._wake_receiver.recv(64)
                    if self._closed:
                        return
                    if woken or self._activity != seen:
                        seen, guarding = self._activity, False
                    elif self._waiting:
                        self._asleep, guarding = True, False
                    else:
                        guarding = True
                        self._keep_going()
                    self._keep_watch(selector, guarding and self._broken is None and not self._deaf)

    def _keep_going(self) -> None:
        try:
            self._send_some()
        except StationError as error:
            self._broken = error
        self._service()

    def _keep_watch(self, selector: selectors.BaseSelector, watching: bool) -> None:
        if self._socket not in selector.get_map():
            if watching:
                selector.register(self._socket, selectors.EVENT_READ)
                self._watch(selector)
        elif watching:
            self._watch(selector)
        else:
            selector.unregister(self._socket)
