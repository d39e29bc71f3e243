"""A connection at the server, and what it does about clients that are silent, slow, a nuisance."""

import socket
import threading
from collections import deque
from typing import Any

import pytest
from twisted.internet.tcp import Server
from twisted.logger import LogLevel, globalLogPublisher

from pyf.station import StationClient
from pyf.station.direct import Direct
from pyf.station.pace import TURN
from pyf.transport import BadFlowEnding, Limits, encode_packet
from pyf.transport.budget import BUDGETS, Allowance
from pyf.transport.events import GoAwayReceived, ResultReceived
from pyf.transport.frames import FrameType, encode_batch, encode_frame
from pyf.transport.limits import LARGE, MAX_REPLIES

PING = b"".join(encode_frame(FrameType.PING, 0, bytes(8)))
STEP = 0.5
"""Seconds that pass at once: less than what counts as late."""


async def reading(flow, client):
    return [packet.n async for packet in flow]


class Waiting:
    """
    A handler that reads to the end, and keeps what the flow raised.
    """

    def __init__(self):
        self.error = None

    async def __call__(self, flow, client):
        try:
            async for _ in flow:
                pass
        except BadFlowEnding as error:
            self.error = error
            raise


@pytest.fixture
def logged():
    """
    Level and text of what is logged.
    """
    events = []

    def observe(event):
        if event["log_namespace"].startswith("pyf."):
            events.append((event["log_level"], event["log_format"].format(**event)))

    globalLogPublisher.addObserver(observe)  # pyright: ignore[reportArgumentType]
    yield events
    globalLogPublisher.removeObserver(observe)  # pyright: ignore[reportArgumentType]


def passes(client: Any, seconds: float, *, answering: bool = False) -> None:
    """
    Let time pass; the client answers meanwhile, or says nothing.
    """
    for _ in range(round(seconds / STEP)):
        client.reactor.advance(STEP)
        if answering:
            client.pump()


def pings(client: Any) -> int:
    return client.transport.value().count(PING)


def said(client: Any) -> str:
    """
    Code and text of the GOAWAY.
    """
    (away,) = client.of(GoAwayReceived)
    return f"{away.code}: {away.message}"


# Liveness


def test_a_silent_client_is_asked_twice_and_given_up(peer, logged):
    handler = Waiting()
    client = peer(handler)
    client.send(client.open({"n": 0}), {"n": 1})
    for expected in (0, 1, 2):
        passes(client, 9.5)
        assert pings(client) == expected
        assert not client.transport.half_closed
        passes(client, 0.5)
    assert said(client) == (
        "ping_timeout: nothing came for 30 s, in spite of 2 PINGs "
        "(Limits.ping_interval, Limits.ping_misses)"
    )
    assert isinstance(handler.error, BadFlowEnding)
    assert handler.error.received == 1
    assert "nothing came for 30 s" in str(handler.error)
    assert "(Limits.ping_interval, Limits.ping_misses), before the flow" in str(handler.error)
    assert client.transport.half_closed
    passes(client, 4.5)
    assert not client.transport.aborted
    passes(client, 0.5)
    assert client.transport.aborted
    ((level, text),) = logged
    assert level is LogLevel.warn
    assert "192.168.1.1" in text


def test_a_client_that_answers_is_never_given_up(peer):
    handler = Waiting()
    client = peer(handler)
    client.open({"n": 0})
    passes(client, 200, answering=True)
    assert handler.error is None
    assert not client.transport.half_closed


def test_any_byte_shows_that_a_client_lives(peer):
    client = peer(reading, limits=Limits(frame_timeout=1000.0))
    client.open({"n": 0})
    for byte in PING + PING:
        passes(client, 9.0)
        client.protocol.dataReceived(bytes([byte]))
        passes(client, 0.5)
    assert pings(client) == 0


def test_a_client_is_not_asked_more_often_than_it_wants(peer):
    client = peer(reading, Limits(min_ping_interval=25.0), limits=Limits(ping_interval=0.5))
    client.open({"n": 0})
    passes(client, 24.5)
    assert pings(client) == 0
    passes(client, 0.5)
    assert pings(client) == 1
    passes(client, 49.5)
    assert not client.transport.half_closed
    passes(client, 0.5)
    assert "nothing came for 75 s" in said(client)


