"""Sessions at the server: what waits for its client, for how long, and who may come back."""

import threading

import pytest
from twisted.internet.defer import Deferred

from pyf.station import FlowServer, ResumePolicy
from pyf.station.sessions import UNSEEN, Sessions
from pyf.transport import (
    BadFlowEnding,
    DeadlineExceeded,
    FlowCancelled,
    Packet,
    RemoteProtocolError,
    StationError,
)
from pyf.transport.events import (
    CreditReceived,
    FlowRejected,
    FlowResumed,
    GoAwayReceived,
    ResultReceived,
    SessionOpened,
)
from pyf.transport.frames import FrameType, encode_batch
from pyf.transport.limits import INITIAL_BYTES, MIB

TTL = ResumePolicy().ttl


class Handler:
    """
    A coroutine that answers each packet, and keeps what the flow raised.
    """

    def __init__(self):
        self.log = []
        self.error = None
        self.runs = 0

    async def __call__(self, flow, client):
        self.runs += 1
        self.clients = client
        try:
            async for packet in flow:
                self.log.append(packet.n)
                await client.message(Packet(n=packet.n))
        except StationError as error:
            self.error = error
            raise
        return len(self.log)


@pytest.fixture
def handler():
    return Handler()


@pytest.fixture
def opened(peer, handler, hand_reactor):
    """
    Open a flow with a session; return its client, its number and its ticket.
    """

    def open_flow(server=None, *, resume=None, **options):
        policy = resume or ResumePolicy()
        if server is None:
            server = FlowServer(handler, reactor=hand_reactor, resume=policy, **options)
        client = peer(server)
        flow = client.open(resume=MIB)
        (event,) = client.of(SessionOpened)
        return client, client.machine.flow(flow), event.ticket

    return open_flow


def numbers(*values):
    return [Packet(n=value) for value in values]


def come_back(peer, client, flow, ticket):
    """
    Ask on another connection for the flow to go on; return that one's client.
    """
    again = peer(client.server)
    again.machine.resume_flow(flow, ticket)
    again.pump()
    return again


def flow_of(server, ticket):
    return server.sessions._places[ticket.session_id].flow


def rejection(client):
    (event,) = client.of(FlowRejected)
    return event.code, event.final


def test_a_flow_goes_on_over_another_connection(peer, opened, handler):
    """
    What the server said into the void comes, the handler hears of nothing, and runs once.
    """
    client, flow, ticket = opened()
    client.send(flow.id, *numbers(0, 1))
    client.lose()
    again = come_back(peer, client, flow, ticket)
    (resumed,) = again.of(FlowResumed)
    assert (resumed.generation, resumed.token != ticket.token) == (2, True)
    again.send(flow.id, *numbers(2))
    again.end(flow.id)
    assert again.result(flow.id).value == 3
    assert handler.log == [0, 1, 2]
    assert (handler.runs, handler.error) == (1, None)
    assert client.messages(1) + again.messages(flow.id) == numbers(0, 1, 2)
    assert client.server.sessions.detached == 0


def test_a_flow_that_finds_no_handler_free_is_refused_alone(opened, handler):
    """
    That is known as its client shows that it has its ticket: what came with that means nothing.
    """
    client, flow, _ = opened(max_handlers=1)
    second = client.open(resume=MIB)
    assert client.result(second).error["code"] == "busy"
    client.send(flow.id, *numbers(0))
    client.end(flow.id)
    assert client.result(flow.id).value == 1
    assert handler.runs == 1


def test_the_handler_does_not_start_before_the_client_has_its_ticket(
    peer, opened, handler, hand_reactor
):
    """
    A client whose connection ends before may open the flow anew: there is one handler.
    """
    server = FlowServer(handler, reactor=hand_reactor, resume=ResumePolicy())
    assert server.sessions is not None
    client = peer(server)
    client.machine.open_flow({"n": 0}, resume=MIB)
    client.protocol.dataReceived(b"".join(client.machine.data_to_send()))
    client.reactor.turn()
    client.lose()
    assert (handler.runs, len(server.sessions._places)) == (0, 1)
    client, flow, _ = opened(server)
    client.end(flow.id)
    client.result(flow.id)
    client.reactor.advance(TTL)
    assert not server.sessions._places
    assert handler.runs == 1


