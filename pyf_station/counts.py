"""How far a flow is, as its client can see it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import repeat
from operator import length_hint
from typing import Any, Literal, Protocol

from pyf.station.listeners import Listeners
from pyf.transport import Packet
from pyf.transport.speed import unroll


class Carried(Protocol):
    """What is counted of a flow, on the one link that carries it."""

    start: int
    """Packets that were handled before: what is sent begins behind them."""
    sent: int
    consumed: int


class Progress:
    """How far a call is, over all the links that it may need one after the other."""

    link: Carried | None = None
    length_hint: int | None = None
    """Packets that the flow will probably have, where its source knows."""
    final: Packet | None = None
    """What stands for the success, once it has come."""
    _reading: Iterator[Any] = iter(())
    _departing: Iterator[Literal[True]] = iter(())
    _came = _origin = _told = 0

    def __init__(self) -> None:
        self._rest: list[Any] = []

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

    @property
    def received(self) -> int:
        """Packets that have come back, and were yielded."""
        unread = length_hint(self._reading) + len(self._rest)
        return self._came - unread + (self.final is not None)

    def came(self) -> None:
        """Count a message that is given at once."""
        self._came += 1

    def messages(
        self, maps: list[dict[str, Any]], notify: Listeners
    ) -> Generator[Iterable[Packet], None, None]:
        """Yield the packets in *maps*, all at once where nobody listens, and tell those who do."""
        notify.note(self)
        while maps:
            packets = self.read(maps)
            if notify.heard:
                for packet in packets:
                    notify(packet)
                    yield (packet,)
            else:
                yield packets
            maps = self.unread()  # Where reading them was stopped.

    def read(self, maps: list[dict[str, Any]]) -> Iterator[Packet]:
        """Return an iterator of the packets in *maps*, which counts those that it gives."""
        left, packets = unroll(maps)
        self._came, self._reading = self._came + len(maps), left
        return packets

    def unread(self) -> list[dict[str, Any]]:
        """Return what the last iterator would have given yet, had it not been stopped."""
        rest = self._rest
        self._rest, self._came = [], self._came - len(rest)
        return [each if isinstance(each, Packet) else each.pop() for each in rest]

    def stop_reading(self) -> None:
        """Have the last iterator of packets end. Callable from any thread."""
        # One call in C: no packet is taken meanwhile.
        self._rest.extend(self._reading)

    def stop(self) -> None:
        """Have all iterators end. Callable from any thread."""
        self.stop_reading()
        list(self._departing)

    def departed(self) -> int:
        """Return how many packets have left since this was asked last."""
        told, self._told = self._told, self.sent
        return self._told - told

    def departures(self, count: int | None = None) -> Iterator[Literal[True]]:
        """Return True for each of them, or for *count* that were asked for before."""
        self._departing = repeat(True, self.departed() if count is None else count)
        return self._departing


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
