"""What a handler says, on its way from wherever it runs to the reactor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from pyf.transport import speed
from pyf.transport.limits import BATCH_BYTES, LARGE, LARGE_BATCH_BYTES
from pyf.transport.pieces import Encoded, encode_pieces

MOST: Final = BATCH_BYTES
"""Bytes of messages that a handler may say before it waits for them to leave: a thousand small
ones, since a change of threads costs as much as a hundred."""

MOST_LARGE: Final = LARGE_BATCH_BYTES
"""The same for large ones: a frame of them."""

EACH: Final = 32
"""Bytes that a message counts for, beside its own: what the object around them takes."""


class Outbox:
    """Messages that have not left yet, encoded. The reactor's thread alone takes from them.

    *wake* has the reactor look. *check* is asked of messages of more than *most* bytes, and raises
    where one is too large; *refuse* raises where one comes too late, or else it is dropped. All
    three may be called in any thread.
    """

    __slots__ = (
        "_changed",
        "_check",
        "_encode",
        "_most",
        "_mosts",
        "_refuse",
        "_room",
        "_waiters",
        "_wake",
        "lock",
        "pending",
        "resting",
        "shut",
    )

    def __init__(
        self,
        wake: Callable[[], object],
        check: Callable[[Encoded], object],
        refuse: Callable[[], object],
        most: int = MOST,
    ) -> None:
        self.pending: deque[Encoded] = deque()
        self.lock: threading.Lock = threading.Lock()
        """Guards all but ``pending``, which is safe by itself."""
        self.resting: bool = True
        """Whether nobody would look at a message, unless he was woken."""
        self.shut: bool = False
        """Whether no more messages are taken."""
        self._mosts = min(most, MOST), min(most, MOST_LARGE)
        self._most = self._room = self._mosts[False]
        self._encode: Callable[[dict[str, Any]], Encoded] = speed.encode_packet
        self._changed = threading.Condition(self.lock)
        self._waiters: list[Deferred[None]] = []
        self._wake = wake
        self._check = check
        self._refuse = refuse

    # What the handler does; callable from any thread

    def add(self, packet: dict[str, Any]) -> bool:
        """Add a message; return whether to wait before the next.

        Raises TypeError or PacketError for what cannot travel, and what *check* and *refuse* do.
        """
        data = self._encode(packet)
        # No lock: this is done for each message. Threads that share the outbox may make room count
        # too few of them, until it is counted anew.
        room = self._room - len(data) - EACH
        if room < 0:
            return self._add_slowly(data)
        self._room = room
        self.pending.append(data)
        # Looked at last: whoever goes to rest looks for messages last.
        if self.resting:
            self._stir()
        return False

    def _add_slowly(self, data: Encoded) -> bool:
        """Add a message where there is no room, or it may not be added at all."""
        self._check(data)
        # Where one is large, so is the next, as a rule: its values are not copied then.
        large = len(data) >= LARGE
        self._encode = encode_pieces if large else speed.encode_packet
        with self.lock:
            if self.shut:
                self._refuse()
                return False
            self.pending.append(data)
            self._room -= len(data) + EACH + self._most - self._mosts[large]
            self._most = self._mosts[large]
        self._wake()
        return self.full

    def _stir(self) -> None:
        with self.lock:
            if self.shut:
                self._refuse()
                return
            self.resting = False
        self._wake()

    def wait(self) -> None:
        """Block until there is room, or never will be. Not for the reactor's thread."""
        self._wake()
        with self._changed:
            self._changed.wait_for(lambda: not self.full)

    def room(self) -> Deferred[None]:
        """Return what fires once there is room, or never will be. For the reactor alone."""
        room: Deferred[None] = Deferred()
        with self.lock:
            if self.full:
                self._waiters.append(room)
                return room
        room.callback(None)
        return room

    @property
    def full(self) -> bool:
        """Whether to wait before the next message."""
        return self._room < 0 and not self.shut

    # What the reactor does

    def count(self) -> None:
        """Count what is left, under the lock: something has been taken."""
        if not self.shut:
            # A copy, which is made in one step: threads add messages meanwhile.
            left = self.pending.copy()
            self._room = self._most - sum(map(len, left)) - EACH * len(left)
        self._changed.notify_all()

    def rest(self) -> bool:
        """Have the next message wake, under the lock, unless there is one; return whether so."""
        self.resting = True
        # Looked at last: whoever adds a message looks last whether he has to wake.
        if self.pending:
            self.resting = False
        return self.resting

    def close(self) -> None:
        """Take no more messages, under the lock. Callable from any thread."""
        self.shut = self.resting = True
        self._room = -1
        self._changed.notify_all()

    def wake_waiters(self) -> None:
        """Let coroutines go on, if there is room now."""
        if self._waiters and not self.full:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)

    @property
    def has_waiters(self) -> bool:
        """Whether a coroutine waits for room."""
        return not all(room.called for room in self._waiters)
