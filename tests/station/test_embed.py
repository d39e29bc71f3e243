"""Embedding: each claim about processes is tested in a process of its own."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
from twisted.internet.error import CannotListenError

from pyf.station import ConnectFailed, FlowServer, StationClient, embed

LOOPBACK = "tcp:0:interface=127.0.0.1"
INTERPRETER = (sys.executable, "-W", "error", "-W", "ignore:setDaemon", "-c")

PREAMBLE = """
import os, sys, threading, time
from twisted.internet import reactor
from pyf.station import ClientError, FlowServer, StationClient, embed
from pyf.transport import Packet

LOOPBACK = 'tcp:0:interface=127.0.0.1'

def count(flow, client):
    return sum(1 for _ in flow)

def send(station, packets):
    return StationClient('127.0.0.1', station.address.port).send([{'n': 1}] * packets)
"""


@pytest.fixture
def here(reactor):
    """
    For tests in this process: the reactor that all of them share runs already.
    """


def run(script: str) -> str:
    """
    Run *script* in a new interpreter, which has to exit by itself, and return what it printed.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore:setDaemon",
            "-c",
            PREAMBLE + textwrap.dedent(script),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def count(flow, client):
    return sum(1 for _ in flow)


def test_a_station_serves_until_it_is_stopped(here):
    """
    A station has an address, serves flows there, and refuses connections once stopped; stopping
    again does nothing.
    """
    station = embed.serve(FlowServer(count), LOOPBACK)
    client = StationClient(station.address.host, station.address.port)
    assert client.send([{"n": 1}] * 3) == 3
    station.stop()
    station.stop()
    with pytest.raises(ConnectFailed):
        client.send([])


def test_leaving_the_with_block_stops_the_station(here):
    """
    A station is a context manager.
    """
    with embed.serve(FlowServer(count), LOOPBACK) as station:
        client = StationClient(station.address.host, station.address.port)
        assert client.send([]) == 0
    with pytest.raises(ConnectFailed):
        client.send([])


def test_two_stations_share_one_reactor(here):
    """
    Stopping one station leaves the other alone.
    """
    with embed.serve(FlowServer(count), LOOPBACK) as first:
        with embed.serve(FlowServer(count), LOOPBACK):
            pass
        assert StationClient("127.0.0.1", first.address.port).send([{"n": 1}]) == 1


def test_two_ports_of_one_server_stop_one_by_one(here):
    """
    A server that listens twice goes on with the flows of one port when the other is closed.
    """
    go_on, reading = threading.Event(), threading.Event()

    def handler(flow, client):
        reading.set()
        return sum(1 for _ in flow)

    def source():
        yield {"n": 1}
        assert go_on.wait(10)
        yield {"n": 2}

    server = FlowServer(handler)
    with embed.serve(server, LOOPBACK) as first:
        second = embed.serve(server, LOOPBACK)
        client = StationClient("127.0.0.1", first.address.port)
        results = []
        sender = threading.Thread(target=lambda: results.append(client.send(source())))
        sender.start()
        assert reading.wait(10)
        second.stop()
        go_on.set()
        sender.join(10)
        assert results == [2]


def test_a_port_that_is_taken_is_an_error_where_serve_was_called(here):
    """
    What listening raises comes back to the caller.
    """
    with embed.serve(FlowServer(count), LOOPBACK) as station:
        taken = f"tcp:{station.address.port}:interface=127.0.0.1"
        with pytest.raises(CannotListenError):
            embed.serve(FlowServer(count), taken)


def test_the_reactor_is_started_by_the_first_that_asks_and_stopped_at_exit():
    """
    In a fresh process, serve() starts the reactor in a thread; the interpreter exits by itself.
    """
    assert (
        run("""
        assert not reactor.running
        station = embed.serve(FlowServer(count), LOOPBACK)
        print(reactor.running, send(station, 2))
        print([t.name for t in threading.enumerate() if 'reactor' in t.name])
    """)
        == "True 2\n['pyf.station-reactor']\n"
    )


def test_the_interpreter_exits_with_flows_open():
    """
    A call that was never finished and a handler that waits for it hold nobody up.
    """
    assert (
        run("""
        def endless():
            while True:
                yield {'n': 1}

        station = embed.serve(FlowServer(count), LOOPBACK)
        call = StationClient('127.0.0.1', station.address.port, True).call(endless())
        print(next(call))
    """)
        == "True\n"
    )


def test_the_interpreter_exits_with_a_handler_that_never_returns():
    """
    A handler that is stuck does not keep the process alive.
    """
    assert (
        run("""
        started = threading.Event()

        def stuck(flow, client):
            started.set()
            threading.Event().wait()

        station = embed.serve(FlowServer(stuck), LOOPBACK)
        call = StationClient('127.0.0.1', station.address.port, True).call([{'n': 1}])
        print(next(call), started.wait(10))
    """)
        == "True True\n"
    )


