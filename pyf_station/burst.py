"""How many packets a source is asked for at once: as many as it gives in a moment.

So those of a slow source leave one by one, and what is done for each burst of a fast one costs
next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Any, Final

from pyf.transport import codec, encode_packet, speed
from pyf.transport.limits import (
    BATCH_PACKETS,
    LARGE,
    SPARSE_BATCH_BYTES,
    TURN_BYTES,
)
from pyf.transport.pieces import Encoded

Gate = list[Callable[[Any], Encoded]]
"""What the packets of a burst pass, each one place of it: emptied, it ends the burst at the packet
that the source is at."""

BURST: Final = 2 * BATCH_PACKETS
"""Packets at the most: what is done for each burst takes as long as encoding a hundred."""

BURST_BYTES: Final = SPARSE_BATCH_BYTES
"""Bytes at the most, unless packets are LARGE: what a processor's own cache holds."""

SECONDS: Final = 0.002
"""What a burst should take."""

SLOW: Final = 0.0005
"""Seconds for each packet from which on they leave one by one: to send one takes less."""

GROWTH: Final = 16
"""How many times as many a source that is fast is asked for next. One that then stops in the middle
is cut short, whatever it was asked for."""


INSTANT: Final[frozenset[type]] = frozenset(
    {list, tuple, type(iter([])), type(iter(())), type({}.values()), range}
)
"""Sources that never block, since the packets are there."""


def at_hand(source: Iterator[Any]) -> int:
    """Return how many packets to ask a *source* that does not block for: all, to see the end."""
    return length_hint(source, BURST) + 1


def first_burst(source: Iterator[Any]) -> int:
    """Return how many packets to ask *source* for at first: one, whose size tells what follows.

    Where that is all, and there already, the end is asked for with it.
    """
    alone = type(source) in INSTANT and length_hint(source) == 1
    return 1 + alone


def most_bytes(packet_size: int) -> int:
    """Return how many bytes a burst may have of packets that have *packet_size* each."""
    return TURN_BYTES if packet_size >= LARGE else BURST_BYTES


def most(packet_size: int) -> int:
    """Return how many packets of so many bytes a burst may have, 1 at least."""
    return max(1, min(BURST, most_bytes(packet_size) // packet_size))


def next_burst(given: int, seconds: float, packet_size: int) -> int:
    """Return how many packets to ask for where *given* took so long, 1 at least."""
    if seconds >= given * SLOW:
        return 1
    fitting = int(given * SECONDS / max(seconds, 1e-6))
    return max(1, min(fitting, GROWTH * given, most(packet_size)))


def encoded(
    source: Iterator[dict[str, Any]], count: int, packet_size: int
) -> tuple[Gate, Iterator[Encoded]]:
    """Return the next *count* packets of *source*, encoded as they come, and the gate they pass.

    Large values are not copied where packets had *packet_size* bytes of late. Where they are larger
    than those before, there are fewer: no more than have the bytes of a burst.
    """
    large = packet_size >= LARGE
    gate: Gate = [speed.encode_pieces if large else encode_packet] * count
    encode_each = codec.encode_each if large else speed.encode_each
    return gate, encode_each(gate, source, most_bytes(packet_size))
