"""What the code that all async clients share wants of an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol


class Loop(Protocol):
    """An event loop, as clients see it. Twisted's names where a reactor has the same."""

    cancelled: type[BaseException]
    """What is raised in a coroutine that is cancelled."""
    clock: Callable[[], float]
    """The time of a clock that nobody sets, in seconds. Callable from any thread."""
    callLater: Callable[[float, Callable[[], object]], Any]  # noqa: N815
    """Calls a function after some seconds; what it returns has ``cancel()``."""
    callFromThread: Callable[[Callable[[], object]], Any]  # noqa: N815
    """Calls a function in the loop's next turn. Callable from any thread."""
    soon: Callable[[Callable[[], object]], Any]
    """Calls a function in the loop's next turn. For the loop's thread."""

    def waiter(self) -> tuple[Awaitable[None], Callable[[], None]]:
        """Return what to await, and what ends the wait in the next turn; harmless if repeated."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Run *coroutine* beside the caller; return what cancels it."""
        ...
