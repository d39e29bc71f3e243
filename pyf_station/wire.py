"""The blocking client's socket: connecting, exact writes, reads that never wait."""

from __future__ import annotations

import os
import select
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeVar

from pyf.station import sockets
from pyf.station.address import address_text, at_path, path_of
from pyf.transport import ConnectFailed, DeadlineExceeded, Limits
from pyf.transport.limits import LONGEST_WAIT

RECEIVE_BYTES = 64 * 1024
"""Bytes read at once, as many as Twisted reads. Larger reads leave holes between the payloads that
wait for a handler, and memory beyond the windows."""

A = TypeVar("A")
T = TypeVar("T")

MAX_BUFFERS = 64
"""Buffers written at once; systems take at least 16, Linux 1024."""

USER_TIMEOUT = 2_000_000.0
"""Seconds that the system is told at the most: it counts milliseconds in 31 bits."""

CLOSED = "the server closed the connection"


class Attempt:
    """An attempt to connect to *host*, over all its addresses: its time, and why it failed.

    *timeout* is what the call has, if it has a limit.
    """

    def __init__(self, host: str, port: int, limits: Limits, timeout: float | None = None) -> None:
        self.host: str = host
        self.port: int = port
        self._timeout = timeout
        self._began = time.monotonic()
        most = limits.connect_timeout
        self._until = self._began + (most if timeout is None else min(timeout, most))
        self._tried: list[str] = []

    def share(self, addresses: int) -> float:
        """Return the seconds for the next of so many *addresses* that are left.

        One that does not answer leaves time for those after it.
        """
        return min(max(0.001, self._until - time.monotonic()) / addresses, LONGEST_WAIT)

    def unknown(self, error: Exception) -> ConnectFailed:
        """Return the error of a name that cannot be resolved."""
        return self._failed(f"the name {self.host!r} is not known ({_reason(error)})")

    def note(self, address: Any, error: Exception) -> None:
        """Note that *address*, a host's or what a socket connects to, could not be reached."""
        timed_out = isinstance(error, TimeoutError)
        reason = "timed out (Limits.connect_timeout)" if timed_out else _reason(error)
        where = address if isinstance(address, str) else str(address[0])
        if path_of(self.host) is None:
            where = f"{where} port {self.port}"
        self._tried.append(f"{where}: {reason}")

    def failure(self) -> ConnectFailed | DeadlineExceeded:
        """Return the error of an attempt whose every address failed."""
        if self._timeout is not None and time.monotonic() >= self._began + self._timeout:
            return deadline_error(self._timeout)
        return self._failed("; ".join(self._tried))

    def _failed(self, why: str) -> ConnectFailed:
        text = f"cannot connect to {address_text(self.host, self.port)}: {why}"
        return ConnectFailed(text, host=self.host, port=self.port, tried=tuple(self._tried))


def _reason(error: Exception) -> object:
    # asyncio puts the address into its own text, and keeps the number of the system.
    number: Any = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return getattr(error, "strerror", None) or error


def connect(host: str, port: int, limits: Limits, timeout: float | None = None) -> socket.socket:
    """Return a socket connected to *host*: an address, a name of some, or ``unix:PATH``.

    Raises ConnectFailed, or DeadlineExceeded where the *timeout* of the call is over before.
    """
    attempt = Attempt(host, port, limits, timeout)
    try:
        addresses = at_path(host) or socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise attempt.unknown(error) from error
    for index, (family, _, protocol, _, address) in enumerate(addresses):
        try:
            return _connected(family, protocol, address, attempt.share(len(addresses) - index))
        except OSError as error:
            attempt.note(address, error)
    raise attempt.failure()


