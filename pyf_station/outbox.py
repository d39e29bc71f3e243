"""What a handler says, on its way from wherever it runs to the reactor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred

from pyf.transport.intake import EACH
from pyf.transport.limits import BATCH_BYTES, LARGE, LARGE_BATCH_BYTES
from pyf.transport.pieces import Encoded
from pyf.transport.speed import Intake, packets_in

MOST: Final = 2 * BATCH_BYTES
"""Bytes of messages that a handler may say before it waits for them to leave: thousands of small
ones, since a change of threads costs as much as hundreds."""

MOST_LARGE: Final = LARGE_BATCH_BYTES // 4
"""The same for large ones: less than a frame of them, since each of many handlers has as many."""


class Outbox(Intake):
    """Messages that have not left yet, encoded. The reactor's thread alone takes from them.

    *wake* has the reactor look. *check* is asked of messages of more than *most* bytes, and raises
    where one is too large; *refuse* raises where one comes too late, or else it is dropped. All
    three may be called in any thread.
    """

    bulky: bool
    resting: bool
    space: int

    __slots__ = (
        "_changed",
        "_check",
        "_refuse",
        "_room",
        "_rooms",
        "_waiters",
        "_wake",
        "lock",
        "shut",
    )

    def __init__(
        self,
        wake: Callable[[], object],
        check: Callable[[Encoded], object],
        refuse: Callable[[], object],
        most: int = MOST,
    ) -> None:
        # For small messages and for large ones.
        self._rooms = min(most, MOST), MOST_LARGE
        self._room = self._rooms[False]
        super().__init__(self._room, most)
        self.lock: threading.Lock = threading.Lock()
        """Guards all but ``pending``, which is safe by itself."""
        self.shut: bool = False
        """Whether no more messages are taken."""
        # Made for the first thread that waits: most never do.
        self._changed: threading.Condition | None = None
        self._waiters: list[Deferred[None]] = []
        self._wake = wake
        self._check = check
        self._refuse = refuse

    # What the handler does; callable from any thread

    def add_slowly(self, data: Encoded) -> bool:
        """Add a message where there is no room, or it may not be added at all.

        Raises what *check* and *refuse* do.
        """
        self._check(data)
        # Where one is large, so is the next, as a rule.
        self.bulky = large = len(data) >= LARGE
        with self.lock:
            if self.shut:
                self._refuse()
                return False
            self.pending.append(data)
            self.space -= len(data) + EACH + self._room - self._rooms[large]
            self._room = self._rooms[large]
        self._wake()
        return self.full

    def stir(self) -> None:
        """Wake the reactor; raises what *refuse* does."""
        with self.lock:
            if self.shut:
                self._refuse()
                return
            self.resting = False
        self._wake()

    def wait(self) -> None:
        """Block until there is room, or never will be. Not for the reactor's thread."""
        self._wake()
        with self.lock:
            if self._changed is None:
                self._changed = threading.Condition(self.lock)
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
        return self.space < 0 and not self.shut

    # What the reactor does

    def count(self) -> None:
        """Count what is left, under the lock: something has been taken."""
        if not self.shut:
            self.space = self._room - (self._left() if self.pending else 0)
        self._tell()

    def _left(self) -> int:
        # A copy, which is made in one step: threads add messages meanwhile.
        left = self.pending.copy()
        return sum(map(len, left)) + EACH * packets_in(left)

    def _tell(self) -> None:
        if self._changed is not None:
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
        self.space = -1
        self._tell()

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
