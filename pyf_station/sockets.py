"""Using a socket that never waits: where it can be, without a change of threads.

Python lets other threads go on during each call of the system. Behind one that takes a microsecond
this thread then has to wait for its turn again, for milliseconds where others compute.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from errno import EINPROGRESS
from typing import Any, Final

from pyf.transport.compiled import compiled
from pyf.transport.limits import BATCH_BYTES


def connect(sock: socket.socket, address: Any, seconds: float) -> None:
    """Connect *sock*, a new one, to *address*, within *seconds*. Raises OSError.

    Among many threads that compute, the next turn may come when the server has lost its patience:
    where the answer comes at once, as it does within a machine, there is no change of threads.
    """
    if _begin is None or type(sock).connect is not socket.SocketType.connect:
        # Somebody's own: it may go through a proxy.
        sock.settimeout(seconds)
        sock.connect(address)
        return
    sys.audit("socket.connect", sock, address)
    sock.setblocking(False)
    error = _begin(sock, address)
    if error == EINPROGRESS:
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        if not poller.poll(1000 * seconds):
            raise TimeoutError
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _receive(sock: socket.socket, most: int) -> bytes | None:
    try:
        return sock.recv(most)
    except (BlockingIOError, InterruptedError):
        return None


_compiled = compiled("pyf.station._sockets")
# Returns the system's number of the error, 0 for none.
_begin: Callable[[socket.socket, Any], int] | None = getattr(_compiled, "begin", None)

receive: Callable[[socket.socket, int], bytes | None] = getattr(_compiled, "receive", _receive)
"""Return what has come, so many bytes at the most; None if nothing has, b"" where nothing will.

Raises OSError.
"""


def _send(sock: socket.socket, buffers: list[Any]) -> int:
    return sock.send(b"".join(buffers))


# A method in C, unless the system has none: no signal handler can raise between the write and what
# its caller does about it.
_write = getattr(socket.socket, "sendmsg", _send)
send: Callable[[socket.socket, list[Any]], int] = getattr(_compiled, "send", _write)
"""Write some of the buffers; return how many bytes the system has taken, 1 at least.

Raises OSError; BlockingIOError where it takes none.
"""


READ_BYTES: Final = 3 * BATCH_BYTES // 2
"""Bytes to read at once: a whole frame of small packets, and no more than is soon had. For over
128 KiB, glibc asks the system each time."""


def offer(sock: socket.socket, buffers: list[bytes]) -> Sequence[bytes | memoryview]:
    """Write what the system takes at once of *buffers*; return the rest, uncopied.

    Raises nothing: that a connection is lost is for whoever writes the rest to find out.
    """
    try:
        sent = send(sock, buffers)
    except OSError:
        return buffers
    return behind(buffers, sent)


def behind(buffers: Sequence[bytes | memoryview], size: int) -> list[bytes | memoryview]:
    """Return what comes behind the first *size* bytes of *buffers*, uncopied."""
    if size == sum(map(len, buffers)):
        return []
    done = 0
    while done < len(buffers) and size >= len(buffers[done]):
        size -= len(buffers[done])
        done += 1
    rest = list(buffers[done:])
    if size:
        rest[0] = memoryview(rest[0])[size:]
    return rest


def set_low_water(sock: socket.socket, size: int) -> None:
    """Have a selector report *sock* once *size* bytes have come, or nothing more will.

    Linux does so earlier, too, where its buffer is full (SO_RCVLOWAT in socket(7)); others might
    wait for what there is no room for, and report it as ever. So does a socket that is closed.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
