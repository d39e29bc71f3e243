"""The named events of a server: what is known with each, and nothing for a packet."""

import threading
from queue import SimpleQueue
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher

from pyf.station import FlowServer
from pyf.station.observe import (
    INTERVAL,
    NAMES,
    OUTCOMES,
    STALLED_AFTER,
    Event,
    Observed,
    log_events,
    shown,
    text_of,
)
from pyf.station.session import Session
from pyf.transport import AuthenticationFailed, FlowCancelled, Limits, Packet


def count_all(flow, client):
    return sum(1 for _ in flow)


async def answer_each(flow, client):
    async for packet in flow:
        await client.message(packet)


@pytest.fixture
def events():
    return []


@pytest.fixture
def names(events):
    return lambda: [event.name for event in events]


def test_a_flow_is_told_from_its_connection_to_its_end(peer, events, names):
    """
    Connection, flow, end of both: in this order, with counts, seconds and the outcome.
    """
    each = peer(answer_each, observers=[events.append])
    flow = each.open({"table": "prices"})
    each.send(flow, {"n": 1}, {"n": 2})
    each.reactor.advance(3.0)
    each.end(flow)
    each.result(flow)
    each.lose()
    assert names() == ["connection_opened", "flow_opened", "flow_finished", "connection_closed"]
    opened, finished, closed = events[1:]
    assert (opened.header, opened.flow, opened.connection) == (Packet(table="prices"), 1, 1)
    assert (finished.received, finished.consumed, finished.messages) == (2, 2, 3)
    assert (finished.outcome, finished.seconds, closed.seconds) == ("success", 3.0, 3.0)
    assert set(names()) <= NAMES.keys()


@pytest.mark.parametrize(
    ("leave", "outcome", "error"),
    [
        (lambda each, flow: each.machine.cancel(flow), "cancelled", "FlowCancelled"),
        (lambda each, flow: each.machine.abort(flow, "KeyError"), "client_failed", "KeyError"),
        (lambda each, flow: each.lose(), "lost", "BadFlowEnding"),
        (lambda each, flow: each.reactor.advance(9), "deadline", "DeadlineExceeded"),
    ],
)
def test_an_early_end_is_told_with_its_reason(peer, events, leave, outcome, error):
    """
    A flow that ends before its time is told as cancelled, and as finished once its handler is.
    """
    each = peer(count_all, observers=[events.append])
    flow = each.open({"a": 1}, timeout=8)
    leave(each, flow)
    each.pump()
    each.returned()
    cancelled, finished = [each for each in events if each.outcome]
    assert (cancelled.name, finished.name) == ("flow_cancelled", "flow_finished")
    assert cancelled.outcome == finished.outcome == outcome
    assert outcome in OUTCOMES
    assert error in cancelled.error


def test_a_flow_is_finished_only_when_its_handler_has_returned(peer, events, names):
    """
    A handler that goes on after a cancel is seen: its flow is cancelled, and not finished.
    """
    go_on = threading.Event()

    def stubborn(flow, client):
        go_on.wait(10)

    each = peer(stubborn, observers=[events.append])
    flow = each.open({"a": 1})
    each.machine.cancel(flow)
    each.pump()
    (live,) = each.server.observed.flows
    assert (names()[-1], live.over, live.returned) == ("flow_cancelled", True, False)
    assert live.session.awaited == "handler"
    go_on.set()
    each.returned()
    assert names()[-1] == "flow_finished"
    assert each.server.observed.flows == []


def test_a_handler_that_fails_is_an_error(peer, events, logged_errors):
    """
    So its flow's outcome is the handler's word, and nothing was cancelled.
    """

    def fails(flow, client):
        raise ValueError("no")

    each = peer(fails, observers=[events.append])
    each.call({"a": 1})
    each.returned()
    assert [event.outcome for event in events if event.outcome] == ["error"]
    logged_errors.claim(ValueError)


def test_a_client_that_does_not_wait_leaves_a_success(peer, events):
    """
    The flow is over when such a client leaves behind its END; the handler's word still counts.
    """
    each = peer(count_all, observers=[events.append])
    flow = each.open({"a": 1}, waits=False)
    each.machine.end(flow)
    each._to_server()
    each.lose()
    each.returned()
    assert [event.outcome for event in events if event.outcome] == ["success"]


