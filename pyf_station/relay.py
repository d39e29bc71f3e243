"""Queues whose threads are woken one after the other.

A thread that is woken needs the interpreter. Where a thousand are woken at once, each of them asks
for it every 5 ms (``sys.getswitchinterval()``) until it is its turn, and all that asking takes a
tenth of what two processors do. So the first is woken by whoever has something for it, each of the
others by the one before, which has the interpreter then.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")


class Relay:
    """Which threads are to be woken, in the order in which there was something for them."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a process that was forked: who was to be woken is not there."""
        # The garbage collector may end a flow, and so put something, while its thread is in here.
        self.lock: threading.RLock = threading.RLock()
        """Guards all of this, and who sleeps; held for moments."""
        self.waking: bool = False
        """Whether a thread has been woken, and has not got the interpreter yet."""
        self.bells: deque[Any] = deque()
        """What wakes the others."""

    def go_on(self) -> None:
        """Wake the next, for one who has been woken."""
        with self.lock:
            bell = self.bells.popleft() if self.bells else None
            self.waking = bell is not None
            if bell is not None:
                bell.release()


relay: Final = Relay()
"""That of this process."""


class RelayQueue(Generic[T]):
    """A queue from which one thread at a time takes, and to which any may put."""

    __slots__ = ("_asleep", "_bell", "_items", "_relay")

    def __init__(self, relay: Relay = relay) -> None:
        self._items: deque[T] = deque()
        self._asleep = False
        self._bell = threading.Lock()
        self._bell.acquire()
        self._relay = relay

    def put(self, item: T) -> None:
        """Add *item*, and have who waits for it woken. Blocks for no longer than a moment."""
        relay = self._relay
        with relay.lock:  # Or else who takes the item might sleep again before it is looked at.
            self._items.append(item)
            if not self._asleep:
                return
            self._asleep = False
            if relay.waking:
                relay.bells.append(self._bell)
            else:
                relay.waking = True
                self._bell.release()

    def get(self) -> T:
        """Return the next item, and take it; block until there is one."""
        relay = self._relay
        with relay.lock:
            if self._items:
                return self._items.popleft()
            self._asleep = True
        try:
            self._bell.acquire()
        except BaseException:  # A signal's, or whatever somebody has this thread raise.
            self._leave()
            raise
        relay.go_on()
        return self._items.popleft()

    def _leave(self) -> None:
        """Have nobody rely on this thread, which does not wait any more."""
        relay = self._relay
        with relay.lock:
            asleep, self._asleep = self._asleep, False
            if self._bell in relay.bells:
                relay.bells.remove(self._bell)
            elif not asleep:
                self._bell.acquire(blocking=False)
                relay.go_on()
