"""What is tested alone elsewhere, together: TLS, authentication, interceptors and resume."""

import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest

from pyf.station import (
    AuthenticationFailed,
    FlowServer,
    ResumePolicy,
    ResumeRejected,
    backoff,
)
from pyf.station.auth import shared_secrets
from pyf.station.testing import ChaosProxy
from pyf.transport import Packet

WAIT = 30.0

HOST = "127.0.0.1"
SECRET = {"authtkt": "a shared secret of ours"}


@pytest.fixture
def proxied(
    listen: Any, connect: Any, files: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Any, ChaosProxy]]]:
    """
    Serve a handler inside TLS behind a proxy; return a client that goes through it, and the proxy.

    Options are the client's; those of the server are in *server* and *secured*.
    """
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.01)
    proxies: list[ChaosProxy] = []

    def make(
        handler: Any, server: dict[str, Any], secured: dict[str, Any], **options: Any
    ) -> tuple[Any, ChaosProxy]:
        made = FlowServer(handler, resume=ResumePolicy(), **server)
        port = listen(made, tls=files.server, **secured)
        proxies.append(ChaosProxy(port).__enter__())
        return connect(HOST, proxies[-1].port, **({"tls": files.ca} | options)), proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


class Echo:
    """
    A handler that keeps what it got, and answers every tenth packet.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.runs = 0
        self.identity: Any = None
        self.started = threading.Event()

    def __call__(self, flow: Any, client: Any) -> int:
        self.runs += 1
        self.identity = client.identity
        self.started.set()
        for packet in flow:
            if "n" in packet:
                self.numbers.append(packet.n)
                if packet.n % 10 == 0:
                    client.message(packet)
        return len(self.numbers)


@pytest.fixture
def echo() -> Echo:
    return Echo()


def cutting(proxy: ChaosProxy, echo: Echo, cuts: int) -> Iterator[Packet]:
    """
    Packets, and again and again a cut: of a flow, or of the handshake of the next connection.
    """
    yield Packet(n=0)
    assert echo.started.wait(10)
    for cut in range(cuts):
        yield from (Packet(n=1 + 200 * cut + n, fill=bytes(n)) for n in range(200))
        proxy.wait_for_connections(proxy.cuts + 1)
        proxy.cut("rst" if cut % 2 else "fin")


def check(values: list[Any], echo: Echo) -> None:
    """
    Nothing was lost, nothing came twice, and there was one handler with one outcome.
    """
    count = values.count(True)
    back = [value for value in values if value is not True]
    assert echo.numbers == list(range(count))
    assert [packet.n for packet in back[:-1]] == list(range(0, count, 10))
    assert back[-1] == {"type": "success", "message": count}
    assert echo.runs == 1


def test_a_flow_survives_cuts_inside_tls(proxied, echo):
    """
    In the middle of the flow, and of the handshakes of its connections.
    """
    client, proxy = proxied(echo, {}, {})
    check(list(client.call(cutting(proxy, echo, 12), resume=True)), echo)
    assert proxy.cuts > 1


def test_a_flow_with_authentication_survives_cuts(proxied, echo):
    """
    The token is what its client shows then; the handler's client stays who it was.
    """
    client, proxy = proxied(echo, {"authenticate": shared_secrets(SECRET["authtkt"])}, {})
    check(list(client.call(cutting(proxy, echo, 4), header=SECRET, resume=True)), echo)
    assert echo.identity == "authtkt 1"
    with pytest.raises(AuthenticationFailed):
        client.send([Packet(n=0)], header={"authtkt": "wrong"}, resume=True)
    assert echo.runs == 1


def test_a_flow_of_a_client_with_a_certificate_survives_cuts(proxied, echo, files):
    """
    It comes back with the same certificate.
    """
    tls = {"client_ca": files.ca}
    client, proxy = proxied(echo, {}, tls, certificate=files.client)
    check(list(client.call(cutting(proxy, echo, 4), resume=True)), echo)
    assert "CN=someone" in repr(echo.identity)


def test_a_flow_cannot_go_on_for_somebody_else(proxied, echo, files):
    """
    Its token is worth nothing on a connection with another certificate.
    """
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(*files.client)
    client, proxy = proxied(echo, {}, {"client_ca": files.ca}, tls=context)

    def flow() -> Iterator[Packet]:
        yield Packet(n=0)
        assert echo.started.wait(10)
        context.load_cert_chain(*files.server)
        proxy.cut("rst")
        while True:
            yield Packet(n=1)

    with pytest.raises(ResumeRejected) as caught:
        client.send(flow(), resume=True)
    assert caught.value.code == "unknown_session"
    assert proxy.connections == 2
    assert echo.runs == 1


def test_interceptors_stand_around_a_flow_that_survives(proxied, echo):
    """
    They see one flow, whatever happens to its connections.
    """
    seen: SimpleQueue[Any] = SimpleQueue()

    @contextmanager
    def spy(call: Any) -> Generator[None]:
        call.map_messages(lambda packet: packet | {"seen": True})
        yield
        seen.put((call.status, call.packets))

    client, proxy = proxied(echo, {"interceptors": [spy]}, {}, interceptors=[spy])
    values = list(client.call(cutting(proxy, echo, 4), resume=True))
    count = values.count(True)
    assert all(value.seen for value in values[:-1] if value is not True)
    # The client may know a moment before the server's spy does.
    assert [seen.get(timeout=WAIT) for _ in range(2)] == [("success", count)] * 2
