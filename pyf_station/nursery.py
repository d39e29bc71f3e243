"""When a link gets a keeper: most calls are over before they would need one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

AGE: Final = 0.002
"""Seconds for which a link goes without a keeper: thread and sockets cost as much as a call."""

REST: Final = 0.05
"""Seconds for which the nursery stays when nobody is in it: calls in a row need no new thread."""


class Ward(Protocol):
    """A link, as the nursery sees it."""

    def get_keeper(self) -> None:
        """Start a keeper. Raises RuntimeError or OSError where the system has none to give."""
        ...


class Nursery:
    """The young links of this process. One thread minds them all, as long as there are any."""

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
        self._wards: dict[Ward, float] = {}
        self._minded = False

    def add(self, ward: Ward) -> None:
        """Give *ward* a keeper once it is of AGE, unless it leaves before.

        Raises RuntimeError where the system has no thread for that.
        """
        with self._lock:
            self._wards[ward] = self._clock() + AGE
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
            self._sleep(AGE)

    def _look(self, empty_at: float) -> bool:
        """Give keepers to those of age; return whether to look again."""
        with self._lock:
            now = self._clock()
            for ward in [ward for ward, due in self._wards.items() if due <= now]:
                try:
                    ward.get_keeper()
                except (RuntimeError, OSError):
                    continue  # Nothing was free just now.
                self._wards.pop(ward, None)
            self._minded = bool(self._wards) or now < empty_at
            return self._minded


nursery: Final = Nursery()
"""That of this process."""
