"""Reading into place and writing at once: what a TCP connection of Twisted's does then."""

import select
import socket
import sys
from typing import Any

import pytest
from twisted.internet import main
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.python.failure import Failure

from pyf.station import sockets
from pyf.station.direct import LOW_WATER, SMALL, Direct, DirectTransport

WAIT = 30.0
"""Seconds that anything may take before a test fails."""


class Reader(Protocol):
    """
    A protocol that has these buffers, and notes what it is given.
    """

    def __init__(self):
        self.buffers = []
        self.given = []

    def get_buffer(self):
        return memoryview(self.buffers[0]) if self.buffers else None

    def buffer_updated(self, size):
        self.given.append(bytes(self.buffers.pop(0)[:size]))

    def dataReceived(self, data):  # noqa: N802 - Twisted's name
        self.given.append(data)


@pytest.fixture
def pair():
    """
    A connection with its protocol, and the socket at the other end.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        protocol: Any = Reader()
        reactor: Any = MemoryReactor()
        yield Connection(ours, protocol, reactor), theirs


def test_what_has_a_buffer_is_read_into_it(pair):
    transport, peer = pair
    Direct(transport, transport.protocol)
    buffer = bytearray(3)
    transport.protocol.buffers = [buffer]
    assert transport.doRead() is None  # Nothing has come yet.
    peer.send(b"abcdef")
    assert transport.doRead() is None
    assert (transport.protocol.given, buffer) == ([b"abc"], b"abc")


def test_what_has_none_is_given_as_bytes(pair):
    transport, peer = pair
    Direct(transport, transport.protocol)
    peer.send(b"abc")
    assert transport.doRead() is None
    assert transport.protocol.given == [b"abc"]


def test_what_comes_behind_much_is_read_and_what_does_not_come_is_not_missed(pair):
    transport, peer = pair
    Direct(transport, transport.protocol)
    for size in (SMALL + 1, 3, 0, 3):
        peer.send(bytes(size))
        assert transport.doRead() is None
    assert [len(data) for data in transport.protocol.given] == [SMALL + 1, 3, 3]


def test_nothing_is_missed_where_nothing_comes_behind_much(pair):
    transport, peer = pair
    Direct(transport, transport.protocol)
    peer.send(bytes(SMALL + 1))
    assert [transport.doRead(), transport.doRead()] == [None, None]
    peer.send(b"abc")
    assert transport.doRead() is None
    assert transport.protocol.given[1:] == [b"abc"]


def test_the_rest_of_what_has_begun_is_read_in_the_same_turn(pair, monkeypatch):
    """
    Once the beginning has come, there is a buffer.
    """
    transport, peer = pair
    monkeypatch.setattr(sockets, "READ_BYTES", 2)
    Direct(transport, transport.protocol)
    begin = transport.protocol.dataReceived

    def begins(data):
        begin(data)
        transport.protocol.buffers = [bytearray(4)]

    transport.protocol.dataReceived = begins
    peer.send(b"abcdef")
    assert transport.doRead() is None
    assert transport.protocol.given == [b"ab", b"cdef"]


class Tcp:
    """
    A connection over TCP that is in the middle of a large frame, and what a selector says of it.
    """

    def __init__(self, rest):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.peer = socket.create_connection(listening.getsockname())
            self.ours, _ = listening.accept()
        self.reader: Any = Reader()
        reactor: Any = MemoryReactor()
        self.transport = Connection(self.ours, self.reader, reactor)
        self.direct = Direct(self.transport, self.reader)
        self.buffers = [bytearray(rest)]
        # As a parser does: the frame has a buffer once it has begun, and what comes is read to it.
        self.reader.dataReceived = lambda _: setattr(self.reader, "buffers", self.buffers)
        self.reader.buffer_updated = self.updated
        self.come = 0
        self.send(1)
        assert self.is_read()

    def updated(self, size):
        self.come += size
        self.buffers[0] = self.buffers[0][size:]
        if not self.buffers[0]:
            self.buffers.pop()

    def send(self, size):
        self.peer.sendall(bytes(size))

    def is_read(self, seconds=WAIT):
        """
        Whether a reactor would read, within so many seconds; have it do so.
        """
        reads = bool(select.select([self.ours], [], [], seconds)[0])
        if reads:
            self.transport.doRead()
        return reads


@pytest.fixture
def tcp():
    made = []

    def make(rest):
        made.append(Tcp(rest))
        return made[-1]

    yield make
    for each in made:
        each.peer.close()
        each.ours.close()


@pytest.mark.skipif(sys.platform != "linux", reason="others read what comes as it comes")
def test_of_a_large_frame_little_is_not_worth_a_turn(tcp):
    """
    Unless somebody asks whether anything has come: then it is read, and more is worth it again.
    """
    large = tcp(3 * LOW_WATER)
    little = 1000
    large.send(little)
    assert not large.is_read(0)
    assert large.direct.hear()
    assert not large.direct.hear()
    while large.come < little:
        assert large.is_read()
    large.send(1)
    assert not large.is_read(0)
    large.send(LOW_WATER)
    assert large.is_read()


@pytest.mark.skipif(sys.platform != "linux", reason="others read what comes as it comes")
def test_the_end_of_a_large_frame_is_read_as_it_comes_and_so_is_what_follows(tcp):
    large = tcp(1000)
    large.send(999)
    assert not large.is_read(0)
    large.send(1)
    assert large.is_read()
    assert large.come == 1000
    assert not large.direct.hear()
    large.reader.buffers = []
    large.reader.dataReceived = large.reader.given.append
    large.send(1)
    assert large.is_read()
    assert large.reader.given == [b"\0"]


def test_the_end_of_a_connection_is_heard_in_a_large_frame(tcp):
    large = tcp(3 * LOW_WATER)
    large.send(1)
    large.peer.close()
    while large.come < 1:
        assert large.is_read()
    assert large.transport.doRead() is main.CONNECTION_DONE


def test_a_socket_that_is_closed_in_a_large_frame_is_no_error(tcp):
    large = tcp(3 * LOW_WATER)
    large.reader.buffer_updated = lambda _: large.ours.close()
    large.send(LOW_WATER)
    assert large.is_read()
    large.direct.hear()


@pytest.mark.parametrize("buffered", [False, True])
def test_how_it_ends_is_told_as_twisted_does(pair, buffered):
    """
    Nothing yet; the end; a socket that fails.
    """
    transport, peer = pair
    Direct(transport, transport.protocol)
    transport.protocol.buffers = [bytearray(4)] * buffered
    assert transport.doRead() is None
    peer.close()
    assert transport.doRead() is main.CONNECTION_DONE
    transport.socket.close()
    assert transport.doRead() is main.CONNECTION_LOST
    assert transport.protocol.given == []


def test_what_is_written_leaves_at_once(pair):
    transport, peer = pair
    transport.connected = True
    Direct(transport, transport.protocol).writeSequence([b"ab", b"c"])
    assert peer.recv(10) == b"abc"
    assert not transport.reactor.writers


def test_what_the_system_does_not_take_waits_and_what_follows_waits_behind_it(pair):
    transport, peer = pair
    transport.connected = True
    direct = Direct(transport, transport.protocol)
    blocks = [bytes([number]) * 100_000 for number in range(20)]
    for block in blocks:
        direct.writeSequence([block])
    assert transport.reactor.writers == {transport}
    come = b""
    while len(come) < 2_000_000:
        come += peer.recv(2_000_000)
        if transport in transport.reactor.writers:
            transport.doWrite()
    assert come == b"".join(blocks)
    direct.writeSequence([b"end"])
    assert peer.recv(10) == b"end"


def test_a_connection_that_is_lost_raises_nothing(pair):
    """
    The reactor hears of it from the transport.
    """
    transport, peer = pair
    transport.connected = True
    peer.close()
    Direct(transport, transport.protocol).writeSequence([b"abc"])
    assert transport.doWrite() is main.CONNECTION_LOST


def test_what_is_written_once_the_connection_is_lost_is_dropped(pair):
    """
    TLS may have something to say as it hears of that.
    """
    transport, _ = pair
    direct = Direct(transport, Reader())
    transport.connected = True
    transport.connectionLost(Failure(ConnectionDone()))
    direct.writeSequence([b"abc"])


def test_any_other_transport_is_used_as_it_is():
    transport = StringTransport()
    Direct(transport, Reader()).writeSequence([b"ab", b"c"])
    assert transport.value() == b"abc"


def test_all_else_is_as_the_transport_has_it():
    transport = StringTransport(peerAddress="there")
    direct = DirectTransport(transport, Reader())
    direct.writeSequence([b"ab", b"c"])
    assert (transport.value(), direct.getPeer()) == (b"abc", "there")
    direct.loseConnection()
    assert transport.disconnecting
    with pytest.raises(AttributeError, match="getHandle"):
        direct.getHandle()
