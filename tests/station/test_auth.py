"""Nobody's flow reaches a handler before ``authenticate`` has said whose it is."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.logger import LogLevel, globalLogPublisher

from pyf.station import (
    AuthenticationFailed,
    FlowServer,
    Packet,
    PacketTooLarge,
    StationClient,
    shared_secrets,
)
from pyf.transport import encode_packet
from pyf.transport.events import CreditReceived, GoAwayReceived
from pyf.transport.frames import BATCH, HEADER, FrameType
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS

HOST = "127.0.0.1"
SECRET, OLD = "the secret of these tests", b"the one that was used before"
TOKEN = {"authtkt": SECRET}


def whoami(flow: Any, client: Any) -> Any:
    return [client.identity, sum(1 for _ in flow)]


async def async_whoami(flow: Any, client: Any) -> Any:
    return [client.identity, len([packet async for packet in flow])]


HANDLERS = [whoami, async_whoami]


def check(header: Packet, peer: Any) -> str:
    if header.get("authtkt") != SECRET:
        raise AuthenticationFailed(f"unknown: {header}")
    return f"{header.authtkt[:10]} at {peer.host}"


async def async_check(header: Packet, peer: Any) -> str:
    return check(header, peer)


class Checker:
    async def __call__(self, header: Packet, peer: Any) -> str:
        return check(header, peer)


@inlineCallbacks
def deferred_check(header: Packet, peer: Any) -> Any:
    yield succeed(None)
    return check(header, peer)


def returning_deferred(header: Packet, peer: Any) -> Deferred[str]:
    return succeed(check(header, peer))


CHECKS = [check, async_check, Checker(), deferred_check, returning_deferred]


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """
    What is logged by us.
    """
    found: list[dict[str, Any]] = []

    def observe(event: Any) -> None:
        if event.get("log_namespace", "").startswith("pyf."):
            found.append(event)

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    yield found
    globalLogPublisher.removeObserver(observer)


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("authenticate", CHECKS)
def test_the_identity_is_what_authenticate_returns(serve, handler, authenticate):
    """A function, a coroutine function, an object and Deferreds: each says who the client is."""
    port = serve(handler, authenticate=authenticate)
    rows = [{"n": number} for number in range(3000)]
    identity, count = StationClient(HOST, port).send(rows, header=TOKEN)
    assert (identity, count) == ("the secret at 127.0.0.1", 3001)


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("authenticate", CHECKS)
def test_who_is_not_known_is_refused_before_the_handler(serve, handler, authenticate):
    """The client gets AuthenticationFailed, without the server's words."""
    called = threading.Event()

    def never(flow: Any, client: Any) -> None:
        called.set()

    port = serve(never if handler is whoami else handler, authenticate=authenticate)
    with pytest.raises(AuthenticationFailed) as caught:
        StationClient(HOST, port).send([{}], header={"authtkt": "something else"})
    assert "unknown" not in str(caught.value)
    assert not called.is_set()


def test_the_first_packet_is_asked_where_there_is_no_other_header(serve):
    """A flow whose header is its first packet is authenticated by it; an empty one by nothing."""
    port = serve(whoami, authenticate=check)
    assert StationClient(HOST, port).send([TOKEN])[1] == 1
    with pytest.raises(AuthenticationFailed):
        StationClient(HOST, port).send([])


@pytest.mark.parametrize("handler", HANDLERS)
def test_an_authenticate_that_fails_lets_nobody_in(serve, handler, logged_errors):
    """Another exception refuses as well; the log has its class and place, not its text."""

    def broken(header: Packet, peer: Any) -> None:
        raise LookupError(f"no table for {header}")

    port = serve(handler, authenticate=broken)
    with pytest.raises(AuthenticationFailed):
        StationClient(HOST, port).send([{}], header=TOKEN)
    (event,) = logged_errors.claim()
    text = event["log_format"].format(**event)
    assert "LookupError" in text
    assert "in broken" in text
    assert SECRET not in text


def test_the_log_has_no_token(serve, events):
    """A refusal is logged without what was sent, or what authenticate said about it."""
    port = serve(whoami, authenticate=check)
    with pytest.raises(AuthenticationFailed):
        StationClient(HOST, port).send([{}], header={"authtkt": "canary"})
    (event,) = [event for event in events if event["log_level"] is LogLevel.warn]
    assert "canary" not in event["log_format"].format(**event)


