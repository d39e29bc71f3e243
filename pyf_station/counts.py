"""How far a flow is, as its client can see it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Literal, Protocol

from pyf.transport import Packet


class Carried(Protocol):
    """What is counted of a flow, on the one link that carries it."""

    start: int
    """Packets that were handled before: what is sent begins behind them."""
    sent: int
    consumed: int


class Progress:
    """How far a call is, over all the links that it may need one after the other."""

    def __init__(self) -> None:
        self.link: Carried | None = None
        self.length_hint: int | None = None
        """Packets that the flow will probably have, where its source knows."""
        self.received: int = 0
        """Packets that have come back."""
        self.final: Packet | None = None
        """What stands for the success, once it has come."""
        self._origin = 0
        self._told = 0

    def follow(self, link: Carried) -> None:
        """Note that *link* carries the flow now."""
        if self.link is None:
            self._origin = link.start
        self.link = link

    @property
    def sent(self) -> int:
        """Packets of the flow that have left; one that had to leave again counts once."""
        link = self.link
        return max(self._told, link.start + link.sent - self._origin) if link else 0

    @property
    def consumed(self) -> int:
        """Packets that the handler has taken, as last reported; exact once there is a result."""
        return self.link.consumed if self.link else 0

    def departed(self) -> int:
        """Return how many packets have left since this was asked last."""
        told, self._told = self._told, self.sent
        return self._told - told

    def departures(self) -> Iterator[Literal[True]]:
        """Return True for each of them."""
        return repeat(True, self.departed())


class Counted:
    """What anybody may ask of a call: its counters."""

    _progress: Progress

    @property
    def sent(self) -> int:
        """Packets of the flow that have left."""
        return self._progress.sent

    @property
    def consumed(self) -> int:
        """Packets that the handler has taken, as last reported; exact once there is a result."""
        return self._progress.consumed

    @property
    def received(self) -> int:
        """Packets that have come back."""
        return self._progress.received

    @property
    def length_hint(self) -> int | None:
        """Packets that the flow will probably have; None if it doesn't know its length."""
        return self._progress.length_hint
