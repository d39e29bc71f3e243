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
"""Seconds between looks at the links. At the second that finds nothing new a link gets a keeper:
early enough for what is left behind to be sent within the 10 ms promised."""

SHARE: Final = 20
"""The part of its time that the nursery may take, with very many links: one in so many."""

REST: Final = 0.05
"""Seconds for which the nursery stays when nobody is in it: calls in a row need no new thread."""


class Ward(Protocol):
    """A link, as the nursery sees it."""

    @property
    def signs_of_life(self) -> int | None:
        """What changes whenever its own thread comes by; None while that waits for the server."""

    def get_keeper(self) -> None:
        """Start a keeper. Raises RuntimeError or OSError where the system has none to give."""
        ...


class _Watch:
    """What the last look at a link found, and whether the one before had found the same."""

    __slots__ = ("seen", "twice")

    def __init__(self) -> None:
        self.seen: int | None = None
        self.twice = False


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
                signs = ward.signs_of_life
                if signs is None or signs != watch.seen:
                    watch.seen, watch.twice = signs, False
                elif not watch.twice:
                    watch.twice = True
                elif ward in self._wards:
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