def test_what_is_not_callable_cannot_authenticate():
    """A mistake is told when the server is made."""
    wrong: Any = "secret"
    with pytest.raises(TypeError, match="authenticate is called"):
        FlowServer(whoami, authenticate=wrong)


# Before anybody is known


def test_a_stranger_has_small_windows_and_the_known_have_large_ones(peer):
    """What an unknown client may send is the initial credit; once it is known, the windows."""
    release = threading.Event()

    def slow(header: Packet, peer: Any) -> str:
        release.wait(10)
        return "somebody"

    client = peer(whoami, authenticate=slow)
    flow = client.open({"a": 1})
    assert client.machine.room(flow) == (INITIAL_PACKETS, INITIAL_BYTES)
    release.set()
    client.reactor.run_until(lambda: client.of(CreditReceived, flow))
    limits = client.server.limits
    assert client.machine.room(flow) == (limits.window_packets, limits.window_bytes)
    client.end(flow)
    assert client.result(flow).value == ["somebody", 1]


@pytest.fixture
def slowly() -> Iterator[Any]:
    """
    An authenticate that says yes once it is released; its release.
    """
    release = threading.Event()

    def slow(header: Packet, peer: Any) -> str:
        release.wait(10)
        return "somebody"

    yield slow, release
    release.set()


def test_a_stranger_sends_no_large_packet(peer, slowly):
    """A frame of more than the initial credit is a breach before any of it is kept."""
    slow, _ = slowly
    client = peer(whoami, authenticate=slow)
    flow = client.open({"a": 1})
    head = HEADER.pack(INITIAL_BYTES + BATCH.size + 1, FrameType.DATA, flow)
    client.protocol.dataReceived(head)
    (gone,) = client.of(GoAwayReceived)
    assert gone.code == "frame_length"


@pytest.mark.parametrize("flow", [2, 9])
def test_a_flow_that_is_not_there_has_no_large_packet_either(peer, flow):
    """One that never was, and one of a client that is known on another flow."""
    client = peer(whoami, authenticate=check)
    known = client.open(TOKEN)
    client.reactor.run_until(lambda: client.of(CreditReceived, known))
    client.protocol.dataReceived(HEADER.pack(INITIAL_BYTES + 100, FrameType.DATA, flow))
    (gone,) = client.of(GoAwayReceived)
    assert gone.code == "frame_length"


def test_a_large_packet_waits_until_its_sender_is_known(peer, slowly):
    """No client has to know of it: the first credit of the flow lets it go."""
    slow, release = slowly
    client = peer(whoami, authenticate=slow)
    flow = client.open({"a": 1})
    pending = deque([encode_packet({"data": bytes(3 * INITIAL_BYTES)})])
    assert client.machine.send_packets(flow, pending) == 0
    release.set()
    client.reactor.run_until(lambda: client.of(CreditReceived, flow))
    assert client.machine.send_packets(flow, pending) == 1
    client.end(flow)
    assert client.result(flow).value == ["somebody", 2]


def test_a_header_that_nobody_would_wait_for_is_not_sent(peer):
    """It would have to be known to be sent, and to be sent to be known."""
    client = peer(whoami, authenticate=check)
    flow = client.open()
    pending = deque([encode_packet({"data": bytes(INITIAL_BYTES)})])
    with pytest.raises(PacketTooLarge, match="max_header"):
        client.machine.send_packets(flow, pending)


@pytest.mark.parametrize("handler", HANDLERS)
def test_who_does_not_say_who_it_is_goes_in_time(peer, handler):
    """A flow without a header is refused at ``handshake_timeout``, and its handler's place free."""
    client = peer(handler, authenticate=check)
    flow = client.open()
    client.reactor.advance(client.server.limits.handshake_timeout)
    result = client.result(flow)
    assert (result.status, result.error["code"]) == ("refused", "unauthenticated")
    client.machine.cancel(flow)
    client.pump()
    client.returned()


