"""A server is at a host and a port, or at a path of this machine's file system."""

import os
import socket
from typing import Any

import pytest

from pyf.station import ConnectFailed, StationClient, aio, tx
from pyf.station.address import address_text, at_path, path_of
from pyf.station.server import FlowServer

KINDS = [StationClient, aio.StationClient, tx.StationClient]


def test_only_what_begins_as_one_is_a_path():
    """
    All of the rest is the path, colons and spaces too.
    """
    hosts = ("unix:/run/a b:c.sock", "unix:x", "unix", "localhost", "::1")
    assert [path_of(host) for host in hosts] == ["/run/a b:c.sock", "x", None, None, None]


def test_a_path_needs_no_resolver():
    """
    It is in the form of what a resolver gives.
    """
    assert at_path("unix:/x") == [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "/x")]
    assert at_path("localhost") == []


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("localhost", 8000, "localhost:8000"),
        ("::1", 8000, "[::1]:8000"),
        ("unix:/run/station.sock", 0, "unix:/run/station.sock"),
    ],
)
def test_an_address_is_written_as_people_do(host, port, text):
    """
    So that it can be pasted into a command line.
    """
    assert address_text(host, port) == text


@pytest.fixture
def listen(reactor, in_reactor, tmp_path):
    """
    Listen at a path with a handler; return the path.
    """
    path = str(tmp_path / "a socket")
    listening: list[Any] = []

    def listen(handler):
        server = FlowServer(handler, reactor=reactor)
        listening.append((in_reactor(reactor.listenUNIX, path, server), server))
        return path

    yield listen
    for port, server in listening:
        in_reactor(port.stopListening)
        in_reactor(server.stop)


def summed(flow, client):
    for packet in flow:
        client.message({"twice": 2 * packet["n"]})
    return "done"


def test_each_client_ships_a_flow_to_a_path(listen, connect):
    """
    Packets, answers and large values, as over TCP.
    """
    client = connect(f"unix:{listen(summed)}", waits_for_success=True)
    got = list(client.call([{"n": n, "blob": bytes(200_000)} for n in range(50)]))
    assert got.count(True) == 50
    answers = [value for value in got if value is not True]
    assert [each.get("twice") for each in answers[:-1]] == [2 * n for n in range(50)]
    assert answers[-1].message == "done"


def test_each_client_says_that_nobody_is_there(connect, tmp_path):
    """
    The error names the path, and no port.
    """
    path = tmp_path / "nothing"
    with pytest.raises(ConnectFailed) as caught:
        connect(f"unix:{path}").send([{"n": 1}])
    error = caught.value
    assert str(error).startswith(f"cannot connect to unix:{path}: ")
    assert str(error).endswith(os.strerror(2))
    assert (error.host, error.port) == (f"unix:{path}", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_client_verifies_the_name_of_a_path(kind):
    """
    TLS to what has no name is refused at once.
    """
    with pytest.raises(ValueError, match="whose name is verified; 'unix:/x' has none"):
        kind("unix:/x", tls=True)


@pytest.mark.parametrize("kind", KINDS)
def test_no_client_takes_an_empty_path(kind):
    """
    That is refused at once, too.
    """
    with pytest.raises(ValueError, match="unix:PATH, not 'unix:'"):
        kind("unix:")
