"""What a handler reads and says, without a server: a flow, a client, their session."""

import pytest
from twisted.internet.defer import CancelledError, Deferred

from pyf.station import AsyncClient, AsyncFlow, Client, Flow
from pyf.station.flow import SwiftAsyncClient, SwiftClient
from pyf.station.inbox import AsyncInbox
from pyf.station.outbox import EACH, MOST
from pyf.station.relay import RelayQueue
from pyf.transport import (
    BadFlowEnding,
    ClientError,
    DeadlineExceeded,
    FlowCancelled,
    Limits,
    LocalProtocolError,
    Packet,
    RemoteProtocolError,
    UnsupportedValue,
)
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS

FULL = MOST // (EACH + 1) + 1  # empty messages
AT_ONCE = [FlowCancelled("given up"), DeadlineExceeded("too late")]
IN_TURN = [ClientError("it failed"), BadFlowEnding("it was cut")]


@pytest.fixture
def open_flow(session):
    """
    Make a session and the flow that a handler in a thread reads from it.
    """

    def make(**options):
        inbox = RelayQueue()
        state = session(inbox, **options)
        return state, Flow(state, inbox)

    return make


@pytest.fixture
def open_async(session):
    """
    Make a session and the flow that a coroutine reads from it.
    """

    def make(**options):
        inbox = AsyncInbox()
        state = session(inbox, **options)
        return state, AsyncFlow(state, inbox)

    return make


def collected(awaitable):
    """
    Start a coroutine; return where its result will be, and the Deferred it fires.
    """
    results = []
    running = Deferred.fromCoroutine(awaitable)
    running.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results, running


async def take(flow):
    return [packet.n async for packet in flow]


# A flow, for threads


def test_a_flow_gives_its_packets_in_order_and_ends_where_it_is_whole(open_flow, batch):
    state, flow = open_flow()
    state.receive(batch({"n": 1}, {"n": 2}))
    state.receive(batch({"n": 3}))
    state.end()
    assert list(flow) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert list(flow) == []


def test_the_packets_of_a_flow_are_packets(open_flow, batch):
    state, flow = open_flow()
    state.receive(batch({"n": 1}))
    assert isinstance(next(flow), Packet)


def test_next_and_for_share_one_flow(open_flow, batch):
    state, flow = open_flow()
    state.receive(batch(*({"n": n} for n in range(4))))
    state.receive(batch({"n": 4}))
    state.end()
    seen = []
    for packet in flow:
        seen += [packet.n, flow.next().n] if packet.n < 4 else [packet.n]
    assert seen == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(flow)


def test_a_header_given_beside_the_flow_comes_first_and_is_not_counted(open_flow, batch):
    state, flow = open_flow(header=Packet(action="add"))
    state.receive(batch({"n": 1}))
    state.end()
    assert flow.header == {"action": "add"}
    assert (next(flow), flow.consumed) == ({"action": "add"}, 0)
    assert (next(flow), flow.consumed) == ({"n": 1}, 1)


def test_without_a_header_the_first_packet_is_the_header_and_counted(open_flow, batch):
    state, flow = open_flow()
    assert flow.header is None
    state.receive(batch({"n": 1}, {"n": 2}))
    flow.wait_for_header()
    assert (flow.header, flow.consumed) == ({"n": 1}, 0)
    assert next(flow) is flow.header
    assert flow.consumed == 1


def test_an_empty_flow_has_no_header_and_no_packets(open_flow):
    state, flow = open_flow()
    state.end()
    flow.wait_for_header()
    assert flow.header is None
    assert list(flow) == []


def test_a_known_header_is_not_waited_for(open_flow):
    _, flow = open_flow(header=Packet(n=1))
    flow.wait_for_header()
    assert flow.header == {"n": 1}


def test_consumed_counts_what_was_taken_and_not_what_waits(open_flow, batch):
    state, flow = open_flow()
    state.receive(batch({"n": 1}, {"n": 2}, {"n": 3}))
    counts = [flow.consumed]
    for _ in range(3):
        next(flow)
        counts.append(flow.consumed)
    assert counts == [0, 1, 2, 3]


