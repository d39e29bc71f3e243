"""The blocking client's socket: connecting, exact writes, reads that never wait."""

import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from queue import SimpleQueue

import pytest

from pyf.station import wire
from pyf.station.wire import Wire, connect
from pyf.transport import ConnectFailed, DeadlineExceeded, Limits

LIMITS = Limits()
WAIT = 30.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT)
        yield listener


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """
    A port that is taken, where nobody listens: a connection is refused.
    """
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def full_port() -> Iterator[int]:
    """
    A port whose backlog is full: the system lets a connection wait, and nobody accepts it.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(6)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(address)
        yield address[1]
        for sock in waiting:
            sock.close()


@pytest.fixture
def ends(listener) -> Iterator[tuple[Wire, socket.socket]]:
    """
    A wire, and the socket at its other end.
    """
    end = Wire(connect("127.0.0.1", listener.getsockname()[1], LIMITS))
    peer, _ = listener.accept()
    peer.settimeout(WAIT)
    with peer:
        yield end, peer
        end.close()


def resolve_to(monkeypatch, *addresses: tuple[int, tuple[str, int]]) -> None:
    """
    Have every name stand for *addresses*, each a family and a pair of host and port.
    """
    found = [(family, socket.SOCK_STREAM, 0, "", address) for family, address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def reset(sock: socket.socket) -> None:
    """
    Close *sock* with a RST.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def next_read(end: Wire) -> bytes:
    """
    What comes next, whenever it does.
    """
    while (data := end.read()) is None:
        end.socket.setblocking(True)
        end.socket.settimeout(WAIT)
        end.socket.recv(1, socket.MSG_PEEK)
        end.socket.setblocking(False)
    return data


# Connecting


def test_small_writes_are_not_held_back(listener):
    """
    A connected socket has Nagle's algorithm off: a packet leaves when it is written.
    """
    with connect("127.0.0.1", listener.getsockname()[1], LIMITS) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_name_is_connected_to(listener):
    """
    A host may be a name.
    """
    with connect("localhost", listener.getsockname()[1], LIMITS) as sock:
        assert sock.getpeername() == listener.getsockname()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_ipv6_address_is_connected_to():
    """
    A host may be an IPv6 address.
    """
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    with listener, connect("::1", listener.getsockname()[1], LIMITS) as sock:
        assert sock.family is socket.AF_INET6


def test_a_refused_connection_says_what_was_tried(deaf_port):
    """
    ConnectFailed has host, port and a sentence for each address.
    """
    with pytest.raises(ConnectFailed) as caught:
        connect("127.0.0.1", deaf_port, LIMITS)
    tried = f"127.0.0.1 port {deaf_port}: Connection refused"
    assert (caught.value.host, caught.value.port) == ("127.0.0.1", deaf_port)
    assert caught.value.tried == (tried,)
    assert str(caught.value) == f"cannot connect to 127.0.0.1:{deaf_port}: {tried}"


@pytest.mark.parametrize("name", ["no..where", "x" * 64, "\udcff"])
def test_a_name_that_cannot_be_one_is_not_known(name):
    """
    What the resolver does not even take is ConnectFailed too.
    """
    with pytest.raises(ConnectFailed, match="is not known") as caught:
        connect(name, 1, LIMITS)
    assert caught.value.host == name


def test_a_name_that_nobody_knows_is_connect_failed(monkeypatch):
    """
    ConnectFailed says what the resolver said.
    """

    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    text = r"the name 'nowhere' is not known \(Name or service not known\)"
    with pytest.raises(ConnectFailed, match=text) as caught:
        connect("nowhere", 1, LIMITS)
    assert caught.value.tried == ()


