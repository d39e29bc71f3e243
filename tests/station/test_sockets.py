"""Using what never waits, compiled or not."""

import socket
import sys
from contextlib import ExitStack
from errno import EINPROGRESS

import pytest

from pyf.station import sockets

KIB = 1024


@pytest.fixture
def pair():
    """
    Two sockets that are connected; the first never waits.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(10)
        yield ours, theirs


@pytest.fixture(params=["python", "as used"])
def connect(request, monkeypatch):
    """
    What connects.
    """
    if request.param == "python":
        monkeypatch.setattr(sockets, "_begin", None)
    return sockets.connect


@pytest.fixture(params=[sockets._receive, sockets.receive], ids=["python", "as used"])
def receive(request):
    """
    What reads.
    """
    return request.param


@pytest.fixture(
    params=[sockets._send, sockets._write, sockets.send], ids=["joined", "python", "as used"]
)
def send(request):
    """
    What writes.
    """
    return request.param


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_an_address_is_connected_to(connect, family, host):
    with socket.create_server((host, 0), family=family) as listener:
        address = listener.getsockname()
        with socket.socket(family) as sock:
            connect(sock, address, 10)
            assert sock.getpeername() == address
    with socket.socket(family) as sock, pytest.raises(ConnectionRefusedError):
        connect(sock, address, 10)


def test_a_path_is_connected_to(connect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Longer paths than 107 bytes are none.
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind("here")
        listener.listen()
        connect(sock, "here", 10)
        assert sock.getpeername() == "here"
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(FileNotFoundError):
        connect(sock, "nowhere", 10)


def test_the_answer_may_come_later(monkeypatch):
    """
    From another machine it does.
    """
    monkeypatch.setattr(sockets, "_begin", lambda sock, to: sock.connect_ex(to) or EINPROGRESS)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        address = listener.getsockname()
        sockets.connect(sock, address, 10)
        assert sock.getpeername() == address
    with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sockets.connect(sock, address, 10)


def test_the_answer_may_never_come(connect):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(6):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        with socket.socket() as sock, pytest.raises(TimeoutError):
            connect(sock, listener.getsockname(), 0.01)


@pytest.mark.parametrize("host", ["nowhere.invalid", "::1"])
def test_what_is_no_address_is_an_error(connect, host):
    with socket.socket() as sock, pytest.raises(socket.gaierror):
        connect(sock, (host, 1), 10)


def test_a_closed_socket_is_not_connected(connect):
    sock = socket.socket()
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        connect(sock, ("127.0.0.1", 1), 10)


def test_a_socket_that_connects_in_its_own_way_does():
    """
    Through a proxy, or not at all in somebody's tests.
    """

    class Forbidden(socket.socket):
        def connect(self, address):
            raise PermissionError

    with Forbidden() as sock, pytest.raises(PermissionError):
        sockets.connect(sock, ("127.0.0.1", 1), 10)


def test_connecting_is_audited(connect):
    heard = []
    hooked = [True]  # A hook cannot be taken away.
    sys.addaudithook(
        lambda name, facts: hooked[0] and name == "socket.connect" and heard.append(facts)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        address = listener.getsockname()
        connect(sock, address, 10)
    hooked[0] = False
    assert heard == [(sock, address)]


def test_what_has_come_is_read(pair, receive):
    ours, theirs = pair
    theirs.send(b"abcdef")
    assert receive(ours, 4) == b"abcd"
    assert receive(ours, 4) == b"ef"


def test_nothing_is_read_where_nothing_has_come(pair, receive):
    assert receive(pair[0], 4) is None


def test_the_end_is_read_as_nothing(pair, receive):
    ours, theirs = pair
    theirs.close()
    assert receive(ours, 4) == b""


def test_a_socket_that_is_closed_is_not_read(pair, receive):
    pair[0].close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        receive(pair[0], 4)


def test_a_socket_that_waits_is_read_without_waiting(pair):
    """
    With all other threads waiting, that would be for good.
    """
    ours, _ = pair
    if sockets.receive is sockets._receive:
        pytest.skip("nothing is compiled here")
    ours.setblocking(True)
    assert sockets.receive(ours, 4) is None


def test_buffers_are_written_one_behind_another(pair, send):
    ours, theirs = pair
    assert send(ours, [b"ab", b"", b"cd"]) == 4
    assert theirs.recv(10) == b"abcd"


@pytest.mark.parametrize(
    "buffers",
    [
        [memoryview(b"ab"), b"cd"],
        [bytes([number]) for number in range(65)],
        [bytes(1000), bytes(200 * KIB)],
    ],
    ids=["views", "many", "large"],
)
def test_what_is_not_ordinary_is_written_too(pair, send, buffers):
    ours, theirs = pair
    sent = send(ours, buffers)
    assert sent > 0
    come = b""
    while len(come) < sent:
        come += theirs.recv(sent)
    assert come == b"".join(buffers)[:sent]


def test_what_the_system_does_not_take_is_told(pair, send):
    ours, theirs = pair
    written = []

    def fill() -> None:
        while True:
            written.append(send(ours, [bytes(40 * KIB)] * 3))

    with pytest.raises(BlockingIOError):
        fill()
    left = sum(written)
    while left:
        left -= len(theirs.recv(left))
    assert send(ours, [b"end"]) == 3


def test_a_peer_that_has_gone_is_told(pair, send):
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError):
        send(ours, [b"abc"])


def test_a_socket_that_is_closed_is_not_written(pair, send):
    pair[0].close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        send(pair[0], [b"abc"])


def test_what_is_offered_leaves_as_far_as_the_system_takes_it(pair):
    """
    Nothing is left where all of it has, and all of it where the connection is lost.
    """
    ours, theirs = pair
    assert not sockets.offer(ours, [b"ab", b"c"])
    assert theirs.recv(10) == b"abc"
    blocks = [bytes([number]) * 100_000 for number in range(30)]
    left = b"".join(sockets.offer(ours, blocks))
    assert 0 < len(left) < 3_000_000
    assert b"".join(blocks).endswith(left)
    theirs.close()
    assert sockets.offer(ours, [b"ab", b"c"]) == [b"ab", b"c"]


@pytest.mark.parametrize("size", range(7))
def test_what_is_behind_the_bytes_that_have_left_is_all_there_is_left(size):
    """
    Whole buffers stay as they are, and nothing is left of those that have left.
    """
    buffers = [b"ab", b"", b"cde", b"f"]
    rest = sockets.behind(buffers, size)
    assert b"".join(rest) == b"abcdef"[size:]
    assert all(any(part is each for each in buffers) for part in rest[1:])
