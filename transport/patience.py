"""What one side waits for from its peer, and when each wait has lasted too long. Pure arithmetic.

Its owner has the clock, a monotonic one, and tells the time with each call. It looks again when
``due`` has come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from pyf.transport.connection import Connection
from pyf.transport.limits import KIB, LONGEST_WAIT
from pyf.transport.liveness import Liveness, Verdict

LATE: Final = 1.0
"""Seconds by which a look may be late. With more, this process was suspended, or its thread
blocked, for a time that is not the peer's to answer for."""

PROGRESS: Final = 512 * KIB
"""Bytes of a frame that begin its time anew: so a large one may come as slowly as a small one."""

_TEXTS: Final = {
    "handshake_timeout": "the {peer} sent no HELLO within {limit:g} s",
    "frame_timeout": "neither the rest of a frame nor 512 KiB of it came within {limit:g} s",
    "write_timeout": "nothing of what the {peer} is to read could be written for {limit:g} s",
    "idle_timeout": "no flow was open for {limit:g} s",
}


class Overdue(NamedTuple):
    """What has lasted too long."""

    code: str
    """That of the GOAWAY which tells the peer."""
    text: str
    """A sentence for people that names the option."""
    option: str
    """The option of ``Limits`` that sets the limit."""
    limit: float
    """The limit, in seconds."""


class Patience:
    """How long one side of a connection waits: for HELLO, frames, signs of life, writes and flows.

    The limits are those of *machine*, which is asked for a PING where one is due. *progress*
    returns what changes whenever bytes leave. Not safe for threads: its owner calls it from one at
    a time.
    """

    def __init__(self, machine: Connection, progress: Callable[[], Any], now: float) -> None:
        self.due: float = now
        """When to look again. Earlier is harmless."""
        self.mid_frame: bool = False
        """Whether part of a frame had come, and the rest had not, when bytes came last."""
        self._machine = machine
        self._limits = machine.limits
        self._progress = progress
        self._liveness: Liveness | None = None
        # Since when each limit counts, by its name; one that doesn't is absent.
        self._since: dict[str, float] = {"handshake_timeout": now}
        # When bytes came last, as long as that was not told to the liveness.
        self._heard: float | None = None
        self._frames = 0
        # What had come of a frame when its time began to count.
        self._come = 0
        self._written: Any = None
        self._plan(now)

    # What the owner tells

    def greeted(self, min_ping_interval: float, now: float) -> float:
        """Note that the peer's HELLO came, and how often it takes a PING.

        Return for how many seconds it may be silent from now on.
        """
        self._since.pop("handshake_timeout", None)
        interval = max(self._limits.ping_interval, min_ping_interval)
        self._liveness = Liveness(interval, self._limits.ping_misses, now)
        self._heard = None
        self._plan(now)
        return self._liveness.patience

    def received(self, now: float) -> None:
        """Note that bytes came, and have been handled."""
        self._heard = now
        come = self._machine.received_of_frame
        if come or self.mid_frame:
            self._time_frame(come, now)

    def flows_changed(self, now: float) -> None:
        """Note that flows may have been opened or closed; a side that never does waits for ever."""
        if not self._machine.idle or self._liveness is None:
            self._since.pop("idle_timeout", None)
        else:
            self._since.setdefault("idle_timeout", now)

    def stuck(self, now: float) -> None:
        """Note that what is written piles up."""
        if not self.is_stuck:
            self._since["write_timeout"] = now
            self._written = self._progress()

    def unstuck(self) -> None:
        """Note that all has been written."""
        self._since.pop("write_timeout", None)

    @property
    def is_stuck(self) -> bool:
        """Whether what is written piles up."""
        return "write_timeout" in self._since

    # What it says

    def look(self, now: float) -> Overdue | None:
        """Return what has lasted too long, if anything has. Ask for the PING that is due."""
        if now - self.due > LATE:
            # Nobody knows when it began; so all that is awaited has its whole time again.
            self._since = dict.fromkeys(self._since, now)
        if self._liveness is not None and self._heard is not None:
            self._liveness.received(self._heard)
            self._heard = None
        overdue = self._overdue(now)
        if overdue is None:
            self._plan(now)
        return overdue

    def _time_frame(self, come: int, now: float) -> None:
        """Note that *come* bytes have come of a frame whose rest has not."""
        machine = self._machine
        self.mid_frame = bool(come)
        if not come:
            self._since.pop("frame_timeout", None)
            self._come = 0
        elif machine.frames_received != self._frames or come - self._come >= PROGRESS:
            self._since["frame_timeout"] = now
            self._come = come
        else:
            self._since.setdefault("frame_timeout", now)
        self._frames = machine.frames_received

    def _plan(self, now: float) -> None:
        """Set ``due`` to the earliest moment at which something could be late.

        What begins to count later is late later still.
        """
        names = ("handshake_timeout",) if self._liveness is None else tuple(_TEXTS)[1:]
        dues = [self._since.get(name, now) + getattr(self._limits, name) for name in names]
        if self._liveness is not None:
            dues.append(self._liveness.next_check())
        self.due = min(*dues, now + LONGEST_WAIT)

    def _overdue(self, now: float) -> Overdue | None:
        for name, since in self._since.items():
            limit = getattr(self._limits, name)
            if now >= since + limit and not (name == "write_timeout" and self._progressed(now)):
                text = _TEXTS[name].format(limit=limit, peer=self._machine.role.peer.value)
                return Overdue(name, f"{text} (Limits.{name})", name, limit)
        liveness = self._liveness
        verdict = Verdict.NOTHING if liveness is None else liveness.check(now)
        if verdict is Verdict.PING:
            self._machine.ping(0)
        if liveness is None or verdict is not Verdict.DEAD:
            return None
        text = (
            f"nothing came for {liveness.patience:g} s, in spite of {liveness.misses} PINGs "
            "(Limits.ping_interval, Limits.ping_misses)"
        )
        return Overdue("ping_timeout", text, "ping_interval", liveness.patience)

    def _progressed(self, now: float) -> bool:
        """Whether something has left since the last look, where the owner can tell."""
        written, self._written = self._written, self._progress()
        if written == self._written:
            return False
        self._since["write_timeout"] = now
        return True
