"""Two machines joined in memory, and a comparison that sees what == does not."""

import struct
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, time
from decimal import Decimal
from typing import Any

import pytest

from pyf.transport import Connection, Limits, Role, encode_packet
from pyf.transport.events import Event


def feed(machine: Connection, data: bytes, chunk: int = 0) -> list[Event]:
    """
    Give *data* to *machine*, whole or in pieces of *chunk* bytes, and return its events.
    """
    events = []
    size = chunk or max(len(data), 1)
    for start in range(0, len(data), size):
        machine.receive_data(data[start : start + size])
        while (event := machine.next_event()) is not None:
            events.append(event)
    return events


class Pair:
    """
    A client and a server. What one has to send, the other gets when told to.
    """

    def __init__(
        self,
        client: Limits | None = None,
        server: Limits | None = None,
        *,
        chunk: int = 0,
        greet: bool = True,
    ) -> None:
        self.client = Connection(Role.CLIENT, client)
        self.server = Connection(Role.SERVER, server)
        self.chunk = chunk
        if greet:
            self.to_server()
            self.to_client()

    def __getitem__(self, role: Role) -> Connection:
        return self.client if role is Role.CLIENT else self.server

    def to_server(self) -> list[Event]:
        return feed(self.server, b"".join(self.client.data_to_send()), self.chunk)

    def to_client(self) -> list[Event]:
        return feed(self.client, b"".join(self.server.data_to_send()), self.chunk)

    def send(self, role: Role, flow: int, packets: Iterable[dict[str, Any]]) -> deque[bytes]:
        """
        Send what the credit allows, and return what is left.
        """
        pending = deque(map(encode_packet, packets))
        self[role].send_packets(flow, pending)
        return pending


def same(one: Any, other: Any) -> bool:
    """
    Whether two values are equal and of the same type, at any depth.

    Sees the sign of a zero, the bits of a nan, the scale of a Decimal, offset and fold of a
    moment, and the order of keys.
    """
    if type(one) is not type(other):
        return False
    match one:
        case dict():
            found = list(one) == list(other) and all(same(one[key], other[key]) for key in one)
        case list():
            found = len(one) == len(other) and all(map(same, one, other))
        case float():
            found = struct.pack(">d", one) == struct.pack(">d", other)
        case Decimal():
            found = one.as_tuple() == other.as_tuple()
        case datetime() | time():
            found = (one.isoformat(), one.fold) == (other.isoformat(), other.fold)
        case _:
            found = one == other
    return found


# Session-wide, so that hypothesis may use them.


@pytest.fixture(scope="session", name="connect")
def pair_class() -> type[Pair]:
    return Pair


@pytest.fixture(scope="session", name="feed")
def feed_function() -> Callable[..., list[Event]]:
    return feed


@pytest.fixture(scope="session", name="same")
def same_function() -> Callable[[Any, Any], bool]:
    return same
