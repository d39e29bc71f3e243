"""Where packets enter a queue that threads share, and are encoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final

from pyf.transport.codec import encode_packet
from pyf.transport.pieces import Encoded, encode_pieces

EACH: Final = 32
"""Bytes that a packet counts for, beside its own: what the object around them takes."""


class Intake(ABC):
    """The front of a queue of packets: as long as there is room, adding one costs next to nothing.

    Whoever takes packets from ``pending`` says how much room there is.
    """

    __slots__ = ("bulky", "pending", "resting", "space")

    def __init__(self, space: int) -> None:
        self.pending: deque[Encoded] = deque()
        """Packets that have been added, and not been taken."""
        self.space: int = space
        """Bytes that may be added yet: below 0, there is no room."""
        self.bulky: bool = False
        """Whether packets have large values of late: then these are not copied."""
        self.resting: bool = True
        """Whether nobody would look at a packet, unless he was woken."""

    def add(self, packet: dict[str, Any]) -> bool:
        """Add a packet; return whether to wait before the next. Callable from any thread.

        Raises TypeError or PacketError for what cannot travel, and what the queue does.
        """
        data = encode_pieces(packet) if self.bulky else encode_packet(packet)
        # No lock: this is done for each packet. Threads that add at once may count too few of them,
        # until whoever takes them counts anew.
        space = self.space - len(data) - EACH
        if space < 0:
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
