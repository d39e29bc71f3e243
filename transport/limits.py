"""Every bound of PyF.Station, with its reason."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from sys import float_info

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

INITIAL_PACKETS = 1024
"""Packets a client may send on a flow before the server's HELLO has come. Small: the server has
agreed to nothing yet."""

INITIAL_BYTES = 64 * KIB
"""Bytes of packets a client may send on a flow before the server's HELLO has come; also the largest
single packet, and header, until then."""

MAX_HELLO = 4 * KIB
"""Payload bytes of a HELLO: what a stranger can make us buffer."""

MAX_CONTROL = 64 * KIB
"""Payload bytes of a frame that carries neither packets nor a value: names and short texts."""

MAX_TEXT = 1024
"""Characters of a text in such a frame: enough to say what went wrong, and never too many."""

MAX_FRAME = 2 * GIB
"""What no ``max_packet`` or ``max_header`` may pass: with what surrounds it, a payload's length
must fit 32 bits."""

MAX_WINDOW = 2**62
"""What no window may pass: an absolute limit must fit 64 bits for as long as a flow may last."""

HEADER_ROOM = KIB
"""Payload bytes of an OPEN beside its header."""

MAX_NAME = 200
"""Characters of the name that a client gives a flow: with their bytes, they fit HEADER_ROOM."""

BATCH_BYTES = 64 * KIB
"""Packet bytes at which a sender closes a frame, so that flows on one connection take turns."""

LARGE_BATCH_BYTES = 2112 * KIB
"""The same for packets of LARGE values and little else: a frame for every 32 packets of 64 KiB,
since what is done for each frame takes as long as copying a MiB."""

SPARSE_BATCH_BYTES = MIB
"""The same for packets of few values for their bytes."""

TURN_BYTES = LARGE_BATCH_BYTES
"""Packet bytes that a fast source is asked for at once: half of the window that there is by
default, so that a sender goes on while its credit is on the way."""

BATCH_PACKETS = 1024
"""Packets at which a sender closes a frame: beyond this, larger batches gain nothing."""

PACKET_SHARE = 128
"""Bytes of the largest packet that a peer takes, for each packet of a batch: so that packets of
eight fields do not become more objects than GROWTH allows there."""

LARGE = 16 * KIB
"""Bytes from which on copying a value costs more than handling it apart."""

GROWTH = 12
"""Bytes of objects that a frame may become for each byte that its limit allows. With the copies of
the frame itself, of which there are three for a moment, memory stays below 16 times the limit."""

MAX_NESTING = 1021
"""Dicts and lists inside each other in what is received: where the decoder stops."""

MAX_NUMBER = 64 * KIB
"""Encoded bytes of an integer beyond 64 bits, or a Decimal: 157826 digits of the one, 65536 of the
other. Work on longer ones grows faster than they do."""

MAX_SKIPPED = 100
"""Optional frames of unknown type that a connection skips before it counts as a flood."""

MAX_REFUSED = 16384
"""Flows beyond ``max_flows`` that were refused, and that their client has not closed yet, before it
counts as a flood. Some may be on the way before the first refusal is heard; each costs 0.5 KiB."""

MAX_REPLIES = 4 * MIB
"""Bytes of PONGs and refusals, which no credit bounds, that wait for a peer that reads nothing. As
many refusals as ``MAX_REFUSED`` allows have room."""

ASSUMED_PING_INTERVAL = 1.0
"""Seconds between the PINGs that a peer takes that doesn't say."""

LONGEST_WAIT = 3600.0
"""Seconds that a system is asked to wait at once, whatever the limit: some count milliseconds in 31
bits, and refuse what does not fit."""

LONGEST_PING_INTERVAL = 60.0
"""Seconds between PINGs that a peer may insist on: with more, its death would go unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds that one side keeps, given to servers and clients as ``limits=``.

    Sizes are in bytes, times in seconds. Raises TypeError for a bound that is not a number,
    ValueError for one that cannot work: the first four may not be lower than what a client may
    send before it knows them.
    """

    max_packet: int = 16 * MIB
    """One packet, encoded. A receiver holds at least one whole packet, whatever its windows."""

    max_header: int = 64 * KIB
    """The header packet, encoded. It is read before anybody knows who sent it."""

    window_packets: int = 32768
    """Packets of one flow that may be on the way or wait unread, each way."""

    window_bytes: int = 4 * MIB
    """Bytes of packets of one flow that may be on the way or wait unread, each way: a round trip
    of 32 ms at 1 Gbit/s. One packet of any size may pass while half of it is open."""

    retention: int = 1 * MIB
    """Bytes of packets of one flow that a client keeps until the handler has taken them, where the
    flow is to survive its connection. The window in use is no larger."""

    max_objects: int = 262144
    """Values, keys included, in what one frame carries: a packet, a batch, a header or a result.
    Making more of them at once would keep all other threads waiting for more than 50 ms."""

    max_flows: int = 16384
    """Flows open at once on one connection."""

    connect_timeout: float = 10.0
    """From the first attempt to an established connection, over all addresses of a host."""

    handshake_timeout: float = 5.0
    """From the established connection to the peer's HELLO."""

    frame_timeout: float = 30.0
    """From the first byte of a frame to its last, or to 512 KiB more of it: 140 kbit/s."""

    idle_timeout: float = 300.0
    """How long a connection may have no open flow: it costs the server one of its clients."""

    write_timeout: float = 30.0
    """How long bytes may wait to be written while none leaves: the peer answers, but reads
    nothing."""

    close_timeout: float = 5.0
    """From the last byte written to the peer's close; then the connection is aborted."""

    ping_interval: float = 10.0
    """Silence, after which the peer is asked whether it lives. Where it takes no PINGs as often,
    its ``min_ping_interval`` counts."""

    ping_misses: int = 2
    """PINGs in a row that may stay without any byte in answer; with the last, the peer is dead. One
    may go under in a moment of load."""

    min_ping_interval: float = 1.0
    """The shortest interval at which this side takes PINGs, told to the peer: nobody is pinged to
    death by a peer that is configured for haste."""

    drain_grace: float = 10.0
    """How long the open flows may go on once the server drains: what a supervisor waits, and less,
    between asking a process to end and killing it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = int if isinstance(field.default, int) else int | float
            if isinstance(value, bool) or not isinstance(value, kinds):
                kind = "an int" if kinds is int else "a number"
                raise TypeError(f"Limits.{field.name} must be {kind}, not {value!r}")
            if not 0 < value <= float_info.max:
                raise ValueError(f"Limits.{field.name} must be more than 0, not {value!r}")
        for name, (least, most) in _RANGES.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"Limits.{name} must be {least} to {most}, not {value}")


_RANGES = {
    "max_packet": (INITIAL_BYTES, MAX_FRAME),
    "max_header": (INITIAL_BYTES, MAX_FRAME),
    "window_packets": (INITIAL_PACKETS, MAX_WINDOW),
    "window_bytes": (INITIAL_BYTES, MAX_WINDOW),
    "retention": (INITIAL_BYTES, MAX_WINDOW),
    "min_ping_interval": (0, LONGEST_PING_INTERVAL),
}


def limits_of(limits: object) -> Limits:
    """Return *limits*, the default ones for None; raises TypeError for what is none."""
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise TypeError(f"limits= takes Limits, not {limits!r}")
    return limits


def stranger_limits(limits: Limits) -> Limits:
    """Return *limits* with the windows of a flow whose client is not known yet."""
    return replace(limits, window_packets=INITIAL_PACKETS, window_bytes=INITIAL_BYTES)
