"""When to ask a silent peer whether it lives, and when to take it for dead. Pure arithmetic.

Its owner has the clock, a monotonic one: it tells the time with each call, and looks again at
``next_check()``.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What to do about a peer."""

    NOTHING = "nothing"
    """It was heard of lately enough."""
    PING = "ping"
    """Send it a PING."""
    DEAD = "dead"
    """Give it up."""


class Liveness:
    """The silence of one peer: a PING after each *interval* of it, dead after *misses* in vain.

    *now* is when the peer was last heard of; times and the interval are in seconds. Not safe for
    threads: its owner calls it from one at a time.
    """

    def __init__(self, interval: float, misses: int, now: float) -> None:
        self.interval: float = interval
        self.misses: int = misses
        self._unanswered = 0
        self._due = now + interval

    @property
    def patience(self) -> float:
        """Seconds of silence that make a peer dead."""
        return self.interval * (self.misses + 1)

    def received(self, now: float) -> None:
        """Note that bytes came, any bytes."""
        self._unanswered = 0
        self._due = now + self.interval

    def next_check(self) -> float:
        """Return when to look again. Earlier is harmless; later delays, and never kills."""
        return self._due

    def check(self, now: float) -> Verdict:
        """Return what to do now. A PING counts as sent."""
        # A clock that was set back must not make the wait any longer.
        self._due = min(self._due, now + self.interval)
        late = now - self._due
        if late < 0:
            return Verdict.NOTHING
        if self._unanswered >= self.misses:
            # Who looks this late was suspended, or blocked: that says nothing of the peer.
            if late <= self.interval / 4:
                return Verdict.DEAD
        else:
            self._unanswered += 1
        self._due = now + self.interval
        return Verdict.PING
