"""When a link gets a keeper: once its own thread has not come by for a moment.

Most calls are over before, and a thousand that go on at once would need a thousand threads more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

TICK: Final = 0.002
"""Seconds between looks at the links."""

AWAY: Final = 2
"""Looks in a row that find nothing new before a link gets a keeper: early enough for what is left
behind to be sent within the 10 ms promised."""

CALM: Final = 25
"""Looks in a row that find its own thread waiting for the server, likewise. A keeper can rest then,
where the nursery would look for as long as that takes."""

MANY: Final = 32
"""Links among which a keeper each would be too many, where threads wait for each other."""

LATE: Final = 0.01
"""Seconds by which a look is late where threads wait for each other: twice what Python gives one of
them at a time. Then a thread that did not come by may just not have had its turn, and gets a keeper
no sooner than one that waits for the server."""

CROWDED: Final = 1.0
"""Seconds for which that is believed."""

SHARE: Final = 20
"""The part of its time that the nursery may take, with very many links: one in so many."""

REST: Final = 0.05
"""Seconds for which the nursery stays when nobody is in it: calls in a row need no new thread."""


class Ward(Protocol):
    """A link, as the nursery sees it."""

    @property
    def activity(self) -> int:
        """What changes whenever its own thread comes by."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether its own thread waits for the server, and does all that a keeper would."""
        ...

    def get_keeper(self) -> None:
        """Start a keeper. Raises RuntimeError or OSError where the system has none to give."""
        ...


class _Watch:
    """What the last look at a link found, and how many before it had found the same."""

    __slots__ = ("looks", "seen")

    def __init__(self) -> None:
        self.seen: int | None = None
        self.looks = 0

    def look(self, ward: Ward) -> int:
        """Look at *ward*; return how many looks in a row found nothing new."""
        activity = ward.activity
        self.looks = self.looks + 1 if activity == self.seen else 0
        self.seen = activity
        return self.looks


class Nursery:
    """The links of this process that have no keeper. One thread minds them, if there are any."""

    def __init__(
        self,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a process that was forked: its links, and the thread, are the other's."""
        # The garbage collector may close a link while its thread is in here.
        self._lock = threading.RLock()
        # Whose keeper is being started, and who waits until that is done.
        self._charge: Ward | None = None
        self._started = threading.Condition(self._lock)
        self._wards: dict[Ward, _Watch] = {}
        self._minded = False
        self._took = 0.0
        self._crowded_until = -inf

    def add(self, ward: Ward) -> None:
        """Give *ward* a keeper once its own thread stays away, unless it leaves before.

        Raises RuntimeError where the system has no thread for that.
        """
        # No lock: of a thousand threads that wait for their turn, one would have it.
        self._wards[ward] = _Watch()
        if self._minded:
            return
        with self._lock:
            if not self._minded:
                name = "pyf.station-nursery"
                threading.Thread(target=self._mind, name=name, daemon=True).start()
                self._minded = True

    def remove(self, ward: Ward) -> bool:
        """Let *ward* go without a keeper; return False if it has one already, or never will.

        Not for the thread of the nursery.
        """
        if self._wards.pop(ward, None) is not None:
            return True
        with self._started:
            self._started.wait_for(lambda: self._charge is not ward)
            return self._wards.pop(ward, None) is not None

    def _mind(self) -> None:
        try:
            self._look_after_all()
        except BaseException:
            # Whoever adds a link next starts another thread.
            with self._lock:
                self._minded = False
            raise

    def _look_after_all(self) -> None:
        empty_at = self._clock() + REST
        while self._look(empty_at):
            if self._wards:
                empty_at = self._clock() + REST
            pause = max(TICK, SHARE * self._took)
            until = self._clock() + pause
            self._sleep(pause)
            if self._clock() >= until + LATE:
                self._crowded_until = until + CROWDED

    def _look(self, empty_at: float) -> bool:
        """Give keepers to those that need one; return whether to look again."""
        # A list of the keys alone: within a dict's own copy(), or a list of items, the garbage
        # collector may run, and close a link.
        wards = list(self._wards)
        now = self._clock()
        crowded = len(wards) > MANY and now < self._crowded_until
        for ward in wards:
            watch = self._wards.get(ward)
            if watch and watch.look(ward) >= (CALM if crowded or ward.waiting else AWAY):
                self._hand_over(ward, watch)
        self._took = self._clock() - now
        if now < empty_at:
            return True
        with self._lock:
            # Looked at last: whoever adds a link looks last whether somebody minds it.
            self._minded = False
            self._minded = bool(self._wards)
            return self._minded

    def _hand_over(self, ward: Ward, watch: _Watch) -> None:
        with self._lock:
            if self._wards.pop(ward, None) is None:
                return
            self._charge = ward
        try:
            # Without the lock: other links that begin or end must not have to wait for it.
            ward.get_keeper()
        except (RuntimeError, OSError):  # Nothing may be free just now.
            with self._lock:
                self._wards[ward] = watch
        finally:
            with self._started:
                self._charge = None
                self._started.notify_all()


nursery: Final = Nursery()
"""That of this process."""
