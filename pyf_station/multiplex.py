"""One connection of a client that carries many flows at once, for whatever event loop there is.

It does no I/O of its own: its owner passes it what comes, and it writes to the transport that it
was given. All in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar, Final

from pyf.station.loop import Loop
from pyf.station.outcome import lost, refusal
from pyf.station.pace import Pace, Turns
from pyf.station.stream import Resumable, Stream, extent
from pyf.station.watch import Alarm, Watch
from pyf.transport import (
    Connection,
    FlowRefused,
    Limits,
    RemoteProtocolError,
    Role,
    StationError,
)
from pyf.transport.events import (
    CreditReceived,
    Event,
    FlowRejected,
    FlowResumed,
    FlowStopped,
    GoAwayReceived,
    HelloReceived,
    LateResult,
    PacketsReceived,
    PongReceived,
    ResultReceived,
    SessionOpened,
)
from pyf.transport.frames import Batch
from pyf.transport.limits import BATCH_BYTES
from pyf.transport.patience import Overdue
from pyf.transport.states import ConnectionState, FlowState

PATIENCE: Final = 0.8
"""The part of ``Limits.idle_timeout`` after which a client closes an idle connection. The server
does after all of it: who goes first cannot lose a new flow on the way."""

_USABLE: Final = (ConnectionState.AWAITING_HELLO, ConnectionState.READY)

UNWRITTEN_BYTES: Final = 4 * BATCH_BYTES
"""Bytes that may wait in the transport before flows wait for it."""


class Multiplex:
    """The flows of one connection, on a *transport* that has connected.

    The transport has Twisted's names: ``writeSequence``, ``loseConnection``, ``abortConnection``,
    ``pauseProducing``, ``resumeProducing``, ``registerProducer``, ``unregisterProducer``. Whoever
    made it calls ``received()`` and ``lost()``. Where it has a ``hear``, that is for the watch.
    *greeted* is called once the server has introduced itself.
    """

    def __init__(
        self, loop: Loop, limits: Limits, transport: Any, greeted: Callable[[], object]
    ) -> None:
        limits = replace(limits, idle_timeout=PATIENCE * limits.idle_timeout)
        self.loop: Loop = loop
        self.machine: Connection = Connection(Role.CLIENT, limits, loop.clock)
        self.transport: Any = transport
        self.congested: bool = False
        """Whether the transport holds enough for now."""
        self.closed: bool = False
        """Whether the connection has ended."""
        self.ending: StationError | None = None
        """Why it takes no new flow, once that is so."""
        self._limits = limits
        self._greeted = greeted
        self._streams: dict[int, Stream] = {}
        self._resuming: dict[int, Resumable] = {}
        self._confirming: dict[int, Stream] = {}
        self._pings = 0
        self._gone_away = ""
        self._leaving = False
        self._emptied: list[Callable[[], None]] = []
        self._last_wait: Alarm | None = None
        self._turns = Turns(loop.clock, loop.callLater, self._work, lambda: self.transport)
        self._watch: Watch | None = Watch(
            *(loop, loop.clock, self.machine, self),
            flush=self.flush,
            give_up=self._give_up,
            hear=getattr(transport, "hear", bool),
        )

    @property
    def usable(self) -> bool:
        """Whether new flows may be opened."""
        return not (self._leaving or self.closed) and self.machine.state in _USABLE

    def open(
        self,
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        waits: bool,
        length_hint: int | None = None,
        stream: Stream | None = None,
        **resume: Any,
    ) -> Stream:
        """Open a flow, for a *stream* that there is or a new one; it leaves with ``flush()``.

        *resume* is as for the machine's ``open_flow``. Raises PacketError, FlowRefused, and what
        the connection has ended with.
        """
        self._check_usable()
        flow_id = self.machine.open_flow(header, timeout, waits, length_hint, **resume)
        if stream is None:
            stream = Stream(self, flow_id, timeout)
        else:
            stream.move(self, flow_id)
        self._streams[flow_id] = stream
        self._changed()
        return stream

    def resume(self, stream: Resumable) -> None:
        """Ask for a flow that has lost its connection to go on here. Raises as ``open`` does."""
        self._check_usable()
        flow, ticket = stream.left_off
        self._resuming[self.machine.resume_flow(flow, ticket)] = stream
        self._changed()
        self.flush()

    def _check_usable(self) -> None:
        if not self.usable:
            if self.ending is not None:
                raise copy(self.ending)
            raise FlowRefused("the connection is closing: it takes no new flow", code="draining")

    def flush(self) -> None:
        """Write what the machine says."""
        out = self.machine.data_to_send()
        if out and not self._leaving and not self.closed:
            self.transport.writeSequence(out)

    # What streams call

    def consume(self, flow_id: int, batch: Batch) -> None:
        """Count packets as taken; credit goes out where it is due."""
        self.machine.consume(flow_id, *extent(batch))
        self.flush()

    def ping_for(self, stream: Stream) -> None:
        """Ask for a PONG that confirms all that *stream* has sent."""
        self._pings += 1
        self._confirming[self._pings] = stream
        self.machine.ping(self._pings)
        self.flush()

    def forget(self, flow_id: int) -> None:
        """Drop what still comes for a flow."""
        if self._streams.pop(flow_id, None) is not None:
            self._changed()
            self._note_idle()

    def fail(self, error: RemoteProtocolError) -> None:
        """Tell the server of its breach, and close."""
        self.machine.fail(error)
        self.ending = error
        for stream in list(self._streams.values()):
            stream.fail(copy(error))
        self.close()

    # What the transport tells

    def received(self, data: bytes) -> None:
        """Take what came."""
        if not self._leaving:
            self.machine.receive_data(data)
            self._turns.begin()

    def get_buffer(self) -> memoryview | None:
        """Return where the rest of a large frame is to be read to; None for ``received``."""
        return None if self._leaving else self.machine.get_buffer()

    def buffer_updated(self, size: int) -> None:
        """Take *size* bytes that have been read to the buffer."""
        if self.machine.buffer_updated(size):
            self._turns.begin()
        elif self._watch is not None:
            self._watch.received()

    def _work(self, pace: Pace | None) -> bool:
        """Handle what has come; return whether that was all."""
        event: Event | None = None
        try:
            while not self._leaving and (event := self.machine.next_event()):
                if handle := self._HANDLERS.get(type(event)):
                    handle(self, event)
                if pace is not None and pace.is_over():
                    break
        except RemoteProtocolError as error:
            self.fail(error)
            return True
        self.flush()
        if self._watch is not None:
            self._watch.received()
        self._note_idle()
        return self._leaving or event is None

    def lost(self, reason: str) -> None:
        """Note that the connection has ended."""
        self._turns.finish()
        self.closed = True
        if self._watch is not None:
            self._watch.forget()
            self._watch = None
        if self._last_wait is not None:
            self._last_wait.cancel()
        self._lose_streams(self._gone_away or reason)
        self._wake_emptied()

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Note that what is written piles up."""
        self.congested = True
        if self._watch is not None:
            self._watch.pauseProducing()

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Note that all has been written."""
        self.congested = False
        if self._watch is not None:
            self._watch.resumeProducing()
        for stream in list(self._streams.values()):
            self._make_room(stream)

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Do nothing: ``lost()`` comes, too."""

    # What the watch takes for the transport

    def registerProducer(self, producer: Watch, streaming: bool) -> None:  # noqa: ARG002, N802
        """Have the transport tell this object, which tells the watch."""
        self.transport.registerProducer(self, streaming)

    def unregisterProducer(self) -> None:  # noqa: N802 - Twisted's name
        """Hear no more of the transport."""
        self.transport.unregisterProducer()

    # Leaving

    def close(self, why: str = "this side closed the connection", **facts: Any) -> None:
        """Close behind what has been said; abort where the server keeps its half.

        The flows that are open are told *why*.
        """
        if self._leaving or self.closed:
            return
        self.flush()
        self._leaving = True
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._lose_streams(why, **facts)
        seconds = self._limits.close_timeout
        self._last_wait = Alarm(self.loop, self.loop.clock, seconds, self.abort)
        self.transport.loseConnection()
        self._wake_emptied()

    def abort(self) -> None:
        """Wait no more for the server to close."""
        self.transport.abortConnection()

    async def emptied(self, seconds: float) -> None:
        """Wait until the server has answered all flows that were given up, or *seconds*."""
        if self.machine.idle or self._leaving or self.closed:
            return
        waiting, wake = self.loop.waiter()
        self._emptied.append(wake)
        alarm = Alarm(self.loop, self.loop.clock, seconds, wake)
        try:
            await waiting
        finally:
            alarm.cancel()

    def _changed(self) -> None:
        if self._watch is not None:
            self._watch.changed()

    def _note_idle(self) -> None:
        if self.machine.idle:
            self._wake_emptied()
            if self._gone_away:
                self.close()

    def _wake_emptied(self) -> None:
        wakes, self._emptied = self._emptied, []
        for wake in wakes:
            wake()

    def _lose_streams(self, reason: str, **facts: Any) -> None:
        self.ending = self.ending or lost(reason, whole=False, sent=0, consumed=0, **facts)
        streams = [*self._streams.values(), *self._resuming.values()]
        self._streams, self._resuming = {}, {}
        for stream in streams:
            stream.lose(reason, facts)

    def _give_up(self, overdue: Overdue) -> None:
        self.machine.go_away(overdue.code, overdue.text)
        self.close(overdue.text, option=overdue.option, limit=overdue.limit)

    # Events

    def _make_room(self, stream: Stream) -> None:
        stream.on_room()
        stream.touch()

    def _hello(self, event: HelloReceived) -> None:
        if self._watch is not None:
            self._watch.greeted(event.min_ping_interval)
        self._greeted()
        for stream in list(self._streams.values()):
            self._make_room(stream)

    def _packets(self, event: PacketsReceived) -> None:
        stream = self._streams.get(event.flow_id)
        if stream is None:
            # Nobody waits for it, but its handler is to go on.
            self.machine.consume(event.flow_id, *extent(event.batch))
        else:
            stream.receive(event.batch)

    def _credit(self, event: CreditReceived) -> None:
        if stream := self._streams.get(event.flow_id):
            stream.consumed = event.consumed
            self._make_room(stream)

    def _result(self, event: ResultReceived | LateResult) -> None:
        if self.machine.flow_state(event.flow_id) is FlowState.ANSWERED:
            self.machine.cancel(event.flow_id)  # That is all it needs to be over on both sides.
        if stream := self._streams.pop(event.flow_id, None):
            stream.answer(event)

    def _stopped(self, event: FlowStopped) -> None:
        if stream := self._streams.get(event.flow_id):
            stream.stop()

    def _pong(self, event: PongReceived) -> None:
        if stream := self._confirming.pop(event.token, None):
            stream.confirmed = True
            stream.touch()

    def _go_away(self, event: GoAwayReceived) -> None:
        self._gone_away = event.message or event.code or "the server is going away"
        self.ending = refusal(event)
        for flow_id in [each for each in self._streams if each > event.last_flow]:
            self._streams.pop(flow_id).fail(refusal(event))
        for flow_id in [each for each in self._resuming if each > event.last_flow]:
            self._resuming.pop(flow_id).lose(event.message, {})
        if event.code == "draining":
            for stream in list(self._streams.values()):
                stream.drain(event.message)

    def _session(self, event: SessionOpened) -> None:
        stream = self._streams.get(event.flow_id)
        if isinstance(stream, Resumable):
            stream.begin(self.machine.flow(event.flow_id), event.ticket)

    def _resumed(self, event: FlowResumed) -> None:
        stream = self._resuming.pop(event.flow_id)
        stream.go_on(self, event.flow_id, event.token)
        if not stream.given_up:
            self._streams[event.flow_id] = stream
            self._make_room(stream)

    def _rejected(self, event: FlowRejected) -> None:
        self._resuming.pop(event.flow_id).reject(event)

    _HANDLERS: ClassVar[dict[type[Event], Callable[[Multiplex, Any], None]]] = {
        HelloReceived: _hello,
        PacketsReceived: _packets,
        CreditReceived: _credit,
        FlowStopped: _stopped,
        ResultReceived: _result,
        LateResult: _result,
        PongReceived: _pong,
        GoAwayReceived: _go_away,
        SessionOpened: _session,
        FlowResumed: _resumed,
        FlowRejected: _rejected,
    }
