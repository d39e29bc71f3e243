"""Budgets for frames that no credit bounds: so many at once, and so many each second after."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pyf.transport.errors import RemoteProtocolError
from pyf.transport.frames import Frame, FrameType


class Allowance(NamedTuple):
    """What a budget holds."""

    burst: int
    """Frames at once."""
    rate: int
    """Frames more in each second."""


BUDGETS: dict[str, Allowance] = {
    "PING": Allowance(100, 10),  # for silence, and for the end of a call
    "PONG": Allowance(100, 10),  # as many as were asked for
    "GOAWAY": Allowance(10, 1),  # one leaves once, or twice if it gets worse
    "CREDIT": Allowance(100_000, 10_000),  # for each, a quarter of a window was consumed
    "CANCEL": Allowance(20_000, 2_000),  # a flow was wanted when it was opened
    "ABORT": Allowance(20_000, 2_000),  # likewise
    "STOP": Allowance(20_000, 2_000),  # likewise
    "OPENED": Allowance(20_000, 2_000),  # likewise
    "ACK": Allowance(20_000, 2_000),  # likewise
    "RESUME": Allowance(20_000, 2_000),  # once for each flow, when a connection has been lost
    "small batch": Allowance(200_000, 50_000),  # a packet that costs a frame's work
}
"""What a peer may send on one connection; frames that are not listed are bounded otherwise."""

SMALL = 64
"""Payload bytes up to which a batch costs more to handle than to send: an empty one above all."""

_BATCHES = frozenset({FrameType.DATA, FrameType.MESSAGE})
_NAMES: dict[int, str] = {kind: kind.name for kind in FrameType if kind.name in BUDGETS}


class Budget:
    """What one peer has left, by a monotonic *clock* that gives seconds.

    The clock is asked only where something has run out.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = {name: allowance.burst for name, allowance in BUDGETS.items()}
        self._since = dict.fromkeys(BUDGETS, clock())

    def spend(self, frame: Frame) -> None:
        """Count *frame*; raises RemoteProtocolError if its budget is spent."""
        kind = frame.type
        if kind in _BATCHES:
            if len(frame.payload) > SMALL:
                return
            name = "small batch"
        elif kind in _NAMES:
            name = _NAMES[kind]
        else:
            return
        left = self._left[name]
        self._left[name] = left - 1
        if left < 1:
            self._refill(name)

    def _refill(self, name: str) -> None:
        burst, rate = BUDGETS[name]
        now = self._clock()
        earned = min(burst, int((now - self._since[name]) * rate))
        if earned < 1:
            raise RemoteProtocolError(
                f"too many {name} frames: {burst} at once, then {rate} a second (BUDGETS)",
                code="flood",
                limit=burst,
                actual=burst + 1,
                option="BUDGETS",
            )
        self._left[name] = earned - 1
        self._since[name] = now
