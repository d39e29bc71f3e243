"""What is asked for in a turn of the reactor, done at its end: without another turn."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident

Call = Callable[[], object]


class Turn:
    """A part of the reactor's turn, for use in ``with``. For its thread, but for ``call``.

    *later* has a function called in another turn, and is callable from any thread.
    """

    def __init__(self, later: Callable[[Call], object]) -> None:
        self._later = later
        # The thread in which it is under way.
        self._thread: int | None = None
        self._calls: list[Call] = []

    def call(self, function: Call) -> None:
        """Have *function* called soon, in the reactor's thread. Callable from any thread."""
        if self._thread == get_ident():
            self._calls.append(function)
        else:
            self._later(function)

    def __enter__(self) -> None:
        self._thread = get_ident()

    def __exit__(self, *_: object) -> None:
        # What the calls ask for is for another turn: others want to have theirs, too.
        self._thread = None
        calls, self._calls = self._calls, []
        for call in calls:
            call()
