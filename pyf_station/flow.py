"""What a handler is given: its flow, and the client at the other end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import length_hint
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredQueue

from pyf.station.session import Item, Session
from pyf.transport import (
    DeadlineExceeded,
    FlowCancelled,
    Packet,
    RemoteProtocolError,
    StationError,
)
from pyf.transport.frames import Batch

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress


class _Reader:
    """Turns what a session receives into packets, and counts those that the handler has taken."""

    def __init__(self, session: Session) -> None:
        self._session = session
        session.consumed = lambda: self.consumed
        limits = session.carrier.limits
        self._report_packets = (limits.window_packets + 1) // 2
        self._report_bytes = (limits.window_bytes + 1) // 2
        self._unreported = (0, 0)
        self._ended = False
        self._ending: StationError | None = None
        header = session.header
        # Replaced as one, since other threads count while the handler takes.
        self._state: tuple[int, Iterator[Packet]] = (0, iter([] if header is None else [header]))
        self._batch = (0, 0)

    @property
    def header(self) -> Packet | None:
        """The flow's header; None where the flow is empty, or failed before its header came."""
        return self._session.header

    @property
    def consumed(self) -> int:
        """Packets taken so far. A header that the client gave as ``header=`` is not counted."""
        count, packets = self._state
        return max(0, count - length_hint(packets))

    def close(self) -> None:
        """Take no more of the flow: iteration ends here, and what has come unread is dropped."""
        self._ended, self._ending = True, None
        count, _ = self._state
        self._state = (self.consumed, iter(()))

    def _accept(self, item: Item) -> bool:
        """Take what the inbox held; return whether it brought packets, raise the error that it was."""
        if isinstance(item, Batch):
            try:
                packets = list(item.decode())
            except RemoteProtocolError as error:
                self._session.break_off(error)
                item = error
            else:
                if self._session.header is None:
                    self._session.header = packets[0]
                self._batch = (item.packets, item.size)
                self._state = (self._state[0] + item.packets, iter(packets))
                return True
        self._ended, self._ending = True, item
        return self._end()

    def _end(self) -> bool:
        if self._ending is not None:
            raise self._ending
        return False

    def _settle(self) -> None:
        """Report the batch that has been taken, once half a window is to be reported."""
        packets = self._unreported[0] + self._batch[0]
        size = self._unreported[1] + self._batch[1]
        self._batch = (0, 0)
        if packets >= self._report_packets or size >= self._report_bytes:
            self._session.report_consumed(packets, size)
            packets = size = 0
        self._unreported = (packets, size)

    def _check_cancelled(self) -> None:
        """Raise at once where nobody wants the rest to be handled, whatever has come unread."""
        if isinstance(self._session.ending, FlowCancelled | DeadlineExceeded):
            raise self._session.ending


class Flow(_Reader, Iterator[Packet]):
    """The packets of a flow, the header first, for a handler in a thread of its own.

    Blocks until a packet comes. Ends only where the flow is whole; otherwise raises ClientError,
    BadFlowEnding, FlowCancelled, DeadlineExceeded or RemoteProtocolError, and does so again if asked again.
    """

    def __init__(self, session: Session, inbox: SimpleQueue[Item]) -> None:
        super().__init__(session)
        self._inbox = inbox

    def __iter__(self) -> Iterator[Packet]:
        # An iterator made in C: a packet costs no call of ours, a batch costs one.
        return chain.from_iterable(iter(self._next_packets, None))

    def __next__(self) -> Packet:
        for packet in self:
            return packet
        raise StopIteration

    next = __next__

    def wait_for_header(self) -> None:
        """Block until ``header`` is known, or the flow has ended."""
        if self.header is None and not self._ended:
            try:
                self._next_packets()
            except StationError:
                return  # It is raised again where the handler reads.

    def _next_packets(self) -> Iterator[Packet] | None:
        packets = self._state[1]
        if length_hint(packets):
            return packets
        if not self._ended:
            self._settle()
            self._check_cancelled()
            return self._state[1] if self._accept(self._inbox.get()) else None
        self._end()
        return None


class AsyncFlow(_Reader):
    """The packets of a flow, the header first, for a coroutine on the reactor: ``async for``, ``await flow.next()``.

    Ends and raises as :class:`Flow` does.
    """

    def __init__(self, session: Session, inbox: DeferredQueue[Item]) -> None:
        super().__init__(session)
        self._inbox = inbox

    def __aiter__(self) -> AsyncFlow:
        return self

    async def __anext__(self) -> Packet:
        for packet in self._state[1]:
            return packet
        if await self._fetch():
            return next(self._state[1])
        raise StopAsyncIteration

    async def next(self) -> Packet:
        """Return the next packet; raises StopAsyncIteration at the end of the flow."""
        return await self.__anext__()

    async def wait_for_header(self) -> None:
        """Wait until ``header`` is known, or the flow has ended."""
        if self.header is None and not self._ended:
            try:
                await self._fetch()
            except StationError:
                return  # It is raised again where the handler reads.

    async def _fetch(self) -> bool:
        if self._ended:
            return self._end()
        self._settle()
        self._check_cancelled()
        return self._accept(await self._inbox.get())


class _Client:
    """The client of one flow, seen by its handler."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def peer(self) -> IAddress:
        """The client's address."""
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
    def cancelled(self) -> bool:
        """Whether nobody waits for this handler any more, for one that computes without reading."""
        return self._session.cancelled


class Client(_Client):
    """The client of one flow, for a handler in a thread of its own. Safe to use from any thread but the reactor's."""

    def message(self, packet: dict[str, Any]) -> None:
        """Send *packet* back. Blocks while the client does not read.

        Raises TypeError or UnsupportedValue for what cannot travel, LocalProtocolError after the result, and the
        flow's ending (FlowCancelled, ClientError, BadFlowEnding, DeadlineExceeded) where nobody listens any more.
        """
        if self._session.add_message(packet):
            self._session.wait_for_room()

    def success(self, value: Any = None) -> None:
        """End the flow well: the client gets *value*, which can be whatever a packet can hold.

        Raises LocalProtocolError if the result was given before, PacketError if *value* cannot travel.
        """
        self._session.succeed(value)

    def error(self, error: BaseException | str) -> None:
        """End the flow badly: the client gets a ServerError.

        A str is for the client to read. Of an exception it learns the class and an error id, its text only where
        the server has ``expose_errors=True``. Raises LocalProtocolError if the result was given before.
        """
        self._session.report_error(error)


class AsyncClient(_Client):
    """The client of one flow, for a coroutine on the reactor: as :class:`Client`, but awaited."""

    async def message(self, packet: dict[str, Any]) -> None:
        """Send *packet* back. Waits while the client does not read; raises what ``Client.message`` raises."""
        if self._session.add_message(packet):
            room: Deferred[None] = Deferred()
            self._session.call_with_room(lambda: room.callback(None) if not room.called else None)
            await room
            if self._session.ending is not None:
                raise self._session.ending

    async def success(self, value: Any = None) -> None:
        """End the flow well, as ``Client.success`` does."""
        self._session.succeed(value)

    async def error(self, error: BaseException | str) -> None:
        """End the flow badly, as ``Client.error`` does."""
        self._session.report_error(error)
