"""A client's and a server's machine, joined in memory by a wire that does as it is told."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pyf.transport import Connection, Limits, Role, encode_packet
from pyf.transport.events import Event


@dataclass(kw_only=True)
class Wire:
    """What happens to the bytes that go one way between two machines. Change it at any time."""

    slice: int | None = None
    """Bytes delivered at a time; None for all that there are."""
    cut_after_bytes: int | None = None
    """Deliver this many bytes in all, then close, as a network would that breaks."""
    held: bool = False
    """Whether to deliver nothing for now; what is sent waits."""
    dropped: bool = False
    """Whether to lose everything that is sent, without a word, from now on."""
    delivered: int = 0
    """Bytes delivered so far."""
    waiting: bytearray = field(default_factory=bytearray)
    """What has been sent and not been delivered yet. A test may look at it, and change it."""

    def carry(self, data: bytes) -> list[bytes]:
        """Take *data*; return the pieces to be delivered now."""
        if self.dropped:
            return []
        self.waiting += data
        if self.held:
            return []
        count = len(self.waiting)
        if self.cut_after_bytes is not None:
            count = min(count, max(0, self.cut_after_bytes - self.delivered))
        due = bytes(self.waiting[:count])
        del self.waiting[:count]
        self.delivered += count
        size = max(1, self.slice or count)
        return [due[start : start + size] for start in range(0, count, size)]

    @property
    def is_cut(self) -> bool:
        """Whether all has been delivered that ever will be."""
        return self.cut_after_bytes is not None and self.delivered >= self.cut_after_bytes


class MachinePair:
    """Two machines, and a wire each way: for tests without sockets, threads or time.

    Call the machines' methods, then ``pump()``; what comes of it is in ``client_events`` and
    ``server_events``, in order. For one thread at a time.

    :param client: the bounds that the client keeps.
    :param server: the bounds that the server keeps.
    :param greet: whether to exchange the HELLOs at once.
    """

    def __init__(
        self, client: Limits | None = None, server: Limits | None = None, *, greet: bool = True
    ) -> None:
        self.client: Connection = Connection(Role.CLIENT, client)
        self.server: Connection = Connection(Role.SERVER, server)
        self.to_server: Wire = Wire()
        """What happens to what the client sends."""
        self.to_client: Wire = Wire()
        """What happens to what the server sends."""
        self.client_events: list[Event] = []
        """What the client has heard."""
        self.server_events: list[Event] = []
        """What the server has heard."""
        self._cut = False
        if greet:
            self.pump()
            self.client_events.clear()
            self.server_events.clear()

    def pump(self) -> None:
        """Carry bytes both ways until nothing moves any more.

        Raises RemoteProtocolError where a machine does; pumped again, it tells the other one why.
        """
        while self._step(self.client, self.to_server, self.server, self.server_events) | self._step(
            self.server, self.to_client, self.client, self.client_events
        ):
            pass
        if not self._cut and (self.to_server.is_cut or self.to_client.is_cut):
            self.cut()

    def cut(self) -> None:
        """Close the connection, both ways, now: what is on the wire is lost."""
        self._cut = True
        for wire in (self.to_server, self.to_client):
            wire.dropped = True
            wire.waiting.clear()
        self.client.receive_eof()
        self.server.receive_eof()
        _take(self.client, self.client_events)
        _take(self.server, self.server_events)

    def send(self, role: Role, flow_id: int, *packets: dict[str, Any]) -> deque[bytes]:
        """Have the machine of *role* send what credit allows; return the rest, encoded.

        Raises what encoding and ``Connection.send_packets`` raise.
        """
        pending = deque(map(encode_packet, packets))
        machine = self.client if role is Role.CLIENT else self.server
        machine.send_packets(flow_id, pending)
        return pending

    def _step(self, source: Connection, wire: Wire, sink: Connection, events: list[Event]) -> bool:
        """Carry what there is one way; return whether there was any."""
        if self._cut:
            source.data_to_send()
            return False
        pieces = wire.carry(b"".join(source.data_to_send()))
        for piece in pieces:
            sink.receive_data(piece)
            _take(sink, events)
        return bool(pieces)


def _take(machine: Connection, events: list[Event]) -> None:
    while (event := machine.next_event()) is not None:
        events.append(event)
