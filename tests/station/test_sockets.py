"""Reading and writing what never waits, compiled or not."""

import socket

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