def test_a_process_that_was_suspended_asks_once_more(peer, hand_reactor):
    client = peer(reading)
    client.open({"n": 0})
    passes(client, 20)
    hand_reactor.advance(3600.0)
    assert not client.transport.half_closed
    assert pings(client) == 3
    passes(client, 10)
    assert client.transport.half_closed


def test_what_came_while_the_reactor_was_busy_counts_before_a_client_is_given_up(
    peer, hand_reactor
):
    """
    A reactor runs the timers that are due before it reads.
    """
    client = peer(reading)
    client.open({"n": 0})
    passes(client, 29.5)
    hand_reactor.rightNow += 0.5
    due = hand_reactor.calls.pop(0)
    due.called = 1
    due.func()
    assert not client.transport.half_closed
    client.protocol.dataReceived(PING)
    passes(client, 9.5)
    assert not client.transport.half_closed


def test_what_the_system_keeps_is_read_before_a_client_is_asked_or_given_up(peer, monkeypatch):
    """
    It keeps the next piece of a large frame until there is more; here, as long as nobody looks.
    """
    limits = Limits(frame_timeout=1000.0)

    def hear(_):
        client.reactor.callLater(0, client.protocol.dataReceived, b"\0")
        return True

    monkeypatch.setattr(Direct, "hear", hear)
    client = peer(reading, limits=limits)
    flow = client.open({"n": 0})
    client.protocol.dataReceived(encode_batch(FrameType.DATA, flow, 0, 1, bytes(1000))[0])
    passes(client, 200)
    assert pings(client) == 0
    assert not client.transport.half_closed


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
def test_the_system_gives_up_at_the_same_time(peer):
    client = peer(reading, limits=Limits(ping_interval=0.25, ping_misses=3))
    assert client.transport.options == []
    client.pump()
    assert client.transport.options == [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4000)]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option")
def test_a_real_socket_takes_the_timeout(serve, in_reactor, reactor):
    found = []

    async def handler(flow, client):
        for reader in reactor.getReaders():
            if isinstance(reader, Server) and reader.getPeer() == client.peer:
                option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                found.append(reader.getHandle().getsockopt(*option))

    client = StationClient("127.0.0.1", serve(handler), True)
    client.send([{"n": 1}])
    assert found == [30_000]


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_a_handle_that_knows_no_such_option_is_left_alone(peer, monkeypatch, error):
    def no_option(*_):
        raise error

    client = peer(reading)
    monkeypatch.setattr(client.transport, "setsockopt", no_option)
    assert client.call({"n": 1}).value == [1]


def test_the_sockets_transport_is_found_beneath_another(peer):
    client = peer(reading)
    client.transport.transport = inner = type(client.transport)()
    client.pump()
    assert client.transport.options == []
    assert len(inner.options) == 1


# Deadlines


def begun(client, flow=1) -> bytes:
    """
    A frame of data without its last byte.
    """
    frame = encode_frame(FrameType.DATA, flow, (0).to_bytes(8, "big"), b"\xdd\0\0\0\1\x80")
    return b"".join(frame)[:-1]


def test_a_frame_that_does_not_end_ends_the_connection(peer, logged):
    handler = Waiting()
    client = peer(handler)
    client.open({"n": 0})
    passes(client, 7)
    for byte in begun(client):
        client.protocol.dataReceived(bytes([byte]))
        passes(client, 1)
    passes(client, 29.5 - len(begun(client)))
    assert not client.transport.half_closed
    passes(client, 0.5)
    assert said(client) == (
        "frame_timeout: neither the rest of a frame nor 512 KiB of it came within 30 s"
        " (Limits.frame_timeout)"
    )
    assert "(Limits.frame_timeout), before the flow" in str(handler.error)
    assert len(logged) == 1


def test_a_frame_has_its_time_whatever_came_before_it(peer):
    client = peer(reading, limits=Limits(frame_timeout=3.0))
    client.open({"n": 0})
    for _ in range(10):
        # The end of one frame, and the beginning of the next.
        client.protocol.dataReceived(PING[3:] + PING[:3] if _ else PING[:3])
        passes(client, 2)
        assert not client.transport.half_closed
    passes(client, 1)
    assert client.transport.half_closed


