"""A real reactor in a thread, with servers that listen on it; and servers wholly in memory."""

import datetime as dt
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import pytest
import trustme
from twisted.internet import threads
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from pyf.station import FlowServer, StationClient, aio, tx
from pyf.station.session import Session
from pyf.station.testing import AwaitedClient, asyncio_thread
from pyf.transport import Connection, Limits, Packet, Role, StationError, census, encode_packet
from pyf.transport.codec import decode
from pyf.transport.events import Event, FlowEvent, PacketsReceived, ResultReceived
from pyf.transport.frames import ARRAY32, BATCH, Batch
from pyf.transport.pieces import Pending
from pyf.transport.states import FlowState

HOST = "127.0.0.1"
WAIT = 30.0
"""Seconds that anything may take before a test fails."""


@pytest.fixture(scope="session")
def reactor() -> Any:
    """
    Twisted's default reactor, running in a daemon thread for as long as the tests run.
    """
    from twisted.internet import reactor as default

    running: Any = default
    if not running.running:
        started = threading.Event()
        running.callWhenRunning(started.set)
        threading.Thread(
            target=running.run,
            kwargs={"installSignalHandlers": False},
            name="pyf.station-reactor",
            daemon=True,
        ).start()
        assert started.wait(WAIT)
    # The first port reserves a file descriptor for the process.
    threads.blockingCallFromThread(
        running, lambda: running.listenTCP(0, Factory(), interface="127.0.0.1").stopListening()
    )
    return running


@pytest.fixture
def in_reactor(reactor: Any) -> Callable[..., Any]:
    """
    Call a function in the reactor's thread, and wait for what it, or its Deferred, gives.
    """

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return threads.blockingCallFromThread(reactor, _bounded, reactor, function, args, kwargs)

    return call


