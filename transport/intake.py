"""Where packets enter a queue that threads share, and are encoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, cast

from pyf.transport.codec import encode_packet
from pyf.transport.pieces import Encoded, Pending, encode_pieces

EACH: Final = 16
"""Bytes that a packet counts for, beside its own: half of what the object around them takes. So the
smallest ones take no more than about three times what they count for, and a change of threads is
worth a third more of those that are not that small."""


_NOTHING = cast("Generator[Any, Any, None]", iter(()))


class Done(Coroutine[Any, Any, None]):
    """A coroutine that has nothing to wait for, to be awaited by anybody as often as they like."""

    __slots__ = ()

    def send(self, _value: object, /) -> Any:
        """Return None, as a coroutine does."""
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        """Raise *error*, an exception, as a coroutine does that has not begun."""
        raise error[0]

    def close(self) -> None:
        """Do nothing."""

    def __await__(self) -> Generator[Any, Any, None]:
        return _NOTHING


class Intake(ABC):
    """The front of a queue of packets: as long as there is room, adding one costs next to nothing.

    Whoever takes packets from ``pending`` says how much room there is.
    """

    __slots__ = ("bulky", "done", "most", "on_full", "pending", "resting", "space")

    def __init__(self, space: int, most: int) -> None:
        self.pending: Pending = deque()
        """Packets that have been added, and not been taken."""
        self.space: int = space
        """Bytes that may be added yet: below 0, there is no room."""
        self.most: int = most
        """Bytes of the largest packet that may be added without a question."""
        self.bulky: bool = False
        """Whether packets have large values of late: then these are not copied."""
        self.resting: bool = True
        """Whether nobody would look at a packet, unless he was woken."""
        self.on_full: Callable[[], Any] = bool
        """What waits for room, for ``put``."""
        self.done: Any = None
        """What ``put`` returns where there is nothing to wait for."""

    def put(self, packet: dict[str, Any]) -> Any:
        """Add a packet; return ``done``, or what ``on_full()`` returns where there is no room left.

        Callable from any thread; raises as ``add`` does.
        """
        return self.on_full() if self.add(packet) else self.done

    def add(self, packet: dict[str, Any]) -> bool:
        """Add a packet; return whether to wait before the next. Callable from any thread.

        Raises TypeError or PacketError for what cannot travel, and what the queue does.
        """
        data = encode_pieces(packet) if self.bulky else encode_packet(packet)
        # No lock: this is done for each packet. Threads that add at once may count too few of them,
        # until whoever takes them counts anew.
        space = self.space - len(data) - EACH
        if space < 0 or len(data) > self.most:
            return self.add_slowly(data)
        self.space = space
        self.pending.append(data)
        # Looked at last: whoever goes to rest looks for packets last.
        if self.resting:
            self.stir()
        return False

    @abstractmethod
    def add_slowly(self, data: Encoded) -> bool:
        """Add a packet where there is no room, or it may not be added at all; as ``add``."""

    @abstractmethod
    def stir(self) -> None:
        """Wake whoever takes packets, behind one that was added."""


class Speaker:
    """What puts packets into an ``_outbox``, which a subclass has to set."""

    __slots__ = ("_outbox",)

    _outbox: Intake

    def message(self, packet: dict[str, Any], /) -> Any:
        """Put *packet* there: as ``Intake.put``."""
        return self._outbox.put(packet)
