"""A server that is asked to go: what runs ends well, nothing new begins, and the process goes."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.policies import WrappingFactory

from pyf.station import FlowServer, StationClient
from pyf.station.server import STOP_GRACE
from pyf.transport import FlowCancelled, Limits
from pyf.transport.events import GoAwayReceived, ResultReceived
from pyf.transport.limits import INITIAL_PACKETS

GRACE = Limits().drain_grace
WHY = "the server is draining, and the grace of {:g} s is over (Limits.drain_grace)"


async def reading(flow, client):
    return [packet.n async for packet in flow]


@pytest.fixture
def gate():
    """
    An event that is set when the test ends.
    """
    opened = threading.Event()
    yield opened
    opened.set()


def codes(client):
    return [event.code for event in client.of(GoAwayReceived)]


# The port


class Port:
    """
    What a reactor reads that listens.
    """

    def __init__(self, factory):
        self.factory = factory
        self.open = True

    def stopListening(self):  # noqa: N802 - Twisted's name
        self.open = False


def test_a_server_that_drains_closes_its_own_ports():
    reactor = MemoryReactorClock()
    server, other = FlowServer(reading, reactor=reactor), FlowServer(reading, reactor=reactor)
    ports = [Port(server), Port(WrappingFactory(server)), Port(other), Port(WrappingFactory(other))]
    for reader in (*ports, object(), server):
        reactor.addReader(reader)
    assert server.drain().called
    assert [port.open for port in ports] == [False, False, True, True]


def test_a_real_port_is_closed_and_the_deferred_fires(reactor, in_reactor):
    server = FlowServer(reading, reactor=reactor)
    port = in_reactor(reactor.listenTCP, 0, server, interface="127.0.0.1")
    client = StationClient("127.0.0.1", port.getHost().port, True)
    assert client.send([{"n": 1}]) == [1]
    in_reactor(server.drain)
    assert not server.numPorts
    assert not server.connections


# Flows and clients


def test_a_flow_that_runs_ends_well(peer):
    client = peer(reading)
    flow = client.open()
    client.send(flow, {"n": 1})
    drained = client.server.drain()
    (away,) = client.of(GoAwayReceived)
    assert (away.code, away.last_flow) == ("draining", flow)
    assert away.message == "the server is draining"
    assert not client.transport.half_closed
    client.send(flow, {"n": 2})
    client.end(flow)
    assert client.result(flow).value == [1, 2]
    assert client.transport.half_closed
    assert not drained.called
    client.lose()
    assert drained.called


def test_a_connection_stays_until_its_last_flow_has_ended(peer, recorder):
    client = peer(recorder())
    flows = [client.open(), client.open()]
    client.server.drain()
    for flow in flows:
        assert not client.transport.half_closed
        client.end(flow)
        assert client.result(flow).status == "success"
    client.pump()
    assert client.transport.half_closed


def test_a_client_without_a_flow_is_told_and_closed(peer):
    client = peer(reading)
    client.pump()
    silent = peer(client.server)
    client.server.drain()
    for each in (client, silent):
        assert codes(each) == ["draining"]
        assert each.transport.half_closed


def test_a_flow_that_was_on_its_way_is_refused_as_draining(peer, recorder):
    client = peer(recorder())
    first, late = client.open(), client.machine.open_flow({"n": 1})
    client.server.drain()
    assert client.result(late).status == "refused"
    assert client.result(late).error["code"] == "draining"
    client.end(first)
    assert client.result(first).status == "success"


def test_a_new_client_is_turned_away(peer):
    client = peer(reading)
    flow = client.open()
    client.server.drain()
    assert codes(peer(client.server)) == ["draining"]
    client.end(flow)
    assert client.result(flow).status == "success"


@pytest.mark.parametrize("grace", [None, 0.0, 3.0])
def test_what_is_left_after_the_grace_is_ended_on_both_sides(
    peer, hand_reactor, any_recorder, grace
):
    handler = any_recorder()
    client = peer(handler)
    flow = client.open({"n": 0})
    drained = client.server.drain(grace)
    seconds = GRACE if grace is None else grace
    if seconds:
        hand_reactor.advance(seconds - 0.1)
        assert not client.of(ResultReceived)
    hand_reactor.advance(0.1)
    result = client.result(flow)
    assert (result.status, result.error["code"]) == ("cancelled", "draining")
    assert result.error["message"] == WHY.format(seconds)
    client.returned()
    assert isinstance(handler.error, FlowCancelled)
    assert str(handler.error) == WHY.format(seconds)
    assert client.transport.half_closed
    client.lose()
    assert drained.called


def test_a_result_that_is_there_is_not_lost_at_the_graces_end(peer, hand_reactor):
    said = threading.Event()

    def handler(flow, client):
        client.success("Done")
        said.set()

    client = peer(handler)
    flow = client.machine.open_flow({"n": 1})
    client._to_server()
    assert said.wait(10)
    client.server.drain(0)
    hand_reactor.advance(0)
    assert client.result(flow).value == "Done"


@pytest.mark.parametrize("wait", ["message", "anything"])
def test_a_handler_that_waits_for_something_else_is_woken(peer, hand_reactor, wait):
    seen = []

    async def handler(flow, client):
        try:
            while wait == "message":
                await client.message({"n": 1})
            await Deferred()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    client = peer(handler, Limits(window_packets=INITIAL_PACKETS), reads=False)
    flow = client.open({"n": 1})
    client.server.drain(1)
    hand_reactor.advance(1)
    assert client.result(flow).status == "cancelled"
    client.returned()
    assert seen == ["FlowCancelled" if wait == "message" else "CancelledError"]


def test_a_handler_that_never_returns_is_not_waited_for(peer, hand_reactor, gate):
    client = peer(lambda flow, client: gate.wait(30))
    client.open({"n": 0})
    drained = client.server.drain(2)
    hand_reactor.advance(2)
    client.pump()
    hand_reactor.advance(STOP_GRACE - 0.1)
    assert not drained.called
    assert not client.transport.aborted
    hand_reactor.advance(0.1)
    assert drained.called
    assert client.transport.aborted


def test_of_two_drains_the_grace_that_ends_first_counts(peer, hand_reactor, async_recorder):
    client = peer(async_recorder())
    flow = client.open({"n": 0})
    drains = [client.server.drain(60), client.server.drain(1)]
    hand_reactor.advance(1)
    assert client.result(flow).status == "cancelled"
    client.lose()
    assert all(drain.called for drain in drains)
    assert codes(client) == ["draining"]


def test_stopping_ends_a_drain(peer, async_recorder):
    handler = async_recorder()
    client = peer(handler)
    client.open({"n": 0})
    drained, stopped = client.server.drain(), client.server.stop()
    client.lose()
    assert drained.called
    assert stopped.called


def test_nothing_is_left_of_a_drain_that_is_done(hand_reactor):
    assert FlowServer(reading, reactor=hand_reactor).drain().called
    assert hand_reactor.getDelayedCalls() == []


@pytest.mark.parametrize("grace", [-1, float("inf"), float("nan")])
def test_a_grace_is_a_duration(hand_reactor, grace):
    server = FlowServer(reading, reactor=hand_reactor)
    with pytest.raises(ValueError, match="a grace of"):
        server.drain(grace)
    assert not server.stopping


# Processes


SERVER = """
    import threading
    from twisted.internet import reactor
    from pyf.station import FlowServer, Limits

    def reading(flow, client):
        client.message({{"started": True}})
        return sum(1 for packet in flow)

    def stuck(flow, client):
        client.message({{"started": True}})
        threading.Event().wait()

    server = FlowServer({handler}, limits=Limits(drain_grace={grace}))
    port = reactor.listenTCP(0, server, interface="127.0.0.1")
    say = lambda *words: print(*words, flush=True)
    reactor.callWhenRunning(say, port.getHost().port)
    reactor.addSystemEventTrigger("before", "shutdown", say, "draining")
    reactor.run()
    say("stopped")
