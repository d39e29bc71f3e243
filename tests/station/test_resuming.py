"""A call whose connection is cut goes on as if nothing had happened, or says why it cannot."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest

from pyf.station import (
    FlowServer,
    ResumePolicy,
    SQLiteStore,
    StationClient,
    aio,
    backoff,
    tx,
)
from pyf.station.stream import Stream
from pyf.station.testing import ChaosProxy
from pyf.transport import (
    ConnectFailed,
    DeadlineExceeded,
    FlowCancelled,
    FlowRefused,
    Limits,
    OutcomeUnknown,
    Packet,
    PacketTooLarge,
    ResumeRejected,
    ServerError,
)

WAIT = 30.0
KEPT = 64 * 1024
CUTS = int(os.environ.get("CUTS", "50"))
"""Cuts of the longest call; script/soak sets it to 2,000."""


class Log:
    """
    A handler that keeps what it got, and answers every tenth packet.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.runs = 0
        self.error: BaseException | None = None
        self.started = threading.Event()
        self.ended = threading.Event()

    def __call__(self, flow: Any, client: Any) -> int:
        self.runs += 1
        self.started.set()
        try:
            for packet in flow:
                self.numbers.append(packet.n)
                if packet.n % 10 == 0:
                    client.message(packet)
            return len(self.numbers)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def proxied(serve, connect, monkeypatch) -> Iterator[Callable[..., tuple[Any, ChaosProxy]]]:
    """
    Serve a handler behind a proxy; return a client that goes through it, and the proxy.
    """
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE", 0.1)  # Many a connection is cut before its HELLO.
    proxies: list[ChaosProxy] = []

    def make(
        handler: Any, limits: Limits | None = None, authenticate: Any = None, **policy: Any
    ) -> Any:
        port = serve(handler, resume=ResumePolicy(**policy), authenticate=authenticate)
        proxies.append(ChaosProxy(port).__enter__())
        return connect("127.0.0.1", proxies[-1].port, limits=limits), proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


def echo(flow: Any, client: Any) -> Iterator[Packet]:
    yield from flow


def numbered(count: int) -> Iterator[Packet]:
    return (Packet(n=n) for n in range(count))


def cutting(proxy: ChaosProxy, every: int, cuts: int) -> Iterator[Packet]:
    """
    Packets without end until the connection has been cut so often, in the middle of everything.
    """
    how = random.Random(7)
    number = 0
    while proxy.cuts < cuts:
        for _ in range(every - 10):
            yield Packet(n=number, fill=bytes(how.randrange(200)))
            number += 1
        proxy.wait_for_connections(proxy.cuts + 1)
        forwarded = (proxy.to_server.forwarded, proxy.to_client.forwarded)
        for _ in range(10):  # One of ten is answered: there is something to cut on either way.
            yield Packet(n=number, fill=bytes(100))
            number += 1
        if how.random() < 0.5:
            way = how.randrange(2)
            count = forwarded[way] + how.randrange(1, 80)
            (proxy.to_server, proxy.to_client)[way].wait_for_bytes(count)
        proxy.cut(how.choice(["fin", "rst"]))


@pytest.mark.timeout(max(60, CUTS))
def test_a_call_survives_as_many_cuts_as_there_are(proxied, log):
    """
    After CUTS cuts nothing is lost and nothing twice, either way; there was one handler.
    """
    client, proxy = proxied(log)
    values = list(client.call(cutting(proxy, 200, CUTS), resume=True))
    messages = [value for value in values if value is not True]
    count = values.count(True)
    assert proxy.cuts >= CUTS
    assert log.numbers == list(range(count))
    assert [packet.n for packet in messages[:-1]] == list(range(0, count, 10))
    assert messages[-1] == {"type": "success", "message": count}
    assert (log.runs, log.error) == (1, None)


