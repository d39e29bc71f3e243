"""What joins a transport of asyncio or Twisted to the flows that it carries, through TLS or not."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pyf.station.multiplex import Multiplex
from pyf.station.tls import CUT, TlsPipe, not_secured
from pyf.station.trunk import Trunk
from pyf.station.watch import Alarm
from pyf.station.wire import CLOSED, unheard


class SecureTransport:
    """A transport inside TLS, in Twisted's names. What is not here is as *transport* has it."""

    def __init__(self, transport: Any, pipe: TlsPipe) -> None:
        self.transport: Any = transport
        self._pipe = pipe

    def writeSequence(self, data: list[bytes]) -> None:  # noqa: N802 - Twisted's name
        """Write *data*, encrypted; raises nothing: what is wrong is known where it is read."""
        with suppress(ssl.SSLError):
            self._pipe.write(b"".join(data))
        self.flush()

    def flush(self) -> None:
        """Write what TLS has to say."""
        if out := self._pipe.to_send():
            self.transport.writeSequence(out)

    def loseConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Say goodbye, and close."""
        self._pipe.close()
        self.flush()
        self.transport.loseConnection()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class Joint:
    """Passes what comes over a transport to a multiplex of *trunk*, and its end.

    With *pipe* all of it goes through TLS, and the multiplex begins behind the handshake. Whoever
    has the transport calls ``made()``, ``received()`` and ``lost()``.
    """

    multiplex: Multiplex

    def __init__(self, trunk: Trunk, pipe: TlsPipe | None) -> None:
        self._trunk = trunk
        self._pipe = pipe
        self._transport: Any = None
        self._heard = False
        self._ready = False
        self._failure: OSError | None = None
        self._wake: Callable[[], object] = bool

    async def ready(self, host: str, port: int) -> Multiplex:
        """Wait for the handshake, and return what carries flows.

        Raises ConnectFailed, with *host* and *port*, where TLS fails.
        """
        loop = self._trunk.loop
        waiting, self._wake = loop.waiter()
        seconds = self._trunk.limits.handshake_timeout
        alarm = Alarm(loop, loop.clock, seconds, self._time_out)
        try:
            if not self._ready and self._failure is None:
                await waiting
        except BaseException:
            self._transport.abortConnection()
            raise
        finally:
            alarm.cancel()
        if self._failure is not None:
            raise not_secured(host, port, self._failure) from self._failure
        return self.multiplex

    def made(self, transport: Any) -> None:
        """Begin on a *transport* that has connected, one with Twisted's names."""
        if self._pipe is None:
            self._transport = transport
            self._begin()
        else:
            self._transport = SecureTransport(transport, self._pipe)
            self._shake_hands()

    def received(self, data: bytes) -> None:
        """Take what came."""
        self._heard = True
        pipe = self._pipe
        if pipe is not None:
            if self._failure is not None:
                return
            pipe.receive(data)
            if not (self._ready or self._shake_hands()):
                return
            data = pipe.read()
            self._transport.flush()
        if data:
            self.multiplex.received(data)
        if pipe is not None and pipe.ending:
            self._transport.loseConnection()

    def get_buffer(self) -> memoryview | None:
        """Return where to read to; None for what ``received`` is for."""
        return self.multiplex.get_buffer() if self._ready and self._pipe is None else None

    def buffer_updated(self, size: int) -> None:
        """Take *size* bytes that have been read to the buffer."""
        self.multiplex.buffer_updated(size)

    def lost(self, reason: str) -> None:
        """Note that the transport has closed, for a *reason*."""
        pipe = self._pipe
        if self._ready:
            if pipe is not None and reason == CLOSED and not pipe.ending:
                pipe.receive(b"")
                pipe.read()
            if pipe is not None and pipe.ending:
                reason = f"{CUT}: {reason}" if pipe.ending == CUT else pipe.ending
            self._trunk.left(self.multiplex, reason if self._heard else unheard(reason))
        elif pipe is not None and reason == CLOSED:
            pipe.receive(b"")
            self._shake_hands()
        else:
            self._fail(OSError(reason))

    def _begin(self) -> None:
        trunk = self._trunk
        self.multiplex = Multiplex(trunk.loop, trunk.limits, self._transport, trunk.greeted)
        self._ready = True
        self.multiplex.flush()
        self._wake()

    def _shake_hands(self) -> bool:
        assert self._pipe is not None
        try:
            done = self._pipe.shake_hands()
        except ssl.SSLError as error:
            self._transport.flush()  # The server is told what was wrong.
            self._fail(error)
            self._transport.transport.loseConnection()
            return False
        self._transport.flush()
        if done:
            self._begin()
        return done

    def _time_out(self) -> None:
        self._fail(TimeoutError())
        self._transport.abortConnection()

    def _fail(self, error: OSError) -> None:
        if self._failure is None:
            self._failure = error
            self._wake()