def test_a_flow_without_a_free_handler_is_refused(peer, events, names):
    """
    It is told, and counted as an outcome; it is no flow that is open.
    """
    each = peer(answer_each, observers=[events.append], max_handlers=1)
    each.open({"a": 1})
    each.open({"a": 2})
    assert names()[-1] == "flow_refused"
    assert each.server.observed.outcomes["refused"] == 1
    assert [flow.number for flow in each.server.observed.flows] == [1]


def test_a_client_that_is_not_let_in_is_refused(peer, events):
    """
    It is told as cancelled and as finished, both times as refused.
    """

    async def nobody(header, peer):
        raise AuthenticationFailed("no token")

    each = peer(answer_each, observers=[events.append], authenticate=nobody)
    flow = each.open({"a": 1})
    each.result(flow)
    each.returned()
    assert [event.outcome for event in events if event.outcome] == ["refused", "refused"]


@pytest.mark.parametrize("reads", [True, False])
def test_a_stall_names_the_side_that_is_waited_for(peer, events, reads):
    """
    The client, where the handler waits for a packet or for its messages to be read.
    """

    async def floods(flow, client):
        while not reads:
            await client.message({"text": "x" * 1000})
        return [packet async for packet in flow]

    each = peer(floods, Limits(window_bytes=65536), reads=reads, observers=[events.append])
    flow = each.open({"a": 1})
    for _ in range(9):
        each.reactor.advance(INTERVAL)
    (stalled,) = [event for event in events if event.name == "flow_stalled"]
    assert stalled.side == "client"
    assert stalled.seconds >= STALLED_AFTER
    if reads:
        each.send(flow, {"a": 2})
        each.reactor.advance(INTERVAL)
        assert (events[-1].name, events[-1].side) == ("flow_resumed", "client")
        assert events[-1].seconds >= STALLED_AFTER


def test_a_handler_that_does_not_read_is_waited_for(peer, events):
    """
    Packets have come, and it takes none: the handler's side has stalled.
    """
    go_on = threading.Event()

    def sleeps(flow, client):
        go_on.wait(10)
        return [*flow]

    each = peer(sleeps, observers=[events.append])
    flow = each.open({"a": 1})
    each.send(flow, {"a": 2})
    for _ in range(9):
        each.reactor.advance(INTERVAL)
    assert (events[-1].name, events[-1].side) == ("flow_stalled", "handler")
    go_on.set()
    each.end(flow)
    each.result(flow)


def test_throughput_is_remembered(peer, events):
    """
    The look at the open flows knows the rate of each, and of all of them together.
    """
    each = peer(answer_each, observers=[events.append])
    flow = each.open({"a": 0})
    each.send(flow, *({"n": n} for n in range(50)))
    each.reactor.advance(INTERVAL)
    seen = each.server.observed
    assert seen.flows[0].rate == seen.history[-1][1] == 50 / INTERVAL
    assert seen.totals == (50, 50, 51)
    each.end(flow)
    each.result(flow)
    assert seen.totals == (50, 50, 51)


def test_no_timer_runs_where_no_flow_is_open(peer, events):
    """
    A server that is idle costs nothing, observed or not.
    """
    each = peer(count_all, observers=[events.append])
    before = len(each.reactor.getDelayedCalls())
    flow = each.open({"a": 1})
    assert len(each.reactor.getDelayedCalls()) == before + 1
    each.end(flow)
    each.result(flow)
    each.returned()
    assert len(each.reactor.getDelayedCalls()) == before


def test_an_observer_that_fails_disturbs_nobody(peer, events, logged_errors):
    """
    It is logged; the other observers are told, and the flow goes on.
    """

    def broken(event):
        if event.name == "flow_opened":
            raise KeyError("mine")

    each = peer(answer_each, observers=[broken, events.append])
    assert each.call({"a": 1}).status == "success"
    assert len(events) == 3
    logged_errors.claim(KeyError)


def test_nothing_is_kept_without_observers(hand_reactor):
    """
    A server that nobody observes has nothing that could be asked.
    """
    assert FlowServer(count_all, reactor=hand_reactor).observed is None


