"""The blocking client's socket: connecting, exact writes, reads that never wait."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pyf.transport import ConnectFailed, DeadlineExceeded, Limits

RECEIVE_BYTES = 256 * 1024
"""Bytes read at once: a system call costs as much as copying a few KiB."""

MAX_BUFFERS = 64
"""Buffers written at once; systems take at least 16, Linux 1024."""


def connect(host: str, port: int, limits: Limits, timeout: float | None = None) -> socket.socket:
    """Return a socket connected to *host*, an IPv4 or IPv6 address or a name of some.

    Raises ConnectFailed, or DeadlineExceeded where the *timeout* of the call is over before.
    """
    where = f"{host}:{port}"
    began = time.monotonic()
    seconds = limits.connect_timeout if timeout is None else min(timeout, limits.connect_timeout)
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        text = f"cannot connect to {where}: the name {host!r} is not known ({reason})"
        raise ConnectFailed(text, host=host, port=port) from error
    tried: list[str] = []
    for index, (family, _, protocol, _, address) in enumerate(addresses):
        # An address that does not answer leaves time for those after it.
        left = max(0.001, began + seconds - time.monotonic())
        try:
            return _connected(family, protocol, address, left / (len(addresses) - index))
        except TimeoutError:
            tried.append(f"{address[0]} port {port}: timed out (Limits.connect_timeout)")
        except OSError as error:
            tried.append(f"{address[0]} port {port}: {error.strerror or error}")
    if timeout is not None and time.monotonic() >= began + timeout:
        raise deadline_error(timeout)
    text = f"cannot connect to {where}: {'; '.join(tried)}"
    raise ConnectFailed(text, host=host, port=port, tried=tuple(tried))


def _connected(family: int, protocol: int, address: Any, seconds: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.settimeout(seconds)
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


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
            sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(seconds * 1000)))


class Wire:
    """A connected socket, taken over, that neither reading nor writing waits for.

    Not safe for threads: its owner locks. An exception that a signal handler raises in the middle
    of a method leaves the bytes written so far and those still to be written exact.
    """

    def __init__(self, sock: socket.socket) -> None:
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
        self._unsent: list[bytes | memoryview] = []
        self._written: list[int] = []
        self._send = sock.sendmsg

    @property
    def unsent(self) -> bool:
        """Whether there is something that the system has not taken yet."""
        return bool(self._unsent)

    def write(self, produce: Callable[[], list[bytes]]) -> None:
        """Write what *produce* returns, behind what is unsent, as far as the system takes it.

        Raises nothing: after a failure, what comes is dropped.
        """
        self._unsent += produce()
        if self._written:
            self._drop_written()
        while self._unsent and not self.failure:
            try:
                # In C, where no signal handler can raise between the write and the note of it:
                # bytes are neither lost nor sent twice.
                self._written.extend(map(self._send, (self._unsent[:MAX_BUFFERS],)))
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self.failure = self._explained(error.strerror or str(error))
            else:
                self._drop_written()
        if self.failure:
            self._unsent = []

    def _drop_written(self) -> None:
        self.writes += 1
        written = sum(self._written)
        if written == sum(map(len, self._unsent)):
            self._unsent, self._written = [], []
            return
        done = 0
        while done < len(self._unsent) and written >= len(self._unsent[done]):
            written -= len(self._unsent[done])
            done += 1
        rest = self._unsent[done:]
        if written:
            rest[0] = memoryview(rest[0])[written:]
        self._unsent, self._written = rest, []

    def read(self) -> bytes | None:
        """Return what has come, None if nothing has, b"" where nothing will; raises nothing."""
        if self.ending:
            return b""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self.ending = self._explained(error.strerror or str(error))
            return b""
        if not data:
            self.ending = self._explained("the server closed the connection")
        self._heard = True
        return data

    def _explained(self, reason: str) -> str:
        if self._heard:
            return reason
        return f"{reason}, and had not said a word: it may expect TLS, or another protocol"

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Have *selector* wait until it can be read; or written, if something is unsent."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
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
        self._unsent = []
        with suppress(OSError):  # It has gone already.
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