def test_a_forked_child_starts_a_reactor_of_its_own():
    """
    After a fork both processes serve, each with its own reactor; the parent's flows go on.
    """
    out = run("""
        station = embed.serve(FlowServer(count), LOOPBACK)
        print('parent', send(station, 1), flush=True)
        child = os.fork()
        if not child:
            own = embed.serve(FlowServer(count), LOOPBACK)
            print('child', send(own, 2), flush=True)
            sys.exit()
        print('child ended with', os.waitpid(child, 0)[1])
        print('parent', send(station, 3))
    """)
    assert out == "parent 1\nchild 2\nchild ended with 0\nparent 3\n"


def test_a_fork_does_not_hold_the_parents_connections_open():
    """
    A connection that the parent closes is closed, though a child forked meanwhile lives on.
    """
    out = run("""
        import socket
        station = embed.serve(FlowServer(count), LOOPBACK)
        with socket.create_connection(('127.0.0.1', station.address.port)) as peer:
            send(station, 0)  # by now the other connection has been accepted
            read, write = os.pipe()
            child = os.fork()
            if not child:
                peer.close()
                os.close(write)
                os.read(read, 1)  # until the parent goes
                os._exit(0)
            os.close(read)
            station.stop()
            peer.settimeout(10)
            while peer.recv(4096):
                pass
            print('closed')
            os.close(write)
        os.waitpid(child, 0)
    """)
    assert out == "closed\n"


def test_a_reactor_that_was_stopped_is_a_clear_error():
    """
    Twisted's reactor runs once in a process: serve() says so.
    """
    assert (
        run("""
        station = embed.serve(FlowServer(count), LOOPBACK)
        station.stop()
        stopped = threading.Event()
        thread = next(t for t in threading.enumerate() if t.name == 'pyf.station-reactor')
        reactor.callFromThread(reactor.stop)
        thread.join(10)
        try:
            embed.serve(FlowServer(count), LOOPBACK)
        except RuntimeError as error:
            print(type(error.__cause__).__name__)
    """)
        == "ReactorNotRestartable\n"
    )


@pytest.mark.parametrize(
    "late",
    [
        "atexit.register(lambda: station.stop())",  # It runs behind embed's own.
        "class Late:\n    def __del__(self):\n        station.stop()\n\nlate = Late()",
    ],
)
def test_a_station_may_be_stopped_as_the_interpreter_exits(late):
    """
    The reactor has stopped by then: there is nothing to wait for.
    """
    script = "station = embed.serve(FlowServer(count), LOOPBACK)\nprint(send(station, 1))\n"
    assert run(f"import atexit\n{late}\n{script}") == "1\n"


def test_a_station_may_be_stopped_behind_the_reactor():
    """
    stop() returns at once where the reactor has stopped before, or while it waited.
    """
    assert (
        run("""
        stations = [embed.serve(FlowServer(count), LOOPBACK) for _ in range(2)]
        thread = next(t for t in threading.enumerate() if t.name == 'pyf.station-reactor')
        reactor.callFromThread(reactor.stop)
        stations[0].stop()
        thread.join(10)
        stations[1].stop()
        print(thread.is_alive())
    """)
        == "False\n"
    )


def test_stop_refuses_the_reactors_own_thread(here, in_reactor):
    """
    In it stop() would wait for itself: it raises instead, and can be called again elsewhere.
    """
    station = embed.serve(FlowServer(count), LOOPBACK)
    with pytest.raises(RuntimeError, match=r"Station\.stop\(\) waits for the reactor"):
        in_reactor(station.stop)
    station.stop()


@pytest.mark.parametrize(("server", "endpoint"), [(count, LOOPBACK), (FlowServer(count), 8000)])
def test_what_is_no_server_or_no_endpoint_is_refused(here, server, endpoint):
    """
    A TypeError says which.
    """
    with pytest.raises(TypeError, match=r"a FlowServer, not|an endpoint is"):
        embed.serve(server, endpoint)


def test_a_station_that_cannot_stop_says_why(here, monkeypatch):
    """
    What goes wrong in the reactor's thread is raised where stop() was called.
    """
    station = embed.serve(server := FlowServer(count), LOOPBACK)

    def fail():
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(server, "stop", fail)
        with pytest.raises(ZeroDivisionError):
            station.stop()


def test_serve_refuses_the_reactors_own_thread():
    """
    In the reactor's thread serve() would wait for itself: it raises instead.
    """
    assert (
        run("""
        from twisted.internet.threads import blockingCallFromThread
        embed.serve(FlowServer(count), LOOPBACK)
        try:
            blockingCallFromThread(reactor, embed.serve, FlowServer(count), LOOPBACK)
        except RuntimeError as error:
            print(error)
    """)
        == "embed.serve() waits for the reactor: call it from another thread\n"
    )


def test_the_bare_recipe_works():
    """
    The reactor in a task of the process's own tgscheduler, as people have it in their code, serves
    flows, and serve() joins in.
    """
    assert (
        run("""
        from tgscheduler import scheduler
        port = reactor.listenTCP(0, FlowServer(count), interface='127.0.0.1')
        scheduler.add_single_task(reactor.run, kw=dict(installSignalHandlers=0), initialdelay=0)
        scheduler.start_scheduler()
        print(StationClient('127.0.0.1', port.getHost().port).send([{'n': 1}] * 4))
        print(send(embed.serve(FlowServer(count), LOOPBACK), 5))
        reactor.callFromThread(reactor.stop)
    """)
        == "4\n5\n"
    )