def test_events_are_logged_with_their_facts(peer):
    """
    Each event is one entry of the log, readable, with every fact in a field; secrets are masked.
    """
    logged: list[Any] = []
    note: Any = logged.append  # pyright knows nothing of zope's interfaces
    globalLogPublisher.addObserver(note)
    try:
        each = peer(answer_each, observers=[log_events])
        each.call({"a": 1}, header={"table": "prices", "authtkt": "hush"})
    finally:
        globalLogPublisher.removeObserver(note)
    (finished,) = [entry for entry in logged if entry.get("name") == "flow_finished"]
    assert finished["log_format"].format(**finished).startswith("flow_finished 1 from ")
    assert (finished["received"], finished["outcome"]) == (1, "success")
    assert "prices" in finished["header_text"]
    assert "hush" not in str(logged)


def test_a_header_is_not_copied_to_be_logged():
    """
    Its handler may be changing it: a copy in depth would fail in the middle.
    """

    class Changing:
        def __deepcopy__(self, memo):
            raise RuntimeError("dictionary changed size during iteration")

    log_events(Event(name="flow_opened", connection=1, peer="peer", header=Packet(a=Changing())))


def test_totals_read_in_another_thread_never_shrink(carrier):
    """
    A flow that is over counts once, whoever looks just then.
    """
    observed = Observed(MemoryReactorClock, lambda: 0.0)
    session = Session(carrier, 1, Packet(), SimpleQueue(), waits=True)
    observed.opened(session)
    session.received = 50
    looking, settled = threading.Event(), threading.Event()

    class Slow(dict[Any, Any]):
        def values(self) -> Any:
            looking.set()
            settled.wait(0.05)  # The flow is not settled before this has ended.
            return super().values()

    observed._flows = Slow(observed._flows)
    totals: list[tuple[int, int, int]] = []
    reader = threading.Thread(target=lambda: totals.append(observed.totals))
    reader.start()
    assert looking.wait(10)
    session.fail(FlowCancelled("over"))
    observed.returned(session)
    settled.set()
    reader.join()
    assert totals == [(50, 0, 0)]
    assert observed.totals == (50, 0, 0)


def test_a_header_is_shown_without_secrets_and_in_one_line():
    """
    Secrets are masked at any depth, what is no letter is escaped, and what is long is cut.
    """
    header = {"n": 1, "user": {"Password": "hush", "tokens": ["hush"]}, "text": "a\nb\u202e\x1b<"}
    text = shown(header)
    assert "hush" not in text
    assert "\n" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert shown(None) == ""
    assert len(shown({"text": "x" * 10_000, "list": [[[[[["deep"]]]]]] * 100}, 90)) == 90
    assert "deep" not in shown({"list": [[[[[["deep"]]]]]]})


@pytest.mark.parametrize(
    "name",
    [
        *("authtkt", "auth", "Authorization", "X-Auth-Token", "token", "accessTokens", "APIToken"),
        *("password", "user_password", "passwd", "DB_PWD", "secret", "clientSecret", "cookies"),
        *("api_key", "apiKey", "API-KEY", "apikey", "x.api.key", "privateKey", "credentials"),
        *("session_id", "access_key_id", "ssh key", "ticket", "passphrase"),
    ],
)
def test_a_field_that_is_named_like_a_secret_is_masked(name):
    """
    A word of the table, written in any of the ways in which people write names.
    """
    assert "hush" not in shown({name: "hush"})


@pytest.mark.parametrize(
    "name",
    [
        *("primary_key", "key", "keys", "foreignKey", "keyboard", "monkey", "sort-key"),
        *("author", "authority", "tokenizer", "secretary", "compass", "pinned", "spin", "side"),
    ],
)
def test_a_field_whose_name_only_sounds_like_a_secret_is_shown(name):
    """
    Words count as a whole, and a key is no secret by itself.
    """
    assert "shown" in shown({name: "shown"})


def test_addresses_are_told_as_people_write_them():
    """
    Of a UNIX socket there may be no name.
    """
    assert text_of(UNIXAddress(b"/run/x").name) == "b'/run/x'"
    assert text_of(None) == "None"