"""


@contextmanager
def process(handler, grace):
    """
    A server in a process of its own, and a client of it.
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER).format(handler=handler, grace=grace)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as server:
        assert server.stdout is not None
        try:
            yield server, StationClient("127.0.0.1", int(server.stdout.readline()), True)
        finally:
            server.kill()


def drains(server, signals=1):
    server.send_signal(signal.SIGTERM)
    assert server.stdout.readline() == "draining\n"
    for _ in range(1, signals):
        server.send_signal(signal.SIGTERM)


def exits(server):
    """
    The process goes by itself, and well.
    """
    assert server.stdout.read() == "stopped\n"
    assert server.wait(30) == 0


def test_on_sigterm_an_idle_process_exits_at_once():
    with process("reading", 1000) as (server, client):
        assert client.send([{"n": 1}]) == 1
        drains(server)
        exits(server)


def test_on_sigterm_a_flow_that_runs_is_finished():
    with process("reading", 1000) as (server, client):
        conversation = client.open({"n": 1})
        assert conversation.receive(timeout=10) == {"started": True}
        drains(server)
        conversation.send({"n": 2})
        assert conversation.end() == 2
        exits(server)


@pytest.mark.parametrize("signals", [1, 2])
def test_on_sigterm_a_handler_that_is_stuck_holds_nobody_up(signals):
    """
    A second signal changes nothing: Twisted only logs that its reactor is stopping already.
    """
    with process("stuck", 0.2) as (server, client), client.open({"n": 1}) as conversation:
        assert conversation.receive(timeout=10) == {"started": True}
        drains(server, signals)
        with pytest.raises(FlowCancelled):
            conversation.receive(timeout=10)
        exits(server)