def test_an_authenticate_that_hangs_is_interrupted(peer):
    """A coroutine that never answers is cancelled with its flow."""
    never: Deferred[str] = Deferred()

    async def hang(header: Packet, peer: Any) -> str:
        return await never

    client = peer(async_whoami, authenticate=hang)
    flow = client.open(TOKEN)
    client.reactor.advance(client.server.limits.handshake_timeout)
    assert client.result(flow).error["code"] == "unauthenticated"
    assert never.called
    client.machine.cancel(flow)
    client.pump()


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_flow_that_was_given_up_is_not_asked_about(peer, handler):
    """Where the client has cancelled before its header came, authenticate is not called."""
    asked: list[Packet] = []
    client = peer(handler, authenticate=lambda header, peer: asked.append(header))
    flow = client.open()
    client.machine.cancel(flow)
    client.pump()
    client.returned()
    assert not asked


# The shared secret


@pytest.mark.parametrize(
    ("given", "identity"), [(SECRET, "authtkt 1"), (OLD.decode(), "authtkt 2")]
)
def test_each_of_several_secrets_opens(given, identity):
    """During a rotation the new and the old secret are taken, as text or bytes."""
    authenticate = shared_secrets(SECRET, OLD)
    assert authenticate(Packet(authtkt=given), None) == identity
    assert authenticate(Packet(authtkt=given.encode()), None) == identity


@pytest.mark.parametrize("given", [None, "", "x" * 25, 5, [SECRET], SECRET[:-1], SECRET + " "])
def test_nothing_else_opens(given):
    """Another value, of whatever type, is refused without being quoted."""
    with pytest.raises(AuthenticationFailed) as caught:
        shared_secrets(SECRET)(Packet(authtkt=given), None)
    assert str(given or "\0") not in str(caught.value)


def test_another_field_may_hold_the_secret():
    """The field is the caller's choice."""
    assert shared_secrets(SECRET, field="key")(Packet(key=SECRET), None) == "key 1"


@pytest.mark.parametrize("secrets", [[], [""], ["short"], [SECRET, b"x" * 15]])
def test_a_secret_that_can_be_guessed_is_refused(secrets):
    """None, an empty or a short one would let everybody in."""
    with pytest.raises(ValueError, match="at least 16 bytes"):
        shared_secrets(*secrets)


# A server that stands open


class Port:
    def __init__(self, host: str, factory: Any) -> None:
        self.factory = factory
        self.getHost = lambda: Host(host)
        self.stopListening = lambda: None


class Host:
    def __init__(self, host: str) -> None:
        self.host = host


@pytest.fixture
def warned(hand_reactor: Any, events: list[dict[str, Any]]) -> Callable[..., int]:
    """
    Start a server on ports with these addresses, and return how often that was warned about.
    """

    def warned(
        *hosts: str, wrap: Callable[[Any], Any] = lambda server: server, **options: Any
    ) -> int:
        server = FlowServer(whoami, reactor=hand_reactor, **options)
        hand_reactor.getReaders = lambda: [Port(host, wrap(server)) for host in hosts]
        for _ in hosts:
            server.doStart()
        hand_reactor.turn()
        for _ in hosts:
            server.doStop()
        return sum("ANYBODY" in event["log_format"] for event in events)

    return warned


@pytest.mark.parametrize(
    ("hosts", "times"),
    [
        (["127.0.0.1"], 0),
        (["::1"], 0),
        (["0.0.0.0"], 1),
        (["::"], 1),
        (["192.0.2.1"] * 3, 1),
        (["name"], 0),
    ],
)
def test_a_bare_server_that_others_can_reach_warns_once(warned, logged_errors, hosts, times):
    """Beyond loopback, with neither TLS nor authentication: one loud line, however many ports."""
    assert warned(*hosts) == times
    logged_errors.claim(count=times)


def test_a_server_that_is_guarded_does_not_warn(warned):
    """Authentication, or TLS around the server, is enough."""
    from twisted.protocols.tls import TLSMemoryBIOFactory

    class Wrapped(TLSMemoryBIOFactory):
        def __init__(self, server: Any) -> None:
            self.wrappedFactory = server

    Wrapped.__name__ = "TLSMemoryBIOFactory"
    assert warned("0.0.0.0", authenticate=check) == 0
    assert warned("0.0.0.0", wrap=Wrapped) == 0
