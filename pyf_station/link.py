"""The blocking client's connection, as a call or a conversation uses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyf.station.burst import encoded
from pyf.station.keeper import KeptLink
from pyf.station.line import line
from pyf.station.nursery import nursery
from pyf.transport import Connection, Packet, RemoteProtocolError, speed


class Link(KeptLink):
    """One connection with one flow, on a wire that it takes over.

    *deadline* is when, by the monotonic *clock*, the *timeout* of the call is over. A server that
    is silent, or slow beyond the limits, breaks the link, whichever thread happens to wait for it.

    For one thread at a time, but for ``cancel``, ``abort`` and ``close``, which may also come from
    wherever the garbage collector runs.
    """

    packet_size: int

    # The flow

    def open(
        self, header: dict[str, Any] | None, *, waits: bool, length_hint: int | None = None
    ) -> None:
        """Open the flow, and let the server know: that does not wait for the first packet.

        Raises PacketError for a header that cannot travel.
        """
        self._flow_id = self._open_flow(self._machine, header, waits, length_hint)
        # Before anything else: among a thousand threads, this one's next turn may come too late.
        self._write()
        self._await_keeper()

    def _open_flow(
        self, machine: Connection, header: dict[str, Any] | None, waits: bool, length: int | None
    ) -> int:
        return machine.open_flow(header, self.timeout, waits, length)

    def take_in(self, source: Iterator[dict[str, Any]], count: int) -> bool:
        """Put the next *count* packets of *source* into ``pending``; return whether it has ended.

        A source that stops in the middle is asked for no more than the packet that it stopped at,
        and the keeper sends those before. Raises what *source* raises, TypeError or
        UnsupportedValue; what came before is in ``pending`` then.
        """
        gate, packets = encoded(source, count, self.packet_size)
        haste = count > 1 or not self.sent
        with self._lock:
            self._come_by()
            self._gate = gate
            if haste and (self._resting or not self._haste):
                self._wake()
            self._haste = haste
            before = self.sent + speed.packets_in(self.pending)
        self.pending.extend(packets)
        with self._lock:
            given = self.sent + speed.packets_in(self.pending) - before
        return given < count and bool(gate)

    def send(self, *, last: bool = False) -> bool:
        """Give what credit allows of ``pending`` to the socket; return whether all of it has left.

        Where it is the *last* of the flow, the END leaves with it.

        Until then take what comes back, and wait: a handler that waits for its messages to be
        taken reads no packets. True also where the rest is not wanted.

        Raises ConnectionLost, DeadlineExceeded, PacketTooLarge, RemoteProtocolError,
        LocalProtocolError or FlowRefused.
        """
        self._turn(self._send_last if last else self._send_some)
        return not (self.wanted and (self.pending or self._wire.unsent))

    def room(self) -> int:
        """Return for how many packets there is credit, of the size that they had of late."""
        with self._lock:
            if not self.wanted:
                return 0
            return self._machine.room_for(self._flow_id, self.packet_size)

    def forget_pending(self) -> None:
        """Drop what has not left yet."""
        with self._lock:
            self.pending.clear()

    def end(self) -> None:
        """Send the END, unless it has left; raises as ``send`` does."""
        if not self._ended:
            self._turn(self._send_last)
        while self._wire.unsent and self.result is None:
            self.wait()

    def confirm(self) -> None:
        """Wait until the server has received all that was sent, or has given its result.

        At the most for ``Limits.close_timeout``: it has been given to the system already. Raises as
        ``send`` does.
        """
        until = self._clock() + self._limits.close_timeout
        self._turn(lambda: self._machine.ping(0))
        while not self._ponged and self.result is None and self._clock() < until:
            self.wait(until)

    def wait(self, until: float | None = None) -> None:
        """Wait until something has come, or until the time *until*; raises as ``send``."""
        self._wait(until)
        self._turn()

    def give_way(self) -> None:
        """Let other busy threads run. What is there has left, so no keeper is needed meanwhile."""
        unkept = nursery.remove(self)
        try:
            line.give_way()
        finally:
            if unkept:
                self._await_keeper()

    def take_messages(self) -> list[Packet]:
        """Return the packets of one batch that has come back; as ``take_maps`` does."""
        maps = self.take_maps()
        return list(speed.unroll(maps)[1]) if maps else []

    def take_maps(self) -> list[dict[str, Any]]:
        """Return the packets of one batch that has come back, none if none has: for ``unroll``.

        Raises RemoteProtocolError if they are not what was announced.
        """
        if not self.messages:
            return []
        batch = self.messages.popleft()
        try:
            packets = batch.decode_maps()
        except RemoteProtocolError as error:
            with self._lock:
                self._machine.fail(error)
                self._break(error)
            raise
        with self._lock:
            if self._machine.consume(self._flow_id, batch.packets, batch.size):
                self._write()
                if self._wire.unsent:
                    self._hand_over()
        return packets

    # Leaving

    def abort(self, error_class: str) -> None:
        """Tell the handler that the generator failed, if it can still be told. Raises nothing."""
        self._say(lambda: self._machine.abort(self._flow_id, error_class))

    def cancel(self, *, wait: bool = True) -> None:
        """Tell the handler that nobody waits for it, if it can still be told. Raises nothing.

        A signal handler, which may have interrupted whoever has the lock, is not to *wait* for it:
        then the handler is told as the link is closed.
        """
        self._say(lambda: self._machine.cancel(self._flow_id), wait=wait)
