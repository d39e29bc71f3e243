"""Errors in both directions: processes that are killed, connections that are cut anywhere."""

import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Queue
from typing import Any

import pytest

from pyf.station import StationClient
from pyf.station.testing import ChaosProxy
from pyf.transport import (
    BadFlowEnding,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    Limits,
    OutcomeUnknown,
    Packet,
)
from pyf.transport.frames import HEADER, FrameType

WAIT = 30.0

# Processes


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """
    Start a script in an interpreter of its own, which is killed in the end.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(script: str, *args: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        with process:
            process.wait(WAIT)


SERVER = """
    import sys, threading
    from twisted.internet import reactor
    from pyf.station import FlowServer

    def handler(flow, client):
        header = next(flow)
        if header.read:
            for packet in flow:
                pass
        client.message({'read': header.read})
        threading.Event().wait()

    port = reactor.listenTCP(0, FlowServer(handler), interface='127.0.0.1')
    print(port.getHost().port, flush=True)
    reactor.run()
"""


@pytest.fixture
def server(start) -> "subprocess.Popen[str]":
    """
    A server whose handler reads the flow where the header says so, sends a message, and waits.
    """
    return start(SERVER)


def port_of(server: "subprocess.Popen[str]") -> int:
    assert server.stdout is not None
    return int(server.stdout.readline())


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait(WAIT)


def test_a_server_killed_in_the_middle_of_a_flow_is_lost(server):
    """
    ConnectionLost at the client, and its generator is closed.
    """
    finals = []

    def source():
        try:
            while True:
                yield {"n": 1}
        finally:
            finals.append(1)

    client = StationClient("127.0.0.1", port_of(server), True)
    client.add_listener("message_received", lambda _: kill(server))
    with pytest.raises(ConnectionLost) as caught:
        client.send(source(), header={"read": False})
    assert type(caught.value) is ConnectionLost
    assert caught.value.sent > 0
    assert finals == [1]


def test_a_server_killed_behind_the_end_leaves_the_outcome_unknown(server):
    """
    OutcomeUnknown at the client, which has sent everything.
    """
    client = StationClient("127.0.0.1", port_of(server), True)
    client.add_listener("message_received", lambda _: kill(server))
    with pytest.raises(OutcomeUnknown) as caught:
        client.send([{"n": 1}] * 5, header={"read": True})
    assert caught.value.sent == 5


def test_a_server_killed_while_the_generator_blocks_is_lost(server):
    """
    The keeper hears of it; the client raises once the generator gives it the chance.
    """
    port = port_of(server)

    def source():
        yield {"n": 1}
        kill(server)
        while True:
            yield {"n": 2}

    with pytest.raises(ConnectionLost):
        StationClient("127.0.0.1", port).send(source(), header={"read": True})


SHORT = Limits(ping_interval=0.1, min_ping_interval=0.01)
"""A dead server is known within 0.3 s."""


@pytest.mark.parametrize("read", [True, False])
def test_a_server_that_is_stopped_is_known_to_be_dead(server, read):
    """
    Idle behind the END, and in mid-data: the kernel of a stopped process still takes bytes.
    """
    finals = []

    def source():
        try:
            while not read or not finals:
                yield {"n": bytes(1000)}
                if read:
                    return
        finally:
            finals.append(1)

    client = StationClient("127.0.0.1", port_of(server), True, limits=SHORT)
    client.add_listener("message_received", lambda _: server.send_signal(signal.SIGSTOP))
    with pytest.raises(ConnectionLost, match="in spite of 2 PINGs") as caught:
        client.send(source(), header={"read": read})
    assert isinstance(caught.value, OutcomeUnknown) is read
    assert caught.value.option == "ping_interval"
    assert finals == [1]


@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_a_network_that_falls_silent_is_known_to_be_dead(serve, way):
    """
    On both sides, whichever direction it is that leads nowhere.
    """
    endings: Queue[BaseException] = Queue()

    def handler(flow, client):
        try:
            for packet in flow:
                client.message(packet)
        except BadFlowEnding as error:
            endings.put(error)
            raise

    with ChaosProxy(serve(handler, limits=SHORT)) as proxy:
        client = StationClient("127.0.0.1", proxy.port, limits=SHORT)
        with client.open({"n": 0}) as conversation:
            assert conversation.receive(WAIT) == {"n": 0}
            getattr(proxy, way).black_hole = True
            with pytest.raises(ConnectionLost):
                conversation.receive(WAIT)
        assert isinstance(endings.get(timeout=WAIT), BadFlowEnding)


def test_a_server_killed_in_a_conversation_is_lost(server):
    """
    receive() raises ConnectionLost, and so does what follows.
    """
    client = StationClient("127.0.0.1", port_of(server))
    with client.open(header={"read": False}) as flow:
        assert flow.receive() == {"read": False}
        kill(server)
        for use in (flow.receive, flow.receive, flow.end):
            with pytest.raises(ConnectionLost):
                use()


CLIENT = """
    import itertools, os, sys, threading, time
    from pyf.station import StationClient

    def source():
        yield {'pid': os.getpid()}
        while True:
            if sys.argv[2] == 'fast':
                yield {'n': 1}
            else:
                threading.Event().wait()

    for _ in StationClient('127.0.0.1', int(sys.argv[1])).call(source()):
        if sys.argv[2] == 'in the loop':
            threading.Event().wait()