def test_a_session_that_nobody_comes_back_for_ends(opened, handler):
    """
    After the TTL the handler gets BadFlowEnding, and not before.
    """
    client, flow, _ = opened()
    client.send(flow.id, *numbers(0))
    client.lose()
    client.reactor.advance(TTL - 1)
    assert handler.error is None
    client.reactor.advance(1)
    assert isinstance(handler.error, BadFlowEnding)
    assert handler.error.received == 1
    assert f"did not come back within {TTL:g} s" in str(handler.error)


def test_a_result_waits_until_it_is_acknowledged(peer, opened, handler):
    """
    The handler ends without a client; the result comes with the next connection, the handler stays.
    """
    client, flow, ticket = opened()
    client.send(flow.id, *numbers(0))
    client.machine.end(flow.id)
    data = b"".join(client.machine.data_to_send())
    client.protocol.dataReceived(data)
    client.lose()
    client.reactor.turn()
    assert (client.server.handlers, client.server.sessions.detached) == (0, 1)
    again = come_back(peer, client, flow, ticket)
    assert again.result(flow.id).value == 1
    assert (client.server.sessions._places, handler.runs) == ({}, 1)


@pytest.mark.parametrize(
    "bounds", [{"max_detached": 0}, {"max_detached_bytes": 2 * MIB}, {"max_detached_bytes": 0}]
)
def test_at_the_cap_the_handler_gets_its_error_now(opened, handler, bounds):
    """
    What may not wait ends with its connection.
    """
    policy = ResumePolicy(**bounds, retention=3 * MIB)
    client, flow, _ = opened(resume=policy)
    client.send(flow.id, *numbers(0))
    client.lose()
    assert isinstance(handler.error, BadFlowEnding)
    assert not client.server.sessions._places


@pytest.fixture
def unseen(peer):
    """
    Open a flow whose client gets the session and shows nothing of it; return client, flow, ticket.
    """

    def open_flow(server):
        client = peer(server)
        number = client.machine.open_flow(resume=MIB)
        client.protocol.dataReceived(b"".join(client.machine.data_to_send()))
        client.machine.receive_data(client.transport.value())
        (opened,) = [
            e for e in iter(client.machine.next_event, None) if isinstance(e, SessionOpened)
        ]
        client.machine.data_to_send()
        client.lose()
        return client, client.machine.flow(number), opened.ticket

    return open_flow


def test_sessions_that_nobody_has_shown_to_have_take_no_place_from_others(
    peer, opened, unseen, handler, hand_reactor
):
    """There are UNSEEN of them at the most, and the oldest goes first."""
    policy = ResumePolicy(max_detached=1)
    server = FlowServer(handler, reactor=hand_reactor, resume=policy, max_clients=2)
    assert server.sessions is not None
    first = unseen(server)
    last = [unseen(server) for _ in range(UNSEEN)][-1]
    assert (server.sessions.detached, len(server.sessions._places)) == (0, UNSEEN)
    client, *_ = opened(server)
    client.lose()
    assert server.sessions.detached == 1
    client, flow, ticket = first
    assert rejection(come_back(peer, client, flow, ticket)) == ("unknown_session", True)
    client, flow, ticket = last
    again = come_back(peer, client, flow, ticket)
    again.end(flow.id)
    assert again.result(flow.id).status == "success"
    assert handler.runs == 1
    hand_reactor.advance(TTL)
    assert not server.sessions._places


def test_what_waits_counts_as_a_client(peer, opened):
    """
    A new flow is refused as busy where a place is kept, but who comes back finds it.
    """
    client, flow, ticket = opened(max_clients=1)
    client.lose()
    stranger = peer(client.server)
    stranger.open()
    (away,) = stranger.of(GoAwayReceived)
    assert away.code == "busy"
    stranger.lose()
    again = come_back(peer, client, flow, ticket)
    assert again.of(FlowResumed)
    again.end(flow.id)
    assert again.result(flow.id).status == "success"


