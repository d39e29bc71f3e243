"""What a handler is given: its flow, and the client at the other end."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from itertools import chain
from operator import length_hint
from typing import Any, Final

from twisted.internet.defer import Deferred

from pyf.station.flattened import flattened
from pyf.station.inbox import AsyncInbox
from pyf.station.pace import Decoder
from pyf.station.relay import RelayQueue
from pyf.station.session import Failed, Item, Session
from pyf.station.store import Effects
from pyf.transport import Packet, RemoteProtocolError, StationError, speed
from pyf.transport.frames import Batch
from pyf.transport.speed import Intake, Speaker, unroll
from pyf.transport.window import grant_due

_DONE: Final = speed.Done()


class _Reader:
    """Turns what a session receives into packets, and reports those that the handler has taken."""

    def __init__(self, session: Session) -> None:
        self._session = session
        # What the client needs to hear of; the windows say the same.
        self._due_packets = grant_due(session.carrier.limits.window_packets)
        self._due_bytes = grant_due(session.window_bytes)
        self._packets = self._bytes = 0
        self._ended = False
        self._ending: StationError | None = None

    @property
    def header(self) -> Packet | None:
        """The flow's header; None where the flow is empty, or failed before its header came."""
        return self._session.header

    @property
    def consumed(self) -> int:
        """Packets taken so far. A header that the client gave as ``header=`` is not counted."""
        return self._session.consumed

    @property
    def length_hint(self) -> int | None:
        """Packets that the flow will probably have, as ``consumed`` counts them.

        None if the client doesn't know. It is the client's word: nothing holds it to it.
        """
        return self._session.length_hint

    def close(self) -> None:
        """Take no more of the flow: iteration ends here, what has come unread is dropped.

        The client closes its generator, and waits for the result.
        """
        if not self._ended:
            self._session.stop()
        self._ended, self._ending = True, None
        self._session.drop()

    def _accept(self, batch: Batch, packets: list[dict[str, Any]]) -> None:
        """Take the *packets* of *batch*."""
        session = self._session
        self._packets += batch.packets
        self._bytes += batch.size
        count = session.decoded[0] + batch.packets
        if session.header is None:
            first = list(unroll(packets)[1])
            session.header, made = first[0], iter(first)
            session.decoded = (count, made, made)
        else:
            session.decoded = (count, *unroll(packets))
        if session.ending is not None:  # The client may have given up since.
            self._check_given_up()

    def _break_off(self, error: RemoteProtocolError) -> None:
        """End with packets that are not what was announced."""
        self._session.break_off(error)
        self._ended, self._ending = True, error

    def _end_with(self, ending: StationError | None) -> bool:
        """Return False where the flow is whole, raise its *ending* otherwise; from now on."""
        self._ended, self._ending = True, ending
        return self._end()

    def _end(self) -> bool:
        if self._ending is not None:
            raise self._ending
        return False

    def _prepare(self) -> None:
        """Before waiting for more: all that came has been taken."""
        session = self._session
        if self._packets >= self._due_packets or self._bytes >= self._due_bytes:
            session.report_consumed(self._packets, self._bytes)
            self._packets = self._bytes = 0
        if session.ending is not None:
            self._check_given_up()

    def _check_given_up(self) -> None:
        """Raise at once where nobody wants the rest to be handled, whatever has come unread."""
        session = self._session
        if session.ending is not None and session.given_up:
            session.drop()
            raise session.ending


