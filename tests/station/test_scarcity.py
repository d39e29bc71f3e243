"""A port that cannot accept waits, says so once a second, and goes on once it can."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, globalLogPublisher

from pyf.station import FlowServer
from pyf.station.scarcity import BACKLOG, PAUSE, TWISTED_BACKLOG, mind

SHORTAGE = {
    "log_level": LogLevel.info,
    "log_format": "Could not accept new connection ({acceptError})",
    "acceptError": "EMFILE",
}


class Port:
    """
    A port that is asked to read or not.
    """

    def __init__(self) -> None:
        self.other: list[Any] = []
        observer: Any = self.other.append
        self._logger: Any = Logger("port", observer=observer)
        self.reading = True
        self.connected = True
        self.backlog = 1
        self.socket: Any = None

    def getHost(self) -> str:  # noqa: N802 - Twisted's name
        return "the port"

    def stopReading(self) -> None:  # noqa: N802 - Twisted's name
        self.reading = False

    def startReading(self) -> None:  # noqa: N802 - Twisted's name
        self.reading = True


@pytest.fixture
def said():
    """
    What is said of the port.
    """
    events = []

    def observe(event):
        if event["log_namespace"] == "pyf.station.scarcity":
            events.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)  # pyright: ignore[reportArgumentType]
    yield events
    globalLogPublisher.removeObserver(observe)  # pyright: ignore[reportArgumentType]


def test_a_port_that_cannot_accept_waits_and_says_so_once_a_second(said):
    port, clock = Port(), Clock()
    mind(port, clock, clock.seconds)
    for _ in range(4):
        for _ in range(10):
            port._logger.observer(dict(SHORTAGE))
        assert not port.reading
        clock.advance(PAUSE)
        assert port.reading
    assert said == ["the port waits: the system has no room for another client"] * 2
    assert not clock.getDelayedCalls()


def test_a_port_that_was_closed_meanwhile_is_left_alone(said):
    port, clock = Port(), Clock()
    mind(port, clock, clock.seconds)
    port._logger.observer(dict(SHORTAGE))
    port.connected = False
    clock.advance(PAUSE)
    assert not port.reading


def test_what_else_a_port_logs_is_passed_on(said):
    port, clock = Port(), Clock()
    mind(port, clock, clock.seconds)
    mind(port, clock, clock.seconds)  # once is enough
    port._logger.info("starting")
    assert [event["log_format"] for event in port.other] == ["starting"]
    assert said == []


@pytest.mark.parametrize(
    ("chosen", "told"), [(TWISTED_BACKLOG, [BACKLOG]), (5, []), (2 * BACKLOG, [])]
)
def test_a_port_has_room_for_many_clients_at_once_unless_its_owner_chose(chosen, told):
    port, heard = Port(), list[int]()
    port.backlog, port.socket = chosen, SimpleNamespace(listen=heard.append)
    for _ in range(2):
        mind(port, Clock(), float)
    assert heard == told


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the backlog of a port")
def test_that_room_is_there_by_default(reactor, in_reactor):
    """
    The system says so, of a port that nobody told.
    """

    async def handler(flow, client):
        pass

    def backlog(port: Any) -> int:
        # tcpi_sacked of struct tcp_info, behind eight bytes and five numbers: see tcp_get_info().
        info = port.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        return int.from_bytes(info[28:32], sys.byteorder)

    server = FlowServer(handler, reactor=reactor)
    port = in_reactor(reactor.listenTCP, 0, server, interface="127.0.0.1")
    try:
        most = int(Path("/proc/sys/net/core/somaxconn").read_text("ascii"))
        in_reactor(bool)  # It is told behind what has it listen.
        assert in_reactor(backlog, port) == min(BACKLOG, most)
    finally:
        in_reactor(port.stopListening)


def test_a_port_that_is_closed_already_needs_no_room():
    def listen(_: int) -> None:
        raise OSError(9, "Bad file descriptor")

    port = Port()
    port.backlog, port.socket = TWISTED_BACKLOG, SimpleNamespace(listen=listen)
    mind(port, Clock(), float)


def test_what_is_no_port_is_left_alone():
    mind(None, None, float)
    mind(SimpleNamespace(), None, float)


PROCESS = """
    import os, resource, socket, threading
    from twisted.internet import reactor
    from twisted.logger import globalLogPublisher
    from pyf.station import FlowServer, StationClient

    lines = []
    globalLogPublisher.addObserver(lines.append)

    def echo(flow, client):
        for packet in flow:
            client.message(packet)

    def check():
        client = StationClient("127.0.0.1", port.getHost().port, True)
        with client.open({"n": 0}) as conversation:
            conversation.receive(10)
            spare = [socket.socket() for _ in range(30)]
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
            before = len(lines)
            for each in spare:
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", unused.getHost().port))
            for n in range(200):
                conversation.send({"n": n})
                assert conversation.receive(10) == {"n": n}
            assert 1 <= len(lines) - before <= 2, lines[before:]
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
            assert list(client.call([{"n": 1}]))[-1]["type"] == "success"
        print("fine", flush=True)
        reactor.callFromThread(reactor.stop)

    server = FlowServer(echo)
    port = reactor.listenTCP(0, server, interface="127.0.0.1")
    unused = reactor.listenTCP(0, server, interface="127.0.0.1")  # had no client before
    reactor.callWhenRunning(lambda: threading.Thread(target=check, daemon=True).start())
    reactor.callLater(30, reactor.stop)
    reactor.run()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts descriptors")  # noqa: PTH110
def test_flows_go_on_while_the_system_has_no_descriptor_for_another():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROCESS)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "fine\n", done.stderr