def _bounded(reactor: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    result = function(*args, **kwargs)
    return result.addTimeout(WAIT, reactor) if isinstance(result, Deferred) else result


@pytest.fixture
def serve(reactor: Any, in_reactor: Callable[..., Any]) -> Iterator[Callable[..., int]]:
    """
    Listen with a handler, or a server, on a free port of 127.0.0.1, and return the port's number.

    Keyword arguments are FlowServer's. After the test the ports are closed, what is still open is
    broken off, and the handlers have returned: one that waits for the test has to be released.
    """
    ports: list[Any] = []

    def serve(handler: Any, **options: Any) -> int:
        made = isinstance(handler, FlowServer)
        server = handler if made else FlowServer(handler, reactor=reactor, **options)
        port = in_reactor(reactor.listenTCP, 0, server, interface="127.0.0.1")
        ports.append(port)
        return int(port.getHost().port)

    yield serve
    servers = [port.factory for port in ports]
    in_reactor(lambda: DeferredList([maybeDeferred(port.stopListening) for port in ports]))
    in_reactor(lambda: DeferredList([server.stop() for server in servers]))
    assert not any(server.handlers for server in servers), "a handler has not returned"


@pytest.fixture(params=["blocking", "asyncio", "Twisted"])
def connect(request: Any, reactor: Any, in_reactor: Callable[..., Any]) -> Iterator[Any]:
    """
    Make a client of each kind, in the guise of a blocking one; arguments are StationClient's.
    """
    if request.param == "blocking":
        yield StationClient
        return

    def on_reactor(coroutine: Any) -> Any:
        return threads.blockingCallFromThread(reactor, Deferred.fromCoroutine, coroutine)

    run: Any
    kind: Any
    made: list[AwaitedClient] = []
    with ExitStack() as stack:
        if request.param == "asyncio":
            run, kind = stack.enter_context(asyncio_thread()), aio.StationClient
        else:
            run, kind = on_reactor, partial(tx.StationClient, reactor=reactor)

        def connect(*args: Any, **options: Any) -> AwaitedClient:
            made.append(AwaitedClient(kind(*args, **options), run))
            return made[-1]

        yield connect
        for client in made:
            client.close()


class Files(NamedTuple):
    ca: str
    server: tuple[str, str]
    client: tuple[str, str]
    expired: tuple[str, str]
    other_host: tuple[str, str]
    other_ca: str


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """
    An authority, what it has issued, and another authority.
    """
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()

    def issue(name: str, *hosts: str, **options: Any) -> tuple[str, str]:
        issued = ca.issue_cert(*hosts, **options)
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        paths[0].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        paths[1].write_bytes(issued.private_key_pem.bytes())
        return str(paths[0]), str(paths[1])

    def authority(name: str, each: trustme.CA) -> str:
        each.cert_pem.write_to_path(folder / name)
        return str(folder / name)

    return Files(
        authority("ca.pem", ca),
        issue("server", HOST),
        issue("client", "someone@example.org", common_name="someone"),
        issue("expired", HOST, not_after=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
        issue("other", "other.example"),
        authority("other-ca.pem", trustme.CA()),
    )


@pytest.fixture
def listen(reactor: Any, in_reactor: Callable[..., Any]) -> Iterator[Callable[..., int]]:
    """
    Have a server listen on a free port, by ``FlowServer.listen``; arguments are its own.
    """
    started: list[tuple[Any, FlowServer]] = []

    def listen(handler: Any, where: Any = 0, limits: Limits | None = None, **options: Any) -> int:
        made = isinstance(handler, FlowServer)
        server = handler if made else FlowServer(handler, limits=limits)
        if where == 0:
            options.setdefault("interface", HOST)
        port = in_reactor(server.listen, reactor, where, **options)
        started.append((port, server))
        return int(port.getHost().port)

    yield listen
    in_reactor(lambda: DeferredList([maybeDeferred(port.stopListening) for port, _ in started]))
    in_reactor(lambda: DeferredList([server.stop() for _, server in started]))


class HandReactor(MemoryReactorClock):
    """
    A reactor that the test drives: it has no thread, and no time passes unless told.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls = SimpleQueue[Callable[[], object]]()

    def callFromThread(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # noqa: N802 - Twisted's name
        self._calls.put(lambda: function(*args, **kwargs))

    def turn(self) -> bool:
        """
        Run what threads have asked for; return whether there was any.
        """
        some = False
        while not self._calls.empty():
            self._calls.get()()
            some = True
        return some

    def run_until(self, condition: Callable[[], object]) -> None:
        """
        Run what threads ask for, waiting for it, until *condition* holds.
        """
        deadline = time.monotonic() + WAIT
        while not condition():
            self._calls.get(timeout=max(0.0, deadline - time.monotonic()))()


class Transport(StringTransport):
    """
    A transport that knows half a close, and that nobody may write to afterwards.

    It has a handle, which keeps the options that are set.
    """

    half_closed = False
    aborted = False

    def __init__(self) -> None:
        super().__init__()
        self.options: list[tuple[int, int, int]] = []

    def getHandle(self) -> Any:  # noqa: N802 - Twisted's name
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options.append((level, option, value))

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802 - Twisted's name
        assert enabled

    def write(self, data: bytes) -> None:
        assert not self.half_closed, "written after the close"
        super().write(data)

    def loseWriteConnection(self) -> None:  # noqa: N802 - Twisted's name
        assert not self.half_closed, "closed twice"
        self.half_closed = True

    def abortConnection(self) -> None:  # noqa: N802 - Twisted's name
        self.aborted = True


class Peer:
    """
    A client's machine, driven by hand, joined in memory to a server's protocol.

    It grants credit for messages as they come, unless *reads* is false.
    """

    def __init__(
        self, server: FlowServer, limits: Limits | None = None, *, reads: bool = True
    ) -> None:
        self.server = server
        self.reactor = server.reactor
        self.reads = reads
        self.machine = Connection(Role.CLIENT, limits)
        self.transport = Transport()
        self.events: list[Event] = []
        self.unread: list[PacketsReceived] = []
        self.protocol = server.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        self.connected = True

    def pump(self) -> None:
        """
        Carry bytes both ways, and run what threads asked for, until all is quiet.
        """
        while self.reactor.turn() | self._to_server() | self._to_client():
            pass

    def _to_server(self) -> bool:
        data = b"".join(self.machine.data_to_send())
        if data and self.connected:
            self.protocol.dataReceived(data)
        return bool(data)

    def _to_client(self) -> bool:
        data = self.transport.value()
        self.transport.clear()
        self.machine.receive_data(data)
        while event := self.machine.next_event():
            self.events.append(event)
            if isinstance(event, PacketsReceived):
                self.unread.append(event)
        if self.reads:
            self.read()
        return bool(data)

    def read(self) -> None:
        """
        Grant credit for the messages that came.
        """
        for event in self.unread:
            self.machine.consume(event.flow_id, event.batch.packets, event.batch.size)
        self.unread.clear()

    def open(self, header: dict[str, Any] | None = None, **options: Any) -> int:
        flow = self.machine.open_flow(header, **options)
        self.pump()
        return flow

    def send(self, flow: int, *packets: dict[str, Any]) -> None:
        pending = deque(map(encode_packet, packets))
        self.machine.send_packets(flow, pending)
        assert not pending, "there is no credit"
        self.pump()

    def end(self, flow: int) -> None:
        self.machine.end(flow)
        self.pump()

    def call(self, *packets: dict[str, Any], **options: Any) -> ResultReceived:
        """
        Send a whole flow, and wait for its result.
        """
        flow = self.open(**options)
        self.send(flow, *packets)
        self.end(flow)
        return self.result(flow)

    def of(self, kind: type[Event], flow: int = 0) -> list[Any]:
        """
        The events of a *kind* that have come, of one flow if one is given.
        """
        self.pump()
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and (not flow or (isinstance(event, FlowEvent) and event.flow_id == flow))
        ]

    def result(self, flow: int) -> ResultReceived:
        """
        Wait for a flow's result.
        """
        self.reactor.run_until(lambda: self.of(ResultReceived, flow))
        (result,) = self.of(ResultReceived, flow)
        return result

    def over(self, flow: int) -> bool:
        """
        Whether both sides have said their last word on a flow.
        """
        self.pump()
        return self.machine.flow_state(flow) is FlowState.CLOSED

    def messages(self, flow: int) -> list[Packet]:
        return [
            packet for event in self.of(PacketsReceived, flow) for packet in event.batch.decode()
        ]

    def lose(self) -> None:
        """
        Have the connection end, by a close that looks clean.
        """
        if self.connected:
            self.connected = False
            reason = Failure(ConnectionDone())
            self.protocol.connectionLost(reason)
            self.reactor.turn()

    def returned(self) -> None:
        """
        Wait until all handlers of the server have returned.
        """
        self.reactor.run_until(lambda: self.server.handlers == 0)


@pytest.fixture
def hand_reactor() -> HandReactor:
    return HandReactor()


@pytest.fixture
def peer(hand_reactor: HandReactor) -> Iterator[Callable[..., Peer]]:
    """
    Make a server in memory and a client of it; given a server, another client of the same.

    After the test the connections end, and no handler, flow or timer may be left.
    """
    peers: list[Peer] = []

    def make(
        handler: Any, client: Limits | None = None, *, reads: bool = True, **options: Any
    ) -> Peer:
        if not isinstance(handler, FlowServer):
            handler = FlowServer(handler, reactor=hand_reactor, **options)
        peers.append(Peer(handler, client, reads=reads))
        return peers[-1]

    yield make
    for each in peers:
        each.lose()
    for each in peers:
        each.returned()
        assert not each.protocol._sessions
    assert not hand_reactor.getDelayedCalls()


class FakeCarrier:
    """
    What a session knows of a connection, written down.
    """

    def __init__(self, take_apart: Callable[..., list[Any]]) -> None:
        self.take_apart = take_apart
        self.limits = Limits()
        self.peer: Any = "the peer"
        self.expose_errors = False
        self.max_packet = self.limits.max_packet
        self.bounds = census.bounds(self.limits, "max_packet")
        self.credit = 1_000_000
        self.messages: list[bytes] = []
        self.results: list[tuple[int, int, dict[str, Any]]] = []
        self.consumed: list[tuple[int, int, int]] = []
        self.stopped: list[int] = []
        self.broken: list[Exception] = []
        self.admitted: list[int] = []
        self._calls = HandReactor()
        self.turn = self._calls.turn
        self.run_until = self._calls.run_until
        self.advance = self._calls.advance
        self.clock = self._calls.seconds
        self.delayed = self._calls.getDelayedCalls

    def call_soon(self, function: Callable[[], None]) -> None:
        self._calls.callFromThread(function)

    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        return self._calls.callLater(seconds, function)

    def call_in_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return maybeDeferred(function, *args)

    def send_messages(self, flow_id: int, pending: Pending) -> int:
        sent = self.take_apart(pending, self.credit)
        self.messages += sent
        self.credit -= len(sent)
        return len(sent)

    def send_result(self, flow_id: int, consumed: int, outcome: bytes) -> None:
        self.results.append((flow_id, consumed, decode(outcome)))

    def consume(self, flow_id: int, packets: int, size: int) -> None:
        self.consumed.append((flow_id, packets, size))

    def recognise(self, flow_id: int) -> None:
        self.admitted.append(flow_id)

    def send_stop(self, flow_id: int) -> None:
        self.stopped.append(flow_id)

    def break_off(self, error: Exception) -> None:
        self.broken.append(error)


@pytest.fixture
def carrier(take_apart: Callable[..., list[Any]]) -> FakeCarrier:
    return FakeCarrier(take_apart)


@pytest.fixture
def session(carrier: FakeCarrier) -> Callable[..., Session]:
    """
    Make a session carried by *carrier*.
    """

    def make(inbox: Any, *, header: Packet | None = None, waits: bool = True) -> Session:
        return Session(carrier, 7, header, inbox, waits=waits)

    return make


class Recorder:
    """
    A handler in a thread that reads to the end, and keeps what the flow gave and raised.
    """

    def __init__(self) -> None:
        self.packets: list[int] = []
        self.error: Any = None
        self.started = threading.Event()

    def __call__(self, flow, client):
        self.started.set()
        try:
            for packet in flow:
                self.packets.append(packet.n)
        except StationError as error:
            self.error = error
            raise
        return self.packets


class AsyncRecorder(Recorder):
    """
    The same as a coroutine.
    """

    async def __call__(self, flow, client):  # pyright: ignore[reportIncompatibleMethodOverride]
        self.started.set()
        try:
            async for packet in flow:
                self.packets.append(packet.n)
        except StationError as error:
            self.error = error
            raise
        return self.packets


@pytest.fixture(scope="session")
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture(scope="session")
def async_recorder() -> type[AsyncRecorder]:
    return AsyncRecorder


@pytest.fixture(scope="session", params=[Recorder, AsyncRecorder])
def any_recorder(request: pytest.FixtureRequest) -> type[Recorder]:
    """
    The one, and then the other.
    """
    kind: type[Recorder] = request.param
    return kind


@pytest.fixture(scope="session")
def batch() -> Callable[..., Batch]:
    """
    Make a batch as it comes from the wire.
    """

    def make(*packets: dict[str, Any], payload: bytes | None = None) -> Batch:
        data = b"".join(map(encode_packet, packets)) if payload is None else payload
        count = len(packets) or 1
        return Batch(0, count, BATCH.pack(0, ARRAY32, count) + data)

    return make


@pytest.fixture
def thread() -> Iterator[Callable[..., Callable[[], Any]]]:
    """
    Run a function in a thread; calling what is returned waits for its result, or raises its error.
    """
    started: list[threading.Thread] = []

    def start(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        outcome: list[Any] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(function(*args))
            except BaseException as error:
                errors.append(error)

        def wait() -> Any:
            each.join(WAIT)
            assert not each.is_alive(), "it goes on"
            if errors:
                raise errors[0]
            return outcome[0]

        each = threading.Thread(target=run, daemon=True)
        started.append(each)
        each.start()
        return wait

    yield start
    for each in started:
        each.join(WAIT)


@pytest.fixture
def switching():
    """
    Threads take turns as often as they can.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
