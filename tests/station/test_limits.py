"""Whatever limits the two sides have, a flow and what comes back of it come whole."""

import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pyf.station import Limits, Packet, ResumePolicy
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS, MIB

HOST = "127.0.0.1"
SEEDS = int(os.environ.get("SEEDS", "20"))
"""How many mixtures each kind of client tries."""
MANY = 300

LIMITS = {
    "window_bytes": [INITIAL_BYTES, INITIAL_BYTES + 1, 100_000, 8 * MIB],
    "window_packets": [INITIAL_PACKETS, INITIAL_PACKETS + 1, 100_000],
    "max_packet": [INITIAL_BYTES, 70_000, MIB],
    "retention": [INITIAL_BYTES, INITIAL_BYTES + 1, 200_000, 4 * MIB],
}


def echo(flow: Any, client: Any) -> Iterator[Packet]:
    yield from flow


async def echo_from_the_reactor(flow: Any, client: Any) -> AsyncIterator[Packet]:
    async for packet in flow:
        yield packet


def echo_late(flow: Any, client: Any) -> None:
    for packet in list(flow):
        client.message(packet)


def talk_first(flow: Any, client: Any) -> None:
    for packet in GROWING:
        client.message(packet)
    for _ in flow:
        pass


async def talk_first_from_the_reactor(flow: Any, client: Any) -> None:
    for packet in GROWING:
        await client.message(packet)
    async for _ in flow:
        pass


GROWING = [Packet(n=n, fill=bytes(7 * n)) for n in range(MANY)]
ECHOES = [echo, echo_from_the_reactor, echo_late]
TALKERS = [talk_first, talk_first_from_the_reactor]


def some_limits(draw: random.Random) -> Limits:
    chosen = {name: draw.choice(values) for name, values in LIMITS.items() if draw.random() < 0.5}
    return Limits(**chosen)


def some_packets(draw: random.Random, most: int) -> list[Packet]:
    """
    Packets of which none is larger than *most*, some of them just as large.
    """
    sizes: dict[str, Callable[[], int]] = {
        "tiny": lambda: 0,
        "middling": lambda: draw.randrange(5000),
        "large": lambda: draw.randrange(most // 2),
        "largest": lambda: most - 30,
    }
    names = draw.choice([["tiny"], ["middling"], ["largest"], ["tiny", "tiny", "large"]])
    count = draw.choice([0, 1, 2, 10 * MIB // most if "largest" in names else MANY])
    return [Packet(n=n, fill=bytes(sizes[draw.choice(names)]())) for n in range(count)]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_flow_comes_whole_whatever_the_limits(connect, serve, seed):
    draw = random.Random(seed)
    here, there = some_limits(draw), some_limits(draw)
    packets = some_packets(draw, min(here.max_packet, there.max_packet, MIB))
    header = draw.choice([None, Packet(about="everything")])
    resume = draw.random() < 0.5
    kept = draw.choice([INITIAL_BYTES, 300_000, 4 * MIB])
    options: dict[str, Any] = {"resume": ResumePolicy(retention=kept)} if resume else {}
    if draw.random() < 0.5:
        options["authenticate"] = lambda header, peer: "somebody"
        packets[:1] = [Packet(first=True)]  # As the header, it may not be large.
    handler = draw.choice(ECHOES + TALKERS)
    client = connect(HOST, serve(handler, limits=there, **options), limits=here)

    flow = draw.choice([iter, list])(packets)
    answers = list(client.stream(flow, header=header, resume=resume))
    sent = packets if header is None else [header, *packets]
    assert answers[:-1] == (sent if handler in ECHOES else GROWING)
