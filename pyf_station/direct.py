"""A transport of Twisted's, past its detours where it is TCP."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet import main
from twisted.internet.tcp import Connection

from pyf.station import sockets

SMALL: Final = 16 * 1024
"""Bytes that are read in less time than a change of threads takes."""

LOW_WATER: Final = 256 * 1024
"""Bytes of the rest of a frame that are worth a turn of the reactor. One for each segment of TCP
would take as long as the copying; for more than this, a processor's cache is too small."""


class BufferedProtocol(Protocol):
    """A protocol that gives the buffers which are read to, like one of asyncio's."""

    def dataReceived(self, data: bytes) -> object:  # noqa: N802 - Twisted's name
        """Take what has been read."""

    def get_buffer(self) -> memoryview | None:
        """Return where to read to; None to be given bytes, as by any transport."""

    def buffer_updated(self, size: int) -> None:
        """Take *size* bytes that have been read to the start of the buffer."""


class Direct:
    """Reads and writes a *transport*. For the reactor's thread.

    Over TCP, what is written leaves at once, where Twisted would wait until the selector has told
    it that it may. Nobody else may write to the transport. With a *protocol* what is large is read
    into its buffers, where Twisted would read 64 KiB at a time into objects of its own.

    The rest of a large frame is read in large pieces: the system keeps what has come until there is
    so much of it. Whoever wants to know whether anything has come calls ``hear`` first.
    """

    def __init__(self, transport: Any, protocol: BufferedProtocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._is_tcp = isinstance(transport, Connection)
        # Whether the protocol had a buffer for what was read last, and whether that was much.
        self._in_place = self._much = False
        self._low_water = 1
        if self._is_tcp:
            # Reactors look it up for each event.
            transport.doRead = self._do_read

    def writeSequence(self, buffers: list[bytes]) -> None:  # noqa: N802 - Twisted's name
        """Write *buffers*, behind what the system has not taken yet."""
        transport = self._transport
        if not self._is_tcp or transport.dataBuffer or not transport.connected:
            transport.writeSequence(buffers)
            return
        if rest := sockets.offer(transport.socket, buffers):
            transport.write(b"".join(rest))
            transport.doWrite()  # So that it has a buffer, which shows that something is left.

    def hear(self) -> bool:
        """Have the reactor read in its next turn what the system keeps; return whether it does."""
        kept = self._low_water > 1
        if kept:
            self._expect(None)
        return kept

    def _expect(self, rest: memoryview | None) -> None:
        """Have the reactor read once much of the *rest* has come; where none is known, anything."""
        size = 1 if rest is None else min(len(rest), LOW_WATER)
        if size != self._low_water:
            self._low_water = size
            sockets.set_low_water(self._transport.socket, size)

    def _do_read(self) -> object:
        """Read what has come; return how the connection has ended, if it has."""
        buffer = self._protocol.get_buffer() if self._in_place else None
        ended = self._read(buffer)
        if ended is None and buffer is None:
            buffer = self._protocol.get_buffer()
            ended = None if buffer is None else self._read(buffer)
        self._in_place = buffer is not None
        if ended is None and (self._in_place or self._low_water > 1):
            self._expect(self._protocol.get_buffer())
        return ended

    def _read(self, buffer: memoryview | None) -> object:
        transport = self._transport
        got: Any
        # Handlers go on meanwhile where there is much to read.
        receive = socket.socket.recv if self._much else sockets.receive
        try:
            if buffer is None:
                got = receive(transport.socket, sockets.READ_BYTES)
            else:
                got = transport.socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return main.CONNECTION_LOST
        if got is None:
            return None
        if not got:
            return main.CONNECTION_DONE
        if buffer is None:
            self._much = len(got) > SMALL
            self._protocol.dataReceived(got)
        else:
            self._protocol.buffer_updated(got)
        return None


class DirectTransport:
    """A *transport* that is used directly, by *protocol*; what is not here is as that has it."""

    def __init__(self, transport: Any, protocol: BufferedProtocol) -> None:
        self._transport = transport
        direct = Direct(transport, protocol)
        self.writeSequence: Callable[[list[bytes]], None] = direct.writeSequence
        self.hear: Callable[[], bool] = direct.hear

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
