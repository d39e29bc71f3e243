"""One connection at the server: the protocol that carries its flows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pyf.station.auth import refuse
from pyf.station.blame import escaped
from pyf.station.direct import Direct
from pyf.station.pace import Pace, Turns
from pyf.station.session import Session
from pyf.station.sessions import Place, cut
from pyf.station.tls import failure_text, peer_certificate
from pyf.station.turn import Turn
from pyf.station.watch import Alarm, Watch
from pyf.transport import (
    ClientError,
    Connection,
    DeadlineExceeded,
    FlowCancelled,
    Limits,
    RemoteProtocolError,
    Role,
    StationError,
)
from pyf.transport.census import Bounds, bounds
from pyf.transport.events import (
    CreditReceived,
    Event,
    FlowAbandoned,
    FlowAborted,
    FlowEnded,
    FlowEvent,
    FlowOpened,
    GoAwayReceived,
    HelloReceived,
    PacketsReceived,
    ResultAcknowledged,
    ResumeRequested,
)
from pyf.transport.limits import MAX_REPLIES, MAX_TEXT, stranger_limits
from pyf.transport.patience import Overdue
from pyf.transport.pieces import Pending

_log: Final = Logger()


@implementer(IHandshakeListener)
class StationProtocol(Protocol):
    """One connection at the server. The only thing it writes is what its machine says."""

    factory: Any
    transport: Any
    peer: Any = None
    """The client's address."""
    identity: object = None
    """The client's certificate, where TLS has asked for one."""
    max_packet: int = 0
    """Bytes of the largest packet that the client takes, once it has said so."""

    def __init__(self, factory: Any) -> None:
        self.factory = factory
        self.limits: Limits = factory.limits
        self.expose_errors: bool = factory.expose_errors
        self.bounds: Bounds = bounds(factory.limits, "max_packet")
        self.clock: Callable[[], float] = factory.clock
        # A flow of somebody unknown has the windows that it had before the HELLO.
        limits = factory.limits if factory.gate is None else stranger_limits(factory.limits)
        strangers = factory.gate is not None
        self._machine = Connection(Role.SERVER, limits, factory.clock, strangers=strangers)
        self._sessions: dict[int, Session] = {}
        self._places: dict[int, Place] = {}
        # Those of them whose client has not shown yet that it has its token.
        self._arriving: dict[int, Place] = {}
        self._only_resumes = False
        self._watch: Watch | None = None
        self._last_wait: Alarm | None = None
        self._turns = Turns(self.clock, self.call_later, self._work, lambda: self.transport)
        self._handlers = self._HANDLERS  # Python finds it sooner here.
        self._draining = False
        self._leaving = False
        self._secured = False
        self._turn = Turn(lambda call: factory.reactor.callFromThread(call))  # noqa: PLW0108 - late: a reactor in memory has no threads
        self.call_soon: Callable[[Callable[[], None]], None] = self._turn.call

    # What Twisted calls

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        """Take the client in, or turn it away. It speaks first."""
        self.peer = self.transport.getPeer()
        self._direct = Direct(self.transport, self)
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        server = self.factory
        if server.stopping:
            self._leave("draining", "the server is stopping")
        elif len(server.connections) >= server.max_clients:
            limit = server.max_clients
            self._leave("busy", f"the server takes {limit} clients at once (its max_clients)")
        elif not server.has_room_for(self.peer):
            most = f"{server.max_clients_per_address} clients of one address"
            self._leave("busy", f"the server takes {most} (its max_clients_per_address)")
        else:
            server.came(self)
            waiting = server.sessions.detached if server.sessions else 0
            self._only_resumes = len(server.connections) + waiting > server.max_clients
            self._watch = Watch(
                *(server.reactor, server.clock, self._machine, self.transport),
                flush=self.flush,
                give_up=self._give_up,
                hear=self._direct.hear,
            )

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Take what came from the client."""
        if not self._leaving:
            self._machine.receive_data(data)
            self._turns.begin()

    def get_buffer(self) -> memoryview | None:
        """Return where to read to; None for ``dataReceived``."""
        return None if self._leaving else self._machine.get_buffer()

    def buffer_updated(self, size: int) -> None:
        """Take what has been read to the buffer."""
        if self._machine.buffer_updated(size):
            self._turns.begin()
        elif self._watch is not None:
            self._watch.received()

    def handshakeCompleted(self) -> None:  # noqa: N802 - Twisted's name
        """Note that TLS is established, and with whom."""
        self._secured = True
        self.identity = peer_certificate(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        """End every open flow: a close without an END is never the end of a flow."""
        if not self._leaving and (failed := failure_text(reason.value)):
            _log.warn("the connection from {peer} ended: {text}", peer=self.peer, text=failed)
        self.connected = 0  # What came before is handled, and nothing more written.
        self._turns.finish()
        self._leaving = True
        if self._watch is not None:
            self._watch.forget()
            self._watch = None
        if self._last_wait is not None:
            self._last_wait.cancel()
        if self._sessions or self._places:
            where = " in the middle of a frame" if self._machine.mid_frame else ""
            why = f"the connection to {self.peer} ended{where}: {reason.getErrorMessage()}"
            self._machine.drop_input()
            self._lose_sessions(partial(cut, why), for_good=False)
        self.factory.left(self)

    # What sessions call (the Carrier)

    def call_later(self, seconds: float, function: Callable[[], object]) -> Any:
        """Call *function* after some seconds; what is returned has ``cancel()``."""
        return self.factory.reactor.callLater(seconds, function)

    def call_in_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Call what blocks in a thread of the server's; return what fires with its result."""
        result: Deferred[Any] = self.factory.call_in_thread(function, *args)
        return result

    def send_messages(self, flow_id: int, pending: Pending) -> int:
        """Send what credit allows of *pending*; return the number of messages sent."""
        count = self._machine.send_packets(flow_id, pending)
        self._write(self._machine.data_to_send())
        return count

    def send_result(self, flow_id: int, consumed: int, outcome: bytes) -> None:
        """Say the last word on the flow, and forget it."""
        self.flush()
        self._forget(flow_id)
        self._machine.conclude(flow_id, consumed, outcome)
        if place := self._places.get(flow_id):
            self.factory.sessions.weigh(place)
        self._write(self._machine.data_to_send())
        self._settle()

    def consume(self, flow_id: int, packets: int, size: int) -> None:
        """Count packets as taken by the handler; credit goes out where it is due."""
        self._machine.consume(flow_id, packets, size)
        self.flush()

    def send_stop(self, flow_id: int) -> None:
        """Ask the client for no more packets of the flow."""
        self._machine.stop(flow_id)
        self.flush()

    def break_off(self, error: RemoteProtocolError) -> None:
        """Tell the client of its breach, and close. Does nothing where that is done."""
        if self._leaving:
            # A session that waits for another connection is broken, too.
            self._lose_sessions(lambda _: error)
        else:
            self._machine.fail(error)
            text = escaped(f"{error.code}: {error}")
            _log.warn("closing the connection from {peer}: {text}", peer=self.peer, text=text)
            self._lose_sessions(lambda _: error)
            self._close()

    # What the server's sessions call

    def admit(self, flow_id: int, place: Place) -> None:
        """Carry a session from now on."""
        self._only_resumes = False
        self._places[flow_id] = self._arriving[flow_id] = place
        if not place.flow.concluded:
            self._sessions[flow_id] = place.session

    def carries(self, session: Session) -> bool:
        """Whether the flow is open here."""
        return not self._leaving and self._sessions.get(session.flow_id) is session

    def flush(self) -> None:
        """Write what the machine says by itself: what no credit bounds, above all."""
        if out := self._machine.data_to_send():
            if self._watch is not None:
                self._watch.replied(sum(map(len, out)))
            self._write(out)

    def release(self, flow_id: int) -> None:
        """Carry a session no longer, for another connection does."""
        self.dismiss(flow_id)
        self._sessions.pop(flow_id, None)
        self._machine.fence(flow_id)
        if not self._leaving and self._machine.idle:
            # The client has left it: nobody would read what is said here.
            self._leaving = True
            self.abort()

    def dismiss(self, flow_id: int) -> None:
        """Have the flow end with the connection."""
        self._places.pop(flow_id, None)
        self._arriving.pop(flow_id, None)

    def lose(self, session: Session, error: StationError) -> None:
        """End a flow whose client can't come back."""
        if self._sessions.get(session.flow_id) is session:
            self._forget(session.flow_id)
            session.lose(error)

    def recognise(self, flow_id: int) -> None:
        """Give the flow its full windows: its client is known now."""
        self._machine.widen(flow_id, self.limits.window_packets, self.limits.window_bytes)
        self.flush()

    # What the factory calls

    def stop(self, why: str) -> None:
        """Break off the open flows, tell the client why, and close."""
        for session in list(self._sessions.values()):
            session.flush()  # A result that is there is not to be lost.
        self._lose_sessions(partial(cut, why))
        self._leave("draining", why)

    def drain(self, why: str) -> None:
        """Tell the client that it may open no more flows, and close once none is open."""
        if not self._leaving:
            self._draining = True
            self._machine.go_away("draining", why)
            self.flush()
            self._settle()

    def end_flows(self, why: str) -> None:
        """End the open flows, on both sides, and close."""
        for session in list(self._sessions.values()):
            session.flush()  # A result that is there is not to be lost.
            session.fail(FlowCancelled(why), "cancelled", "draining")
        self._leave("draining", why)

    def abort(self) -> None:
        """Wait no more for the client to close."""
        self.transport.abortConnection()

    # Events, each of a flow that has its session: the machine tells of no other

    def _work(self, pace: Pace | None) -> bool:
        """Handle what has come; return whether that was all."""
        with self._turn:
            done = self._handle_events(pace)
            if self._watch is not None:
                self._watch.received()
        return done

    def _handle_events(self, pace: Pace | None) -> bool:
        event: Event | None = None
        try:
            machine, handlers = self._machine, self._handlers
            # A coroutine that gets an event may stop the server.
            while not self._leaving and (event := machine.next_event()):
                handle = handlers.get(type(event))
                if handle and (not self._arriving or self._arrived(event)):
                    handle(self, event)
                if pace is not None and pace.is_over():
                    break
        except RemoteProtocolError as error:
            self.break_off(error)
            return True
        self.flush()
        if self._watch is not None and self._watch.unread > MAX_REPLIES:
            self._drown()
        if self._draining:
            self._settle()
        return self._leaving or event is None

    def _hello(self, event: HelloReceived) -> None:
        self.max_packet = event.max_packet
        if self._watch is not None:
            self._watch.greeted(event.min_ping_interval)

    def _opened(self, event: FlowOpened) -> None:
        if self._only_resumes:
            most = f"{self.factory.max_clients} clients, those that may come back among them"
            self._leave("busy", f"the server takes {most}")
            return
        inbox = self.factory.runner.make_inbox()
        session = Session(self, event.flow_id, event.header, inbox, waits=event.waits)
        session.identity = self.identity
        session.length_hint = event.length_hint
        self._sessions[event.flow_id] = session
        if event.timeout is not None:
            expire = partial(self._expire, session, event.timeout)
            session.deadline = self._alarm(event.timeout, expire)
        if event.resume is None:
            self._start(session)
        elif problem := self.factory.refuses_resume(event):
            self._refuse(session, "not_resumable", problem)
        else:
            self.factory.sessions.open(self, self._machine, event, session)

    def _start(self, session: Session) -> bool:
        if self.factory.gate is not None:
            expel = partial(refuse, session)
            session.stranger = self._alarm(self.limits.handshake_timeout, expel)
        if self.factory.start(session):
            return True
        text = f"all {self.factory.max_handlers} handlers of the server are busy (its max_handlers)"
        self._refuse(session, "busy", text)
        return False

    def _refuse(self, session: Session, code: str, text: str) -> None:
        self._forget(session.flow_id)
        self._machine.finish(session.flow_id, 0, "refused", code=code, message=text)

    def _arrived(self, event: Event) -> bool:
        """Note that a client has its token, if it has not shown that before.

        Return whether its flow is served: where it is refused then, *event* means nothing.
        """
        place = self._arriving.pop(event.flow_id, None) if isinstance(event, FlowEvent) else None
        if place is None:
            return True
        place.tokens.confirm()
        if place.started:
            return True
        place.started = True
        return self._start(place.session)

    def _resume(self, event: ResumeRequested) -> None:
        if self.factory.sessions is None:
            text = "the server does not let flows survive their connection"
            self._machine.reject(event.flow_id, "not_resumable", text, final=True)
        else:
            self.factory.sessions.resume(self, self._machine, event)

    def _acknowledged(self, event: ResultAcknowledged) -> None:
        place = self._places.get(event.flow_id)
        if place is not None and event.flow_id not in self._sessions:
            self.factory.sessions.forget(place)

    def _packets(self, event: PacketsReceived) -> None:
        self._sessions[event.flow_id].receive(event.batch)

    def _ended(self, event: FlowEnded) -> None:
        self._sessions[event.flow_id].end()

    def _aborted(self, event: FlowAborted) -> None:
        name, count = escaped(event.error_class, MAX_TEXT), event.count
        text = f"the client's generator failed with {name} after {count} packets"
        error = ClientError(text, error_class=name, sent=count)
        self._sessions[event.flow_id].fail(error, "cancelled")

    def _abandoned(self, event: FlowAbandoned) -> None:
        if place := self._places.get(event.flow_id):
            self.factory.sessions.forget(place)
        error = FlowCancelled("the client gave the flow up")
        self._sessions[event.flow_id].fail(error, "cancelled")

    def _credit(self, event: CreditReceived) -> None:
        self.flush()  # What has been said before is no message.
        self._sessions[event.flow_id].flush()

    def _gone(self, event: GoAwayReceived) -> None:
        if event.code not in ("", "draining"):
            code, text = escaped(event.code), escaped(event.message)
            _log.warn("{peer} gave up with {code}: {text}", peer=self.peer, code=code, text=text)

    _HANDLERS: ClassVar[dict[type[Event], Callable[[StationProtocol, Any], None]]] = {
        HelloReceived: _hello,
        FlowOpened: _opened,
        PacketsReceived: _packets,
        FlowEnded: _ended,
        FlowAborted: _aborted,
        FlowAbandoned: _abandoned,
        CreditReceived: _credit,
        GoAwayReceived: _gone,
        ResumeRequested: _resume,
        ResultAcknowledged: _acknowledged,
    }

    # How flows end

    def _expire(self, session: Session, timeout: float) -> None:
        text = f"the client gave the call {timeout:g} s"
        session.fail(DeadlineExceeded(text, timeout=timeout), "deadline")

    def _forget(self, flow_id: int) -> None:
        session = self._sessions.pop(flow_id, None)
        for alarm in filter(None, (session and session.stranger, session and session.deadline)):
            alarm.cancel()

    def _lose_sessions(
        self, error: Callable[[Session], StationError], *, for_good: bool = True
    ) -> None:
        """End the flows; those that survive their connection wait for another one, if they may."""
        for place in list(self._places.values()):
            if for_good or not (place.waiting or self.factory.sessions.detach(place)):
                self.factory.sessions.forget(place)
        for flow_id, session in list(self._sessions.items()):
            if flow_id not in self._places:
                self._forget(flow_id)
                session.lose(error(session))

    # What the watch asks for

    def _give_up(self, overdue: Overdue) -> None:
        code, text = overdue.code, overdue.text
        log = _log.info if code == "idle_timeout" else _log.warn
        log("closing the connection to {peer}: {text}", peer=self.peer, text=text)
        self._lose_sessions(partial(cut, text), for_good=False)
        self._leave(code, text)

    def _drown(self) -> None:
        """Break off a connection whose client asks and asks, and reads no answer."""
        text = f"more than {MAX_REPLIES} bytes of answers wait for the client (MAX_REPLIES)"
        _log.warn("aborting the connection to {peer}: {text}", peer=self.peer, text=text)
        self._lose_sessions(partial(cut, text))
        self._leaving = True
        self.abort()

    # Closing

    def _settle(self) -> None:
        """Note what has changed; close where that was awaited."""
        if self._watch is not None:
            self._watch.changed()
        if self._draining and self._machine.idle and not self._leaving:
            self._close()

    def _leave(self, code: str, message: str) -> None:
        if not self._leaving:
            self._machine.go_away(code, message)
            self._close()

    def _close(self) -> None:
        """Close our half, so that what was said arrives; abort where the client keeps its own."""
        self.flush()
        self._leaving = True
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._last_wait = self._alarm(self.limits.close_timeout, self.abort)
        half = getattr(self.transport, "loseWriteConnection", None)
        if ISSLTransport.providedBy(self.transport) and not self._secured:
            self.abort()  # There is nobody yet to say goodbye to.
        elif half is None or ISSLTransport.providedBy(self.transport):
            # TLS knows no half: it has to say goodbye before TCP does.
            self.transport.loseConnection()
        else:
            half()

    def _alarm(self, seconds: float, function: Callable[[], object]) -> Alarm:
        return Alarm(self.factory.reactor, self.factory.clock, seconds, function)

    def _write(self, out: list[bytes]) -> None:
        if out and self.connected and not self._leaving:
            self._direct.writeSequence(out)