def test_who_comes_back_without_the_token_ends_the_session(peer, opened, handler):
    """
    A wrong token is no second chance.
    """
    client, flow, ticket = opened()
    client.lose()
    again = come_back(peer, client, flow, ticket._replace(token=bytes(32)))
    assert rejection(again) == ("unknown_session", True)
    assert isinstance(handler.error, BadFlowEnding)
    assert rejection(come_back(peer, client, flow, ticket)) == ("unknown_session", True)


def test_a_session_is_bound_to_its_identity(peer, opened, handler):
    """
    The right token from somebody else ends the session.
    """
    client, flow, ticket = opened()
    client.lose()
    thief = peer(client.server)
    thief.protocol.identity = "thief"
    thief.machine.resume_flow(flow, ticket)
    assert rejection(thief) == ("unknown_session", True)
    assert isinstance(handler.error, BadFlowEnding)


def test_a_token_that_was_replaced_changes_nothing(peer, opened, handler):
    """
    Until the client has used the new token the old one is good; afterwards it is superseded.
    """
    client, flow, ticket = opened()
    client.lose()
    lost = peer(client.server)
    lost.machine.resume_flow(flow, ticket)
    lost.protocol.dataReceived(b"".join(lost.machine.data_to_send()))
    lost.lose()
    again = come_back(peer, client, flow, ticket)
    assert again.of(FlowResumed)[0].generation == 3
    late = come_back(peer, client, flow, ticket)
    assert rejection(late) == ("superseded", False)
    again.end(flow.id)
    assert again.result(flow.id).status == "success"
    assert handler.runs == 1


def test_a_resume_fences_a_half_open_connection(peer, opened, handler):
    """
    The old connection is aborted where it has no other flow; what still comes on it is ignored.
    """
    client, flow, ticket = opened()
    old = flow.id
    client.send(old, *numbers(0))
    late = b"".join(encode_batch(FrameType.DATA, old, 1, 1, b"\x81\xa1n\x01"))
    again = come_back(peer, client, flow, ticket)
    assert client.transport.aborted
    client.protocol.dataReceived(late)
    client.reactor.turn()
    assert handler.log == [0]
    again.send(flow.id, *numbers(1))
    again.end(flow.id)
    assert again.result(flow.id).value == 2


def test_a_connection_with_another_flow_stays(peer, opened, handler):
    """
    Only the flow that goes on elsewhere is fenced.
    """
    client, flow, ticket = opened()
    old, other = flow.id, client.open()
    again = come_back(peer, client, flow, ticket)
    assert not client.transport.aborted
    client.protocol.dataReceived(b"".join(encode_batch(FrameType.DATA, old, 0, 1, b"\x80")))
    client.end(other)
    assert client.result(other).status == "success"
    again.end(flow.id)
    assert again.result(flow.id).status == "success"


def test_another_run_of_the_server_knows_nothing(peer, opened, hand_reactor, handler):
    """
    It says so: its boot is another one.
    """
    client, flow, ticket = opened()
    client.end(flow.id)
    client.result(flow.id)
    other = FlowServer(handler, reactor=hand_reactor, resume=ResumePolicy())
    stranger = peer(other)
    stranger.machine.resume_flow(flow, ticket)
    assert rejection(stranger) == ("other_boot", True)
    none = peer(handler)
    none.machine.resume_flow(flow, ticket)
    assert rejection(none) == ("not_resumable", True)


def test_a_client_that_lacks_packets_is_told_of_the_gap(peer, opened, handler):
    """
    A packet that nobody has any more ends the session.
    """
    client, flow, ticket = opened()
    client.lose()
    flow.kept.first = 1
    again = come_back(peer, client, flow, ticket)
    assert rejection(again) == ("gap", True)
    assert isinstance(handler.error, BadFlowEnding)


def test_a_server_without_a_policy_refuses_flows_that_are_to_survive(peer, handler):
    """
    So it does with names, where it has no store.
    """
    client = peer(handler)
    flow = client.open(resume=MIB)
    assert client.result(flow).error["code"] == "not_resumable"
    client = peer(handler, resume=ResumePolicy())
    flow = client.open(resume=MIB, name="orders")
    assert client.result(flow).error["code"] == "not_resumable"
    assert handler.runs == 0


