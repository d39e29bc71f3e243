"""TLS: who is let in, who is refused with which words, and that a cut stream is never an end."""

import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory

from pyf.station import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    FlowServer,
    Limits,
    Packet,
    RemoteProtocolError,
    StationClient,
    StationError,
    tls,
)
from pyf.station.tls import Channel, dial, server_context
from pyf.transport import ProtocolError

HOST = "127.0.0.1"
ROWS = [{"n": number} for number in range(2000)]
QUICK = Limits(handshake_timeout=0.3)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """
    What is logged for people, in order.
    """
    lines: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_namespace", "").startswith("pyf."):
            lines.append(str(event["log_format"]).format(**event))

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


def said(lines: list[str], words: str) -> bool:
    """
    Wait until a line has the *words*: the server may log a moment after its client knows.
    """
    deadline = time.monotonic() + 10
    while not any(words in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.001)
    return any(words in line for line in lines)


def count(flow: Any, client: Any) -> int:
    return sum(1 for _ in flow)


def echo(flow: Any, client: Any) -> Iterator[Packet]:
    yield from flow


def identity(flow: Any, client: Any) -> str:
    return repr(client.identity)


# Who is let in


def test_a_flow_goes_both_ways_inside_tls(connect, listen, files):
    """A flow and its messages travel as they do without TLS, large packets too."""
    port = listen(echo, tls=files.server)
    rows = [*ROWS, {"blob": b"x" * 3_000_000}]
    with connect(HOST, port, True, tls=files.ca).call(rows) as call:
        back = [value for value in call if value is not True]
    assert back[:-1] == rows


def test_an_endpoint_string_speaks_tls(connect, listen, files):
    """``ssl:0:privateKey=…:certKey=…`` serves the same clients."""
    certificate, key = files.server
    where = f"ssl:0:interface={HOST}:privateKey={key}:certKey={certificate}"
    assert connect(HOST, listen(count, where), tls=files.ca).send(ROWS) == len(ROWS)


def test_a_context_of_ones_own_is_used(connect, listen, files):
    """Both sides take a ready context."""
    port = listen(count, tls=server_context(files.server, None))
    context = ssl.create_default_context(cafile=files.ca)
    assert connect(HOST, port, tls=context).send(ROWS) == len(ROWS)


def test_the_certificate_of_the_client_is_its_identity(connect, listen, files):
    """With ``client_ca`` the handler finds the certificate in ``client.identity``."""
    port = listen(identity, tls=files.server, client_ca=files.ca)
    client = connect(HOST, port, tls=files.ca, certificate=files.client)
    assert "CN=someone" in client.send(ROWS)


def test_nobody_asked_for_a_certificate(connect, listen, files):
    """Without ``client_ca`` there is no identity."""
    port = listen(identity, tls=files.server)
    assert connect(HOST, port, tls=files.ca).send(ROWS) == "None"


