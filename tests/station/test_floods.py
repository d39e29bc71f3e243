"""Floods: who asks too much is put out, with one line in the log, and the others are served."""

from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from pyf.station import FlowServer
from pyf.transport import Limits
from pyf.transport.budget import BUDGETS, Allowance
from pyf.transport.events import GoAwayReceived


@pytest.fixture
def warnings():
    lines: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_namespace", "").startswith("pyf."):
            lines.append(event["log_format"].format(**event))

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


def reading(flow, client):
    return sum(1 for _ in flow)


async def waiting(flow, client):
    return len([packet async for packet in flow])


def pings(client, flow):
    client.machine.ping(0)


def cancels(client, flow):
    client.machine.cancel(client.machine.open_flow())


def credits_(client, flow):
    client.machine.widen(flow, 5000, 5_000_000)


def empty_batches(client, flow):
    client.send(flow, {})


@pytest.mark.parametrize(
    ("flood", "name"),
    [(pings, "PING"), (cancels, "CANCEL"), (credits_, "CREDIT"), (empty_batches, "small batch")],
)
def test_a_flood_ends_the_connection_with_its_reason_logged_once(
    peer, warnings, monkeypatch, flood, name
):
    """More than the budget in no time: GOAWAY, one line, and no handler more than allowed."""
    monkeypatch.setitem(BUDGETS, name, Allowance(20, 10))
    client = peer(waiting, max_handlers=3)
    flow = client.open({})
    most = 0
    for _ in range(30):
        if client.of(GoAwayReceived):
            break
        flood(client, flow)
        client.pump()
        most = max(most, client.server.handlers)
    (event,) = client.of(GoAwayReceived)
    assert event.code == "flood"
    assert most <= 3
    (line,) = [line for line in warnings if f"too many {name} frames" in line]
    assert len(line) < 1024


def test_a_client_in_no_haste_is_not_in_danger(peer):
    """What comes at the rate of its budget may come for ever."""
    client = peer(reading)
    burst, rate = BUDGETS["PING"]
    for _ in range(2 * burst):
        client.machine.ping(0)
        client.pump()
        client.reactor.advance(1.05 / rate)
    assert not client.of(GoAwayReceived)


def test_one_address_gets_no_more_than_its_share(peer):
    """Clients of one address beyond ``max_clients_per_address`` are told so, until one leaves."""
    first = peer(reading, max_clients_per_address=2)
    second, third = peer(first.server), peer(first.server)
    third.open()
    (event,) = third.of(GoAwayReceived)
    assert event.code == "busy"
    assert "max_clients_per_address" in event.message
    second.lose()
    fourth = peer(first.server)
    fourth.open()
    assert not fourth.of(GoAwayReceived)


def test_a_share_of_nothing_is_refused():
    """A limit of no clients at all cannot be meant."""
    with pytest.raises(ValueError, match="max_clients_per_address must be at least 1"):
        FlowServer(reading, max_clients_per_address=0)


def test_slow_clients_are_gone_at_their_deadline(peer):
    """Many that send half a HELLO go together at ``handshake_timeout``; an honest one stays."""
    honest = peer(reading, limits=Limits())
    honest.open({})
    slow = [peer(honest.server) for _ in range(200)]
    for each in slow:
        each.protocol.dataReceived(b"".join(each.machine.data_to_send())[:20])
    assert len(honest.server.connections) == 201
    honest.reactor.advance(Limits().handshake_timeout)
    honest.reactor.advance(0)
    assert all(each.transport.half_closed for each in slow)
    honest.reactor.advance(Limits().close_timeout)
    assert all(each.transport.aborted for each in slow)
    assert not honest.transport.half_closed
