"""The Twisted server: a factory for a handler, and the protocol that carries its flows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocolFactory,
    IReactorFromThreads,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from pyf.station.handlers import Handler, HandlerRunner, Kind
from pyf.station.session import Session, deadline_error
from pyf.transport import (
    BadFlowEnding,
    ClientError,
    Connection,
    FlowCancelled,
    Limits,
    RemoteProtocolError,
    Role,
    StationError,
)
from pyf.transport.events import (
    ConnectionClosed,
    CreditReceived,
    Event,
    FlowAbandoned,
    FlowAborted,
    FlowEnded,
    FlowOpened,
    GoAwayReceived,
    HelloReceived,
    PacketsReceived,
)

MAX_CLIENTS = 10_000
"""Connections at once. Each costs a descriptor and a few KiB; the system's limit on descriptors may be lower."""

MAX_THREADS = 64
"""Handlers at once, where each has a thread."""

MAX_COROUTINES = 16_384
"""Handlers at once, where all run on the reactor."""

STOP_GRACE = 2.0
"""Seconds that handlers have to return once the reactor stops."""


@implementer(IProtocolFactory)
class FlowServer(Factory):
    """Serves flows with *handler*, on whatever port or endpoint it is given to.

    *handler* is a callable or a class (run in threads of the server's own), a generator function (likewise), a
    coroutine function or an async generator function (run on the reactor); TypeError for anything else.

    :param max_handlers: handlers running at once; a flow over it is refused as busy. 64 where handlers have
        threads, 16384 where they have not.
    :param max_clients: connections at once; one over it is told that the server is busy, and closed.
    :param expose_errors: whether clients get the text and the traceback of a handler's failure.
    :param limits: bounds of sizes and times.
    :param reactor: the reactor it will run on; Twisted's default one if not given.
    """

    noisy = False

    def __init__(
        self,
        handler: Handler,
        *,
        max_handlers: int | None = None,
        max_clients: int = MAX_CLIENTS,
        expose_errors: bool = False,
        limits: Limits | None = None,
        reactor: Any = None,
    ) -> None:
        self.runner = HandlerRunner(handler)
        threads = self.runner.kind is Kind.THREAD
        self.max_handlers = max_handlers or (MAX_THREADS if threads else MAX_COROUTINES)
        self.max_clients = max_clients
        self.expose_errors = expose_errors
        self.limits = limits or Limits()
        self.connections: set[StationProtocol] = set()
        """The connections that are open now."""
        self.handlers = 0
        """The handlers that have not returned yet."""
        self._reactor = reactor
        self._ports = 0
        self._pool: ThreadPool | None = None
        self._stopping: list[Deferred[None]] = []
        self._hooked = False

    @property
    def reactor(self) -> Any:
        """The reactor that this server runs on."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor

    def startFactory(self) -> None:
        """Get ready: Twisted calls this before the first port listens."""
        if not self._hooked:
            self._hooked = True
            self.reactor.addSystemEventTrigger("before", "shutdown", self.stop)

    def buildProtocol(self, addr: IAddress | None) -> StationProtocol:
        """Return the protocol of a new connection."""
        return StationProtocol(self)

    def start(self, session: Session) -> bool:
        """Start the handler for *session*; return False where too many are running. In the reactor's thread."""
        if self.handlers >= self.max_handlers:
            return False
        self.handlers += 1
        inbox: Any = session.inbox
        if self.runner.kind is Kind.THREAD:
            run = partial(self._run_in_thread, session, inbox)
            self._threads().callInThread(run)
        else:
            running = ensureDeferred(self.runner.run_on_reactor(session, inbox))
            session.cancel_handler = running.cancel
            running.addBoth(lambda _: self._handler_returned())
        return True

    def _run_in_thread(self, session: Session, inbox: Any) -> None:
        try:
            self.runner.run_in_thread(session, inbox)
        finally:
            self.reactor.callFromThread(self._handler_returned)

    def _handler_returned(self) -> None:
        self.handlers -= 1
        if not self.handlers:
            stopping, self._stopping = self._stopping, []
            for stopped in stopping:
                stopped.callback(None)

    def _release_threads(self) -> None:
        """Let each thread end once it has nothing to do. Waits for none: a handler may never return."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.adjustPoolsize(0, 0)

    def _threads(self) -> ThreadPool:
        if self._pool is None:
            self._pool = pool = ThreadPool(0, self.max_handlers, "pyf.station")
            # A handler that never returns must not keep the process alive.
            pool.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
            pool.start()
        return self._pool

    def stop(self) -> Deferred[None]:
        """Break off what is open, and give the handlers a moment to return.

        The Deferred fires once they have, after STOP_GRACE seconds at the latest. Ports are not closed.
        In the reactor's thread; called by itself when the reactor stops.
        """
        for connection in list(self.connections):
            connection.stop("the server is stopping")
        self._release_threads()
        stopped: Deferred[None] = Deferred()
        if self.handlers:
            stopped.addTimeout(STOP_GRACE, self.reactor, onTimeoutCancel=lambda result, timeout: None)
            self._stopping.append(stopped)
        else:
            stopped.callback(None)
        return stopped


class StationProtocol(Protocol):
    """One connection at the server. The only thing it writes is what its machine says."""

    transport: ITCPTransport
    _log = Logger()

    def __init__(self, factory: FlowServer) -> None:
        self.factory = factory
        self.limits = factory.limits
        self.expose_errors = factory.expose_errors
        self._machine = Connection(Role.SERVER, factory.limits)
        self._sessions: dict[int, Session] = {}
        self._deadlines: dict[int, IDelayedCall] = {}
        self._timer: IDelayedCall | None = None
        self._leaving = False

    # What Twisted calls

    def connectionMade(self) -> None:
        """Introduce nobody yet: the client speaks first."""
        self.peer = self.transport.getPeer()
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        if len(self.factory.connections) >= self.factory.max_clients:
            limit = self.factory.max_clients
            self._leave("busy", f"the server takes {limit} clients at once (its max_clients)")
        else:
            self._set_timer(self.limits.handshake_timeout, self._handshake_timed_out)
        self.factory.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        """Take what came from the client."""
        if self._leaving:
            return
        self._machine.receive_data(data)
        self._handle_events()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End every flow that is still open: a close without an END is never the end of a flow."""
        self.factory.connections.discard(self)
        self._clear_timer()
        self._machine.receive_eof()
        if not self._leaving:
            self._handle_events()
        why = reason.getErrorMessage()
        self._lose_sessions(lambda: BadFlowEnding(f"the connection to {self.peer} ended before the flow: {why}"))

    # What sessions call (the Carrier)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call *function* in the reactor's thread. Callable from any thread."""
        self.factory.reactor.callFromThread(function)

    def send_messages(self, flow_id: int, pending: deque[bytes]) -> int:
        """Send what credit allows of *pending*; return the number of messages sent."""
        count = self._machine.send_packets(flow_id, pending)
        self._flush()
        return count

    def send_result(self, flow_id: int, consumed: int, status: str, facts: dict[str, Any]) -> None:
        """Say the last word on the flow, and forget it."""
        self._forget(flow_id)
        self._machine.finish(flow_id, consumed, status, **facts)
        self._flush()

    def consume(self, flow_id: int, packets: int, size: int) -> None:
        """Count packets as taken by the handler; credit goes out where it is due."""
        self._machine.consume(flow_id, packets, size)
        self._flush()

    def break_off(self, error: RemoteProtocolError) -> None:
        """Tell the client of its breach, and close."""
        self._machine.fail(error)
        self._log.warn("closing the connection from {peer}: {error}", peer=self.peer, error=error)
        self._lose_sessions(lambda: error)
        self._close()

    def stop(self, why: str) -> None:
        """Refuse new flows, break off the open ones, and close."""
        self._lose_sessions(lambda: BadFlowEnding(why))
        self._leave("draining", why)

    # Events

    def _handle_events(self) -> None:
        try:
            while event := self._machine.next_event():
                if handle := _HANDLERS.get(type(event)):
                    handle(self, event)
        except RemoteProtocolError as error:
            self.break_off(error)
        else:
            self._flush()

    def _hello(self, event: HelloReceived) -> None:
        self._clear_timer()

    def _opened(self, event: FlowOpened) -> None:
        inbox = self.factory.runner.make_inbox()
        session = Session(self, event.flow_id, event.header, inbox, event.waits)
        self._sessions[event.flow_id] = session
        if not self.factory.start(session):
            limit = self.factory.max_handlers
            message = f"all {limit} handlers of the server are busy (its max_handlers)"
            self.send_result(event.flow_id, 0, "refused", {"code": "busy", "message": message})
        elif event.timeout is not None and event.flow_id in self._sessions:
            expire = partial(self._expire, event.flow_id, event.timeout)
            self._deadlines[event.flow_id] = self.factory.reactor.callLater(event.timeout, expire)

    def _packets(self, event: PacketsReceived) -> None:
        if session := self._sessions.get(event.flow_id):
            session.receive(event.batch)

    def _ended(self, event: FlowEnded) -> None:
        if session := self._sessions.get(event.flow_id):
            session.end()

    def _aborted(self, event: FlowAborted) -> None:
        text = f"the client's generator failed with {event.error_class} after {event.count} packets"
        error = ClientError(text, error_class=event.error_class, sent=event.count)
        self._fail(event.flow_id, error, "cancelled")

    def _abandoned(self, event: FlowAbandoned) -> None:
        self._fail(event.flow_id, FlowCancelled("the client gave the flow up"), "cancelled")

    def _credit(self, event: CreditReceived) -> None:
        if session := self._sessions.get(event.flow_id):
            session.flush()

    def _expire(self, flow_id: int, timeout: float) -> None:
        self._fail(flow_id, deadline_error(timeout), "deadline")

    def _gone(self, event: GoAwayReceived) -> None:
        if event.code not in ("", "draining"):
            code, text = event.code, event.message
            self._log.warn("{peer} gave up with {code!r}: {text!r}", peer=self.peer, code=code, text=text)

    def _fail(self, flow_id: int, error: StationError, status: str) -> None:
        if session := self._sessions.get(flow_id):
            session.fail(error, status)

    # Closing

    def _forget(self, flow_id: int) -> None:
        self._sessions.pop(flow_id, None)
        if deadline := self._deadlines.pop(flow_id, None):
            if deadline.active():
                deadline.cancel()

    def _lose_sessions(self, error: Callable[[], StationError]) -> None:
        for flow_id, session in list(self._sessions.items()):
            self._forget(flow_id)
            session.lose(error())

    def _handshake_timed_out(self) -> None:
        limit = self.limits.handshake_timeout
        self._leave("handshake_timeout", f"no HELLO within {limit:g} s (Limits.handshake_timeout)")

    def _leave(self, code: str, message: str) -> None:
        self._machine.go_away(code, message)
        self._close()

    def _close(self) -> None:
        """Write what is left, close our half so that it arrives, and abort where the client doesn't close its own."""
        self._flush()
        self._leaving = True
        self._set_timer(self.limits.close_timeout, self.transport.abortConnection)
        close = getattr(self.transport, "loseWriteConnection", self.transport.loseConnection)
        close()

    def _set_timer(self, seconds: float, function: Callable[[], Any]) -> None:
        self._clear_timer()
        self._timer = self.factory.reactor.callLater(seconds, function)

    def _clear_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _flush(self) -> None:
        if out := self._machine.data_to_send():
            self.transport.writeSequence(out)


_HANDLERS: dict[type[Event], Callable[[StationProtocol, Any], None]] = {
    HelloReceived: StationProtocol._hello,
    FlowOpened: StationProtocol._opened,
    PacketsReceived: StationProtocol._packets,
    FlowEnded: StationProtocol._ended,
    FlowAborted: StationProtocol._aborted,
    FlowAbandoned: StationProtocol._abandoned,
    CreditReceived: StationProtocol._credit,
    GoAwayReceived: StationProtocol._gone,
}