def test_less_than_tls_1_3_is_refused(connect, listen, files):
    """A server with paths speaks no older TLS."""
    context = ssl.create_default_context(cafile=files.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    port = listen(count, tls=files.server)
    with pytest.raises(ConnectFailed, match="protocol version"):
        connect(HOST, port, tls=context).send(ROWS)


def test_it_listens_plainly_on_whatever_it_is_given(connect, listen):
    """A port, and the string of an endpoint, serve without TLS too."""
    assert connect(HOST, listen(count)).send(ROWS) == len(ROWS)
    assert connect(HOST, listen(count, f"tcp:0:interface={HOST}")).send(ROWS) == len(ROWS)


# Who is not


@pytest.mark.parametrize(
    ("certificate", "authority", "words"),
    [
        ("other_host", "ca", "IP address mismatch"),
        ("expired", "ca", "certificate has expired"),
        ("server", "other_ca", "unable to get local issuer certificate"),
    ],
)
def test_a_wrong_server_is_refused_with_the_reason(
    connect, listen, files, certificate, authority, words
):
    """Another host's, an expired and an unknown authority's certificate: each in its words."""
    port = listen(count, tls=getattr(files, certificate))
    client = connect(HOST, port, tls=getattr(files, authority))
    with pytest.raises(ConnectFailed, match=f"the server's certificate is refused: .*{words}"):
        client.send(ROWS)


def test_a_client_without_certificate_is_refused(connect, listen, files, logged):
    """Both sides say that a certificate of the client is missing."""
    port = listen(count, tls=files.server, client_ca=files.ca)
    with pytest.raises(StationError, match="the server wants a certificate of the client"):
        connect(HOST, port, tls=files.ca).send(ROWS[:1])
    assert said(logged, "peer did not return a certificate")


def test_a_client_of_another_authority_is_refused(connect, listen, files):
    """A certificate that the server's authority has not signed is none."""
    port = listen(count, tls=files.server, client_ca=files.other_ca)
    with pytest.raises(ConnectionLost, match=r"TLS failed: .*unknown ca"):
        connect(HOST, port, tls=files.ca, certificate=files.client).send(ROWS[:1])


def test_a_plain_client_of_a_tls_server_is_told_at_once(connect, listen, files, logged):
    """The client hears that there may be TLS; the server says that its client speaks none."""
    port = listen(count, tls=files.server)
    with pytest.raises(ConnectionLost, match="it may expect TLS"):
        connect(HOST, port).send(ROWS)
    assert said(logged, "the client does not speak TLS")


def test_a_tls_client_of_a_plain_server_is_told_at_once(connect, listen, logged):
    """The client hears that the server speaks no TLS; the server says that its client does."""
    port = listen(count)
    with pytest.raises(ConnectFailed, match="does not speak TLS"):
        connect(HOST, port, tls=True).send(ROWS)
    assert said(logged, "speaks TLS")


def test_a_tls_alert_is_known_for_what_it_is(connect, thread):
    """A server that answers in TLS is named as such, however short its alert."""
    with socket.create_server((HOST, 0)) as listening:

        def alert() -> None:
            sock, _ = listening.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(b"\x15\x03\x03\x00\x02\x02\x46")
                sock.recv(65536)

        served = thread(alert)
        with pytest.raises(RemoteProtocolError, match="speaks TLS") as caught:
            connect(HOST, listening.getsockname()[1]).send([])
        assert caught.value.code == "not_this_protocol"
        served()


# What is cut, and what never begins


def close_properly(sock: ssl.SSLSocket) -> None:
    with suppress(ssl.SSLError):  # The client had more to say.
        sock.unwrap()
    read_on(sock)


def read_on(sock: ssl.SSLSocket) -> None:
    """
    Read until the client closes: a close before would take back with a reset what was said.
    """
    with suppress(OSError):
        while socket.socket.recv(sock, 65536):
            pass


def serve_once(files: Any, *steps: Callable[[ssl.SSLSocket], object]) -> tuple[int, Any]:
    """
    Return a port, and what accepts one client in TLS and takes *steps* with it.
    """
    listening = socket.create_server((HOST, 0))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files.server)

    def run() -> None:
        with listening:
            sock, _ = listening.accept()
            with context.wrap_socket(sock, server_side=True) as secured:
                for step in steps:
                    step(secured)

    return listening.getsockname()[1], run


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (
            lambda sock: socket.socket.shutdown(sock, socket.SHUT_RDWR),
            "packets: the TLS stream was cut: ",
        ),
        (close_properly, r"packets: the server closed the connection$"),
    ],
)
def test_the_end_of_the_stream_is_never_a_success(connect, files, thread, leave, words):
    """Cut or closed properly, a stream that ends without a result is an error."""
    port, run = serve_once(files, lambda sock: sock.recv(65536), leave)
    served = thread(run)
    with pytest.raises(ConnectionLost, match=words):
        connect(HOST, port, tls=files.ca).send(ROWS)
    served()


def test_tickets_are_something_that_came(files, thread):
    """A read that finds no data has not found nothing: why the peer left may be behind it."""
    go_on = threading.Event()
    port, run = serve_once(files, lambda _: go_on.wait(10))
    served = thread(run)
    wire = dial(HOST, port, ssl.create_default_context(cafile=files.ca), Limits())
    with wire.socket:
        assert select.select([wire.socket], [], [], 10)[0]
        assert wire.read() == b""
        assert not wire.ending
        go_on.set()
        served()
        while not wire.ending:
            assert select.select([wire.socket], [], [], 10)[0]
            assert not wire.read()


