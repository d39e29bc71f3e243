"""Who hears of what comes back to a client, whichever client it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from pyf.transport import Packet

Listener = Callable[[Packet], object]

_EVENTS = {"appinfo": "appinfo", "success": "success", "failure": "failure"}
LISTENER_EVENTS = frozenset({"message_received", "other", *_EVENTS.values()})
"""What a listener can be added for."""


class Reader(Protocol):
    """Who gives packets without a word as long as nobody listens."""

    def stop_reading(self) -> None:
        """Give no more of them. Callable from any thread."""


class Listeners:
    """Those who listen, by event: told of a packet by a call. Usable from any thread."""

    def __init__(self) -> None:
        self.heard: bool = False
        """Whether anybody listens at all."""
        self._by_event: dict[str, list[Listener]] = {event: [] for event in LISTENER_EVENTS}
        self._readers: WeakSet[Reader] = WeakSet()
        self._lock = threading.Lock()

    def add(self, event: str, listener: Listener) -> None:
        """Have *listener* called. Raises ValueError for an unknown *event*, TypeError for what
        cannot be called.
        """
        if not callable(listener):
            raise TypeError(f"a listener is called with a packet; {listener!r} cannot be called")
        with self._lock:
            self._of(event).append(listener)
            self.heard = True
            readers = list(self._readers)
        for reader in readers:
            reader.stop_reading()  # What it has not given yet is for the listener, too.

    def note(self, reader: Reader) -> None:
        """Have *reader* stop reading whenever somebody begins to listen."""
        with self._lock:
            self._readers.add(reader)

    def remove(self, event: str, listener: Listener) -> None:
        """Undo ``add``; raises ValueError if it was not added."""
        with self._lock:
            self._of(event).remove(listener)
            self.heard = any(self._by_event.values())

    def __call__(self, packet: Packet, *, final: bool = False) -> None:
        """Tell of *packet*, which is *final* where it stands for the result; raises as they do."""
        if not self.heard:
            return
        if not final:
            for listener in tuple(self._by_event["message_received"]):
                listener(packet)
        for listener in tuple(self._by_event[_EVENTS.get(str(packet.get("type")), "other")]):
            listener(packet)

    def _of(self, event: str) -> list[Listener]:
        try:
            return self._by_event[event]
        except KeyError:
            events = ", ".join(sorted(LISTENER_EVENTS))
            raise ValueError(f"no event {event!r}; there are {events}") from None
