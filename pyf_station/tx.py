"""The Twisted client: ships flows to a server, many at once over one connection."""

from __future__ import annotations

import errno
import operator
import os
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from functools import partial
from ipaddress import ip_address
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    clientFromString,
)
from twisted.internet.error import ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from pyf.station.base import DEFAULT_PORT
from pyf.station.coclient import CoClient
from pyf.station.coflow import Call, CoConversation, answers
from pyf.station.direct import DirectTransport
from pyf.station.intercept import Interceptor, Map
from pyf.station.joint import Joint
from pyf.station.multiplex import UNWRITTEN_BYTES, Multiplex
from pyf.station.pump import Inline, IteratorPump, Packets, Pump, Source
from pyf.station.stream import Stream
from pyf.station.tls import ClientTls, Paths
from pyf.station.trunk import Trunk
from pyf.station.wire import CLOSED, Attempt
from pyf.station.workers import Worker
from pyf.transport import Limits, Packet, encode_packet

__all__ = ["Call", "Conversation", "Endpoint", "StationClient", "Steps"]

Steps = Iterable[dict[str, Any] | Deferred[Any]]
"""A flow some or all of whose packets come as the results of Deferreds."""


class Endpoint(Protocol):
    """What connects to a server: any of Twisted's client endpoints (IStreamClientEndpoint)."""

    def connect(self, factory: Any, /) -> Any:
        """Return a Deferred of the protocol that *factory* has built for the connection."""
        ...


