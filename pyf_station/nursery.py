"""When a link gets a keeper: once its own thread has not come by for a moment.

Most calls are over before, and a thousand that go on at once would need a thousand threads more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

TICK: Final = 0.002
"""Seconds between looks at the links."""

AWAY: Final = 2
"""Looks in a row that find nothing new before a link gets a keeper: early enough for what is left
behind to be sent within the 10 ms promised."""

CALM: Final = 25
"""Looks in a row that find its own thread waiting for the server, likewise. A keeper can rest then,
where the nursery would look for as long as that takes."""

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
        self._wards: dict[Ward, _Watch] = {}
        self._minded = False
        self._took = 0.0

    def add(self, ward: Ward) -> None:
        """Give *ward* a keeper once its own thread stays away, unless it leaves before.

        Raises RuntimeError where the system has no thread for that.
        """
        with self._lock:
            self._wards[ward] = _Watch()
            if not self._minded:
                name = "pyf.station-nursery"
                threading.Thread(target=self._mind, name=name, daemon=True).start()
                self._minded = True

    def remove(self, ward: Ward) -> bool:
        """Let *ward* go without a keeper; return False if it has one already, or never will."""
        with self._lock:
            return self._wards.pop(ward, None) is not None

    def _mind(self) -> None:
        empty_at = self._clock() + REST
        while self._look(empty_at):
            if self._wards:
                empty_at = self._clock() + REST
            self._sleep(max(TICK, SHARE * self._took))

    def _look(self, empty_at: float) -> bool:
        """Give keepers to those that need one; return whether to look again."""
        with self._lock:
            now = self._clock()
            for ward, watch in list(self._wards.items()):
                activity = ward.activity
                watch.looks = watch.looks + 1 if activity == watch.seen else 0
                watch.seen = activity
                if watch.looks >= (CALM if ward.waiting else AWAY) and ward in self._wards:
                    self._hand_over(ward)
            self._took = self._clock() - now
            self._minded = bool(self._wards) or now < empty_at
            return self._minded

    def _hand_over(self, ward: Ward) -> None:
        with suppress(RuntimeError, OSError):  # Nothing may be free just now.
            ward.get_keeper()
            self._wards.pop(ward, None)


nursery: Final = Nursery()
"""That of this process."""