@pytest.mark.parametrize("authenticate", [None, lambda header, peer: header.n == 0])
@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_a_cut_at_any_byte_of_the_first_connection_is_survived(proxied, way, authenticate):
    """
    Before the session is opened the flow begins anew, and never has two handlers. Its client may
    not be known yet.
    """
    for byte in range(0, 700, 23):
        log = Log()
        client, proxy = proxied(log, authenticate=authenticate)
        getattr(proxy, way).cut_after_bytes = byte
        whole = threading.Event()
        watcher = threading.Thread(target=heal, args=(proxy, whole))
        watcher.start()
        assert client.send(numbered(30), resume=True) == 30
        whole.set()
        watcher.join()
        assert (log.numbers, log.runs) == (list(range(30)), 1)


def heal(proxy: ChaosProxy, whole: threading.Event) -> None:
    """
    Cut no more than one connection.
    """
    while not proxy.cuts and not whole.is_set():
        with suppress(TimeoutError):
            proxy.wait_for_cut(timeout=0.05)
    proxy.to_server.cut_after_bytes = proxy.to_client.cut_after_bytes = None


def test_a_source_that_sleeps_loses_its_connection_unnoticed(proxied, log):
    """
    The keeper makes a new one meanwhile: what the handler says arrives while the source sleeps.
    """
    client, proxy = proxied(log)

    def flow() -> Iterator[Packet]:
        yield Packet(n=0)
        proxy.wait_for_packets = None
        proxy.cut("rst")
        proxy.wait_for_connections(2)
        yield Packet(n=1)

    assert client.send(flow(), resume=True) == 2
    assert log.numbers == [0, 1]


def test_a_conversation_survives_too(proxied):
    """
    ``open(resume=True)``: what was said is answered, over whichever connection.
    """

    def echo(flow, client):
        for packet in flow:
            client.message(packet)

    client, proxy = proxied(echo)
    with client.open(resume=True) as flow:
        for number in range(5):
            flow.send(Packet(n=number))
            if number % 2:
                proxy.cut("fin")
            assert flow.receive(WAIT) == {"n": number}
        assert flow.end() is None


def test_the_result_comes_again_where_it_was_lost(proxied, log):
    """
    The handler has ended long ago; the client learns of it over the next connection.
    """
    client, proxy = proxied(log)

    def flow() -> Iterator[Packet]:
        yield from numbered(5)
        proxy.to_client.stall()
        threading.Thread(target=later).start()

    def later() -> None:
        log.ended.wait(WAIT)
        proxy.cut("rst")
        proxy.to_client.resume()

    assert client.send(flow(), resume=True) == 5
    assert log.runs == 1


def test_a_peer_that_falls_silent_is_left(proxied, log, serve):
    """
    A half-open connection at the server is fenced by the resume.
    """
    client, proxy = proxied(log)

    def flow() -> Iterator[Packet]:
        yield Packet(n=0)
        proxy.to_server.black_hole = True
        yield Packet(n=1)
        proxy.to_server.wait_for_bytes(1)
        proxy.to_server.black_hole = False
        proxy.cut("rst")
        yield Packet(n=2)

    assert client.send(flow(), resume=True) == 3
    assert log.numbers == [0, 1, 2]


# Where it cannot go on


def restarted(serve: Any, proxy: ChaosProxy, handler: Any) -> None:
    """
    Have another run of the server take the place of the first.
    """
    proxy._target = ("127.0.0.1", serve(handler, resume=ResumePolicy()))
    proxy.cut("rst")


def test_a_server_that_was_restarted_rejects_the_flow(proxied, log, serve):
    """
    The error is final, and says why.
    """
    client, proxy = proxied(log)

    def flow() -> Iterator[Packet]:
        yield Packet(n=0)
        assert log.started.wait(WAIT)
        restarted(serve, proxy, log)
        while True:
            yield Packet(n=1)

    with pytest.raises(ResumeRejected, match="the server was restarted") as caught:
        client.send(flow(), resume=True)
    assert caught.value.code == "other_boot"
    assert caught.value.sent > 0
    assert log.runs == 1


