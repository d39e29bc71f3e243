"""One connection of a client that carries many flows at once, for whatever event loop there is.

It does no I/O of its own: its owner passes it what comes, and it writes to the transport that it
was given. All in the loop's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar, Final

from pyf.station.loop import Loop
from pyf.station.outcome import lost, refusal
from pyf.station.watch import Alarm, Watch
from pyf.station.wire import deadline_error
from pyf.transport import (
    Connection,
    FlowRefused,
    Limits,
    Packet,
    RemoteProtocolError,
    Role,
    StationError,
)
from pyf.transport.events import (
    CreditReceived,
    Event,
    FlowStopped,
    GoAwayReceived,
    HelloReceived,
    PacketsReceived,
    PongReceived,
    ResultReceived,
)
from pyf.transport.frames import Batch
from pyf.transport.limits import BATCH_BYTES
from pyf.transport.patience import Overdue
from pyf.transport.pieces import Encoded
from pyf.transport.states import ConnectionState, FlowState

PATIENCE: Final = 0.8
"""The part of ``Limits.idle_timeout`` after which a client closes an idle connection. The server
does after all of it: who goes first cannot lose a new flow on the way."""

UNWRITTEN_BYTES: Final = 4 * BATCH_BYTES
"""Bytes that may wait in the transport before flows wait for it."""

_SENDING: Final = (FlowState.STREAMING, FlowState.STOPPED)


class Stream:
    """One flow of a connection, as its client sees it."""

    def __init__(self, multiplex: Multiplex, flow_id: int, timeout: float | None) -> None:
        self.timeout: float | None = timeout
        """Seconds that the call was given."""
        self.pending: deque[Encoded] = deque()
        """Encoded packets that have not left yet. Other threads may append."""
        self.sent: int = 0
        """Packets that have left."""
        self.told: int = 0
        """How many of them the caller knows of."""
        self.consumed: int = 0
        """Packets that the handler has taken, as last reported."""
        self.packet_size: int = 1
        """Bytes of a packet that left of late, on average."""
        self.ended: bool = False
        """Whether the END has been sent."""
        self.wanted: bool = True
        """Whether somebody wants more packets: the handler, and this side."""
        self.confirmed: bool = False
        """Whether the server has all that was sent before ``confirm()``."""
        self.result: ResultReceived | None = None
        """The server's last word, once it has come."""
        self.error: StationError | None = None
        """Why the flow ended before that."""
        self.on_room: Callable[[], object] = bool
        """Called where more may be sent; it raises nothing."""
        self.changes: int = 0
        """How often something may have changed."""
        self._multiplex = multiplex
        self._flow_id = flow_id
        self._messages: deque[Batch] = deque()
        self._wakes: list[Callable[[], None]] = []

    @property
    def over(self) -> bool:
        """Whether nothing more can be sent."""
        return not self.wanted or self.ended or self.has_ended

    @property
    def has_news(self) -> bool:
        """Whether something has come that nobody has taken, or nothing will."""
        return bool(self._messages) or self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.result is not None or self.error is not None

    def room(self) -> int:
        """Return for how many packets there is credit, of the size that they had of late."""
        if self.over or self._multiplex.congested:
            return 0
        packets, size = self._multiplex.machine.room(self._flow_id)
        return min(packets, max(1, size // self.packet_size)) if size else 0

    def send(self) -> None:
        """Send what credit allows of ``pending``, with the next ``flush()``.

        Raises PacketTooLarge for a packet that the server does not take; it is dropped then.
        """
        if self.over or self._multiplex.congested or not self.pending:
            return
        machine = self._multiplex.machine
        try:
            machine.send_packets(self._flow_id, self.pending)
        finally:
            self.sent = machine.sent(self._flow_id)

    def end(self) -> None:
        """Say, with the next ``flush()``, that no more will come, if nothing else has ended it."""
        machine = self._multiplex.machine
        if machine.flow_state(self._flow_id) in _SENDING and not self.has_ended:
            machine.end(self._flow_id)
            self.ended = True

    def flush(self) -> None:
        """Write what there is to say."""
        self._multiplex.flush()

    def confirm(self) -> None:
        """Have the server say that it has all that was sent so far."""
        self._multiplex.ping_for(self)

    def take(self) -> list[Packet]:
        """Return the packets of one batch that has come, none if none has.

        Raises RemoteProtocolError if they are not what was announced.
        """
        if not self._messages:
            return []
        batch = self._messages.popleft()
        try:
            packets = list(batch.decode())
        except RemoteProtocolError as error:
            self._multiplex.fail(error)
            raise
        self._multiplex.consume(self._flow_id, batch)
        return packets

    def abort(self, error_class: str) -> None:
        """Tell the handler that the generator failed, if it can still be told. Raises nothing."""
        machine = self._multiplex.machine
        if machine.flow_state(self._flow_id) in _SENDING:
            machine.abort(self._flow_id, error_class)
        self.leave()

    def cancel(self) -> None:
        """Tell the handler that nobody waits for it, if it can still be told. Raises nothing."""
        machine = self._multiplex.machine
        if machine.flow_state(self._flow_id) in (*_SENDING, FlowState.ENDED):
            machine.cancel(self._flow_id)
        self.leave()

    def leave(self) -> None:
        """Take no more of what comes back, and let the handler go on."""
        self.wanted = False
        self.pending.clear()
        while self._messages:
            self._multiplex.machine.consume(self._flow_id, *_extent(self._messages.popleft()))
        self._multiplex.forget(self._flow_id)
        self._multiplex.flush()
        self.touch()

    def expire(self) -> None:
        """End the flow: the time given to the call is over."""
        self.cancel()
        self.fail(deadline_error(self.timeout or 0.0))

    def receive(self, batch: Batch) -> None:
        """Take what came back."""
        self._messages.append(batch)
        self.touch()

    def answer(self, result: ResultReceived) -> None:
        """Take the server's last word."""
        self.consumed = result.consumed
        self.result = result
        self.stop()

    def stop(self) -> None:
        """Send no more: the handler wants no more."""
        self.wanted = False
        self.pending.clear()
        self.touch()

    def fail(self, error: StationError) -> None:
        """Note why the flow has ended, if it hasn't ended before."""
        if self.result is None and self.error is None:
            self.error = error
            self.touch()

    def lose(self, reason: str, facts: dict[str, Any]) -> None:
        """Note that the connection is gone."""
        self.fail(lost(reason, whole=self.ended, sent=self.sent, consumed=self.consumed, **facts))

    def touch(self) -> None:
        """Have all that wait look again."""
        self.changes += 1
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    async def changed(self, since: int | None = None) -> None:
        """Wait until something may have changed, *since* there had been so many ``changes``."""
        if since is not None and since != self.changes:
            return
        waiting, wake = self._multiplex.loop.waiter()
        self._wakes.append(wake)
        await waiting

    async def until(self, condition: Callable[[], object], seconds: float) -> bool:
        """Wait until *condition* holds, *seconds* at the most; return whether it does."""
        late: list[bool] = []

        def give_up() -> None:
            late.append(True)
            self.touch()

        loop = self._multiplex.loop
        alarm = Alarm(loop, loop.clock, seconds, give_up)
        try:
            while not condition() and not late:
                await self.changed()
        finally:
            alarm.cancel()
        return bool(condition())


class Multiplex:
    """The flows of one connection, on a *transport* that has connected.

    The transport has Twisted's names: ``writeSequence``, ``loseConnection``, ``abortConnection``,
    ``registerProducer``, ``unregisterProducer``. Whoever made it calls ``received()`` and
    ``lost()``. *greeted* is called once the server has introduced itself.
    """

    def __init__(
        self, loop: Loop, limits: Limits, transport: Any, greeted: Callable[[], object]
    ) -> None:
        limits = replace(limits, idle_timeout=PATIENCE * limits.idle_timeout)
        self.loop: Loop = loop
        self.machine: Connection = Connection(Role.CLIENT, limits)
        self.transport: Any = transport
        self.congested: bool = False
        """Whether the transport holds enough for now."""
        self.closed: bool = False
        """Whether the connection has ended."""
        self._limits = limits
        self._greeted = greeted
        self._streams: dict[int, Stream] = {}
        self._confirming: dict[int, Stream] = {}
        self._pings = 0
        self._gone_away = ""
        self._leaving = False
        self._emptied: list[Callable[[], None]] = []
        self._last_wait: Alarm | None = None
        self._watch: Watch | None = Watch(
            *(loop, loop.clock, self.machine, self),
            flush=self.flush,
            give_up=self._give_up,
        )

    @property
    def usable(self) -> bool:
        """Whether new flows may be opened."""
        states = (ConnectionState.AWAITING_HELLO, ConnectionState.READY)
        return not self._leaving and not self.closed and self.machine.state in states

    def open(
        self,
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        waits: bool,
        length_hint: int | None = None,
    ) -> Stream:
        """Open a flow; it leaves with the next ``flush()``. Raises PacketError, FlowRefused."""
        if not self.usable:
            raise FlowRefused("the connection is closing: it takes no new flow", code="draining")
        flow_id = self.machine.open_flow(header, timeout, waits, length_hint)
        stream = self._streams[flow_id] = Stream(self, flow_id, timeout)
        self._settle()
        return stream

    def flush(self) -> None:
        """Write what the machine says."""
        out = self.machine.data_to_send()
        if out and not self._leaving and not self.closed:
            self.transport.writeSequence(out)

    # What streams call

    def consume(self, flow_id: int, batch: Batch) -> None:
        """Count packets as taken; credit goes out where it is due."""
        self.machine.consume(flow_id, *_extent(batch))
        self.flush()

    def ping_for(self, stream: Stream) -> None:
        """Ask for a PONG that confirms all that *stream* has sent."""
        self._pings += 1
        self._confirming[self._pings] = stream
        self.machine.ping(self._pings)
        self.flush()

    def forget(self, flow_id: int) -> None:
        """Drop what still comes for a flow."""
        self._streams.pop(flow_id, None)
        self._settle()

    def fail(self, error: RemoteProtocolError) -> None:
        """Tell the server of its breach, and close."""
        self.machine.fail(error)
        for stream in list(self._streams.values()):
            stream.fail(copy(error))
        self.close()

    # What the transport tells

    def received(self, data: bytes) -> None:
        """Take what came."""
        if self._leaving:
            return
        self.machine.receive_data(data)
        try:
            while (event := self.machine.next_event()) and not self._leaving:
                if handle := self._HANDLERS.get(type(event)):
                    handle(self, event)
        except RemoteProtocolError as error:
            self.fail(error)
            return
        self.flush()
        if self._watch is not None:
            self._watch.received()
        self._settle()

    def lost(self, reason: str) -> None:
        """Note that the connection has ended."""
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

    def close(self) -> None:
        """Close behind what has been said; abort where the server keeps its half."""
        if self._leaving or self.closed:
            return
        self.flush()
        self._leaving = True
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        self._lose_streams("this side closed the connection")
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

    def _settle(self) -> None:
        if self._watch is not None:
            self._watch.changed()
        if self.machine.idle:
            self._wake_emptied()
            if self._gone_away:
                self.close()

    def _wake_emptied(self) -> None:
        wakes, self._emptied = self._emptied, []
        for wake in wakes:
            wake()

    def _lose_streams(self, reason: str, **facts: Any) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.lose(reason, facts)

    def _give_up(self, overdue: Overdue) -> None:
        self._lose_streams(overdue.text, option=overdue.option, limit=overdue.limit)
        self.machine.go_away(overdue.code, overdue.text)
        self.close()

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
            self.machine.consume(event.flow_id, *_extent(event.batch))
        else:
            stream.receive(event.batch)

    def _credit(self, event: CreditReceived) -> None:
        if stream := self._streams.get(event.flow_id):
            stream.consumed = event.consumed
            self._make_room(stream)

    def _result(self, event: ResultReceived) -> None:
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
        for flow_id in [each for each in self._streams if each > event.last_flow]:
            self._streams.pop(flow_id).fail(refusal(event))

    _HANDLERS: ClassVar[dict[type[Event], Callable[[Multiplex, Any], None]]] = {
        HelloReceived: _hello,
        PacketsReceived: _packets,
        CreditReceived: _credit,
        FlowStopped: _stopped,
        ResultReceived: _result,
        PongReceived: _pong,
        GoAwayReceived: _go_away,
    }


def _extent(batch: Batch) -> tuple[int, int]:
    return batch.packets, batch.size