class StationClient(CoClient):
    """Ships flows to a server, all over one connection, made with the first.

    For use in ``async with``, which closes it; or call ``close()``. In the reactor's thread.

    :param host: a host name or address; or a client endpoint, or the string of one such as
        ``"tcp:example.com:8000"``, to which *port* says nothing.
    :param waits_for_success: whether a call goes on until the handler has succeeded or failed. If
        not, it ends once the whole flow has reached the server; the handler's end is not known.
    :param tls: True where the server is known by an authority that the system trusts, the path of
        a private authority's certificate, or an ``ssl.SSLContext`` for everything else. The
        server's name has to be *host*. For an endpoint, see ``"tls:…"``.
    :param certificate: paths of the client's own certificate and its key, for a server that asks
        for one.
    :param interceptors: what each call runs inside, the first one outermost; see
        :class:`~pyf.station.intercept.Interception`.
    :param limits: bounds of sizes and times.
    :param reactor: the reactor that it runs on; Twisted's default one if not given.
    :param rng: returns a float from 0 to 1, the part of the longest wait that passes before the
        next attempt to reconnect; ``random.random`` if not given.

    Raises ValueError for a port that no host can have, or a string that is no endpoint, OSError for
    a file that cannot be read.
    """

    def __init__(  # noqa: PLR0913 - each has its name
        self,
        host: str | Endpoint,
        port: int = DEFAULT_PORT,
        waits_for_success: bool = False,
        *,
        tls: ClientTls = False,
        certificate: Paths | None = None,
        interceptors: Sequence[Interceptor] = (),
        limits: Limits | None = None,
        reactor: Any = None,
        rng: Callable[[], float] | None = None,
    ) -> None:
        options: dict[str, Any] = {"tls": tls, "certificate": certificate, "limits": limits}
        options |= {"interceptors": interceptors, "rng": rng}
        super().__init__(str(host), port, waits_for_success, **options)
        self._made: Trunk | None = None
        self._reactor = reactor
        self._endpoint: Any = None if isinstance(host, str) else host
        # An IPv6 address has colons, too; a host name has none.
        if isinstance(host, str) and ":" in host and not _ip_version(host):
            from_string: Any = clientFromString  # which comes without types
            self._endpoint = from_string(self._get_reactor(), host)
        if self._endpoint is not None and self._tls is not None:
            raise ValueError("tls= is for a host: an endpoint speaks TLS by itself, or doesn't")

    def call(
        self,
        flow: Packets | Steps | Source,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
        flow_id: str | None = None,
    ) -> Call:
        """Return an async iterator that ships *flow* as it is iterated; before, nothing happens.

        *flow* is an iterable or an async iterable of packets, or an iterable of Deferreds of
        packets. An iterable that may block, such as a generator, is iterated in a thread of its
        own, until a step of it is a Deferred: those after it are made in the reactor's thread. What
        the call yields, and raises, is what the blocking client's ``call`` does; *resume* and
        *flow_id* are as there. The function that makes a flow is called in the reactor's thread.
        """
        return self._call(
            flow, header, timeout, waits=self.waits_for_success, resume=resume, flow_id=flow_id
        )

    def send(
        self,
        flow: Packets | Steps | Source,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
        flow_id: str | None = None,
    ) -> Deferred[Any]:
        """Ship all of *flow*; the Deferred fires with what the handler succeeded with.

        Cancelling it cancels the flow.
        """
        return Deferred.fromCoroutine(self._send(flow, header, timeout, resume, flow_id))

    def stream(
        self,
        flow: Packets | Steps | Source,
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

    def close(self) -> Deferred[None]:
        """Cancel the flows that are open, and close the connection."""
        return Deferred.fromCoroutine(self._close())

    @staticmethod
    def _lift(function: Map) -> Callable[[Any], Any]:
        def lifted(step: Any) -> Any:
            if not isinstance(step, Deferred):
                return function(step)
            return step.addCallback(
                lambda packet: _DROPPED if (mapped := function(packet)) is None else mapped
            )

        return lifted

    @property
    def _trunk(self) -> Trunk:
        if self._made is None:
            self._made = self._new_trunk(ReactorLoop(self._get_reactor()))
        return self._made

    def _get_reactor(self) -> Any:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor

    def _iterate(
        self, trunk: Trunk, stream: Stream, source: Iterator[Any], worker: Worker | Inline
    ) -> Pump:
        return _StepsPump(trunk.loop, stream, source, worker, trunk.slots)

    async def _dial(self, trunk: Trunk) -> Multiplex:
        reactor = self._get_reactor()
        attempt = Attempt(self.host, self.port, self.limits)
        endpoint = self._endpoint
        if endpoint is None:
            # An address needs no resolver, whose threads stay.
            kinds: dict[int, Any] = {4: TCP4ClientEndpoint, 6: TCP6ClientEndpoint}
            kind: Any = kinds.get(_ip_version(self.host), HostnameEndpoint)
            seconds = self.limits.connect_timeout
            endpoint = kind(reactor, self.host, self.port, timeout=seconds)
        joint = self._joint(trunk)
        connecting = endpoint.connect(_Factory(joint))
        connecting.addTimeout(self.limits.connect_timeout, reactor)
        try:
            await connecting
        except DNSLookupError as error:
            raise attempt.unknown(error) from error
        except CancelledError:
            raise
        except Exception as error:
            attempt.note(self.host, _plain(error))
            raise attempt.failure() from error
        return await joint.ready(self.host, self.port)


class Conversation(CoConversation):
    """A flow that is sent packet by packet, for use in ``async with``.

    One coroutine may send while another one receives. Leaving the ``async with`` without ``end()``
    cancels the flow; leaving it with an exception tells the handler that the client failed.
    """

    def send(self, packet: dict[str, Any]) -> Deferred[None]:
        """Send *packet* at once. The Deferred fires once it has left: when the handler reads.

        Messages that come meanwhile are kept: a handler that answers each packet is not held up.
        Fails with what the blocking client's conversation raises; the packet has not left then.
        """
        return Deferred.fromCoroutine(self._send(packet))

    def receive(self, timeout: float | None = None) -> Deferred[Packet | None]:
        """Fire with the next message, or None once the handler has succeeded.

        Waits *timeout* seconds at the most, then fails with DeadlineExceeded; the flow goes on.
        """
        return Deferred.fromCoroutine(self._receive(timeout))

    def end(self) -> Deferred[Any]:
        """Say that the flow is whole, wait for the handler; fire with what it succeeded with."""
        return Deferred.fromCoroutine(self._end())

    def cancel(self) -> Deferred[None]:
        """Give the flow up, and tell the handler. Does nothing where it is over."""
        self._leave()
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done


class ReactorLoop:
    """A reactor, in the names that all clients' code uses."""

    cancelled: type[BaseException] = CancelledError

    def __init__(self, reactor: Any) -> None:
        self.reactor: Any = reactor
        driven = isinstance(reactor, Clock)
        self.clock: Callable[[], float] = reactor.seconds if driven else time.monotonic
        self.callLater: Any = reactor.callLater
        self.callFromThread: Any = reactor.callFromThread
        self.soon: Any = partial(reactor.callLater, 0)

    def waiter(self) -> tuple[Awaitable[None], Callable[[], None]]:
        """Return a Deferred, and what fires it."""
        waiting: Deferred[None] = Deferred()
        woken: list[bool] = []

        def fire() -> None:
            if not waiting.called:
                waiting.callback(None)

        def wake() -> None:
            # In the next turn: who waits goes on at once, and the waker may be in the middle.
            if not woken:
                woken.append(True)
                self.soon(fire)

        return waiting, wake

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Run *coroutine* to where it waits first; return what cancels it."""
        return Deferred.fromCoroutine(coroutine).cancel


_DROPPED: Final = object()
"""What stands for a packet that an interceptor has dropped."""


class _StepsPump(IteratorPump):
    """Takes packets from an iterator; on the reactor, once a step has been a Deferred."""

    _step: Deferred[Any] | None = None

    def more(self) -> None:
        """Ask the source for more, but not while a step is awaited."""
        if self._step is None:
            super().more()

    def close(self) -> None:
        """Close the source; the step that is awaited is cancelled."""
        super().close()
        if self._step is not None:
            self._step.cancel()

    def _arrived(self, seconds: float, failure: BaseException | None) -> None:
        # What was to be encoded, and is no packet.
        step = vars(failure).get("value") if isinstance(failure, TypeError) else None
        if not isinstance(step, Deferred):
            super()._arrived(seconds, failure)
            return
        self._step = step
        self._gate.clear()  # What the source gave before does not end it.
        super()._arrived(seconds, None)
        if not self._released and not self._inline:
            self._worker.release()
            self._worker, self._inline, self._run = Inline(), True, operator.call
        step.addCallbacks(self._came, self._failed)
        if self._released:
            step.cancel()

    def _came(self, packet: Any) -> None:
        self._step = None
        if self._released:
            return
        if packet is _DROPPED:
            self._loop.soon(self.more)
            return
        try:
            data = encode_packet(packet)
        except Exception as error:  # noqa: BLE001 - for the caller, whatever it is
            self.failure = error
        else:
            self._stream.packet_size = max(1, len(data))
            self._stream.pending.append(data)
        self.deliver()
        self._loop.soon(self.more)

    def _failed(self, failure: Failure) -> None:
        self._step = None
        if not self._released:
            self.failure = failure.value
            self.deliver()


class _Factory(Factory):
    noisy = False

    def __init__(self, joint: Joint) -> None:
        self._joint = joint

    def buildProtocol(self, addr: Any) -> _Protocol:  # noqa: ARG002, N802 - Twisted's
        """Return what joins the transport to the flows."""
        return _Protocol(self._joint)


class _Protocol(TwistedProtocol):
    """Joins a transport of Twisted to the flows that it carries."""

    transport: Any

    def __init__(self, joint: Joint) -> None:
        self._joint = joint

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        """Introduce this side."""
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        if hasattr(self.transport, "bufferSize"):
            self.transport.bufferSize = UNWRITTEN_BYTES
        self._joint.made(DirectTransport(self.transport, self))

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Take what came."""
        self._joint.received(data)

    def get_buffer(self) -> memoryview | None:
        """Return where to read to; None for ``dataReceived``."""
        return self._joint.get_buffer()

    def buffer_updated(self, size: int) -> None:
        """Take what has been read to the buffer."""
        self._joint.buffer_updated(size)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        """End what is open."""
        clean = isinstance(reason.value, ConnectionDone)
        self._joint.lost(CLOSED if clean else _why(reason.value))


def _ip_version(text: str) -> int:
    """Return the version of the IP address that *text* is, 0 for what is none."""
    try:
        return ip_address(text).version
    except ValueError:
        return 0


def _plain(error: Exception) -> Exception:
    """Return an error of Twisted's as the system's own."""
    text = _why(error)
    return TimeoutError(text) if isinstance(error, TimeoutError) else OSError(text)


def _why(error: BaseException | None) -> str:
    if isinstance(error, ConnectionLost) and not error.args:
        return os.strerror(errno.ECONNRESET)
    reason = getattr(error, "osError", None)  # an OSError, or its number alone
    if isinstance(reason, int):
        return os.strerror(reason)
    return getattr(reason, "strerror", None) or str(error)