def _connected(family: int, protocol: int, address: Any, seconds: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sockets.connect(sock, address, seconds)
        send_at_once(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def send_at_once(sock: socket.socket) -> None:
    """Have TCP send small pieces at once; other sockets do anyway."""
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def unheard(reason: str) -> str:
    """Return why a connection has ended on which the server had not said a word."""
    return f"{reason}, and had not said a word: it may expect TLS, or another protocol"


def deadline_error(timeout: float) -> DeadlineExceeded:
    """Return the error of a call that takes longer than *timeout* seconds."""
    text = f"the call took longer than its timeout of {timeout:g} s"
    return DeadlineExceeded(text, timeout=timeout)


def set_user_timeout(sock: socket.socket, seconds: float) -> None:
    """Have the system give the connection up, too, where it can: it notices in mid-data."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        # A handle that is no TCP socket doesn't know the option, or has no options at all.
        with suppress(AttributeError, OSError):
            milliseconds = max(1, round(1000 * min(seconds, USER_TIMEOUT)))
            sock.setsockopt(socket.IPPROTO_TCP, option, milliseconds)


def lookout(sock: socket.socket) -> Callable[[float, bool], object]:
    """Return what waits some seconds until *sock* can be read, or written if asked for that, too.

    It takes no descriptor, and is for one thread at a time.
    """
    if not hasattr(select, "poll"):  # Windows
        return lambda seconds, writing: select.select(
            [sock], [sock] if writing else [], [], seconds
        )
    poller, number = select.poll(), sock.fileno()
    poller.register(number, select.POLLIN)

    def look(seconds: float, writing: bool) -> None:
        if writing:
            poller.modify(number, select.POLLIN | select.POLLOUT)
        try:
            poller.poll(1000 * seconds)
        finally:
            if writing:
                poller.modify(number, select.POLLIN)

    return look


class Wire:
    """A connected socket, taken over, that neither reading nor writing waits for.

    Not safe for threads: its owner locks, but for ``wait``. An exception that a signal handler
    raises in the middle of a method leaves the bytes written so far and those still to be written
    exact.
    """

    in_place: ClassVar[bool] = True
    """Whether what comes may be read into a buffer, as it is."""

    def __init__(self, sock: socket.socket) -> None:
        if sock.gettimeout() != 0.0:  # Setting it is a call of the system.
            sock.setblocking(False)
        self.socket: socket.socket = sock
        """For a selector to watch."""
        self.failure: str = ""
        """Why nothing can be written any more."""
        self.ending: str = ""
        """Why nothing more will come."""
        self._heard = False
        self.writes: int = 0
        """How often the system has taken something: as long as that grows, bytes leave."""
        self.unsent: list[bytes | memoryview] = []
        """What the system has not taken yet."""
        self._written: list[int] = []
        self._send = partial(sockets.send, sock)
        self._await = lookout(sock)

    def write(self, produce: Callable[[], list[bytes]]) -> None:
        """Write what *produce* returns, behind what is unsent, as far as the system takes it.

        Raises nothing: after a failure, what comes is dropped.
        """
        unsent = self.unsent
        unsent += produce()
        if self._written:  # An exception came between a write and what is done about it.
            unsent = self._drop_written()
        while unsent and not self.failure:
            try:
                # In C, where no signal handler can raise between the write and the note of it:
                # bytes are neither lost nor sent twice.
                self._written.extend(map(self._send, (unsent[:MAX_BUFFERS],)))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.failure = self._explained(error.strerror or str(error))
            else:
                unsent = self._drop_written()
        if self.failure:
            self.unsent = []

    def _drop_written(self) -> list[bytes | memoryview]:
        """Forget what the system has taken; return what it has not."""
        self.writes += 1
        self.unsent, self._written = sockets.behind(self.unsent, sum(self._written)), []
        return self.unsent

    def read(self) -> bytes | None:
        """Return what has come, None if nothing has, b"" where nothing will; raises nothing."""
        return self._received(sockets.receive, RECEIVE_BYTES, b"")

    def read_into(self, buffer: memoryview) -> int | None:
        """Read what has come to *buffer*; return how much, None and 0 as ``read`` does."""
        return self._received(socket.socket.recv_into, buffer, 0)

    def _received(
        self, receive: Callable[[socket.socket, A], T | None], argument: A, nothing: T
    ) -> T | None:
        if self.ending:
            return nothing
        try:
            got = receive(self.socket, argument)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self.ending = self._explained(error.strerror or str(error))
            return nothing
        if got is None:
            return None
        if not got:
            self.ending = self._explained(CLOSED)
        self._heard = True
        return got

    def _explained(self, reason: str) -> str:
        return reason if self._heard else unheard(reason)

    def wait(self, seconds: float) -> None:
        """Wait until it can be read; or written, if something is unsent. For one thread at a time.

        Another one may read or write meanwhile.
        """
        self._await(seconds, bool(self.unsent))

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Have *selector* wait until it can be read; or written, if something is unsent."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.unsent else 0)
        try:
            if selector.get_key(self.socket).events != events:
                selector.modify(self.socket, events)
        except KeyError:
            selector.register(self.socket, events)

    def unwatch(self, selector: selectors.BaseSelector) -> None:
        """Have *selector* wait for it no more."""
        with suppress(KeyError):
            selector.unregister(self.socket)

    def give_up(self, reason: str) -> None:
        """Take and give nothing more; tell the peer by a close, behind what the system has."""
        self.failure = self.failure or reason
        self.unsent = []
        with suppress(OSError):  # It has gone already.
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket. Nothing comes any more."""
        self.ending = self.ending or "it was closed"
        self.socket.close()
