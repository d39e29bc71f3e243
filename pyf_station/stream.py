"""One flow of a connection that carries many, as an async client sees it. In the loop's thread."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from pyf.station.loop import Loop
from pyf.station.outcome import lost
from pyf.station.pace import Decoder, in_thread, never, next_turn
from pyf.station.watch import Alarm
from pyf.station.wire import deadline_error
from pyf.transport import Connection, RemoteProtocolError, StationError
from pyf.transport.events import FlowRejected, LateResult, ResultReceived
from pyf.transport.frames import Batch
from pyf.transport.pieces import Pending
from pyf.transport.resume import FlowMachine, Ticket
from pyf.transport.states import FlowState

_SENDING: Final = (FlowState.STREAMING, FlowState.STOPPED)


class Carrier(Protocol):
    """What a flow knows of the connection that carries it."""

    loop: Loop
    machine: Connection
    congested: bool

    def flush(self) -> None:
        """Write what the machine says."""

    def consume(self, flow_id: int, batch: Batch) -> None:
        """Count packets as taken; credit goes out where it is due."""

    def ping_for(self, stream: Stream) -> None:
        """Ask for a PONG that confirms all that *stream* has sent."""

    def forget(self, flow_id: int) -> None:
        """Drop what still comes for a flow."""

    def fail(self, error: RemoteProtocolError) -> None:
        """Tell the server of its breach, and close."""


class Stream:
    """One flow of a connection, as its client sees it."""

    sent: int = 0
    """Packets that have left."""
    told: int = 0
    """How many of them the caller knows of."""
    consumed: int = 0
    """Packets that the handler has taken, as last reported."""
    packet_size: int = 1
    """Bytes of a packet that left of late, on average."""
    ended: bool
    """Whether the END has been sent."""
    wanted: bool
    """Whether somebody wants more packets: the handler, and this side."""
    confirmed: bool = False
    """Whether the server has all that was sent before ``confirm()``."""
    result: ResultReceived | None = None
    """The server's last word, once it has come."""
    error: StationError | None
    """Why the flow ended before that."""
    changes: int = 0
    """How often something may have changed."""
    start: int = 0
    """Packets of the flow that are not asked for: earlier sessions have handled them."""
    _taking: bool
    _decoder: Decoder | None = None

    def __init__(self, carrier: Carrier, flow_id: int, timeout: float | None) -> None:
        self.timeout: float | None = timeout
        """Seconds that the call was given."""
        self.pending: Pending = deque()
        """Encoded packets that have not left yet. Other threads may append."""
        self.on_room: Callable[[], object] = bool
        """Called where more may be sent; it raises nothing."""
        self.move(carrier, flow_id)
        # Looked at all the time: Python finds sooner what is no attribute of the class.
        self.wanted, self.ended, self.error, self._taking = True, False, None, False
        self._messages: deque[Batch] = deque()
        self._wakes: list[Callable[[], None]] = []

    def move(self, carrier: Carrier, flow_id: int) -> None:
        """Be carried by *carrier* from now on."""
        self._carrier = carrier
        self._flow_id = flow_id

    @property
    def over(self) -> bool:
        """Whether nothing more can be sent."""
        return not self.wanted or self.ended or self.result is not None or self.error is not None

    @property
    def has_messages(self) -> bool:
        """Whether messages have come that nobody has taken."""
        return bool(self._messages) or self._taking

    @property
    def has_news(self) -> bool:
        """Whether something has come that nobody has taken, or nothing will."""
        return self.has_messages or self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.result is not None or self.error is not None

    def room(self) -> int:
        """Return for how many packets there is credit, of the size that they had of late."""
        if self.over or self._carrier.congested:
            return 0
        return self._carrier.machine.room_for(self._flow_id, self.packet_size)

    def send(self) -> None:
        """Send what credit allows of ``pending``, with the next ``flush()``.

        Raises PacketTooLarge for a packet that the server does not take; it is dropped then.
        """
        if self.over or self._carrier.congested or not self.pending:
            return
        machine = self._carrier.machine
        try:
            machine.send_packets(self._flow_id, self.pending)
        finally:
            self.sent = machine.sent(self._flow_id)

    def end(self) -> None:
        """Say, with the next ``flush()``, that no more will come, if nothing else has ended it."""
        machine = self._carrier.machine
        if machine.flow_state(self._flow_id) in _SENDING and not self.has_ended:
            machine.end(self._flow_id)
            self.ended = True

    def flush(self) -> None:
        """Write what there is to say."""
        self._carrier.flush()

    def confirm(self) -> None:
        """Have the server say that it has all that was sent so far."""
        self._carrier.ping_for(self)

    async def take_maps(self) -> list[dict[str, Any]]:
        """Return what one batch that has come holds, to be unrolled; nothing if none has.

        Raises RemoteProtocolError if they are not what was announced.
        """
        while self._taking:  # Another task is at the batch before.
            await self.changed()
        if not self._messages:
            return []
        batch = self._messages.popleft()
        decoder = self._decoder or self._decoding()
        self._taking = True
        try:
            maps = None if decoder.pace.is_over() else batch.decode_quickly()
            if maps is None:
                maps = await decoder.run(batch.decode_quickly, batch.decode_maps)
        except RemoteProtocolError as error:
            self._carrier.fail(error)
            raise
        except BaseException:
            self._messages.appendleft(batch)  # It is not lost on whoever asks next.
            raise
        finally:
            self._taking = False
            self.touch()
        self._carrier.consume(self._flow_id, batch)
        return maps

    def _decoding(self) -> Decoder:
        """Return what decodes; most calls need none."""
        if self._decoder is None:
            loop = self._carrier.loop
            pause = partial(next_turn, loop)
            self._decoder = Decoder(loop.clock, partial(in_thread, loop), pause)
        return self._decoder

    def abort(self, error_class: str) -> None:
        """Tell the handler that the generator failed, if it can still be told. Raises nothing."""
        machine = self._carrier.machine
        if machine.flow_state(self._flow_id) in _SENDING:
            machine.abort(self._flow_id, error_class)
        self.leave()

    def cancel(self) -> None:
        """Tell the handler that nobody waits for it, if it can still be told. Raises nothing."""
        machine = self._carrier.machine
        if machine.flow_state(self._flow_id) in (*_SENDING, FlowState.ENDED):
            machine.cancel(self._flow_id)
        self.leave()

    def leave(self) -> None:
        """Take no more of what comes back, and let the handler go on."""
        if self.result is not None and not self._messages:
            return  # There is nothing to take, and nobody to tell.
        self.wanted = False
        self.pending.clear()
        while self._messages:
            self._carrier.machine.consume(self._flow_id, *extent(self._messages.popleft()))
        self._carrier.forget(self._flow_id)
        self._carrier.flush()
        self.touch()

    def expire(self) -> None:
        """End the flow: the time given to the call is over."""
        self.cancel()
        self.fail(deadline_error(self.timeout or 0.0))

    def receive(self, batch: Batch) -> None:
        """Take what came back."""
        self._messages.append(batch)
        self.touch()

    def answer(self, result: ResultReceived | LateResult) -> None:
        """Take the server's last word."""
        if isinstance(result, LateResult):
            self.wanted = False
            self._carrier.loop.spawn(self._decode(result))
            return
        self.consumed = result.consumed
        self.result = result
        self.stop()

    async def _decode(self, result: LateResult) -> None:
        try:
            found: ResultReceived = await self._decoding().run(never, result.decode)
        except RemoteProtocolError as error:
            self._carrier.fail(error)
            self.fail(error)
        else:
            if self.error is None:
                self.answer(found)

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

    def drain(self, message: str) -> None:
        """Note that the server is about to go. The flow may be finished there."""

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
        waiting, wake = self._carrier.loop.waiter()
        self._wakes.append(wake)
        await waiting
        if self._decoder is not None:
            self._decoder.pace.begin()

    async def until(self, condition: Callable[[], object], seconds: float) -> bool:
        """Wait until *condition* holds, *seconds* at the most; return whether it does."""
        late: list[bool] = []

        def give_up() -> None:
            late.append(True)
            self.touch()

        loop = self._carrier.loop
        alarm = Alarm(loop, loop.clock, seconds, give_up)
        try:
            while not condition() and not late:
                await self.changed()
        finally:
            alarm.cancel()
        return bool(condition())


class Resumable(Stream):
    """A flow that can go on over another connection: what the one that carries it tells it."""

    given_up: bool = False
    """Whether nobody waits for it any more."""
    left_off: tuple[FlowMachine, Ticket]
    """What another connection has to know, once the server has given it a session."""

    @abstractmethod
    def begin(self, flow: FlowMachine, ticket: Ticket) -> None:
        """Take the session that the server has given."""

    @abstractmethod
    def go_on(self, carrier: Carrier, flow_id: int, token: bytes) -> None:
        """Be carried by another connection from now on, with the *token* for the next one."""

    @abstractmethod
    def reject(self, event: FlowRejected) -> None:
        """Note that the server has refused to go on."""


def extent(batch: Batch) -> tuple[int, int]:
    """Return packets and bytes of *batch*, as credit counts them."""
    return batch.packets, batch.size