def test_an_orderly_cancel_ends_the_session(peer, opened, handler):
    """
    Who gives a flow up does not come back.
    """
    client, flow, ticket = opened()
    client.machine.cancel(flow.id)
    client.pump()
    assert isinstance(handler.error, FlowCancelled)
    client.lose()
    again = come_back(peer, client, flow, ticket)
    assert rejection(again) == ("unknown_session", True)


def test_a_breach_ends_the_session(peer, opened, handler):
    """
    Who breaks the protocol does not come back.
    """
    client, flow, ticket = opened()
    client.protocol.dataReceived(bytes(9))
    assert isinstance(handler.error, RemoteProtocolError)
    client.lose()
    again = come_back(peer, client, flow, ticket)
    assert rejection(again) == ("unknown_session", True)


def test_what_waits_is_broken_by_packets_that_are_none(peer, hand_reactor):
    """
    A handler that finds them while there is no connection ends the session, too.
    """
    gate, errors = Deferred(), []

    async def late(flow, client):
        await gate
        try:
            await flow.next()
            await flow.next()
        except RemoteProtocolError as error:
            errors.append(error)
            raise

    client = peer(late, resume=ResumePolicy())
    flow = client.open({"header": 1}, resume=MIB)
    client.protocol.dataReceived(b"".join(encode_batch(FrameType.DATA, flow, 0, 1, b"\xc1")))
    client.lose()
    gate.callback(None)
    client.reactor.turn()
    assert len(errors) == 1
    assert not client.server.sessions._places


def test_a_deadline_goes_on_without_a_connection(peer, handler, hand_reactor):
    """
    The client's time is over whether it is there or not.
    """
    client = peer(handler, resume=ResumePolicy())
    client.open(timeout=5, resume=MIB)
    client.lose()
    client.reactor.advance(5)
    assert isinstance(handler.error, DeadlineExceeded)
    client.reactor.advance(TTL)


def test_a_server_that_goes_keeps_nothing(opened, handler):
    """
    Nobody can come back to it: handlers that wait get their error when the drain begins.
    """
    client, flow, _ = opened()
    client.send(flow.id, *numbers(0))
    client.lose()
    done = client.server.drain()
    assert isinstance(handler.error, FlowCancelled)
    client.reactor.turn()
    assert done.called


def test_a_connection_that_ends_while_the_server_drains_is_not_waited_for(opened, handler):
    """
    The handler gets its error at once.
    """
    client, _, _ = opened()
    client.server.drain()
    client.lose()
    assert isinstance(handler.error, BadFlowEnding)


def test_stopping_ends_what_waits(opened, handler):
    """
    As it does with what is connected.
    """
    client, _, _ = opened()
    client.lose()
    client.server.stop()
    assert isinstance(handler.error, FlowCancelled)


def test_a_handler_in_a_thread_waits_with_its_flow(peer, hand_reactor):
    """
    It blocks in the flow, or in a message, and goes on where it was.
    """
    got, ended = [], threading.Event()

    def slow(flow, client):
        for packet in flow:
            got.append(packet.n)
            client.message(packet)
        ended.set()

    client = peer(slow, resume=ResumePolicy())
    number = client.open(resume=MIB)
    client.reactor.run_until(lambda: client.of(SessionOpened))
    flow, ticket = client.machine.flow(number), client.of(SessionOpened)[0].ticket
    client.send(number, *numbers(0))
    client.lose()
    again = come_back(peer, client, flow, ticket)
    again.send(flow.id, *numbers(1))
    again.end(flow.id)
    assert again.result(flow.id).status == "success"
    assert ended.is_set()
    assert got == [0, 1]


