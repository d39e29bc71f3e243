"""A transport of Twisted's, past its detours where it is plain TCP."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet import main
from twisted.internet.tcp import Connection


class BufferedProtocol(Protocol):
    """A protocol that gives the buffers which are read to, like one of asyncio's."""

    def get_buffer(self) -> memoryview | None:
        """Return where to read to; None to be given bytes, as by any transport."""

    def buffer_updated(self, size: int) -> None:
        """Take *size* bytes that have been read to the start of the buffer."""


class Direct:
    """Reads and writes by a *transport*. For the reactor's thread.

    Of TCP, what is large is read into the buffers of its *protocol*, where Twisted would read 64
    KiB at a time into objects of its own; and what is written leaves at once, where Twisted would
    wait until the selector has told it that it may. Nobody else may write to the transport.
    """

    def __init__(self, transport: Any, protocol: BufferedProtocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._is_tcp = isinstance(transport, Connection)
        if self._is_tcp:
            self._receive = transport.doRead
            # Whether the last read left a buffer of the protocol's to be filled.
            self._in_place = False
            # Reactors look it up for each event.
            transport.doRead = self._do_read

    def write(self, buffers: list[bytes]) -> None:
        """Write *buffers*, behind what the system has not taken yet."""
        transport = self._transport
        if not self._is_tcp or transport.dataBuffer:
            transport.writeSequence(buffers)
            return
        data = b"".join(buffers)
        sent = transport.writeSomeData(data)
        if sent != len(data):
            # If the connection is lost, the transport finds that out for itself.
            transport.write(data[sent:] if isinstance(sent, int) else data)
            transport.doWrite()  # So that it has a buffer, which shows that something is left.

    def _do_read(self) -> object:
        # What has come whole leaves nothing to read in place.
        if not self._in_place and (ended := self._receive()):
            return ended
        buffer = self._protocol.get_buffer()
        self._in_place = buffer is not None
        if buffer is None:
            return None
        try:
            size = self._transport.socket.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not size:
            return main.CONNECTION_DONE
        self._protocol.buffer_updated(size)
        return None