class Flow(_Reader, Iterator[Packet]):
    """The packets of a flow, the header first, for a handler in a thread of its own.

    Blocks until a packet comes. Ends only where the flow is whole; otherwise raises ClientError or
    BadFlowEnding behind the packets that came before, FlowCancelled or DeadlineExceeded at once,
    RemoteProtocolError where a packet cannot be decoded; and does so again if asked again.

    Threads that the handler starts may share it: each packet goes to one of them.
    """

    def __init__(self, session: Session, inbox: RelayQueue[Item]) -> None:
        super().__init__(session)
        self._inbox = inbox
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Packet]:  # noqa: PYI034 - several of them share one flow
        # An iterator made in C: a packet costs no call of ours, a batch costs one.
        return chain.from_iterable(iter(self._next_packets, None))

    def __next__(self) -> Packet:
        for packet in self:
            return packet
        raise StopIteration

    next = __next__

    def wait_for_header(self) -> None:
        """Block until ``header`` is known, or the flow has ended."""
        if self.header is None:
            try:
                self._next_packets()
            except StationError:
                return  # It is raised again where the handler reads.

    def _next_packets(self) -> Iterator[Packet] | None:
        with self._lock:
            _, left, packets = self._session.decoded
            if length_hint(left):
                return packets
            if self._ended:
                self._end()
                return None
            self._prepare()
            self._session.hurry()
            self._session.reading = True
            item = self._inbox.get()
            self._session.reading = False
            if not isinstance(item, Batch):
                self._end_with(item)
                return None
            try:
                self._accept(item, item.decode_maps())
            except RemoteProtocolError as error:
                self._break_off(error)
                raise
            return self._session.decoded[2]


def _next_turn(session: Session) -> Deferred[None]:
    turn: Deferred[None] = Deferred()
    session.carrier.call_later(0.0, lambda: turn.callback(None))
    return turn


class AsyncFlow(_Reader):
    """The packets of a flow, the header first, for a coroutine: ``async for``, ``await next()``.

    Ends and raises as :class:`Flow` does. For one coroutine at a time.
    """

    def __init__(self, session: Session, inbox: AsyncInbox) -> None:
        super().__init__(session)
        self._inbox = inbox
        # What is being decoded: whoever is cancelled meanwhile leaves it to who asks next.
        self._batch: Batch | None = None
        # By way of the session: its carrier may be another one then.
        self._decoder = Decoder(
            session.carrier.clock,
            lambda function: session.carrier.call_in_thread(function),  # noqa: PLW0108 - as above
            lambda: _next_turn(session),
        )

    def __aiter__(self) -> AsyncIterator[Packet]:
        return flattened(self._batches())

    async def _batches(self) -> AsyncGenerator[Iterator[Packet]]:
        while True:
            yield self._session.decoded[2]
            # Behind them, ``next()`` may have fetched more.
            if not (length_hint(self._session.decoded[1]) or await self._fetch()):
                return

    async def __anext__(self) -> Packet:
        for packet in self._session.decoded[2]:
            return packet
        if await self._fetch():
            return next(self._session.decoded[2])
        raise StopAsyncIteration

    async def next(self) -> Packet:
        """Return the next packet; raises StopAsyncIteration at the end of the flow."""
        return await self.__anext__()

    async def wait_for_header(self) -> None:
        """Wait until ``header`` is known, or the flow has ended."""
        if self.header is None:
            try:
                await self._fetch()
            except StationError:
                return  # It is raised again where the handler reads.

    async def _fetch(self) -> bool:
        session = self._session
        if self._ended:
            return self._end()
        if session.reading:
            raise RuntimeError("another coroutine waits for a packet of this flow already")
        self._prepare()
        session.reading = True
        try:
            if self._batch is None:
                item: Item
                if self._inbox.items:
                    item = self._inbox.items.popleft()
                else:
                    item = await self._inbox.arrival()
                    self._decoder.pace.begin()
                if not isinstance(item, Batch):
                    return self._end_with(item)
                self._batch = item
            batch = self._batch
            decoder = self._decoder
            packets = None if decoder.pace.is_over() else batch.decode_quickly()
            if packets is None:
                packets = await decoder.run(batch.decode_quickly, batch.decode_maps)
        except RemoteProtocolError as error:
            if not self._ended:
                self._break_off(error)
            raise
        finally:
            session.reading = False
        self._batch = None
        self._accept(batch, packets)
        return True