def test_a_server_that_never_shakes_hands_is_given_up(connect, thread):
    """A handshake has its time, and that of the call."""
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConnectFailed, match=r"Limits\.handshake_timeout"):
            connect(HOST, port, tls=True, limits=QUICK).send(ROWS)
        with pytest.raises(DeadlineExceeded) as caught:
            connect(HOST, port, tls=True).send(ROWS, timeout=0.1)
        assert caught.value.timeout == 0.1


def test_a_server_that_closes_within_the_handshake_is_a_failed_connect(connect, thread):
    """A close in place of a handshake is told as such."""
    with socket.create_server((HOST, 0)) as listening:

        def close() -> None:
            listening.accept()[0].close()

        closed = thread(close)
        port = listening.getsockname()[1]
        with pytest.raises(ConnectFailed, match=r"within the TLS handshake|reset|Broken pipe"):
            connect(HOST, port, tls=True).send(ROWS)
        closed()


def test_a_server_that_has_gone_before_the_handshake_is_a_failed_connect(files, monkeypatch):
    """A socket that was reset as soon as it was connected is one more server out of reach."""
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        sock = socket.create_connection((HOST, port))
        peer, _ = listening.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert select.select([sock], [], [], 10)[0]
        monkeypatch.setattr(tls, "connect", lambda *_: sock)
        with pytest.raises(ConnectFailed, match=f"cannot connect to {HOST}:{port}"):
            dial(HOST, port, ssl.create_default_context(), Limits())


def test_an_interrupted_handshake_closes_the_socket(monkeypatch):
    """Ctrl-C within the handshake leaves nothing behind."""
    with socket.create_server((HOST, 0)) as listening:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Channel, "_send", interrupt)
        with pytest.raises(KeyboardInterrupt):
            StationClient(HOST, listening.getsockname()[1], tls=True).send(ROWS)


class AbortableTransport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:  # noqa: N802 - Twisted's name
        self.aborted = True


def test_a_client_that_never_shakes_hands_is_gone_in_time(files):
    """An unfinished handshake is aborted at ``handshake_timeout``, 5 s by default."""
    reactor = MemoryReactorClock()
    server = FlowServer(count, reactor=reactor)
    context = server_context(files.server, None)
    make: Any = TLSMemoryBIOFactory
    factory = make(context, isClient=False, wrappedFactory=server, clock=reactor)
    protocol: Any = factory.buildProtocol(None)
    transport = AbortableTransport()
    protocol.makeConnection(transport)
    reactor.advance(4.9)
    assert not transport.aborted
    reactor.advance(0.2)
    reactor.advance(0)
    assert transport.aborted
    protocol.connectionLost(_closed())
    assert not server.connections
    assert not reactor.getDelayedCalls()


def _closed() -> Any:
    from twisted.internet.error import ConnectionDone
    from twisted.python.failure import Failure

    return Failure(ConnectionDone())


# What cannot be meant


def test_what_would_be_of_no_use_is_refused(files, tmp_path: Path, reactor):
    """A certificate without TLS, an authority without paths, a file without certificate."""
    client: Any = StationClient
    with pytest.raises(ValueError, match="a certificate is for"):
        client(HOST, 1, certificate=files.client)
    with pytest.raises(FileNotFoundError):
        client(HOST, 1, tls=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="client_ca is for paths"):
        server_context(object(), files.ca)
    with pytest.raises(ValueError, match="client_ca is of no use"):
        FlowServer(count).listen(reactor, 0, client_ca=files.ca)
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match="there is no certificate in"):
        server_context((empty, files.server[1]), None)


def test_a_breach_inside_tls_is_the_same_breach(connect, files, thread):
    """What a server sends inside TLS is held to the protocol as ever."""
    port, run = serve_once(files, lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n"), read_on)
    served = thread(run)
    with pytest.raises(ProtocolError, match="its first bytes are b'HTTP"):
        connect(HOST, port, tls=files.ca).send(ROWS)
    served()
