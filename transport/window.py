"""Credit: how much may be sent, as arithmetic.

1. Credit is an absolute limit, in packets and in bytes of encoded packets, counted from the start
   of the flow. Saying the same credit twice changes nothing.
2. A batch may be sent if, with it, neither limit is passed.
3. A batch of one packet may pass the limit in bytes if, before it, at least half of the window in
   bytes is open. So a packet larger than the window passes, and a receiver holds at most one such.
4. A receiver grants credit once a quarter of a window, in packets or in bytes, has been consumed
   since its last grant. So a sender that waits will hear of it, one whose frames are half a window
   hears of each, and credit costs little.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, repeat, starmap, takewhile

from pyf.transport.errors import RemoteProtocolError
from pyf.transport.limits import (
    BATCH_BYTES,
    BATCH_PACKETS,
    MAX_WINDOW,
    PACKET_SHARE,
)
from pyf.transport.pieces import Pending, Run, batch_bytes, flatten, in_a_row

SLACK = 16
"""The part of a frame, one in so many, that is left for packets larger than those before."""


def grant_due(window: int) -> int:
    """Return how much of *window* has to be consumed before credit is granted again."""
    return (window + 3) // 4


class SendWindow:
    """What this side may still send on one flow."""

    __slots__ = (
        "_typical",
        "bytes_limit",
        "most",
        "packets_limit",
        "sent_bytes",
        "sent_packets",
        "window_bytes",
    )

    def __init__(self, packets: int, size: int) -> None:
        self.sent_packets: int = 0
        self.sent_bytes: int = 0
        self.packets_limit: int = packets
        self.bytes_limit: int = size
        self.window_bytes: int = size
        self.most: int = MAX_WINDOW
        # Bytes of a packet of the last frame, on average.
        self._typical = 0

    @property
    def open_packets(self) -> int:
        """Packets that may be sent now."""
        return self.packets_limit - self.sent_packets

    @property
    def open_bytes(self) -> int:
        """Bytes that may be sent now; below 0 after a packet sent under rule 3."""
        return self.bytes_limit - self.sent_bytes

    def fits(self, packets: int, size: int) -> bool:
        """Whether a batch of *packets* packets and *size* bytes may be sent now."""
        open_bytes = self.bytes_limit - self.sent_bytes
        return packets <= self.packets_limit - self.sent_packets and (
            size <= open_bytes or (packets == 1 and 2 * open_bytes >= self.window_bytes)
        )

    def room_for(self, size: int) -> int:
        """Return how many packets of *size* bytes each, 1 at least, may be sent now."""
        return max(0, min(self.open_packets, self.open_bytes // size or self.fits(1, size)))

    def take(self, pending: Pending, largest: int) -> tuple[int, list[bytes], int]:
        """Take the packets of the next frame, as many as may be sent, from the left of *pending*.

        Return how many, the buffers to be written for them, and their size. One of more than
        *largest* bytes stays.
        """
        if isinstance(pending[0], Run):
            return self._take_run(pending, largest)
        size, waiting = len(pending[0]), len(pending)
        if waiting > 1:
            most = batch_bytes(pending[0])
            bulk = most > BATCH_BYTES
            room = min(self.open_bytes, largest, most)
            # A few less than fit, if they are like those before: what is too much has to go back.
            slack = 0 if bulk else room // SLACK
            fitting = max(2, (room - slack) // max(1, self._typical or size))
            count = min(waiting, BATCH_PACKETS, largest // PACKET_SHARE, self.open_packets, fitting)
            if count > 1 and 2 * size <= room:
                return self._take_many(pending, count, room, most)
        if size > largest or not self.fits(1, size):
            return 0, [], 0
        return 1, flatten([pending.popleft()]), size

    def _take_run(self, pending: Pending, largest: int) -> tuple[int, list[bytes], int]:
        run: Run = pending[0]
        most = min(BATCH_PACKETS, largest // PACKET_SHARE, self.open_packets)
        count, data = run.take(most, min(self.open_bytes, BATCH_BYTES))
        if not count and self.fits(1, run.next_size):
            count, data = run.take(1, run.next_size)
        if not run.packets:
            pending.popleft()
        return count, [data], len(data)

    def _take_many(
        self, pending: Pending, count: int, room: int, most: int
    ) -> tuple[int, list[bytes], int]:
        batch = list(starmap(pending.popleft, repeat((), count)))
        bulk = most > BATCH_BYTES
        buffers, size = ([], 0) if bulk else in_a_row(batch)
        if bulk or size > room or len(buffers) > 1:
            fitting = batch[: bisect_right(list(accumulate(map(len, batch))), room)]
            count = len(list(takewhile(lambda packet: batch_bytes(packet) >= most, fitting)))
            pending.extendleft(reversed(batch[count:]))
            buffers, size = in_a_row(fitting[:count])
        self._typical = size // count
        return count, buffers, size

    def spend(self, packets: int, size: int) -> None:
        """Count a batch as sent."""
        self.sent_packets += packets
        self.sent_bytes += size

    def grant(self, packets: int, size: int) -> None:
        """Take the limits of a CREDIT; limits that are lower than before change nothing."""
        self.packets_limit = max(self.packets_limit, packets)
        self.bytes_limit = max(self.bytes_limit, size)

    def check_consumed(self, count: int) -> None:
        """Raise RemoteProtocolError if the peer claims to have consumed more than was sent."""
        if count > self.sent_packets:
            text = f"the peer consumed {count} packets of {self.sent_packets} sent"
            raise RemoteProtocolError(text, code="count")

    def widen(self, packets: int, size: int) -> None:
        """Take the windows of the peer's HELLO, which came after the first packets were sent."""
        size = min(size, self.most)
        self.window_bytes = max(self.window_bytes, size)
        self.grant(packets, size)

    def narrow(self, size: int) -> None:
        """Use no more than *size* bytes of the window: so much is kept until it is counted.

        To be called before anything is sent.
        """
        self.most = size
        self.window_bytes = min(self.window_bytes, size)
        self.bytes_limit = min(self.bytes_limit, size)