def test_each_part_of_a_large_frame_is_a_sign_of_life(peer):
    """The handler hears of the whole frame alone."""
    taken = 0

    async def handler(flow, client):
        nonlocal taken
        async for _ in flow:
            taken += 1

    client = peer(handler, limits=Limits(frame_timeout=1000.0))
    flow = client.open({"n": 0})
    packet = encode_packet({"data": bytes(8 * LARGE)})
    frame = b"".join(encode_batch(FrameType.DATA, flow, 0, 1, packet))
    client.protocol.dataReceived(frame[: 2 * LARGE])
    rest = memoryview(frame)[2 * LARGE :]
    while rest:
        passes(client, 9)
        assert taken == 1
        buffer = client.protocol.get_buffer()
        size = min(LARGE, len(rest))
        buffer[:size] = rest[:size]
        client.protocol.buffer_updated(size)
        rest = rest[size:]
    assert taken == 2
    assert not client.transport.half_closed


def test_a_connection_without_a_flow_is_closed_in_the_end(peer, logged):
    client = peer(reading, limits=Limits(idle_timeout=60.0))
    client.pump()
    passes(client, 40, answering=True)
    flow = client.open({"n": 0})
    passes(client, 100, answering=True)
    client.end(flow)
    client.result(flow)
    passes(client, 59.5, answering=True)
    assert not client.transport.half_closed
    passes(client, 0.5, answering=True)
    assert said(client) == "idle_timeout: no flow was open for 60 s (Limits.idle_timeout)"
    ((level, _),) = logged
    assert level is LogLevel.info


def test_a_client_that_answers_but_reads_nothing_is_given_up(peer, logged):
    handler = Waiting()
    client = peer(handler)
    client.open({"n": 0})
    passes(client, 3)
    client.transport.producer.pauseProducing()
    client.transport.producer.pauseProducing()
    for _ in range(59):
        passes(client, 0.5)
        client.protocol.dataReceived(PING)
    assert not client.transport.half_closed
    passes(client, 0.5)
    assert client.transport.half_closed
    assert client.transport.producer is None
    assert "could be written for 30 s (Limits.write_timeout), before" in str(handler.error)
    assert len(logged) == 1


@pytest.mark.parametrize("tells", [True, False])
def test_a_client_that_reads_slowly_is_not_given_up(peer, tells):
    client = peer(Waiting())
    client.open({"n": 0})
    client.transport.producer.pauseProducing()
    for offset in range(1, 9):
        passes(client, 20, answering=True)
        if tells:
            client.transport.offset = offset
        else:
            client.transport.producer.resumeProducing()
            client.transport.producer.pauseProducing()
    assert not client.transport.half_closed
    passes(client, 60, answering=True)
    assert client.transport.half_closed


@pytest.fixture
def no_budget(monkeypatch):
    """
    As many PINGs as anybody likes: what is left then is what waits for a client that reads nothing.
    """
    monkeypatch.setitem(BUDGETS, "PING", Allowance(10**9, 1))


@pytest.mark.usefixtures("no_budget")
def test_a_client_that_pings_and_does_not_read_is_aborted_before_its_answers_pile_up(peer, logged):
    handler = Waiting()
    client = peer(handler)
    client.open({"n": 0})
    client.transport.clear()
    client.transport.producer.pauseProducing()
    pings = 4096
    sent = 0
    while not client.transport.aborted:
        client.protocol.dataReceived(PING * pings)
        sent += pings
    assert MAX_REPLIES < sent * len(PING) < MAX_REPLIES + 2 * pings * len(PING)
    assert f"more than {MAX_REPLIES} bytes of answers" in str(handler.error)
    ((level, _),) = logged
    assert level is LogLevel.warn
    size = len(client.transport.value())
    client.protocol.dataReceived(PING * pings)
    assert len(client.transport.value()) == size