class _Client:
    """The client of one flow, seen by its handler."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._outbox: Intake = session.outbox

    @property
    def peer(self) -> Any:
        """The client's address, a Twisted one: it has ``host`` and ``port`` for TCP."""
        return self._session.carrier.peer

    @property
    def header(self) -> Packet | None:
        """The flow's header; None where the flow is empty, or failed before its header came."""
        return self._session.header

    @property
    def identity(self) -> object:
        """Who the client is known to be; None where nobody asked."""
        return self._session.identity

    @property
    def start(self) -> int:
        """Packets of this flow that are handled for good, by earlier sessions: see ``checkpoint``.

        The first packet of ``flow`` is the one behind them. Always 0 where the client gave the
        flow no name (``flow_id=``).
        """
        return self._session.start

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for this handler any more, for one that computes."""
        return self._session.cancelled


class Client(_Client):
    """The client of one flow, for a handler in a thread of its own.

    Usable from any thread but the reactor's, which it could block.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        session.outbox.on_full = session.wait_for_room

    def message(self, packet: dict[str, Any], /) -> None:
        """Send *packet* back. Blocks while the client does not read.

        Raises TypeError or PacketError for what cannot travel, LocalProtocolError after the result,
        and the flow's ending (FlowCancelled, ClientError, BadFlowEnding, DeadlineExceeded or
        RemoteProtocolError) where nobody listens any more. Where the client's generator failed,
        messages are dropped until the handler has read what came before.
        """
        self._outbox.put(packet)

    def success(self, value: Any = None) -> None:
        """End the flow well: the client gets *value*, which can be whatever a packet can hold.

        Raises LocalProtocolError if the result was given before, PacketError if *value* cannot
        travel, and the flow's ending where nobody listens any more, as ``message`` does.
        """
        self._session.succeed(value)

    def error(self, error: Failed) -> None:
        """End the flow badly: the client gets a ServerError.

        A str is for the client to read. Of an exception, or a class of them, it learns the class
        and an error id, under which the server's log has the stack. Its text goes to the client,
        and either text into the log, only where the server has ``expose_errors=True``. Raises as
        ``success`` does, and TypeError for what is neither.
        """
        self._session.report_error(error)

    def checkpoint(self, sequence: int, effects: Effects | None = None) -> None:
        """Note that the first *sequence* packets of the flow, over all its sessions, are handled.

        *effects* is called with the store's database connection, and what it does there happens in
        the same transaction: both, or neither. A client that comes back after a crash goes on
        behind them. Blocks until the transaction is durable.

        Raises FlowCancelled, with nothing done, where the flow goes on in another session already;
        LocalProtocolError for a flow without a name, ValueError for packets that have not been
        taken yet, and what *effects* or the database raises, with nothing done.
        """
        self._session.checkpoint(sequence, effects)


class AsyncClient(_Client):
    """The client of one flow, for a coroutine on the reactor: as :class:`Client`, but awaited."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        session.outbox.on_full, session.outbox.done = session.until_room, _DONE

    def message(self, packet: dict[str, Any], /) -> Coroutine[Any, Any, None]:
        """Send *packet* back; awaiting that waits while the client does not read.

        Raises as ``Client`` does.
        """
        sent: Coroutine[Any, Any, None] = self._outbox.put(packet)
        return sent

    async def success(self, value: Any = None) -> None:
        """End the flow well, as ``Client.success`` does."""
        self._session.succeed(value)

    async def error(self, error: Failed) -> None:
        """End the flow badly, as ``Client.error`` does."""
        self._session.report_error(error)

    async def checkpoint(self, sequence: int, effects: Effects | None = None) -> None:
        """Note how far the flow is, as ``Client.checkpoint`` does; *effects* runs in a thread."""
        session = self._session
        await session.carrier.call_in_thread(session.checkpoint, sequence, effects)


class SwiftClient(Speaker, Client):
    """A Client whose messages cost no call of Python's, where there is compiled code."""


class SwiftAsyncClient(Speaker, AsyncClient):
    """The same, of AsyncClient."""
