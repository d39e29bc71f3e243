"""Every bound of PyF.Station, with its reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

KIB = 1024
MIB = 1024 * KIB

INITIAL_PACKETS = 1024
"""Packets a client may send before the server's HELLO has come. Small: the server has agreed to nothing yet."""

INITIAL_BYTES = 64 * KIB
"""Bytes of packets a client may send before the server's HELLO has come."""

MAX_HELLO = 4 * KIB
"""Payload bytes of a HELLO: what a stranger can make us buffer."""

MAX_CONTROL = 64 * KIB
"""Payload bytes of a frame that carries neither packets nor a value: names, texts and a traceback."""

BATCH_BYTES = 64 * KIB
"""Packet bytes at which a sender closes a frame, so that flows on one connection take turns."""

BATCH_PACKETS = 512
"""Packets at which a sender closes a frame: beyond this, larger batches gain nothing."""

MAX_SKIPPED = 100
"""Optional frames of unknown type that a connection skips before it counts as a flood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds that one side keeps, given to servers and clients as ``limits=``.

    Sizes are in bytes, times in seconds. Raises ValueError for a bound that cannot work.
    """

    max_packet: int = 16 * MIB
    """One packet, encoded. A receiver holds at least one whole packet, whatever its windows."""

    max_header: int = 64 * KIB
    """The header packet, encoded. It is read before anybody knows who sent it."""

    window_packets: int = 32768
    """Packets of one flow that may be on the way or wait unread, each way."""

    window_bytes: int = 1 * MIB
    """Bytes of packets of one flow that may be on the way or wait unread, each way: a round trip
    of 8 ms at 1 Gbit/s. One packet that is larger than half of it may pass while half of it is open."""

    max_flows: int = 16384
    """Flows open at once on one connection."""

    connect_timeout: float = 10.0
    """From the first attempt to an established connection, over all addresses of a host."""

    handshake_timeout: float = 5.0
    """From the established connection to the peer's HELLO."""

    close_timeout: float = 5.0
    """From the last byte written to the peer's close; then the connection is aborted."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"Limits.{field.name} must be a number, not {value!r}")
            if not value > 0:
                raise ValueError(f"Limits.{field.name} must be more than 0, not {value!r}")
        for name, least in (("window_packets", INITIAL_PACKETS), ("window_bytes", INITIAL_BYTES)):
            if (value := getattr(self, name)) < least:
                raise ValueError(
                    f"Limits.{name} is {value}: below {least}, which a client may send before it knows the window"
                )