def test_the_next_address_is_tried(monkeypatch, listener, deaf_port):
    """
    A name's later address serves where the earlier ones don't, or are of a family unknown here.
    """
    good = listener.getsockname()
    bad = (socket.AF_INET, ("127.0.0.1", deaf_port))
    resolve_to(monkeypatch, (9999, ("?", 0)), bad, (socket.AF_INET, good))
    with connect("somewhere", 1, LIMITS) as sock:
        assert sock.getpeername() == good


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch, listener, full_port):
    """
    The time to connect is shared among the addresses.
    """
    good = listener.getsockname()
    resolve_to(monkeypatch, (socket.AF_INET, ("127.0.0.1", full_port)), (socket.AF_INET, good))
    with connect("somewhere", 1, Limits(connect_timeout=0.2)) as sock:
        assert sock.getpeername() == good


def test_a_connection_that_nobody_accepts_times_out(full_port):
    """
    ConnectFailed names the limit.
    """
    with pytest.raises(ConnectFailed, match=r"timed out \(Limits.connect_timeout\)"):
        connect("127.0.0.1", full_port, Limits(connect_timeout=0.05))


def test_the_timeout_of_a_call_bounds_connecting(full_port):
    """
    Where the call's own time is over, that is the error.
    """
    with pytest.raises(DeadlineExceeded) as caught:
        connect("127.0.0.1", full_port, LIMITS, timeout=0.05)
    assert caught.value.timeout == 0.05


