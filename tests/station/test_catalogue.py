"""The server and each client pass the catalogue of negative cases, on their sockets."""

import json
import socket
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pyf.transport import Connection, Limits, RemoteProtocolError, Role
from pyf.transport.events import FlowOpened, GoAwayReceived, HelloReceived
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS

HOST = "127.0.0.1"
WAIT = 30.0
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


def answer(listening: socket.socket, data: bytes) -> list[str]:
    """
    Say *data* to the next client, once it has opened a flow; return the codes that it goes with.
    """
    peer, _ = listening.accept()
    listener = Connection(Role.SERVER)
    events: list[Any] = []
    with peer, suppress(ConnectionResetError):
        peer.settimeout(WAIT)
        while heard := peer.recv(65536):
            listener.receive_data(heard)
            news = list(iter(listener.next_event, None))
            if any(isinstance(event, FlowOpened) for event in news):
                peer.sendall(data)
            events += news
    assert isinstance(events[0], HelloReceived)
    return [event.code for event in events if isinstance(event, GoAwayReceived)]


@pytest.mark.parametrize("case", cases("client"))
def test_each_client_refuses_it(connect, thread, case):
    """The flow fails with the breach, which the server is told."""
    with socket.create_server((HOST, 0)) as listening:
        codes = thread(lambda: answer(listening, bytes.fromhex(case["hex"])))
        client = connect(HOST, listening.getsockname()[1], limits=LEAST)
        with pytest.raises(RemoteProtocolError) as caught, client.open() as flow:
            deque(flow, maxlen=0)
        assert caught.value.code == case["code"]
        assert codes() == [case["code"]]
