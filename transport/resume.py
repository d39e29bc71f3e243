"""One flow, apart from the connection that carries it: so it can go on over another one.

Of a flow that may, a sender keeps each packet until the peer's CREDIT, RESUME or RESUMED has
counted it, and its last word for good. What is kept is bounded by credit: where it may not grow,
there is no credit either. Nothing is ever evicted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple

from pyf.transport import codec
from pyf.transport.errors import RemoteProtocolError
from pyf.transport.frames import Batch, FrameType
from pyf.transport.states import FlowState
from pyf.transport.window import ReceiveWindow, SendWindow

LAST_WORDS = frozenset(
    {FrameType.END, FrameType.ABORT, FrameType.CANCEL, FrameType.RESULT, FrameType.STOP}
)
"""What is said again when a flow goes on, and heard once."""


class Ticket(NamedTuple):
    """What a server gives a client, once, to come back with."""

    boot_id: bytes
    """Which run of the server it was."""
    session_id: bytes
    token: bytes
    """A secret of 256 bits, replaced at each resume."""
    ttl: float
    """Seconds that the server keeps the session without a connection."""
    window: int
    """Bytes of messages that the server keeps until they are counted."""
    start: int
    """Packets that the server has handled for good, in earlier sessions of this flow."""


class Kept:
    """What one side of a resumable flow keeps, *most* bytes of packets and one packet at most."""

    __slots__ = ("_batches", "first", "heard", "last_words", "most", "size")

    def __init__(self, most: int) -> None:
        self.most: int = most
        self.first: int = 0
        """Number of the first packet that is kept, or will be."""
        self.size: int = 0
        """Bytes of the packets that are kept."""
        self.last_words: list[tuple[FrameType, bytes]] = []
        """What this side has said to end the flow, in order."""
        self.heard: set[FrameType] = set()
        """What the peer has said to end it."""
        self._batches: deque[tuple[int, list[bytes], int]] = deque()

    def add(self, count: int, buffers: list[bytes], size: int) -> None:
        """Keep *count* packets that were sent together, *size* bytes in all."""
        self._batches.append((count, buffers, size))
        self.size += size

    def acknowledge(self, count: int) -> None:
        """Forget the packets before number *count*, which the peer has. A lower one is harmless."""
        batches = self._batches
        while self.first < count:
            packets, buffers, size = batches[0]
            done = min(packets, count - self.first)
            if done == packets:
                batches.popleft()
            else:  # Our own receivers count whole batches.
                data = b"".join(buffers)
                left = data[codec.skip(data, 0, done) :]
                batches[0] = packets - done, [left], len(left)
                size -= len(left)
            self.first += done
            self.size -= size

    def batches(self) -> Iterator[tuple[int, int, list[bytes]]]:
        """Yield what is kept, to be sent again: number of the first packet, how many, buffers."""
        first = self.first
        for count, buffers, _ in self._batches:
            yield first, count, buffers
            first += count


MAX_UNCONFIRMED = 16
"""Tokens that were given and not used yet: attempts of one client that can be under way at once."""

MAX_RETIRED = 1024
"""Tokens that were valid once, and are known again: an attempt that old is on no wire any more."""


class Verdict(Enum):
    """What a token is worth."""

    VALID = "valid"
    RETIRED = "retired"
    """It was valid once: whoever sent it has come back since."""
    WRONG = "wrong"


class Tokens:
    """The tokens that open one session, of which only hashes are kept.

    *bound_to* is what they are good for, and nothing else: the run of the server, the session.
    """

    def __init__(self, bound_to: bytes, token: bytes) -> None:
        self._bound_to = bound_to
        self._valid = [self._hash(token)]
        self._retired: deque[bytes] = deque(maxlen=MAX_RETIRED)

    def check(self, token: bytes) -> Verdict:
        """Return what *token* is worth."""
        digest = self._hash(token)
        if any(compare_digest(digest, each) for each in self._valid):
            return Verdict.VALID
        return Verdict.RETIRED if digest in self._retired else Verdict.WRONG

    def add(self, token: bytes) -> None:
        """Let *token* open the session too: the one that was used may be all its client knows."""
        self._valid.append(self._hash(token))
        if len(self._valid) > MAX_UNCONFIRMED:
            self._retired.append(self._valid.pop(1))

    def confirm(self) -> None:
        """Note that the client has the last token: the others are worth nothing any more."""
        if len(self._valid) > 1:
            self._retired += self._valid[:-1]
            self._valid = self._valid[-1:]

    def _hash(self, token: bytes) -> bytes:
        return sha256(self._bound_to + token).digest()


@dataclass(slots=True)
class FlowMachine:
    """What one side knows of one flow: all that its connection would take away with it."""

    id: int
    """Its number on the connection that carries it now."""
    state: FlowState
    send: SendWindow
    receive: ReceiveWindow
    kept: Kept | None = None
    """What is kept so that it can go on over another connection; None where it cannot."""
    trusted: bool = True
    """Whether its packets may be as large as any: to a server that has to know its client first,
    not before it has granted credit."""
    has_header: bool = True
    """Whether its header is no packet of it."""

    def keep(self, most: int) -> None:
        """From now on keep what is sent, *most* bytes at the most."""
        self.kept = Kept(most)
        self.send.narrow(most)

    @property
    def concluded(self) -> bool:
        """Whether this side has said the RESULT, of a flow that can go on."""
        assert self.kept is not None
        return any(word is FrameType.RESULT for word, _ in self.kept.last_words)

    @property
    def weight(self) -> int:
        """Bytes that it may hold without a connection, once its result is known at the latest."""
        assert self.kept is not None
        words = sum(len(payload) for _, payload in self.kept.last_words)
        return self.receive.unread_bytes + self.kept.most + words

    def grant(self, consumed: int, packets: int, size: int) -> None:
        """Take a CREDIT; raises RemoteProtocolError where it counts more than was sent.

        What is kept bounds the credit: a peer that grants more than it counts gets no more.
        """
        self.send.check_consumed(consumed)
        if self.kept is not None:
            self.kept.acknowledge(consumed)
            size = min(size, self.send.sent_bytes - self.kept.size + self.kept.most)
        self.send.grant(packets, size)

    def hear(self, word: FrameType) -> bool:
        """Note a last word of the peer; return whether it is news."""
        if self.kept is None:
            return True
        news = word not in self.kept.heard
        self.kept.heard.add(word)
        return news

    def without_overlap(self, batch: Batch) -> Batch | None:
        """Return what is new in *batch*, None if nothing is; raises RemoteProtocolError for a gap.

        Only a flow that can go on over another connection may repeat what came.
        """
        due = self.receive.received_packets
        if batch.first == due:
            return batch
        if self.kept is None or batch.first > due:
            text = f"packet {batch.first} came where packet {due} was next"
            raise RemoteProtocolError(text, code="sequence")
        old = due - batch.first
        return batch.without(old) if old < batch.packets else None

    def can_go_on(self, received: int, first_available: int) -> bool:
        """Whether nothing is missing for a peer that has *received* packets, and keeps its own
        from *first_available* on.
        """
        kept = self.kept
        return (
            kept is not None
            and kept.first <= received <= self.send.sent_packets
            and first_available <= self.receive.received_packets
        )