@pytest.mark.parametrize("error", IN_TURN)
def test_what_came_before_an_error_comes_before_it(open_flow, batch, error):
    state, flow = open_flow()
    state.receive(batch({"n": 1}, {"n": 2}))
    state.fail(error)
    assert [next(flow).n, next(flow).n] == [1, 2]
    with pytest.raises(type(error)):
        next(flow)


@pytest.mark.parametrize("error", AT_ONCE)
def test_where_the_rest_is_not_wanted_it_is_not_given(open_flow, batch, error):
    state, flow = open_flow()
    state.receive(batch({"n": 1}, {"n": 2}, {"n": 3}))
    state.receive(batch({"n": 4}))
    iterating = iter(flow)
    assert next(iterating).n == 1
    state.fail(error)
    assert flow.consumed == 1
    with pytest.raises(type(error)):
        next(iterating)
    assert flow.consumed == 1


def test_a_header_that_was_not_taken_is_not_given_once_the_flow_is_given_up(open_flow):
    state, flow = open_flow(header=Packet(n=1))
    state.fail(AT_ONCE[0])
    with pytest.raises(FlowCancelled):
        next(flow)
    assert flow.consumed == 0


def test_a_flow_given_up_while_a_batch_is_decoded_gives_none_of_it(open_flow, batch, monkeypatch):
    state, flow = open_flow()

    def decode_slowly(_):
        state.fail(AT_ONCE[0])
        return [{"n": 1}]

    incoming = batch({"n": 1})
    monkeypatch.setattr(type(incoming), "decode_maps", decode_slowly)
    state.receive(incoming)
    with pytest.raises(FlowCancelled):
        next(flow)
    assert flow.consumed == 0


@pytest.mark.parametrize("error", [*AT_ONCE, *IN_TURN])
def test_reading_again_after_an_error_raises_the_same_error_again(open_flow, error):
    state, flow = open_flow()
    state.fail(error)
    raised = []
    for _ in range(3):
        with pytest.raises(type(error)) as caught:
            list(flow)
        raised.append(caught.value)
    assert raised == [error] * 3


def test_a_failure_before_the_header_is_raised_where_the_handler_reads(open_flow):
    state, flow = open_flow()
    state.fail(IN_TURN[0])
    flow.wait_for_header()
    assert flow.header is None
    with pytest.raises(ClientError):
        next(flow)


@pytest.mark.parametrize("error", [*AT_ONCE, *IN_TURN])
def test_a_blocked_next_wakes_and_raises(open_flow, thread, error):
    state, flow = open_flow()
    reading = thread(next, flow)
    state.fail(error)
    with pytest.raises(type(error)):
        reading()


def test_a_blocked_next_wakes_when_a_packet_comes(open_flow, thread, batch):
    state, flow = open_flow()
    reading = thread(next, flow)
    state.receive(batch({"n": 1}))
    assert reading() == {"n": 1}


def test_threads_share_a_flow_and_each_packet_goes_to_one_of_them(open_flow, thread, batch):
    state, flow = open_flow()
    readers = [thread(list, flow) for _ in range(4)]
    for start in range(0, 1000, 50):
        state.receive(batch(*({"n": n} for n in range(start, start + 50))))
    state.end()
    taken = [packet.n for reader in readers for packet in reader()]
    assert sorted(taken) == list(range(1000))
    assert flow.consumed == 1000


def test_a_closed_flow_ends_in_the_middle_of_a_batch(open_flow, batch):
    state, flow = open_flow()
    state.receive(batch({"n": 1}, {"n": 2}, {"n": 3}))
    seen = []
    for packet in flow:
        seen.append(packet.n)
        flow.close()
    assert (seen, list(flow), flow.consumed) == ([1], [], 1)


@pytest.mark.parametrize("whole", [False, True])
def test_a_closed_flow_tells_the_client_once_unless_all_has_come(open_flow, carrier, whole):
    state, flow = open_flow()
    if whole:
        state.end()
    flow.close()
    flow.close()
    carrier.turn()
    assert carrier.stopped == [] if whole else [state.flow_id]


def test_a_batch_that_cannot_be_decoded_breaks_the_connection_off(open_flow, batch, carrier):
    state, flow = open_flow()
    state.receive(batch({"n": 1}))
    state.receive(batch(payload=b"\xc1"))
    assert next(flow).n == 1
    errors = []
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            next(flow)
        errors.append(caught.value)
    carrier.turn()
    assert errors == carrier.broken * 2
    assert flow.consumed == 1