class ReceiveWindow:
    """What the peer may still send on one flow."""

    __slots__ = (
        "_due_bytes",
        "_due_packets",
        "_most",
        "_peer",
        "consumed_bytes",
        "consumed_packets",
        "window_bytes",
        "window_packets",
    )

    def __init__(self, packets: int, size: int) -> None:
        self.window_packets: int = packets
        self.window_bytes: int = size
        self.consumed_packets: int = 0
        self.consumed_bytes: int = 0
        self._most = MAX_WINDOW
        self._peer = SendWindow(packets, size)
        # At how many in all the next CREDIT is due.
        self._due_packets, self._due_bytes = grant_due(packets), grant_due(size)

    @property
    def received_packets(self) -> int:
        """Packets that came."""
        return self._peer.sent_packets

    def receive(self, packets: int, size: int) -> None:
        """Count a batch that came; raises RemoteProtocolError if it goes over the credit."""
        peer = self._peer
        if not peer.fits(packets, size):
            limit, actual, option = (
                (peer.packets_limit, peer.sent_packets + packets, "window_packets")
                if packets > peer.open_packets
                else (peer.bytes_limit, peer.sent_bytes + size, "window_bytes")
            )
            raise RemoteProtocolError(
                f"the peer sent {actual} in all where its credit was {limit} (Limits.{option})",
                code="over_credit",
                limit=limit,
                actual=actual,
                option=option,
            )
        peer.spend(packets, size)

    @property
    def unread_bytes(self) -> int:
        """Bytes that came and were not consumed."""
        return self._peer.sent_bytes - self.consumed_bytes

    def check_count(self, count: int) -> None:
        """Raise RemoteProtocolError if the peer claims to have sent another number of packets."""
        if count != self.received_packets:
            text = f"the peer counts {count} packets where {self.received_packets} came"
            raise RemoteProtocolError(text, code="count")

    def consume(self, packets: int, size: int) -> bool:
        """Count what the user has taken; return whether a CREDIT is due."""
        self.consumed_packets += packets
        self.consumed_bytes += size
        return self.consumed_packets >= self._due_packets or self.consumed_bytes >= self._due_bytes

    def _plan(self) -> None:
        """Have the next CREDIT be due once a quarter of a window more has been consumed."""
        self._due_packets = self.consumed_packets + grant_due(self.window_packets)
        self._due_bytes = self.consumed_bytes + grant_due(self.window_bytes)

    def narrow(self, size: int) -> None:
        """Grant no more than *size* bytes at a time, for the peer cannot use more.

        To be called before anything is consumed.
        """
        self._most = size
        self.window_bytes = min(self.window_bytes, size)
        self._plan()
        self._peer.window_bytes = min(self._peer.window_bytes, size)

    def widen(self, packets: int, size: int) -> None:
        """Have the next ``grant`` give windows of *packets* and *size* bytes."""
        self.window_packets, self.window_bytes = packets, min(size, self._most)

    def grant(self) -> tuple[int, int]:
        """Return the limits, in packets and in bytes, to send in a CREDIT now."""
        self._plan()
        packets = self.consumed_packets + self.window_packets
        size = self.consumed_bytes + self.window_bytes
        self._peer.grant(packets, size)
        return packets, size