"""


@pytest.mark.parametrize("client", ["fast", "blocked", "in the loop"])
def test_a_killed_client_is_a_bad_flow_ending(serve, start, client):
    """
    BadFlowEnding in the handler's flow, however the client was busy: never the end of a flow.
    """
    endings: Queue[BaseException | None] = Queue()

    def handler(flow, client):
        os.kill(next(flow).pid, signal.SIGKILL)
        try:
            for _ in flow:
                pass
        except BaseException as error:
            endings.put(error)
            raise
        endings.put(None)

    start(CLIENT, serve(handler), client)
    assert isinstance(endings.get(timeout=WAIT), BadFlowEnding)


def test_a_killed_client_wakes_a_handler_that_waits_to_send(serve, start):
    """
    client.message raises where nobody reads any more.
    """
    endings: Queue[BaseException] = Queue()

    def handler(flow, client):
        pid = next(flow).pid
        try:
            for number in range(10**9):
                client.message({"data": bytes(50_000)})
                if number == 20:
                    os.kill(pid, signal.SIGKILL)
        except BaseException as error:
            endings.put(error)
            raise

    start(CLIENT, serve(handler), "in the loop")
    assert isinstance(endings.get(timeout=WAIT), BadFlowEnding)


def test_errors_of_both_sides_cross_between_processes(serve, start, logged_errors):
    """
    A handler's exception is a ServerError in the client's process, a generator's exception a
    ClientError in the server's.
    """
    endings: Queue[BaseException] = Queue()

    def handler(flow, client):
        header = next(flow)
        if header.fail == "server":
            raise LookupError("mine")
        try:
            for _ in flow:
                pass
        except BaseException as error:
            endings.put(error)
            raise

    script = """
        import sys
        from pyf.station import ServerError, StationClient

        def source():
            yield {'n': 1}
            raise KeyError('mine')

        client = StationClient('127.0.0.1', int(sys.argv[1]))
        try:
            client.send([{'n': 1}], header={'fail': 'server'})
        except ServerError as error:
            print(error.error_class, error.consumed)
        try:
            client.send(source(), header={'fail': 'client'})
        except KeyError as error:
            print(error)
    """
    process = start(script, serve(handler))
    assert process.communicate(timeout=WAIT)[0] == "LookupError 0\n'mine'\n"
    ending = endings.get(timeout=WAIT)
    assert isinstance(ending, ClientError)
    assert (ending.error_class, ending.sent) == ("KeyError", 1)
    logged_errors.claim(LookupError)


# Cuts

UP, DOWN = "to the server", "to the client"


class Cutter:
    """
    A proxy for one connection after another, each of which it cuts after some bytes.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = ("127.0.0.1", upstream)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT)
        self.port = self._listener.getsockname()[1]
        self.forwarded: dict[str, bytearray] = {}

    def close(self) -> None:
        self._listener.close()

    def run(self, way: str, after: int, how: str) -> bool:
        """
        Take one connection, and cut it once *after* bytes have gone one way; return whether it
        came to that.
        """
        self.forwarded = {UP: bytearray(), DOWN: bytearray()}
        client, _ = self._listener.accept()
        with client, socket.create_connection(self._upstream) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(WAIT)
            cut = self._forward({client: (UP, server), server: (DOWN, client)}, way, after)
            for sock in (client, server):
                if how == "RST":
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                else:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_WR)
            if how == "FIN":
                for sock in (client, server):
                    while receive(sock):
                        pass
        return cut

    def _forward(
        self, pipes: dict[socket.socket, tuple[str, socket.socket]], way: str, after: int
    ) -> bool:
        with selectors.DefaultSelector() as selector:
            for sock in pipes:
                selector.register(sock, selectors.EVENT_READ)
            while len(self.forwarded[way]) < after and selector.get_map():
                ready = selector.select(WAIT)
                assert ready, "a hang"
                for key, _ in ready:
                    sock: Any = key.fileobj
                    name, other = pipes[sock]
                    data = receive(sock)
                    if name == way:
                        data = data[: after - len(self.forwarded[way])]
                    with suppress(OSError):
                        if data:
                            other.sendall(data)
                        else:
                            other.shutdown(socket.SHUT_WR)
                    self.forwarded[name] += data
                    if not data:
                        selector.unregister(sock)
        return len(self.forwarded[way]) >= after


