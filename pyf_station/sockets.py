"""Using a socket that never waits: where it can be, without a change of threads.

Python lets other threads go on during each call of the system. Behind one that takes a microsecond
this thread then has to wait for its turn again, for milliseconds where others compute.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pyf.transport.compiled import compiled


def _receive(sock: socket.socket, most: int) -> bytes | None:
    try:
        return sock.recv(most)
    except (BlockingIOError, InterruptedError):
        return None


_compiled = compiled("pyf.station._sockets")

connect: Callable[[socket.socket, Any], int] = getattr(
    _compiled, "connect", socket.socket.connect_ex
)
"""Begin to connect to an address; return 0 if that is done, or the system's number of the error.

EINPROGRESS is none (on Windows, EWOULDBLOCK): the socket can be written once it is connected, or
has failed to. Raises OSError for what is no address.
"""

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


def set_low_water(sock: socket.socket, size: int) -> None:
    """Have a selector report *sock* once *size* bytes have come, or nothing more will.

    Linux does so earlier, too, where its buffer is full (SO_RCVLOWAT in socket(7)); others might
    wait for what there is no room for, and report it as ever. So does a socket that is closed.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