def test_a_result_too_large_for_those_that_wait_is_dropped(peer, hand_reactor):
    """
    The byte cap holds for what a handler says without a connection, too.
    """
    gate = Deferred()

    async def large(flow, client):
        await gate
        return bytes(2 * MIB)

    policy = ResumePolicy(max_detached_bytes=2 * MIB)
    client = peer(large, resume=policy)
    client.open({"header": 1}, resume=MIB)
    client.lose()
    assert client.server.sessions.detached == 1
    gate.callback(None)
    client.reactor.turn()
    assert not client.server.sessions._places


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("ttl", value) for value in (0, -1, float("inf"), float("nan"))),
        *(("retention", value) for value in (0, INITIAL_BYTES - 1, 2**63)),
        *((name, -1) for name in ("max_detached", "max_detached_bytes")),
    ],
)
def test_a_policy_that_cannot_work_is_refused(name, value):
    """
    Where it is made, with the bound's name.
    """
    with pytest.raises(ValueError, match=f"ResumePolicy.{name} must"):
        ResumePolicy(**{name: value})


class FakeStore:
    """
    A store that says what it is told to.
    """

    def __init__(self, begin):
        self.begin = begin
        self.noted = []

    def checkpoint(self, name, epoch, sequence, effects):
        self.noted.append((name, epoch, sequence))


def test_a_flow_with_a_name_starts_where_it_was(peer):
    """
    The client is told, the handler knows, and checkpoints go to the store under the new epoch.
    """
    store = FakeStore(lambda name: (7, 3))

    def work(flow, client):
        next(flow)
        taken = sum(1 for _ in flow)
        client.checkpoint(client.start + taken)
        return client.start

    client = peer(work, resume=ResumePolicy(store=store))
    flow = client.open({"header": 1}, resume=MIB, name="orders")
    client.reactor.run_until(lambda: client.of(SessionOpened))
    assert client.of(SessionOpened)[0].ticket.start == 7
    client.send(flow, {}, {})
    client.end(flow)
    assert client.result(flow).value == 7
    assert store.noted == [("orders", 3, 9)]


def test_a_store_that_fails_fails_the_flow(peer, handler, logged_errors):
    """
    As a handler's failure, which is logged; no handler has run.
    """

    def begin(name):
        raise OSError("disk full")

    client = peer(handler, resume=ResumePolicy(store=FakeStore(begin)))
    flow = client.open(resume=MIB, name="orders")
    assert client.result(flow).error["error_class"] == "OSError"
    assert handler.runs == 0
    logged_errors.claim(OSError)


def test_a_client_that_leaves_before_the_store_answers_gets_no_session(peer, handler):
    """
    Nothing is kept for it.
    """
    gate = threading.Event()

    def begin(name):
        gate.wait(10)
        return 0, 1

    client = peer(handler, resume=ResumePolicy(store=FakeStore(begin)))
    client.open(resume=MIB, name="orders")
    client.lose()
    gate.set()
    client.reactor._calls.get(timeout=10)()
    assert not client.server.sessions._places
    assert handler.runs == 0


def test_sessions_say_which_run_they_belong_to(hand_reactor, handler):
    """
    Each server has its own boot id, whatever its process.
    """
    boots = set()
    for _ in range(2):
        server = FlowServer(handler, reactor=hand_reactor, resume=ResumePolicy())
        assert isinstance(server.sessions, Sessions)
        boots.add(server.sessions.boot_id)
    assert len(boots) == 2


def test_results_are_of_one_kind(peer, opened):
    """
    A flow that went on ends as any other.
    """
    client, flow, _ = opened()
    client.end(flow.id)
    assert isinstance(client.result(flow.id), ResultReceived)


def test_a_flow_goes_on_before_its_client_is_known(peer, opened, hand_reactor):
    """It gets no credit before that, and its time to be known does not begin anew."""
    release = threading.Event()

    def slow(header, peer):
        release.wait(10)
        return "somebody"

    async def whoami(flow, client):
        return [client.identity, [packet.n async for packet in flow]]

    server = FlowServer(whoami, reactor=hand_reactor, resume=ResumePolicy(), authenticate=slow)
    client, flow, ticket = opened(server)
    client.send(flow.id, *numbers(0))
    client.lose()
    again = come_back(peer, client, flow, ticket)
    assert again.of(FlowResumed)
    assert not again.of(CreditReceived)
    release.set()
    server.reactor.run_until(lambda: again.of(CreditReceived))
    server.reactor.advance(2 * server.limits.handshake_timeout)
    again.end(flow.id)
    assert again.result(flow.id).value == ["somebody", [0]]