def receive(sock: socket.socket) -> bytes:
    with suppress(ConnectionError):
        return sock.recv(65536)
    return b""


def whole_frames(data: bytearray) -> list[int]:
    """
    The types of the frames that are whole.
    """
    types, start = [], 0
    while len(data) - start >= HEADER.size:
        length, kind, _ = HEADER.unpack_from(data, start)
        start += HEADER.size + length
        if start <= len(data):
            types.append(kind)
    return types


class Reference:
    """
    The handler of the reference flow: answers each packet, notes how each flow ended.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._started = 0
        self.endings: dict[int, tuple[list[Packet], BaseException | None]] = {}

    def __call__(self, flow, client):
        with self._changed:
            self._started += 1
        packets = []
        ending = None
        try:
            for packet in flow:
                packets.append(packet)
                client.message({"got": packet})
        except BaseException as error:
            ending = error
            raise
        finally:
            with self._changed:
                self.endings[flow.header.run] = packets, ending
                self._changed.notify_all()
        return len(packets)

    def wait_for_all(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.endings) == self._started, WAIT)


FLOW = [{"n": n, "text": "x" * n} for n in range(4)]


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("way", [UP, DOWN])
@pytest.mark.timeout(120)
def test_a_connection_cut_at_any_byte_is_an_error_on_both_sides(serve, way, how):
    """
    The client never succeeds unless the whole result got through to it. The handler gets the
    whole flow, or a typed error behind what came before the cut.
    """
    handler = Reference()
    cutter = Cutter(serve(handler))
    outcomes: Queue[object] = Queue()
    runs: Queue[int | None] = Queue()

    def call() -> None:
        client = StationClient("127.0.0.1", cutter.port)
        while (run := runs.get()) is not None:
            try:
                outcomes.put(client.send(iter(FLOW), header={"run": run}, timeout=WAIT))
            except BaseException as error:
                outcomes.put(error)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        after = 0
        while True:
            runs.put(after)
            cut = cutter.run(way, after, how)
            outcome = outcomes.get(timeout=WAIT)
            if not cut:
                break
            check_client(outcome, cutter.forwarded, how)
            after += 1
    finally:
        runs.put(None)
        caller.join(WAIT)
        cutter.close()
    assert outcome == len(FLOW) + 1
    assert after > 200
    handler.wait_for_all()
    for run, (packets, ending) in handler.endings.items():
        whole = [{"run": run}, *FLOW]
        if ending is None:
            assert packets == whole
        else:
            assert isinstance(ending, BadFlowEnding)
            assert packets == whole[: len(packets)]


def check_client(outcome: object, forwarded: dict[str, bytearray], how: str) -> None:
    if FrameType.RESULT in whole_frames(forwarded[DOWN]):
        # A RST may destroy what is on its way.
        destroyed = how == "RST" and isinstance(outcome, OutcomeUnknown)
        assert outcome == len(FLOW) + 1 or destroyed
    elif FrameType.END in whole_frames(forwarded[UP]):
        assert isinstance(outcome, OutcomeUnknown)
    else:
        # connect() itself may hear of a RST at byte 0.
        assert isinstance(outcome, ConnectionLost | ConnectFailed)


def test_a_whole_flow_through_the_proxy_succeeds(serve):
    """
    The cutter itself harms nothing.
    """
    cutter = Cutter(serve(lambda flow, client: sum(1 for _ in flow)))
    result: Queue[object] = Queue()
    client = StationClient("127.0.0.1", cutter.port)
    caller = threading.Thread(target=lambda: result.put(client.send([{"n": 1}] * 5000)))
    caller.start()
    assert cutter.run(UP, 2**60, "FIN") is False
    assert result.get(timeout=WAIT) == 5000
    caller.join(WAIT)
    cutter.close()
