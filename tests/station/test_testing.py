"""What users test with: the proxy, the pair of machines, the promises and who breaks them."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from pyf.station import Packet, StationClient, StationError
from pyf.station.testing import (
    KINDS,
    PROMISES,
    Bench,
    ChaosProxy,
    HandlerFailed,
    MachinePair,
    bench,
    check_flow_promises,
    check_promise,
    promises,
)
from pyf.transport import FlowRefused, Limits, RemoteProtocolError, Role
from pyf.transport.events import (
    ConnectionClosed,
    FlowEnded,
    FlowOpened,
    GoAwayReceived,
    HelloReceived,
    PacketsReceived,
    ResultReceived,
)
from pyf.transport.frames import FrameParser, FrameType, encode_batch, encode_frame
from pyf.transport.limits import MAX_FRAME

pytest_plugins = ["pyf.station.testing.fixtures"]

WAIT = 30.0


class Echo:
    """
    A server that gives back what it gets, and says what it saw of each connection.
    """

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.received: list[bytearray] = []
        self.endings: list[str] = []
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        data = bytearray()
        self.received.append(data)
        ending = "fin"
        with sock:
            try:
                while piece := sock.recv(65536):
                    with self._changed:
                        data += piece
                        self._changed.notify_all()
                    sock.sendall(piece)
            except OSError:
                ending = "rst"
        with self._changed:
            self.endings.append(ending)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT)

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self._threads:
            thread.join(WAIT)


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo, chaos) -> ChaosProxy:
    return chaos(echo.port)


@pytest.fixture
def dial(proxy) -> Iterator[Callable[[], socket.socket]]:
    """
    Connect to the proxy.
    """
    socks = []

    def dial() -> socket.socket:
        # Without a timeout, since a connect that polls can meet the reset of what it has made.
        socks.append(socket.create_connection(("127.0.0.1", proxy.port)))
        socks[-1].settimeout(WAIT)
        return socks[-1]

    yield dial
    for sock in socks:
        sock.close()


def read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := sock.recv(count - len(data))):
        data += piece
    return data


def ending(sock: socket.socket) -> tuple[bytes, str]:
    """
    What still comes, and how it ends; then this side closes too.
    """
    data, end = b"", "fin"
    with sock:
        try:
            while piece := sock.recv(65536):
                data += piece
        except ConnectionResetError:
            end = "rst"
    return data, end


# The proxy


def test_bytes_go_both_ways_and_are_counted(proxy, dial):
    """
    A proxy that was told nothing forwards everything, and counts it.
    """
    data = bytes(range(256)) * 4096
    sock = dial()
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    assert read(sock, len(data)) == data
    sender.join()
    proxy.to_client.wait_for_bytes(len(data))
    assert (proxy.to_server.forwarded, proxy.to_client.forwarded) == (len(data), len(data))
    assert (proxy.connections, proxy.cuts) == (1, 0)


def test_half_a_close_goes_through(proxy, dial, echo):
    """
    A side that closes its half is still answered, and both closes end the connection.
    """
    sock = dial()
    sock.sendall(b"last words")
    sock.shutdown(socket.SHUT_WR)
    assert ending(sock) == (b"last words", "fin")
    proxy.wait_until_idle()
    echo.wait_for(lambda: echo.endings == ["fin"])
    assert proxy.cuts == 0


def test_a_reset_goes_through(proxy, dial, echo):
    """
    A side that resets the connection has it reset for the other one, which is no cut.
    """
    sock = dial()
    sock.sendall(b"x")
    assert read(sock, 1) == b"x"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    echo.wait_for(lambda: echo.endings == ["rst"])
    proxy.wait_until_idle()
    assert proxy.cuts == 0


def test_a_server_that_is_not_there_resets_the_client(chaos, logged_errors):
    """
    Where nobody listens behind the proxy, its clients see a reset.
    """
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    proxy = chaos(port)
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT) as sock:
            assert ending(sock) == (b"", "rst")
    except ConnectionResetError:
        pass  # It came before connecting was over.
    proxy.wait_until_idle()


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("count", [0, 1, 5, 9])
@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_a_cut_comes_after_exactly_so_many_bytes(proxy, dial, echo, way, count, how):
    """
    Either direction can be cut at any byte, both sides see it, and the next connection too.
    """
    direction = getattr(proxy, way)
    direction.cut_after_bytes, direction.how = count, how
    for number in (1, 2):
        sock = dial()
        told = ""
        try:
            sock.sendall(b"123456789")
        except ConnectionError:
            told = "rst"
        proxy.wait_for_cut(number)
        data, end = ending(sock)
        assert (told or end) == how
        assert b"123456789".startswith(data)
        if (way, how) == ("to_client", "fin"):
            assert data == b"123456789"[:count]
    echo.wait_for(lambda: echo.endings == [how] * 2)
    if way == "to_server":
        assert direction.forwarded == 2 * count
        if how == "fin":
            assert echo.received == [b"123456789"[:count]] * 2
    proxy.wait_until_idle()


def test_a_cut_now_cuts_every_connection(proxy, dial, echo):
    """
    cut() ends all connections at once, in the way that is asked for; new ones live.
    """
    first, second = dial(), dial()
    for sock in (first, second):
        sock.sendall(b"x")
        assert read(sock, 1) == b"x"
    proxy.cut("rst")
    assert ending(first) == ending(second) == (b"", "rst")
    proxy.wait_for_cut(2)
    proxy.wait_until_idle()
    third = dial()
    third.sendall(b"y")
    assert read(third, 1) == b"y"
    proxy.cut()
    assert ending(third) == (b"", "fin")
    proxy.wait_for_cut(3)
    echo.wait_for(lambda: sorted(echo.endings) == ["fin", "rst", "rst"])


def silent(sock: socket.socket) -> bool:
    """
    Whether nothing comes, not even a close.
    """
    sock.settimeout(0.05)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(WAIT)
    return False


def test_a_cut_that_has_begun_takes_place_though_it_is_lifted(proxy, dial, echo, monkeypatch):
    """
    What a limit has left out is never missing from a connection that goes on.
    """
    limits = iter([None, 2])  # before something came, and for what came; none from then on
    monkeypatch.setattr(proxy.to_server, "limit", lambda meter: next(limits, None))
    sock = dial()
    sock.sendall(b"12345")
    proxy.wait_for_cut()
    assert ending(sock)[1] == "fin"
    echo.wait_for(lambda: echo.endings == ["fin"])
    assert echo.received == [b"12"]


def test_a_silent_cut_tells_neither_side(proxy, dial, echo):
    """
    After a silent cut each side can send and close, and the other never hears of it.
    """
    proxy.to_server.cut_after_bytes, proxy.to_server.how = 2, "silence"
    sock = dial()
    sock.sendall(b"1234")
    proxy.wait_for_cut()
    echo.wait_for(lambda: echo.received == [b"12"])
    sock.sendall(b"567")
    sock.shutdown(socket.SHUT_WR)
    assert silent(sock)
    assert echo.received == [b"12"]
    assert echo.endings == []
    proxy.close()
    echo.wait_for(lambda: echo.endings)


def test_a_black_hole_swallows_one_direction(proxy, dial, echo):
    """
    What goes into a black hole never arrives, nor does the close; the other direction lives.
    """
    sock = dial()
    sock.sendall(b"1")
    assert read(sock, 1) == b"1"
    proxy.to_server.black_hole = True
    sock.sendall(b"2")
    sock.shutdown(socket.SHUT_WR)
    assert silent(sock)
    assert echo.received == [b"1"]
    assert echo.endings == []
    assert proxy.to_server.forwarded == 1


def test_a_stall_holds_bytes_back_and_loses_none(proxy, dial, echo):
    """
    Nothing moves in a stalled direction; after resume() all of it arrives.
    """
    sock = dial()
    sock.sendall(b"1")
    assert read(sock, 1) == b"1"
    proxy.to_client.stall()
    sock.sendall(b"23")
    echo.wait_for(lambda: echo.received == [b"123"])
    assert silent(sock)
    with pytest.raises(TimeoutError, match="no 3 forwarded bytes"):
        proxy.to_client.wait_for_bytes(3, 0.01)
    proxy.to_client.resume()
    assert read(sock, 2) == b"23"


def test_directions_can_be_told_before_the_proxy_runs(echo):
    """
    A proxy that was told to stall before it was entered stalls from the start.
    """
    proxy = ChaosProxy(echo.port)
    proxy.to_server.stall()
    proxy.cut()
    with proxy, socket.create_connection(("127.0.0.1", proxy.port)) as sock:
        sock.sendall(b"1")
        proxy.wait_for_connections()
        assert proxy.to_server.forwarded == 0
        proxy.to_server.resume()
        proxy.to_server.wait_for_bytes(1)


def test_slices_and_delays_make_a_trickle(proxy, dial):
    """
    With a slice and a delay the bytes come one by one, and not before their time.
    """
    proxy.to_client.slice, proxy.to_client.delay = 1, 0.01
    sock = dial()
    began = time.monotonic()
    sock.sendall(b"12345")
    assert sock.recv(100) == b"1"
    assert read(sock, 4) == b"2345"
    assert time.monotonic() - began >= 0.05


def test_a_rate_bounds_the_bytes_a_second(proxy, dial):
    """
    A limited direction takes at least the time that its bytes cost.
    """
    proxy.to_server.rate = 10_000
    sock = dial()
    began = time.monotonic()
    sock.sendall(bytes(1000))
    assert len(read(sock, 1000)) == 1000
    assert time.monotonic() - began >= 0.1


def test_what_was_forwarded_can_be_recorded(proxy, dial):
    """
    A direction that records has the bytes that it forwarded.
    """
    proxy.to_client.record = True
    proxy.to_client.cut_after_bytes = 3
    sock = dial()
    sock.sendall(b"12345")
    assert ending(sock)[0] == b"123"
    assert proxy.to_client.recorded == b"123"
    assert proxy.to_server.recorded == b""


def frames_of(*counts: int) -> list[bytes]:
    """
    A PING, and a frame of so many packets for each of *counts*.
    """
    ping = b"".join(encode_frame(FrameType.PING, 0, bytes(8)))
    first = 0
    found = [ping]
    for count in counts:
        found.append(b"".join(encode_batch(FrameType.DATA, 1, first, count, b"\x80" * count)))
        first += count
    return found


@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize(
    ("packets", "frames", "total"), [(0, 0, 0), (1, 2, 2), (2, 2, 2), (3, 3, 5), (6, 4, 6)]
)
def test_a_cut_comes_behind_the_frame_of_a_packet(proxy, dial, echo, packets, frames, total, size):
    """
    A cut after n packets comes at the end of the frame that brings the n-th, however it is cut up.
    """
    sent = frames_of(2, 3, 1, 1)
    proxy.to_server.slice = size
    proxy.to_server.cut_after_packets = packets
    sock = dial()
    with suppress(ConnectionError):
        sock.sendall(b"".join(sent))
    proxy.wait_for_cut()
    echo.wait_for(lambda: echo.endings)
    assert echo.received == [b"".join(sent[:frames])]
    assert proxy.to_server.packets == total


def test_packets_are_counted_as_they_are_forwarded(proxy, dial):
    """
    The packets of a direction are those of its whole frames; what comes later counts then.
    """
    sent = frames_of(2, 3)
    sock = dial()
    sock.sendall(sent[0] + sent[1][:-1])
    proxy.to_server.wait_for_bytes(len(sent[0] + sent[1]) - 1)
    assert proxy.to_server.packets == 0
    sock.sendall(sent[1][-1:] + sent[2])
    proxy.to_server.wait_for_packets(5)
    proxy.to_server.cut_after_packets = 4
    sock.sendall(b"x")
    proxy.wait_for_cut()


def test_another_protocol_has_no_packets(proxy, dial):
    """
    Bytes that are no frames are forwarded all the same.
    """
    proxy.to_server.cut_after_packets = 1
    sock = dial()
    for text in (b"GET / HTTP/1.1\r\n", b"Host: x\r\n\r\n"):
        sock.sendall(text)
        assert read(sock, len(text)) == text
    assert proxy.to_server.packets == 0


def test_a_proxy_that_closes_closes_everything(proxy, dial, echo):
    """
    Closing a proxy, also twice, ends its connections, idle ones and stalled ones, and its port.
    """
    proxy.to_server.stall()
    socks = [dial() for _ in range(3)]
    proxy.wait_for_connections(3)
    proxy.close()
    proxy.close()
    for sock in socks:
        assert ending(sock)[0] == b""
    with pytest.raises(ConnectionRefusedError):
        dial()
    echo.wait_for(lambda: len(echo.endings) == len(echo.received))


def test_a_proxy_outlives_a_shortage_of_descriptors(proxy, dial, monkeypatch):
    """
    Where a connection cannot be accepted, the next attempt comes soon.
    """
    real = socket.socket.accept
    failures = [OSError(24, "Too many open files")]

    def accept(self):
        if failures:
            raise failures.pop()
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    sock = dial()
    sock.sendall(b"x")
    assert read(sock, 1) == b"x"


# Two machines in memory


def test_a_pair_carries_a_flow_and_its_answer():
    """
    What one machine is told, the other one tells.
    """
    pair = MachinePair()
    flow = pair.client.open_flow({"action": "check"})
    assert not pair.send(Role.CLIENT, flow, {"n": 1}, {"n": 2})
    pair.client.end(flow)
    pair.pump()
    opened, packets, ended = pair.server_events
    assert isinstance(opened, FlowOpened)
    assert isinstance(packets, PacketsReceived)
    assert isinstance(ended, FlowEnded)
    assert list(packets.batch.decode()) == [{"n": 1}, {"n": 2}]
    assert not pair.send(Role.SERVER, flow, {"m": 1})
    pair.server.finish(flow, 2, "success", value="done")
    pair.pump()
    message, result = pair.client_events
    assert isinstance(message, PacketsReceived)
    assert isinstance(result, ResultReceived)
    assert result.value == "done"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_pair_delivers_in_slices(size):
    """
    Slices of any size give the same events.
    """
    pair = MachinePair(greet=False)
    pair.to_server.slice = pair.to_client.slice = size
    flow = pair.client.open_flow()
    pair.send(Role.CLIENT, flow, {"n": 1})
    pair.client.end(flow)
    pair.pump()
    kinds = [type(event) for event in pair.server_events]
    assert kinds == [HelloReceived, FlowOpened, PacketsReceived, FlowEnded]
    assert [type(event) for event in pair.client_events] == [HelloReceived]


def test_a_pair_cut_at_every_byte_never_ends_a_flow_early():
    """
    Wherever the wire is cut, both machines hear that it was, and END comes only where it is whole.
    """

    def talk(count):
        pair = MachinePair(greet=False)
        pair.to_server.cut_after_bytes = count
        flow = pair.client.open_flow()
        pair.send(Role.CLIENT, flow, {"n": 1})
        pair.client.end(flow)
        pair.pump()
        return pair

    whole = talk(None).to_server.delivered
    for count in range(whole + 1):
        pair = talk(count)
        assert pair.to_server.delivered == count
        assert isinstance(pair.client_events[-1], ConnectionClosed)
        assert isinstance(pair.server_events[-1], ConnectionClosed)
        ended = any(isinstance(event, FlowEnded) for event in pair.server_events)
        assert ended is (count == whole)
        with pytest.raises(FlowRefused):
            pair.client.open_flow()
        pair.pump()


def test_a_pair_holds_and_drops_a_direction():
    """
    What is held comes later; what is dropped never comes, and nobody is told.
    """
    pair = MachinePair()
    pair.to_server.held = True
    flow = pair.client.open_flow()
    pair.pump()
    assert pair.server_events == []
    assert pair.to_server.waiting
    pair.to_server.held = False
    pair.pump()
    assert [type(event) for event in pair.server_events] == [FlowOpened]
    pair.to_client.dropped = True
    pair.server.finish(flow, 0, "success")
    pair.pump()
    assert pair.client_events == []


def test_a_pair_raises_what_a_machine_raises():
    """
    Bytes that were changed on the wire are a breach, of which the other side is told.
    """
    pair = MachinePair()
    pair.to_server.waiting += b"\0\0\0\0\x7f\0\0\0\0"
    with pytest.raises(RemoteProtocolError):
        pair.pump()
    pair.pump()
    assert isinstance(pair.client_events[-1], GoAwayReceived)


# The promises


@pytest.fixture
def connect(serve) -> Any:
    @contextmanager
    def connect(handler, through):
        yield StationClient("127.0.0.1", through(serve(handler)), True)

    return connect


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_the_blocking_client_keeps_every_promise(connect, promise, kind, logged_errors):
    """
    StationClient and FlowServer keep each promise, with each kind of handler.
    """
    check_promise(promise, Bench(connect, kind))
    if promise is promises.a_failing_handler_fails_the_call:
        logged_errors.claim(HandlerFailed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocking_client_notices_a_silent_network(serve, kind):
    """
    With limits as short as a test has patience for.
    """
    short = Limits(ping_interval=0.1, min_ping_interval=0.01)

    @contextmanager
    def connect(handler, through):
        port = serve(handler, limits=short)
        yield StationClient("127.0.0.1", through(port), True, limits=short)

    check_promise(promises.a_silent_network_is_no_success, Bench(connect, kind, short))


def test_all_promises_are_checked_with_all_kinds(monkeypatch):
    """
    check_flow_promises tries each promise with each kind of handler that it was given.
    """
    tried = []
    monkeypatch.setattr(promises, "PROMISES", [lambda each: tried.append((1, each.kind))] * 2)
    check_flow_promises(lambda *_: pytest.fail("is not called"), ["class", "coroutine"])
    assert tried == [(1, "class"), (1, "coroutine")] * 2


class Wrapped:
    """
    A call under way that a broken client stands in front of.
    """

    def __init__(self, call: Any, *, closes: bool = True) -> None:
        self.inner = call
        self.closes = closes

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self.inner)

    def close(self) -> None:
        if self.closes:
            self.inner.close()


class Eager(Wrapped):
    """
    A call that is read ahead of whoever iterates it.
    """

    def __init__(self, call: Any) -> None:
        super().__init__(call)
        self._values = SimpleQueue()
        self._stop = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for value in self.inner:
            self._values.put(value)
            if self._stop:
                break
        self.inner.close()

    def __next__(self) -> Any:
        return self._values.get(timeout=WAIT)

    def close(self) -> None:
        self._stop = True
        self._thread.join(WAIT)


class Broken:
    """
    A client that ships flows by a StationClient, and does one thing wrong.
    """

    def __init__(self, client: StationClient, fault: str) -> None:
        self._call = client.call
        self._fault = getattr(self, fault)
        self.kept: list[Any] = []
        self.released = threading.Event()

    def call(self, flow: Any, header: Any = None) -> Any:
        return self._fault(flow, header)

    def loses_a_packet(self, flow, header):
        return self._call((packet for packet in flow if packet.get("n") != 7), header)

    def sends_a_packet_twice(self, flow, header):
        return self._call((each for each in flow for _ in range(1 + (each.get("n") == 7))), header)

    def forgets_the_header(self, flow, header):
        return self._call(flow)

    def never_says_true(self, flow, header):
        return (value for value in self._call(flow, header) if value is not True)

    def turns_messages_round(self, flow, header):
        *values, success = self._call(flow, header)
        return iter([*reversed(values), success])

    def keeps_the_success(self, flow, header):
        return iter(list(self._call(flow, header))[:-1])

    def never_closes_the_generator(self, flow, header):
        self.kept.append(flow)
        return self._call(Wrapped(flow), header)

    def wraps_what_the_generator_raises(self, flow, header):
        try:
            yield from self._call(flow, header)
        except Exception as error:
            raise RuntimeError("wrapped") from error

    def makes_a_success_of_a_failure(self, flow, header):
        with suppress(StationError):
            yield from self._call(flow, header)
        yield Packet(type="success", message=None)

    def never_gives_up(self, flow, header):
        self.kept.append(self._call(flow, header))
        return Wrapped(self.kept[-1], closes=False)

    def takes_the_whole_flow_first(self, flow, header):
        return self._call(list(flow), header)

    def reads_what_nobody_asked_for(self, flow, header):
        self.kept.append(Eager(self._call(flow, header)))
        return self.kept[-1]

    def rounds(self, flow, header):
        for value in self._call(flow, header):
            yield value if value is True else value | {"decimals": [1.1, 0.0]}

    def hangs(self, flow, header):
        self.released.wait(WAIT)
        return iter([True])


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("loses_a_packet", promises.every_packet_arrives_once_and_in_order),
        ("sends_a_packet_twice", promises.every_packet_arrives_once_and_in_order),
        ("forgets_the_header", promises.the_header_comes_first),
        ("never_says_true", promises.each_packet_gives_true),
        ("turns_messages_round", promises.messages_come_back_in_order),
        ("keeps_the_success", promises.the_success_comes_last),
        ("never_closes_the_generator", promises.an_early_answer_closes_the_generator),
        ("wraps_what_the_generator_raises", promises.a_failing_generator_fails_both_sides),
        ("makes_a_success_of_a_failure", promises.a_failing_handler_fails_the_call),
        ("never_gives_up", promises.giving_up_ends_both_sides),
        ("takes_the_whole_flow_first", promises.a_slow_handler_stops_the_generator),
        ("reads_what_nobody_asked_for", promises.a_slow_client_stops_the_handler),
        ("rounds", promises.values_keep_their_type),
        ("makes_a_success_of_a_failure", promises.a_cut_flow_is_no_success),
        ("makes_a_success_of_a_failure", promises.a_cut_answer_is_no_success),
        ("hangs", promises.the_success_comes_last),
    ],
)
def test_a_promise_that_is_broken_is_named(connect, promise, fault, monkeypatch, logged_errors):
    """
    A client with a fault fails the promise that is about it, by an AssertionError that names it.
    """
    for module in (bench, promises):
        monkeypatch.setattr(module, "WAIT", 0.5)
    broken = []

    @contextmanager
    def connect_broken(handler, through):
        with connect(handler, through) as client:
            broken.append(Broken(client, fault))
            yield broken[-1]

    with pytest.raises(AssertionError, match=promise.__name__):
        check_promise(promise, Bench(connect_broken))
    for client in broken:
        client.released.set()
        for each in client.kept:
            each.close()
    if promise is promises.a_failing_handler_fails_the_call:
        logged_errors.claim(HandlerFailed)


# The reference flow, cut everywhere


class Reference:
    """
    A header and 30 packets through a proxy, messages back, a success; and what the handler saw.
    """

    def __init__(self, chaos: Any, serve: Any) -> None:
        self.endings: SimpleQueue[tuple[list[int], object]] = SimpleQueue()
        self.proxy: ChaosProxy = chaos(serve(self.handle))
        self.proxy.to_client.record = True
        self.client = StationClient("127.0.0.1", self.proxy.port, True)

    def handle(self, flow: Any, client: Any) -> str:
        got = []
        ending: object = "not told"
        try:
            for packet in flow:
                got.append(packet["n"])
                if not packet["n"] % 10:
                    client.message(Packet(seen=packet["n"]))
            ending = None
        except StationError as error:
            ending = error
            raise
        finally:
            self.endings.put((got, ending))
        return "done"

    def call(self) -> object:
        """
        Return None for a success, the error for a failure.
        """
        self.proxy.to_client.recorded.clear()
        try:
            values = list(self.client.call(Packet(n=n) for n in range(31)))
        except StationError as error:
            return error
        assert values.count(True) == 31
        back = [value for value in values if value is not True]
        assert back == [*({"seen": n} for n in (0, 10, 20, 30)), back[-1]]
        assert back[-1] == {"type": "success", "message": "done"}
        return None

    def converse(self) -> object:
        """
        As ``call``, but packet by packet, each in a frame of its own.
        """
        self.proxy.to_client.recorded.clear()
        try:
            with self.client.open() as flow:
                for n in range(31):
                    flow.send(Packet(n=n))
                assert flow.end() == "done"
                assert list(flow) == [{"seen": n} for n in (0, 10, 20, 30)]
        except StationError as error:
            return error
        return None

    def answered(self) -> bool:
        """
        Whether the whole result has been forwarded.
        """
        parser = FrameParser(MAX_FRAME, MAX_FRAME)
        parser.allowed = ()
        parser.receive_data(bytes(self.proxy.to_client.recorded))
        frames = list(iter(parser.next_frame, None))
        return any(frame.type is FrameType.RESULT for frame in frames)

    def opened(self) -> bool:
        """
        Whether a handler was started, and if so, that its flow ended as it may.
        """
        try:
            got, ending = self.endings.get_nowait()
        except Empty:
            return False
        assert got == list(range(len(got)))
        assert isinstance(ending, StationError) or (ending is None and len(got) == 31)
        return True


@pytest.fixture
def reference(chaos, serve) -> Reference:
    return Reference(chaos, serve)


def sweep(reference: Reference, way: str, how: Any, once: Callable[[], object]) -> None:
    """
    Cut at every byte: a success comes only with the result, a handler gets all or an error.
    """
    proxy = reference.proxy
    direction = getattr(proxy, way)
    assert once() is None
    proxy.wait_until_idle()
    total = direction.forwarded
    direction.how = how
    successes = 0
    # How many bytes an answer takes depends on what is told by the way; the last call is not cut.
    for count in (*range(total + 20), None):
        direction.cut_after_bytes = count
        outcome = once()
        proxy.wait_until_idle()
        if outcome is None:
            successes += 1
            assert reference.answered(), f"a success at byte {count} without a result"
        if (way, how) == ("to_client", "fin"):
            assert (outcome is None) is reference.answered()
    assert successes
    ended = 0
    while reference.opened():
        ended += 1
    assert ended > successes


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_a_flow_cut_at_any_byte_never_seems_whole(reference, way, how):
    """
    Cut at every byte, either way, by a close or a reset: a call succeeds only with the result
    there, the handler gets everything or a typed error, and nothing hangs.
    """
    sweep(reference, way, how, reference.call)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_a_conversation_cut_at_any_byte_never_seems_whole(reference, way, how):
    """
    The same holds where each packet leaves alone: the cut comes while the client sends.
    """
    sweep(reference, way, how, reference.converse)
