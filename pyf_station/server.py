"""The Twisted server: a factory for a handler, which counts what runs and lets it end."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf
from typing import Any, Final
from weakref import WeakSet

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    serverFromString,
)
from twisted.internet.interfaces import IAddress, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import Logger

from pyf.station.auth import Authenticate, Gate, exposed
from pyf.station.bridge import run_coroutine
from pyf.station.carrier import StationProtocol
from pyf.station.handlers import Handler, HandlerRunner, Kind
from pyf.station.intercept import Interceptor
from pyf.station.observe import Observed, Observer
from pyf.station.piped import InterceptedRunner
from pyf.station.scarcity import mind
from pyf.station.session import Session
from pyf.station.sessions import ResumePolicy, Sessions
from pyf.station.tls import secured
from pyf.station.watch import Alarm
from pyf.station.workers import Slots, Workers
from pyf.transport import Limits
from pyf.transport.events import FlowOpened
from pyf.transport.limits import limits_of

MAX_CLIENTS: Final = 10_000
"""Connections at once. Each costs a descriptor, of which the system may grant fewer, and a few
KiB."""

MAX_CLIENTS_PER_ADDRESS: Final = 8192
"""Connections at once from one address: as many as a load test may want, and never all of them."""

MAX_THREADS: Final = 64
"""Handlers at once, where each has a thread; and what blocks beside them, a store above all."""

MAX_COROUTINES: Final = 16_384
"""Handlers at once, where all run on the reactor."""

STOP_GRACE: Final = 1.5
"""Seconds that handlers have to return, and clients to close, once their flows have been ended: a
process whose handler is stuck goes within two."""

_log: Final = Logger()
_from_string: Final[Any] = serverFromString  # which comes without types


class FlowServer(Factory):
    """Serves flows with *handler*, on whatever port or endpoint it is given to.

    *handler* is a callable, a class or a generator function (run in threads of the server's own),
    a coroutine function or an async generator function (run on the reactor). Raises TypeError for
    anything else, and for options of another type.

    :param max_handlers: handlers running at once; a flow over it is refused as busy. 64 where
        handlers have threads, 16384 where they have not.
    :param max_clients: connections at once; one over it is told that the server is busy.
    :param max_clients_per_address: connections at once from one address; None for no such limit,
        behind a proxy, where all have the same.
    :param expose_errors: whether clients, and the log, get the text of a handler's failure, and
        clients its traceback. The log always has its class, id and stack.
    :param authenticate: called with each flow's header and the client's address, before its
        handler: it returns the ``client.identity``, or raises AuthenticationFailed. A function, in
        a thread of the server's own; or a coroutine function, on the reactor.
    :param observers: called in the reactor's thread with each
        :class:`~pyf.station.observe.Event`; they must not block.
    :param interceptors: what each flow runs inside, the first one outermost; see
        :class:`~pyf.station.intercept.Interception`.
    :param limits: bounds of sizes and times.
    :param reactor: the reactor it will run on; Twisted's default one if not given.
    :param resume: lets flows survive their connection, where their clients ask for it.
    """

    noisy = False

    def __init__(  # noqa: PLR0913 - a server has many options, all but the first by name
        self,
        handler: Handler,
        *,
        max_handlers: int | None = None,
        max_clients: int = MAX_CLIENTS,
        max_clients_per_address: int | None = MAX_CLIENTS_PER_ADDRESS,
        expose_errors: bool = False,
        authenticate: Authenticate | None = None,
        observers: Sequence[Observer] = (),
        interceptors: Sequence[Interceptor] = (),
        limits: Limits | None = None,
        reactor: Any = None,
        resume: ResumePolicy | None = None,
    ) -> None:
        self.gate: Gate | None = None if authenticate is None else Gate(authenticate, self)
        """Who asks for a client's identity, if anybody does."""
        runner = partial(InterceptedRunner, interceptors) if interceptors else HandlerRunner
        self.runner: HandlerRunner = runner(handler, self.gate)
        if max_handlers is None:
            max_handlers = MAX_THREADS if self.runner.kind is Kind.THREAD else MAX_COROUTINES
        counts = {
            "max_handlers": max_handlers,
            "max_clients": max_clients,
            "max_clients_per_address": max_clients_per_address,
        }
        for name, value in counts.items():
            if value is not None and not isinstance(value, int):
                raise TypeError(f"{name} is a number of type int, not {value!r}")
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        self.max_handlers: int = max_handlers
        self.max_clients: int = max_clients
        self.max_clients_per_address: int | None = max_clients_per_address
        self._addresses: Counter[object] = Counter()
        self.expose_errors: bool = expose_errors
        self.limits: Limits = limits_of(limits)
        self.connections: set[StationProtocol] = set()
        """The connections that are served now."""
        # Weak: a coroutine that nothing else holds any more is finalised, which frees its slot.
        coroutines = self.runner.kind is Kind.REACTOR
        self._running: set[Session] | WeakSet[Session] = WeakSet() if coroutines else set()
        self.stopping: bool = False
        """Whether new connections are turned away, until a port listens again."""
        self.sessions: Sessions | None = None if resume is None else Sessions(self, resume)
        """The flows that may survive their connection."""
        self._reactor = reactor
        threads = max_handlers if self.runner.kind is Kind.THREAD else MAX_THREADS
        self._workers = Workers("pyf.station-handler", threads)
        # For what blocks beside handlers: a store, and who asks for identities.
        self._blocking = Slots(MAX_THREADS)
        self._stopped: list[Deferred[None]] = []
        self._broken_off = False
        self._warned = False
        self._hook: Any = None
        self.observed: Observed | None = None
        """What observers see, where there are any."""
        for observer in observers:
            self.observe(observer)

    @property
    def reactor(self) -> Any:
        """The reactor that this server runs on."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor

    @property
    def clock(self) -> Callable[[], float]:
        """The clock by which durations are measured: nobody sets it, as one may the reactor's."""
        reactor = self.reactor
        return reactor.seconds if isinstance(reactor, Clock) else time.monotonic

    def listen(
        self,
        reactor: Any,
        where: int | str | IStreamServerEndpoint,
        *,
        tls: Any = None,
        client_ca: str | os.PathLike[str] | None = None,
        interface: str = "",
    ) -> Deferred[Any]:
        """Listen on *where*: a port, an endpoint, or the string of one (``"tcp:8000"``).

        The Deferred fires with the listening port. For the reactor's thread.

        :param tls: paths of a certificate (with its chain, if it has one) and of its private key,
            both as PEM; or a Twisted context factory. TLS 1.3 is spoken with paths.
        :param client_ca: path of the authority that has to have signed every client's certificate,
            which is ``client.identity`` then.
        :param interface: the address to listen on, where *where* is a port.

        Raises OSError or ValueError for files that are of no use.
        """
        self._reactor = reactor
        endpoint: Any = where
        if isinstance(where, int):
            kind: Any = TCP6ServerEndpoint if ":" in interface else TCP4ServerEndpoint
            endpoint = kind(reactor, where, interface=interface)
        elif isinstance(where, str):
            endpoint = _from_string(reactor, where)
        listening: Deferred[Any] = endpoint.listen(secured(self, tls, client_ca))
        return listening

    @property
    def handlers(self) -> int:
        """The handlers that have not returned yet."""
        return len(self._running)

    @property
    def stuck(self) -> int:
        """Those of them whose flow has been ended, so that nobody waits for them any more.

        One that is stuck for long sits in code that nothing here can interrupt: it keeps its thread
        and its place among ``max_handlers``. For the reactor's thread.
        """
        return sum(session.cancelled for session in self._running)

    def observe(self, observer: Observer) -> Observed:
        """Have *observer* told of what happens; return what it can look at.

        For before the server listens: of flows that are open already nothing is told.
        """
        if self.observed is None:
            self.observed = Observed(lambda: self.reactor, lambda: self.clock())  # noqa: PLW0108 - as late as the reactor
        self.observed.observers.append(observer)
        return self.observed

    # What Twisted calls

    def doStart(self) -> None:  # noqa: N802 - Twisted's name
        """Look at the port that is about to listen, once it does."""
        start: Any = super().doStart  # which comes without types
        start()
        # A reactor in memory has no ports, and some have no threads.
        soon = getattr(self.reactor, "callFromThread", None)
        if soon is not None:
            soon(self._look_at_ports)

    def startFactory(self) -> None:  # noqa: N802 - Twisted's name
        """Get ready: the first port is about to listen."""
        self.stopping = self._broken_off = False
        if self._hook is None:
            trigger = self.reactor.addSystemEventTrigger
            self._hook = trigger("before", "shutdown", self._reactor_stops)

    def stopFactory(self) -> None:  # noqa: N802 - Twisted's name
        """Let go of what isn't needed: the last port has closed."""
        self._settle()

    def buildProtocol(  # noqa: N802 - Twisted's name
        self,
        addr: IAddress | None,  # noqa: ARG002 - and its way to call it
    ) -> StationProtocol:
        """Return the protocol of a new connection."""
        return StationProtocol(self)

    # Handlers and connections come and go; all in the reactor's thread

    def start(self, session: Session) -> bool:
        """Start the handler for *session*; return False where too many are running."""
        if self.observed is not None:
            self.observed.opened(session)
        started = self.handlers < self.max_handlers and self._start(session)
        if not started and self.observed is not None:
            self.observed.refused(session)
        return started

    def _start(self, session: Session) -> bool:
        inbox: Any = session.inbox
        self._running.add(session)
        session.on_return = self._handler_returned
        if self.runner.kind is Kind.THREAD:
            try:
                self._workers.do(partial(self._run_in_thread, session, inbox))
            except RuntimeError:
                self._running.discard(session)
                _log.error(
                    "the system has no thread for a handler, with {n} running", n=self.handlers
                )
                return False
        else:
            running = run_coroutine(self._run_on_reactor(session, inbox))
            session.cancel_handler = running.cancel
        return True

    def stop(self) -> Deferred[None]:
        """Turn new connections away, break off what is open, give handlers a moment to return.

        The Deferred fires once they have, and the clients have closed; after STOP_GRACE seconds at
        the latest. It closes no port. For the reactor's thread.
        """
        self.stopping = self._broken_off = True
        for connection in list(self.connections):
            connection.stop("the server is stopping")
        self._end_detached("the server is stopping")
        self._workers.close()
        return self._when_left(STOP_GRACE)

    def drain(self, grace: float | None = None) -> Deferred[None]:
        """Take no more clients and flows, let those that are open end; for the reactor's thread.

        It closes the ports, tells every client that the server is draining, and closes connections
        without a flow. What is left after *grace* seconds (``limits.drain_grace`` if not given) is
        ended: handlers get FlowCancelled, and so do clients. The Deferred fires once all handlers
        have returned and all clients have closed; STOP_GRACE seconds after the grace at the latest.

        Called by itself when the reactor stops. Called again, the grace that ends first counts.
        Raises ValueError for a *grace* that is negative or not finite.
        """
        if grace is None:
            grace = self.limits.drain_grace
        if not 0 <= grace < inf:
            raise ValueError(f"a grace of {grace!r} seconds")
        self.stopping = True
        closing = self._close_ports()
        for connection in list(self.connections):
            connection.drain("the server is draining")
        self._end_detached("the server is draining: the client cannot come back")
        end = Alarm(self.reactor, self.clock, grace, partial(self._end_flows, grace))
        drained = self._when_left(grace + STOP_GRACE).addBoth(_cancelling, end)
        return drained.addCallback(lambda _: closing)

    def refuses_resume(self, event: FlowOpened) -> str:
        """Return why a flow that is to survive its connection cannot; "" if it can."""
        if self.sessions is None:
            return "the server lets no flow survive its connection (its resume=)"
        if event.name is not None and self.sessions.policy.store is None:
            return "the server has no store for flows with a name (ResumePolicy.store)"
        return ""

    def call_in_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Call what blocks in a thread, one of MAX_THREADS; return what fires with its result.

        For the reactor's thread.
        """
        result: Deferred[Any] = Deferred()

        def begin() -> None:
            if not self._blocking.take(begin):
                return
            try:
                self._workers.do(work)
            except RuntimeError as error:  # The system has no thread.
                self.reactor.callFromThread(end, partial(result.errback, error))

        def work() -> None:
            try:
                tell = partial(result.callback, function(*args))
            except BaseException as error:  # noqa: BLE001 - for whoever waits
                tell = partial(result.errback, error)
            self.reactor.callFromThread(end, tell)

        def end(tell: Callable[[], object]) -> None:
            self._blocking.give()
            tell()

        begin()
        return result

    def has_room_for(self, peer: object) -> bool:
        """Whether one more client of the address of *peer* is taken."""
        limit = self.max_clients_per_address
        return limit is None or self._addresses[_address(peer)] < limit

    def came(self, connection: StationProtocol) -> None:
        """Serve a connection."""
        self.connections.add(connection)
        self._addresses[_address(connection.peer)] += 1
        if self.observed is not None:
            self.observed.connected(connection)

    def left(self, connection: StationProtocol) -> None:
        """Forget a connection that has ended."""
        if connection in self.connections:
            self.connections.remove(connection)
            address = _address(connection.peer)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
        if self.observed is not None:
            self.observed.disconnected(connection)
        self._settle()

    def _run_in_thread(self, session: Session, inbox: Any) -> None:
        try:
            self.runner.run_in_thread(session, inbox)
        finally:
            self._note_return(session)

    async def _run_on_reactor(self, session: Session, inbox: Any) -> None:
        try:
            await self.runner.run_on_reactor(session, inbox)
        finally:
            self._note_return(session)

    def _note_return(self, session: Session) -> None:
        # Not here and now: a coroutine that nothing holds is finalised in any thread.
        if not session.frees:
            self.reactor.callFromThread(self._handler_returned, session)

    def _handler_returned(self, session: Session) -> None:
        if session in self._running:
            self._running.remove(session)
            if self.observed is not None:
                self.observed.returned(session)
            self._settle()

    def _reactor_stops(self) -> Deferred[None]:
        self._hook = None
        return self.stop() if self._broken_off else self.drain()

    def _ports(self) -> Iterator[Any]:
        # A port knows its factory, but a factory is not told of its ports.
        get_readers = getattr(self.reactor, "getReaders", list)
        for port in get_readers():
            factory: Any = getattr(port, "factory", None)
            while factory is not self and hasattr(factory, "wrappedFactory"):
                factory = factory.wrappedFactory
            if factory is self and hasattr(port, "stopListening"):
                yield port

    def _look_at_ports(self) -> None:
        ports = list(self._ports())
        for port in ports:
            mind(port, self.reactor, self.clock)
        if self.gate is None and not self._warned and any(map(exposed, ports)):
            self._warned = True
            _log.critical(
                "ANYBODY on the network can send flows to this server, and read them on their way:"
                " it listens beyond this machine with neither TLS nor authenticate"
            )

    def _close_ports(self) -> Deferred[None]:
        closing = [maybeDeferred(port.stopListening) for port in list(self._ports())]
        return DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)

    def _end_detached(self, why: str) -> None:
        if self.sessions is not None:
            self.sessions.end_detached(why)

    def _end_flows(self, grace: float) -> None:
        why = f"the server is draining, and the grace of {grace:g} s is over (Limits.drain_grace)"
        for connection in list(self.connections):
            connection.end_flows(why)

    def _when_left(self, seconds: float) -> Deferred[None]:
        """Return what fires once all have gone, or *seconds* are over."""
        left: Deferred[None] = Deferred()
        self._stopped.append(left)
        over = Alarm(self.reactor, self.clock, seconds, partial(self._grace_is_over, left))
        left.addBoth(_cancelling, over)
        self._settle()
        return left

    def _grace_is_over(self, left: Deferred[None]) -> None:
        for connection in list(self.connections):
            connection.abort()
        if self._running:
            text = "{n} handlers have not returned ({stuck} are stuck), and nobody waits now"
            _log.warn(text, n=self.handlers, stuck=self.stuck)
        self._workers.close()
        self._stopped.remove(left)
        left.callback(None)

    def _settle(self) -> None:
        """Let go of what nothing needs any more, once that is so."""
        if self.handlers or self.connections:
            return
        stopped, self._stopped = self._stopped, []
        for deferred in stopped:
            deferred.callback(None)
        if not self.numPorts:
            self._workers.close()
            if self._hook is not None:
                self.reactor.removeSystemEventTrigger(self._hook)
                self._hook = None


def _address(peer: object) -> object:
    """Return what clients of one machine have in common."""
    return getattr(peer, "host", None)


def _cancelling(result: None, alarm: Alarm) -> None:
    """Go on with *result*, without the alarm."""
    alarm.cancel()
    return result
