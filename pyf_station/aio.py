"""The asyncio client: ships flows to a server, many at once over one connection. No Twisted."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from pyf.station import sockets
from pyf.station.address import at_path
from pyf.station.base import DEFAULT_PORT
from pyf.station.coclient import CoClient
from pyf.station.coflow import Call, CoConversation, answers
from pyf.station.intercept import Interceptor
from pyf.station.joint import Joint
from pyf.station.multiplex import UNWRITTEN_BYTES, Multiplex
from pyf.station.pump import Packets, Source
from pyf.station.tls import ClientTls, Paths
from pyf.station.trunk import Trunk
from pyf.station.wire import CLOSED, Attempt, send_at_once
from pyf.transport import Limits, Packet

__all__ = ["Call", "Conversation", "StationClient"]


class StationClient(CoClient):
    """Ships flows to the server at *host*:*port*, all over one connection, made with the first.

    For use in ``async with``, which closes it; or call ``close()``. In one event loop, and in its
    thread.

    :param host: a name or address; or ``"unix:/run/station.sock"``, the path of a socket, to which
        *port* says nothing.
    :param waits_for_success: whether a call goes on until the handler has succeeded or failed. If
        not, it ends once the whole flow has reached the server; the handler's end is not known.
    :param tls: True where the server is known by an authority that the system trusts, the path of
        a private authority's certificate, or an ``ssl.SSLContext`` for everything else. The
        server's name has to be *host*.
    :param certificate: paths of the client's own certificate and its key, for a server that asks
        for one.
    :param interceptors: what each call runs inside, the first one outermost; see
        :class:`~pyf.station.intercept.Interception`.
    :param limits: bounds of sizes and times.
    :param rng: returns a float from 0 to 1, the part of the longest wait that passes before the
        next attempt to reconnect; ``random.random`` if not given.
    :param clock: returns the time in seconds, by a clock that nobody sets.

    Raises ValueError for a port that no host can have, or TLS where there is no host; OSError for a
    file that cannot be read.
    """

    def __init__(  # noqa: PLR0913 - each has its name
        self,
        host: str,
        port: int = DEFAULT_PORT,
        waits_for_success: bool = False,
        *,
        tls: ClientTls = False,
        certificate: Paths | None = None,
        interceptors: Sequence[Interceptor] = (),
        limits: Limits | None = None,
        rng: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        options: dict[str, Any] = {"tls": tls, "certificate": certificate, "limits": limits}
        options |= {"interceptors": interceptors, "rng": rng}
        super().__init__(host, port, waits_for_success, **options)
        self._clock = clock
        self._aio: tuple[asyncio.AbstractEventLoop, Trunk] | None = None

    def call(
        self,
        flow: Packets | Source,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
        flow_id: str | None = None,
    ) -> Call:
        """Return an async iterator that ships *flow* as it is iterated; before, nothing happens.

        *flow* is an iterable or an async iterable of packets. An iterable that may block, such as a
        generator, is iterated in a thread of its own. What it yields, and raises, is what the
        blocking client's ``call`` does; *resume* and *flow_id* are as there. The function that
        makes a flow is called in the loop's thread.
        """
        return self._call(
            flow, header, timeout, waits=self.waits_for_success, resume=resume, flow_id=flow_id
        )

    async def send(
        self,
        flow: Packets | Source,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
        flow_id: str | None = None,
    ) -> Any:
        """Ship all of *flow*, wait for the handler, and return what it succeeded with."""
        return await self._send(flow, header, timeout, resume, flow_id)

    def stream(
        self,
        flow: Packets | Source,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
        flow_id: str | None = None,
    ) -> AsyncGenerator[Packet, None]:
        """Return an async iterator of only what comes back from a ``call``, the success included.

        It waits for the handler, as ``send`` does.
        """
        return answers(self._call(flow, header, timeout, resume, flow_id, waits=True))

    def open(
        self,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
    ) -> Conversation:
        """Return a flow to be sent packet by packet, for use in ``async with``."""
        return self._open(Conversation, header, timeout, resume=resume)

    async def close(self) -> None:
        """Cancel the flows that are open, and close the connection."""
        await self._close()

    @property
    def _trunk(self) -> Trunk:
        loop = asyncio.get_running_loop()
        if self._aio is None or self._aio[0].is_closed():
            self._aio = loop, self._new_trunk(AsyncioLoop(loop, self._clock))
        elif loop is not self._aio[0]:
            raise RuntimeError("the client is used in another event loop already")
        return self._aio[1]

    async def _dial(self, trunk: Trunk) -> Multiplex:
        sock = await _connect(Attempt(self.host, self.port, self.limits))
        loop = asyncio.get_running_loop()
        joint = self._joint(trunk)
        try:
            await loop.create_connection(lambda: _Protocol(joint, sock), sock=sock)
        except BaseException:
            sock.close()
            raise
        return await joint.ready(self.host, self.port)


async def _connect(attempt: Attempt) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        addresses = at_path(attempt.host) or await loop.getaddrinfo(
            attempt.host, attempt.port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise attempt.unknown(error) from error
    for index, (family, _, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM, protocol)
        try:
            sock.setblocking(False)
            seconds = attempt.share(len(addresses) - index)
            await asyncio.wait_for(loop.sock_connect(sock, address), seconds)
            send_at_once(sock)
        except OSError as error:
            sock.close()
            attempt.note(address, error)
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise attempt.failure()


class Conversation(CoConversation):
    """A flow that is sent packet by packet, for use in ``async with``.

    One task may send while another one receives. Leaving the ``async with`` without ``end()``
    cancels the flow; leaving it with an exception tells the handler that the client failed.
    """

    async def send(self, packet: dict[str, Any]) -> None:
        """Send *packet* at once. Waits while the handler does not read.

        Messages that come meanwhile are kept: a handler that answers each packet is not held up.
        Raises what the blocking client's conversation does; the packet has not left then.
        """
        await self._send(packet)

    async def receive(self, timeout: float | None = None) -> Packet | None:
        """Return the next message, or None once the handler has succeeded.

        Waits *timeout* seconds at the most, then raises DeadlineExceeded; the flow goes on.
        """
        return await self._receive(timeout)

    async def end(self) -> Any:
        """Say that the flow is whole, wait for the handler, and return what it succeeded with."""
        return await self._end()

    async def cancel(self) -> None:
        """Give the flow up, and tell the handler. Does nothing where it is over."""
        self._leave()


class AsyncioLoop:
    """An asyncio event loop, in the names that all clients' code uses."""

    cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.clock: Callable[[], float] = clock
        self.callLater: Any = loop.call_later
        self.callFromThread: Any = loop.call_soon_threadsafe
        self.soon: Any = loop.call_soon

    def waiter(self) -> tuple[Awaitable[None], Callable[[], None]]:
        """Return a future, and what sets it."""
        future = self.loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        return future, wake

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Run *coroutine* as a task; return what cancels it."""
        return self.loop.create_task(coroutine).cancel


class _Protocol(asyncio.BufferedProtocol):
    """Joins a transport of asyncio to the flows that it carries.

    Without a buffer of ours, asyncio would ask the system for 256 KiB of memory for each answer.
    """

    def __init__(self, joint: Joint, sock: socket.socket) -> None:
        self._joint = joint
        self._socket = sock
        self._room = memoryview(bytearray(sockets.READ_BYTES))
        self._in_place = False

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(UNWRITTEN_BYTES)
        self._joint.made(_Transport(transport, self._socket))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        place = self._joint.get_buffer()
        self._in_place = place is not None
        return self._room if place is None else place

    def buffer_updated(self, nbytes: int) -> None:
        if self._in_place:
            self._joint.buffer_updated(nbytes)
        else:
            self._joint.received(bytes(self._room[:nbytes]))

    def pause_writing(self) -> None:
        self._joint.multiplex.pauseProducing()

    def resume_writing(self) -> None:
        self._joint.multiplex.resumeProducing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._joint.lost(CLOSED if exc is None else _reason(exc))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Transport:
    """A transport of asyncio, in Twisted's names."""

    def __init__(self, transport: asyncio.Transport, sock: socket.socket) -> None:
        self._transport = transport
        # Other loops, such as uvloop's, may not have written yet what they say they have.
        selects = isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
        self._socket = sock if selects else None
        self.loseConnection = transport.close
        self.abortConnection = transport.abort
        self.pauseProducing = transport.pause_reading
        self.resumeProducing = transport.resume_reading

    def writeSequence(self, data: list[bytes]) -> None:  # noqa: N802
        """Write *data*; nowhere, once the connection is lost.

        Where nothing waits, to the socket itself: before CPython 3.12, asyncio copies it first.
        """
        transport = self._transport
        if transport.is_closing():
            return
        rest: Sequence[bytes | memoryview] = data
        if self._socket is not None and not transport.get_write_buffer_size():
            rest = sockets.offer(self._socket, data)
        if rest:
            # Not its writelines(), which pauses nobody in CPython 3.12.1 and 3.13.0.
            transport.write(b"".join(rest))

    def registerProducer(self, producer: object, streaming: bool) -> None:  # noqa: N802
        """Do nothing: the protocol is told."""

    def unregisterProducer(self) -> None:  # noqa: N802
        """Do nothing, as above."""

    def getHandle(self) -> Any:  # noqa: N802
        """Return the socket, for its options."""
        return self._transport.get_extra_info("socket")

    @property
    def offset(self) -> int:
        """What changes whenever bytes leave."""
        return self._transport.get_write_buffer_size()