@pytest.mark.parametrize("lost", [False, True])
def test_what_takes_long_is_handled_in_turns_and_to_its_end(peer, hand_reactor, lost):
    """Meanwhile nothing more is read; where the connection is lost, what came before counts."""
    taken: list[int] = []

    async def handler(flow: Any, client: Any) -> None:
        async for packet in flow:
            hand_reactor.rightNow += 2 * TURN
            taken.append(packet.n)

    client = peer(handler)
    flow = client.open({"n": 0})
    hand_reactor.advance(0)
    reads: list[str] = []
    client.transport.pauseProducing = lambda: reads.append("rest")
    client.transport.resumeProducing = lambda: reads.append("read")
    del taken[:]
    for n in range(1, 4):
        client.machine.send_packets(flow, deque([encode_packet({"n": n})]))
    client.machine.end(flow)
    client.pump()
    assert (taken, reads) == ([1], ["rest"])
    if lost:
        client.lose()
    else:
        hand_reactor.advance(0)
        assert client.result(flow).status == "success"
    assert taken == [1, 2, 3]
    assert reads == (["rest"] if lost else ["rest", "read"])


@pytest.mark.usefixtures("no_budget")
def test_a_client_that_pings_and_reads_is_answered_for_ever(peer):
    client = peer(reading)
    client.pump()
    rounds, pings = 3, MAX_REPLIES // len(PING) // 2
    for _ in range(rounds):
        client.transport.producer.pauseProducing()
        client.protocol.dataReceived(PING * pings)
        client.transport.producer.resumeProducing()
        assert len(client.transport.value()) >= pings * len(PING)
        client.transport.clear()
    assert not client.transport.aborted


def test_messages_that_a_client_has_given_credit_for_may_wait(peer):
    async def handler(flow, client):
        for _ in range(100):
            await client.message({"text": "x" * 60_000})

    window = 2 * MAX_REPLIES
    client = peer(handler, Limits(window_bytes=window))
    client.pump()
    client.transport.producer.pauseProducing()
    flow = client.open({"n": 0})
    client.protocol.dataReceived(PING)
    assert not client.transport.aborted
    client.end(flow)
    assert client.result(flow).status == "success"


@pytest.mark.parametrize("seconds", [4, 5, 6])
def test_a_suspended_process_does_not_count_its_absence(peer, hand_reactor, seconds):
    client = peer(reading, limits=Limits(frame_timeout=10.0, ping_interval=60.0))
    client.open({"n": 0})
    client.protocol.dataReceived(PING[:3])
    passes(client, seconds)
    hand_reactor.advance(7200.0)
    assert not client.transport.half_closed
    passes(client, 9.5)
    assert not client.transport.half_closed
    passes(client, 0.5)
    assert client.transport.half_closed


def test_a_refused_flow_is_an_answer_too(peer):
    client = peer(Waiting(), max_handlers=1)
    flows = [client.open(), client.open()]
    (refused,) = client.of(ResultReceived)
    assert (refused.flow_id, refused.error["code"]) == (flows[1], "busy")


def test_a_deadline_is_kept_by_a_clock_that_nobody_sets(reactor, serve):
    """
    A timer that rings too early, since the wall clock was put forward, is set again.
    """
    released = threading.Event()
    port = serve(lambda flow, client: released.wait(10))
    conversation = StationClient("127.0.0.1", port, True).open({"n": 1}, timeout=600.0)
    try:
        rung = threading.Event()

        def ring():
            for call in reactor.getDelayedCalls():
                owner = getattr(call.func, "__self__", None)
                if getattr(owner, "_function", None) is not None:
                    call.reset(0)
            reactor.callLater(0.01, rung.set)

        reactor.callFromThread(ring)
        assert rung.wait(10)
        released.set()
        assert conversation.end() is True
    finally:
        released.set()
        conversation.cancel()


def test_a_flow_that_comes_and_goes_in_one_turn_does_not_hold_up_draining(peer):
    """
    Its handler has the server drain; between two turns, no flow was ever open.
    """

    async def draining(flow, client):
        peers[0].protocol.drain("it is time")
        await flow.next()

    peers = [peer(draining)]
    (client,) = peers
    client.pump()
    client.machine.cancel(client.machine.open_flow({"n": 0}))
    client.pump()
    assert client.transport.half_closed
