"""The server and the blocking client pass the catalogue of negative cases, on their sockets."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from pyf.station.link import Link
from pyf.station.wire import Wire
from pyf.transport import Connection, Limits, ProtocolError, RemoteProtocolError, Role
from pyf.transport.events import GoAwayReceived, HelloReceived
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS

CATALOGUE = Path(__file__).resolve().parent.parent / "vectors" / "catalogue.json"
LEAST = Limits(
    max_packet=INITIAL_BYTES,
    max_header=INITIAL_BYTES,
    window_packets=INITIAL_PACKETS,
    window_bytes=INITIAL_BYTES,
)


def cases(role: str) -> list[Any]:
    found = json.loads(CATALOGUE.read_text(encoding="ascii"))
    return [pytest.param(case, id=str(case["number"])) for case in found if case["to"] == role]


@pytest.mark.parametrize("case", cases("server"))
def test_the_server_refuses_it(peer, case):
    """The client is told the code; a handler never sees what was not sent."""
    seen: list[Any] = []

    async def reading(flow, client):
        seen.extend([packet async for packet in flow])

    client = peer(reading, limits=LEAST)
    client.protocol.dataReceived(bytes.fromhex(case["hex"]))
    client.reactor.turn()
    answer = client.transport.value()
    client.transport.clear()
    listener = Connection(Role.CLIENT, Limits())
    listener.open_flow()
    listener.receive_data(answer)
    events = list(iter(listener.next_event, None))
    codes = [event.code for event in events if isinstance(event, GoAwayReceived)]
    assert codes == [case["code"]], events
    assert all(packet in ({"n": 1}, {}) for packet in seen)
    assert client.transport.half_closed


@pytest.mark.parametrize("case", cases("client"))
def test_the_blocking_client_refuses_it(case):
    """The call fails with the breach, which the server is told."""
    ours, theirs = socket.socketpair()
    with theirs:
        link = Link(Wire(ours), LEAST)
        try:
            link.open(None, waits=True)
            theirs.sendall(bytes.fromhex(case["hex"]))

            def suffer() -> None:
                while True:
                    link.take_messages()
                    link.wait()

            with pytest.raises(RemoteProtocolError) as caught:
                suffer()
        finally:
            link.close()
        heard = b"".join(iter(lambda: theirs.recv(65536), b""))
    assert isinstance(caught.value, ProtocolError)
    assert caught.value.code == case["code"]
    listener = Connection(Role.SERVER)
    listener.receive_data(heard)
    events = list(iter(listener.next_event, None))
    assert isinstance(events[0], HelloReceived)
    assert [event.code for event in events if isinstance(event, GoAwayReceived)] == [case["code"]]