def test_an_interrupted_connect_leaves_no_socket(monkeypatch, listener):
    """
    A signal handler that raises while connecting leaves nothing open.
    """
    made = []

    class Interrupted(socket.socket):
        def connect(self, address):
            made.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(wire.socket, "socket", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        connect("127.0.0.1", listener.getsockname()[1], LIMITS)
    assert made[0].fileno() == -1


# Writing


def test_buffers_are_written_in_order(ends):
    """
    More buffers than the system takes at once are written all the same.
    """
    end, peer = ends
    buffers = [b"%d," % number for number in range(5 * wire.MAX_BUFFERS)]
    end.write(lambda: buffers)
    assert not end.unsent
    end.close()
    assert read_all(peer) == b"".join(buffers)


def test_what_the_system_does_not_take_is_written_later(ends):
    """
    A write never waits; what is left goes first the next time, from where it was cut.
    """
    end, peer = ends
    buffers = [bytes([number]) * 300_001 for number in range(64)]
    end.write(lambda: buffers)
    assert end.unsent
    expected = b"".join(buffers) + b"last"
    end.write(lambda: [b"last"])
    came = bytearray()
    while end.unsent:
        came += peer.recv(1 << 20)
        end.write(list)
    end.close()
    assert came + read_all(peer) == expected


class Frames:
    """
    What a machine has to send, handed over as the machine does.
    """

    def __init__(self) -> None:
        self.out: list[bytes] = []

    def data_to_send(self) -> list[bytes]:
        out, self.out = self.out, []
        return out


class Alarm(Exception):
    """
    Raised by a signal handler, wherever the main thread is.
    """


@contextmanager
def alarms() -> Generator[Callable[[Callable[[], object]], None], None, None]:
    """
    Give what calls a function again and again, until a signal soon raises an Alarm in there.
    """
    wanted: SimpleQueue[bool] = SimpleQueue()  # which no signal leaves locked
    armed = False

    def handle(*_):
        nonlocal armed
        if armed:
            armed = False
            raise Alarm

    def until_alarm(function):
        nonlocal armed
        # Not a context manager: in one, there are places outside both its own try and its block.
        with suppress(Alarm):
            armed = True
            wanted.put(True)
            while True:
                function()

    def send_signals():
        while wanted.get():
            while armed:
                signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.get_ident()
    old = signal.signal(signal.SIGUSR1, handle)
    sender = threading.Thread(target=send_signals)
    sender.start()
    # A tracer that measures coverage holds a lock now and then, and would never let it go.
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield until_alarm
    finally:
        sys.settrace(tracer)
        armed = False
        wanted.put(False)
        sender.join()
        signal.signal(signal.SIGUSR1, old)


@contextmanager
def reading(sock: socket.socket, into: bytearray) -> Generator[None, None, None]:
    """
    Read all that comes, in another thread.
    """
    reader = threading.Thread(target=lambda: into.extend(read_all(sock)))
    reader.start()
    yield
    reader.join(WAIT)


def test_a_signal_in_the_middle_of_a_write_neither_drops_nor_repeats_bytes(ends):
    """
    Wherever a signal handler raises, what was written is known exactly.
    """
    end, peer = ends
    frames, numbers, came = Frames(), iter(range(2**31)), bytearray()
    pack = struct.Struct(">I").pack

    def write():
        frames.out.extend(map(pack, islice(numbers, 9)))
        end.write(frames.data_to_send)

    with alarms() as until_alarm, reading(peer, came):
        for _ in range(100):
            until_alarm(write)
        end.socket.setblocking(True)
        end.write(frames.data_to_send)
        end.close()
    assert came == b"".join(map(pack, range(next(numbers))))


def test_a_write_that_fails_says_why_and_drops_the_rest(ends):
    """
    After a failure nothing is written or kept any more.
    """
    end, peer = ends
    reset(peer)
    with suppress(ConnectionResetError):  # the system says so once
        next_read(end)
    end.write(lambda: [b"x"])
    assert end.failure.startswith("Broken pipe")
    assert not end.unsent
    end.write(lambda: [b"y"])
    assert not end.unsent


# Reading


def test_a_read_with_nothing_there_gives_none(ends):
    """
    Nothing yet is not the end.
    """
    end, _ = ends
    assert end.read() is None
    assert not end.ending


def test_what_has_come_is_read_then_the_end(ends):
    """
    The end is said again as often as it is asked for.
    """
    end, peer = ends
    peer.sendall(b"abc")
    assert next_read(end) == b"abc"
    peer.close()
    assert [next_read(end), end.read()] == [b"", b""]
    assert end.ending == "the server closed the connection"


def test_what_comes_may_be_read_to_a_buffer(ends):
    """
    As read() does: None where nothing has come, 0 at the end.
    """
    end, peer = ends
    buffer = bytearray(5)
    assert end.read_into(memoryview(buffer)) is None
    peer.sendall(b"abc")
    assert end.read_into(memoryview(buffer)) == 3
    assert buffer == b"abc\0\0"
    peer.close()
    assert end.read_into(memoryview(buffer)) == 0
    assert end.ending == "the server closed the connection"
    assert end.read_into(memoryview(buffer)) == 0


@pytest.fixture(params=["poll", "select"])
def watched(request, monkeypatch, listener) -> Iterator[tuple[Wire, socket.socket]]:
    """
    As *ends*, on a system that has poll(), and on one that has not.
    """
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    end = Wire(connect("127.0.0.1", listener.getsockname()[1], LIMITS))
    peer, _ = listener.accept()
    with peer:
        yield end, peer
        end.close()


def test_who_waits_goes_on_once_something_has_come(watched):
    """
    Whatever the system has to wait with.
    """
    end, peer = watched
    end.wait(0)
    assert end.read() is None
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(end.wait, WAIT)
        peer.sendall(b"abc")
        waiting.result(WAIT)
    assert end.read() == b"abc"


def test_who_waits_with_something_unsent_goes_on_once_it_can_leave(watched):
    """
    That there is room to write is no sign that there is something to read.
    """
    end, peer = watched
    while not end.unsent:
        end.write(lambda: [bytes(2**20)])
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(end.wait, WAIT)
        peer.setblocking(False)
        while not waiting.done():
            with suppress(BlockingIOError):
                peer.recv(2**20)
    assert end.read() is None
    assert not end.ending


def test_nothing_comes_of_a_wire_that_is_closed(ends):
    """
    Its descriptor may be another's by now.
    """
    end, peer = ends
    peer.sendall(b"abc")
    end.close()
    assert end.read() == b""
    assert end.ending


def test_a_reset_is_an_end_with_its_reason(ends):
    """
    The system's words say why nothing more will come.
    """
    end, peer = ends
    end.write(lambda: [b"unread"])
    end.socket.setblocking(True)
    peer.recv(1, socket.MSG_PEEK)
    peer.close()  # with something unread: this resets
    assert end.read() == b""
    assert end.ending.startswith("Connection reset by peer")
