"""How long a client waits before each attempt: exponentially longer, with full jitter."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

FIRST_PAUSE: Final = 1.0
"""Seconds before the second attempt to connect, at the most; each is twice the one before."""

LONGEST_PAUSE: Final = 16.0
"""Seconds between two attempts, at the most."""


def pauses(draw: Callable[[], float] = random.random) -> Iterator[float]:
    """Yield the seconds to wait before each attempt: none before the first, then a random part of
    1, 2, 4, 8 and 16.

    So clients that have lost one server do not come back all at once.
    """
    yield 0.0
    longest = FIRST_PAUSE
    while True:
        yield draw() * longest
        longest = min(2 * longest, LONGEST_PAUSE)