# What the client hears of it


def test_credit_is_due_at_a_quarter_of_a_window_of_packets(open_flow, batch, carrier):
    carrier.limits = Limits(window_packets=INITIAL_PACKETS)
    state, flow = open_flow()
    quarter = INITIAL_PACKETS // 4
    incoming = batch(*({"n": n} for n in range(quarter - 1)))
    last = batch({"n": quarter})
    state.receive(incoming)
    state.receive(last)
    state.end()
    for _ in range(quarter - 1):
        next(flow)
    carrier.turn()
    assert carrier.consumed == []
    assert list(flow) == [{"n": quarter}]
    carrier.turn()
    assert carrier.consumed == [(7, quarter, incoming.size + last.size)]


def test_credit_is_due_at_a_quarter_of_a_window_of_bytes(open_flow, batch, carrier):
    carrier.limits = Limits(window_bytes=INITIAL_BYTES)
    state, flow = open_flow()
    incoming = [batch({"data": bytes(INITIAL_BYTES // 8)}) for _ in range(4)]
    for each in incoming:
        state.receive(each)
    state.end()
    list(flow)
    carrier.turn()
    assert carrier.consumed == [(7, 2, incoming[0].size + incoming[1].size)] * 2


def test_a_batch_counts_as_taken_only_once_its_last_packet_is(open_flow, batch, carrier):
    carrier.limits = Limits(window_packets=INITIAL_PACKETS)
    state, flow = open_flow()
    state.receive(batch(*({"n": n} for n in range(INITIAL_PACKETS))))
    for _ in range(INITIAL_PACKETS):
        next(flow)
        carrier.turn()
        assert carrier.consumed == []
    state.end()
    assert list(flow) == []
    carrier.turn()
    assert [packets for _, packets, _ in carrier.consumed] == [INITIAL_PACKETS]


# A flow, for coroutines


def test_async_for_gives_the_packets_in_order_and_ends_where_the_flow_is_whole(open_async, batch):
    state, flow = open_async()
    results, _ = collected(take(flow))
    state.receive(batch({"n": 1}, {"n": 2}))
    state.receive(batch({"n": 3}))
    assert results == []
    state.end()
    assert results == [[1, 2, 3]]
    assert collected(take(flow))[0] == [[]]


def test_a_coroutine_may_mix_async_for_and_next_across_batches(open_async, batch):
    state, flow = open_async()

    async def read():
        return [(packet.n, (await flow.next()).n) async for packet in flow]

    results, _ = collected(read())
    for first in (1, 4):
        state.receive(batch(*({"n": first + at} for at in range(3))))
    state.end()
    assert results == [[(1, 2), (3, 4), (5, 6)]]


def test_await_next_gives_a_packet_and_raises_at_the_end(open_async, batch):
    state, flow = open_async()
    state.receive(batch({"n": 1}))
    state.end()
    assert collected(flow.next())[0] == [{"n": 1}]
    ((error,), _) = collected(flow.next())
    assert isinstance(error, StopAsyncIteration)


def test_anext_with_a_default_waits_for_a_packet_and_for_the_end(open_async, batch):
    state, flow = open_async()

    async def read():
        return [await anext(flow, None), await anext(flow, None)]

    results, _ = collected(read())
    state.receive(batch({"n": 1}))
    state.end()
    assert results == [[{"n": 1}, None]]


def test_a_coroutines_header_is_the_first_packet_where_none_was_given(open_async, batch):
    state, flow = open_async()
    results, _ = collected(flow.wait_for_header())
    state.receive(batch({"n": 1}, {"n": 2}))
    assert (results, flow.header, flow.consumed) == ([None], {"n": 1}, 0)


def test_a_coroutines_known_header_is_not_waited_for(open_async):
    _, flow = open_async(header=Packet(n=1))
    assert collected(flow.wait_for_header())[0] == [None]
    assert collected(flow.next())[0] == [{"n": 1}]


@pytest.mark.parametrize("error", IN_TURN)
def test_a_coroutine_gets_what_came_before_an_error_before_it(open_async, batch, error):
    state, flow = open_async()
    state.receive(batch({"n": 1}, {"n": 2}))
    state.fail(error)
    got = [collected(flow.next())[0] for _ in range(4)]
    assert got == [[{"n": 1}], [{"n": 2}], [error], [error]]


@pytest.mark.parametrize("error", AT_ONCE)
def test_a_coroutine_is_given_nothing_more_where_the_rest_is_not_wanted(open_async, batch, error):
    state, flow = open_async()
    state.receive(batch({"n": 1}, {"n": 2}))
    assert collected(flow.next())[0] == [{"n": 1}]
    state.fail(error)
    assert [collected(flow.next())[0] for _ in range(2)] == [[error], [error]]


@pytest.mark.parametrize("error", [*AT_ONCE, *IN_TURN])
def test_a_waiting_coroutine_wakes_and_raises(open_async, error):
    state, flow = open_async()
    results, _ = collected(flow.next())
    state.fail(error)
    assert results == [error]


def test_a_coroutines_failure_before_the_header_is_raised_where_it_reads(open_async):
    state, flow = open_async()
    results, _ = collected(flow.wait_for_header())
    state.fail(IN_TURN[0])
    assert results == [None]
    assert collected(flow.next())[0] == IN_TURN[:1]


def test_a_second_coroutine_may_not_wait_for_the_same_flow(open_async, batch):
    state, flow = open_async()
    first, _ = collected(flow.next())
    ((error,), _) = collected(flow.next())
    assert isinstance(error, RuntimeError)
    state.receive(batch({"n": 1}))
    assert first == [{"n": 1}]


def test_a_wait_that_was_cancelled_loses_no_packet(open_async, batch):
    state, flow = open_async()
    results, waiting = collected(flow.next())
    waiting.cancel()
    assert isinstance(results[0], CancelledError)
    state.receive(batch({"n": 1}))
    assert collected(flow.next())[0] == [{"n": 1}]


# The client


@pytest.mark.parametrize("kind", [Client, AsyncClient, SwiftClient, SwiftAsyncClient])
def test_a_client_says_who_it_is(session, kind):
    state = session(RelayQueue(), header=Packet(n=1))
    state.identity = "me"
    client = kind(state)
    facts = (client.peer, client.header, client.identity, client.cancelled)
    assert facts == ("the peer", {"n": 1}, "me", False)
    state.fail(IN_TURN[0])
    assert client.cancelled


@pytest.mark.parametrize("kind", [Client, SwiftClient])
def test_a_client_takes_messages_and_then_a_success(session, carrier, kind):
    client = kind(session(RelayQueue()))
    client.message({"n": 1})
    client.success("Done")
    carrier.turn()
    assert len(carrier.messages) == 1
    assert carrier.results == [(7, 0, {"status": "success", "value": "Done"})]


def test_a_client_takes_an_error(session, carrier):
    Client(session(RelayQueue())).error("no room")
    carrier.turn()
    ((_, _, facts),) = carrier.results
    assert (facts["status"], facts["code"], facts["message"]) == (
        "error",
        "handler_error",
        "no room",
    )


def test_a_message_that_cannot_travel_is_refused_and_nothing_leaves(session, carrier):
    client = Client(session(RelayQueue()))
    with pytest.raises(UnsupportedValue):
        client.message({"n": object()})
    carrier.turn()
    assert carrier.messages == []


def test_messages_block_until_the_client_reads(session, carrier, thread):
    carrier.credit = 0
    client = Client(session(RelayQueue()))
    state = client._session

    def speak():
        for n in range(2 * FULL):
            client.message({"n": n})

    speaking = thread(speak)
    carrier.run_until(lambda: state.outbox.full)
    assert carrier.messages == []
    carrier.credit = 2 * FULL
    state.flush()
    carrier.run_until(lambda: len(carrier.messages) > FULL)
    speaking()
    state.flush()
    assert len(carrier.messages) == 2 * FULL


@pytest.mark.parametrize("error", [*AT_ONCE, *IN_TURN])
def test_a_blocked_message_wakes_and_raises(session, carrier, thread, error):
    carrier.credit = 0
    state = session(RelayQueue())
    client = Client(state)

    def speak():
        while True:
            client.message({})

    speaking = thread(speak)
    carrier.run_until(lambda: state.outbox.full)
    state.fail(error)
    with pytest.raises(type(error)):
        speaking()


@pytest.mark.parametrize("kind", [AsyncClient, SwiftAsyncClient])
def test_a_coroutine_that_sends_messages_waits_until_the_client_reads(session, carrier, kind):
    carrier.credit = 0
    state = session(AsyncInbox())
    client = kind(state)

    async def speak():
        for _ in range(FULL):
            await client.message({})

    results, _ = collected(speak())
    carrier.turn()
    assert results == []
    carrier.credit = 1
    state.flush()
    assert results == [None]


@pytest.mark.parametrize("error", [*AT_ONCE, *IN_TURN])
def test_a_coroutine_that_waits_to_send_wakes_and_raises(session, carrier, error):
    carrier.credit = 0
    state = session(AsyncInbox())
    client = AsyncClient(state)

    async def speak():
        while True:
            await client.message({})

    results, _ = collected(speak())
    state.fail(error)
    assert results == [error]


def test_a_coroutine_says_success_or_error_once(session, carrier):
    client = AsyncClient(session(AsyncInbox()))
    assert collected(client.success(1))[0] == [None]
    ((error,), _) = collected(client.error("late"))
    assert isinstance(error, LocalProtocolError)
    carrier.turn()
    assert [facts["status"] for _, _, facts in carrier.results] == ["success"]


HEAVY = {"numbers": list(range(100_000))}


@pytest.fixture
def in_thread(carrier, monkeypatch):
    """
    What a session has done in a thread: the function, and the Deferred that the test fires.
    """
    jobs = []

    def call_in_thread(function):
        jobs.append((function, Deferred()))
        return jobs[-1][1]

    monkeypatch.setattr(carrier, "call_in_thread", call_in_thread, raising=False)
    return jobs


def test_a_coroutines_packets_of_many_values_are_decoded_in_a_thread(open_async, batch, in_thread):
    """The reactor goes on meanwhile, and the coroutine gets them where it waits."""
    state, flow = open_async()
    state.receive(batch(HEAVY, {"n": 1}))
    results, _ = collected(flow.next())
    assert results == []
    ((decode, done),) = in_thread
    done.callback(decode())
    assert results == [HEAVY]
    assert collected(flow.next())[0] == [{"n": 1}]
    assert len(in_thread) == 1


def test_who_is_cancelled_while_packets_are_decoded_leaves_them_to_who_asks_next(
    open_async, batch, in_thread
):
    """As a timeout around ``next()`` does."""
    state, flow = open_async()
    state.receive(batch(HEAVY, {"n": 1}))
    results, running = collected(flow.next())
    running.cancel()
    assert isinstance(results[0], CancelledError)
    results, _ = collected(flow.next())
    decode, done = in_thread[-1]
    done.callback(decode())
    assert results == [HEAVY]
    assert collected(flow.next())[0] == [{"n": 1}]


def test_what_a_thread_cannot_decode_breaks_the_connection_off(
    open_async, carrier, batch, in_thread
):
    state, flow = open_async()
    state.receive(batch({}, payload=b"\x91" * 100_000))
    results, _ = collected(flow.next())
    ((decode, done),) = in_thread
    with pytest.raises(RemoteProtocolError) as caught:
        decode()
    done.errback(caught.value)
    carrier.turn()
    assert results == [caught.value]
    assert carrier.broken == [caught.value]


def test_who_gave_up_while_a_thread_decodes_is_heard(open_async, batch, in_thread):
    state, flow = open_async()
    state.receive(batch(HEAVY))
    results, _ = collected(flow.next())
    state.fail(FlowCancelled("given up"))
    ((decode, done),) = in_thread
    done.callback(decode())
    assert isinstance(results[0], FlowCancelled)


def test_a_message_may_be_given_to_twisted_as_a_coroutine(session):
    """What has left already passes for one, as what has to wait is one."""
    client = AsyncClient(session(AsyncInbox()))
    sent = Deferred.fromCoroutine(client.message({"n": 1}))
    results: list[None] = []
    sent.addCallback(results.append)
    assert results == [None]
