"""A line of busy threads, of which one at a time waits for the interpreter.

CPython wakes each thread that waits for its lock every 5 ms (``sys.getswitchinterval()``), so that
it can ask for it. Where a hundred threads are busy, all that waking takes a fifth of their time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

TURN: Final = 0.003
"""Seconds after which a busy thread gives way: with a burst more, it does so before it has to."""


class Line:
    """Where threads that have had a turn wait for the next, asleep. Callable from any thread."""

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        self._sleep = sleep
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a process that was forked: who stood in line stands there."""
        self._head = threading.Lock()

    def give_way(self) -> None:
        """Let other threads run, and return once it is this one's turn again."""
        alone = not self._head.locked()
        with self._head:  # Behind others this waits for the interpreter, too: that was its turn.
            if alone:
                self._sleep(0)


line: Final = Line()
"""That of this process."""