def test_whether_a_whole_flow_was_handled_is_not_known_then(proxied, log, serve):
    """
    All was sent, no result came, and the server that had it is gone.
    """
    gate = threading.Event()

    def stuck(flow, client):
        for _ in flow:
            pass
        gate.wait(WAIT)

    client, proxy = proxied(stuck)

    def flow() -> Iterator[Packet]:
        yield Packet(n=0)
        threading.Thread(target=later).start()

    def later() -> None:
        proxy.wait_for_packets = None
        while not client_ended():
            time.sleep(0.001)
        restarted(serve, proxy, log)

    call = client.call(flow(), resume=True)

    def client_ended() -> bool:
        link = call._progress.link
        return link is not None and (link.ended if isinstance(link, Stream) else link._ended)

    with pytest.raises(OutcomeUnknown) as caught:
        list(call)
    assert isinstance(caught.value.__cause__, ResumeRejected)
    gate.set()


def test_a_server_that_stays_away_is_given_up(proxied, log):
    """
    Once the session must have ended, nobody tries any longer.
    """
    client, proxy = proxied(log, ttl=0.3)

    def flow() -> Iterator[Packet]:
        yield Packet(n=0)
        proxy.close()
        while True:
            yield Packet(n=1)

    with pytest.raises(ResumeRejected) as caught:
        client.send(flow(), resume=True)
    assert caught.value.code == "expired"


def test_a_client_that_cannot_connect_any_more_says_so(proxied, log, monkeypatch):
    """
    Whatever goes wrong as it connects again, its caller does not wait for ever.
    """
    failing = threading.Event()

    def break_later(dial: Any) -> Any:
        def dial_or_fail(*args: Any) -> Any:
            if failing.is_set():
                raise RuntimeError("no more of this")
            return dial(*args)

        return dial_or_fail

    for kind in (StationClient, aio.StationClient, tx.StationClient):
        monkeypatch.setattr(kind, "_dial", break_later(kind._dial))
    client, proxy = proxied(log)

    def flow() -> Iterator[Packet]:
        yield Packet(n=0)
        failing.set()
        proxy.cut("rst")
        while True:
            yield Packet(n=1)

    with pytest.raises(ResumeRejected, match="no more of this") as caught:
        client.send(flow(), resume=True)
    assert caught.value.code == "failed"


@pytest.mark.parametrize("keeps", ["client", "server"])
def test_what_is_kept_may_be_less_than_a_window(proxied, keeps):
    """
    Then it is the window: credit comes as a quarter of it has been taken, either way.
    """
    limits = Limits(retention=KEPT) if keeps == "client" else None
    policy = {"retention": KEPT} if keeps == "server" else {}
    client, _ = proxied(echo, limits, **policy)
    packets = [Packet(n=n, fill=bytes(KEPT // 20)) for n in range(100)]
    assert list(client.stream(packets, resume=True))[:-1] == packets


def test_a_server_that_lets_nothing_survive_says_so(connect, serve, log):
    """
    The flow is refused before the source is asked.
    """
    client = connect("127.0.0.1", serve(log))
    with pytest.raises(FlowRefused) as caught:
        client.send(numbered(1), resume=True)
    assert caught.value.code == "not_resumable"
    assert log.runs == 0


def test_a_deadline_holds_while_there_is_no_connection(proxied, log):
    """
    Whoever waits for a new connection waits no longer than the call may take.
    """
    client, proxy = proxied(log)

    def flow() -> Iterator[Packet]:
        yield Packet(n=0)
        proxy.close()
        while True:
            yield Packet(n=1, fill=bytes(1000))

    with pytest.raises(DeadlineExceeded):
        client.send(flow(), resume=True, timeout=1.0)


def test_leaving_without_a_connection_takes_no_longer_than_a_last_word(proxied, log):
    """
    The session waits for a client that does not come, and then ends.
    """
    client, proxy = proxied(log, ttl=0.5)
    call = client.call(numbered(10**9), resume=True)
    for _ in islice(call, 10):
        pass
    proxy.close()
    call.close()
    assert log.ended.wait(WAIT)


def test_a_cancelled_call_ends_the_session_at_once(proxied, log):
    """
    Nobody waits for a client that gave its flow up.
    """
    client, _ = proxied(log)
    with client.call(numbered(10**9), resume=True) as call:
        next(call)
    assert log.ended.wait(WAIT)
    assert isinstance(log.error, FlowCancelled)


def test_errors_of_both_sides_come_as_ever(proxied, logged_errors):
    """
    What a handler or a source raises, and what cannot travel, has its own type.
    """

    def broken(flow, client):
        next(flow)
        raise ZeroDivisionError

    client, _ = proxied(broken)
    with pytest.raises(ServerError):
        client.send(numbered(1), resume=True)
    logged_errors.claim(ZeroDivisionError)

    def failing() -> Iterator[Packet]:
        yield Packet(n=0)
        raise KeyError("on purpose")

    client, _ = proxied(Log())
    with pytest.raises(KeyError):
        client.send(failing(), resume=True)
    with pytest.raises(PacketTooLarge):
        client.send([Packet(n=0, fill=bytes(17 << 20))], resume=True)


def test_no_server_at_all_is_told_at_once(connect, serve):
    """
    Only who had a connection waits for another one.
    """
    client = connect("127.0.0.1", 1)
    with pytest.raises(ConnectFailed):
        client.send(numbered(1), resume=True)
    with pytest.raises(ConnectFailed):
        client.send(lambda start: numbered(1), flow_id="orders")


# Flows with a name


def from_start(start: int) -> Iterator[Packet]:
    return (Packet(n=n) for n in range(start, 200))


def test_a_flow_with_a_name_survives_its_server(proxied, serve, tmp_path):
    """
    It goes on with a successor that shares the store; each packet gives True once.
    """
    store = SQLiteStore(tmp_path / "store.db")
    table: list[int] = []
    starts: list[int] = []
    places = [50, 120]

    def work(flow, client):
        starts.append(client.start)
        for done, packet in enumerate(flow, client.start + 1):
            client.checkpoint(done, lambda _, number=packet.n: table.append(number))

    client, proxy = proxied(work, store=store)

    def flow(start: int) -> Iterator[Packet]:
        for packet in from_start(start):
            yield packet
            if packet.n in places:
                places.remove(packet.n)
                deadline = time.monotonic() + WAIT
                while len(table) < 20 and time.monotonic() < deadline:
                    time.sleep(0.001)
                policy = ResumePolicy(store=store)
                proxy._target = ("127.0.0.1", serve(work, resume=policy))
                proxy.cut("rst")

    values = list(client.call(flow, flow_id="orders"))
    assert table == list(range(200))
    assert values.count(True) == 200
    assert len(starts) > 1


def test_a_draining_server_passes_its_flow_on(
    connect, proxied, serve, tmp_path, in_reactor, reactor
):
    """
    The client does not wait until the grace is over: it goes to the successor at once.
    """
    store = SQLiteStore(tmp_path / "store.db")
    table: list[int] = []

    def work(flow, client):
        for done, packet in enumerate(flow, client.start + 1):
            client.checkpoint(done, lambda _, number=packet.n: table.append(number))

    policy = ResumePolicy(store=store)
    first = FlowServer(work, reactor=reactor, resume=policy)
    port = in_reactor(reactor.listenTCP, 0, first, interface="127.0.0.1")
    moved = threading.Event()

    with ChaosProxy(port.getHost().port) as proxy:
        client = connect("127.0.0.1", proxy.port)

        def flow(start: int) -> Iterator[Packet]:
            for packet in from_start(start):
                yield packet
                if packet.n == 50 and not moved.is_set():
                    moved.set()
                    proxy._target = ("127.0.0.1", serve(work, resume=policy))
                    before = proxy.to_client.forwarded
                    reactor.callFromThread(first.drain, 60)
                    proxy.to_client.wait_for_bytes(before + 1)

        client.send(flow, flow_id="orders")
        assert proxy.connections == 2
    assert table == list(range(200))
    in_reactor(first.stop)


def test_a_flow_with_a_name_is_a_function(connect, serve):
    """
    An iterator cannot begin again.
    """
    client = connect("127.0.0.1", 1)
    with pytest.raises(TypeError, match="a flow is a function"):
        client.call(iter([]), flow_id="orders")
    with pytest.raises(TypeError, match="a flow is an iterable"):
        client.call(from_start, resume=True)
