"""The server: its slots, its flows and how they end, its connections and how they are closed."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections import deque
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IProtocolFactory, ISSLTransport
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel, globalLogPublisher
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from pyf.station import FlowRefused, FlowServer, ServerError, StationClient
from pyf.station.server import MAX_COROUTINES, MAX_THREADS, STOP_GRACE
from pyf.transport import (
    BadFlowEnding,
    ClientError,
    Connection,
    DeadlineExceeded,
    FlowCancelled,
    Limits,
    RemoteProtocolError,
    Role,
    StationError,
    encode_packet,
)
from pyf.transport.events import (
    CreditReceived,
    GoAwayReceived,
    HelloReceived,
    PongReceived,
    ResultReceived,
)
from pyf.transport.frames import FrameType, encode_batch, encode_frame
from pyf.transport.limits import BATCH_PACKETS, INITIAL_PACKETS, MAX_TEXT

HOST = "127.0.0.1"


def reading(flow, client):
    return [packet.n for packet in flow]


async def async_reading(flow, client):
    return [packet.n async for packet in flow]


async def async_first(flow, client):
    return (await flow.next()).n


class Gate:
    """
    A handler that returns when the test opens it.
    """

    def __init__(self):
        self.opened = threading.Event()

    def __call__(self, flow, client):
        self.opened.wait(30)


@pytest.fixture
def gate():
    """
    A handler that blocks, in what isn't ours, for as long as the test runs.
    """
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def warnings():
    """
    The texts of what is logged as a warning.
    """
    events = []

    def observe(event):
        if event["log_level"] is LogLevel.warn:
            events.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)  # pyright: ignore[reportArgumentType]
    yield events
    globalLogPublisher.removeObserver(observe)  # pyright: ignore[reportArgumentType]


# A factory


def test_a_server_is_a_protocol_factory():
    assert verifyObject(IProtocolFactory, FlowServer(reading))


def test_a_server_can_listen_on_a_memory_reactor():
    reactor = MemoryReactorClock()
    server = FlowServer(reading, reactor=reactor)
    reactor.listenTCP(8000, server)
    assert reactor.tcpServers[0][:2] == (8000, server)
    server.doStart()
    server.doStop()


def test_a_server_can_listen_on_an_endpoint():
    reactor = MemoryReactorClock()
    server = FlowServer(reading, reactor=reactor)
    listening = TCP4ServerEndpoint(reactor, 8000).listen(server)
    assert isinstance(listening, Deferred)
    assert listening.called
    assert reactor.tcpServers[0][0] == 8000


def test_a_server_runs_on_twisteds_reactor_if_not_told_otherwise(reactor):
    assert FlowServer(reading).reactor is reactor


def test_what_is_no_handler_is_refused_when_the_server_is_made():
    with pytest.raises(TypeError, match="cannot be called"):
        FlowServer(None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("option", ["max_handlers", "max_clients"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_server_that_could_serve_nobody_is_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, not {value}"):
        FlowServer(reading, **{option: value})


@pytest.mark.parametrize("option", ["max_handlers", "max_clients", "limits"])
@pytest.mark.parametrize("value", ["5", 1.5, {}, float("nan")])
def test_an_option_of_another_type_is_refused(option, value):
    with pytest.raises(TypeError, match=option):
        FlowServer(reading, **{option: value})


def test_a_server_has_a_default_for_handlers_by_their_kind():
    assert FlowServer(reading).max_handlers == MAX_THREADS
    assert FlowServer(async_reading).max_handlers == MAX_COROUTINES
    assert FlowServer(reading, max_handlers=3).max_handlers == 3


# Slots


def test_a_flow_over_max_handlers_is_refused_as_busy_at_once(peer, any_recorder):
    client = peer(any_recorder(), max_handlers=2)
    first, _, third = client.open(), client.open(), client.open()
    (refused,) = client.of(ResultReceived)
    assert (refused.flow_id, refused.status) == (third, "refused")
    assert refused.error["code"] == "busy"
    assert "all 2 handlers of the server are busy (its max_handlers)" in refused.error["message"]
    client.end(first)
    assert client.result(first).status == "success"


def test_a_slot_is_free_again_once_the_handler_has_returned(peer, gate):
    client = peer(gate, max_handlers=1)
    first = client.open({"n": 1})
    client.machine.cancel(first)
    assert client.over(first)
    assert client.result(client.open({"n": 2})).status == "refused"
    gate.opened.set()
    client.returned()
    third = client.open({"n": 3})
    assert client.result(third).status == "success"


@pytest.mark.parametrize("handler", [reading, async_reading])
def test_who_has_a_handlers_last_word_finds_its_slot_free(peer, handler):
    """
    The result is behind the return: a client of calls in a row is not told that its last one runs.
    """
    client = peer(handler, max_handlers=1)
    running = []
    send_result = client.protocol.send_result

    def listen(*args):
        running.append(client.server.handlers)
        send_result(*args)

    client.protocol.send_result = listen
    client.call({"n": 1})
    client.call({"n": 2})
    assert running == [0, 0]


def test_slots_are_shared_by_all_clients(peer):
    client = peer(async_reading, max_handlers=1)
    other = peer(client.server)
    client.open()
    assert other.result(other.open()).status == "refused"


def test_a_slot_is_freed_however_a_handler_ends(peer, logged_errors):
    def handler(flow, client):
        if next(flow).fail:
            raise ZeroDivisionError

    client = peer(handler, max_handlers=1)
    for fail in (True, False, True):
        client.call({"fail": fail})
        client.returned()
    logged_errors.claim(ZeroDivisionError, count=2)


def test_the_slot_of_a_coroutine_that_nothing_holds_any_more_is_freed(peer):
    finished = []

    async def handler(flow, client):
        try:
            await Deferred()
        finally:
            finished.append(True)

    client = peer(handler)
    client.open({"n": 1})
    client.lose()
    gc.collect()
    client.returned()
    assert finished == [True]


def test_a_flow_is_refused_where_the_system_has_no_thread(peer, logged_errors, monkeypatch):
    def no_thread(self):
        raise RuntimeError("can't start new thread")

    client = peer(reading)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        assert client.result(client.open()).error["code"] == "busy"
    logged_errors.claim()
    assert client.server.handlers == 0
    assert client.call({"n": 1}).value == [1]


def test_a_client_over_max_clients_is_told_and_closed(peer):
    first = peer(async_reading, max_clients=1)
    first.pump()
    second = peer(first.server)
    (away,) = second.of(GoAwayReceived)
    assert (away.code, away.last_flow) == ("busy", 0)
    assert "1 clients at once (its max_clients)" in away.message
    assert second.transport.half_closed
    assert first.call({"n": 1}).value == [1]


def test_a_client_that_was_turned_away_takes_no_place(peer):
    first = peer(async_reading, max_clients=1)
    refused = peer(first.server)
    first.lose()
    third = peer(first.server)
    assert third.call({"n": 1}).value == [1]
    assert refused.transport.half_closed


# Flows


def test_flows_on_one_connection_know_nothing_of_each_other(peer):
    client = peer(reading)
    first, second = client.open(), client.open()
    client.send(second, {"n": 2})
    client.send(first, {"n": 1})
    client.end(second)
    assert client.result(second).value == [2]
    assert not client.of(ResultReceived, first)
    client.end(first)
    assert client.result(first).value == [1]


def test_a_handler_gets_its_packets_as_they_come(peer, any_recorder):
    handler = any_recorder()
    client = peer(handler)
    flow = client.open()
    for n in range(3):
        client.send(flow, {"n": n})
    client.end(flow)
    assert client.result(flow).consumed == 3
    assert handler.packets == [0, 1, 2]


def test_a_client_that_speaks_before_the_servers_hello_is_heard(peer):
    client = peer(async_reading)
    flow = client.machine.open_flow()
    client.machine.end(flow)
    client.pump()
    assert [type(event) for event in client.events] == [HelloReceived, ResultReceived]


@pytest.mark.parametrize("header", [None, {"n": 1}])
def test_flow_and_client_hold_the_header_before_the_handler_reads(peer, header):
    def handler(flow, client):
        return [flow.header, client.header, sum(1 for _ in flow), flow.consumed]

    client = peer(handler)
    flow = client.open(header)
    if header is None:
        client.send(flow, {"n": 1})
    client.end(flow)
    assert client.result(flow).value == [{"n": 1}, {"n": 1}, 1, 0 if header else 1]


def test_an_empty_flow_reaches_the_handler_as_an_empty_flow(peer):
    def handler(flow, client):
        return [flow.header, list(flow)]

    assert peer(handler).call().value == [None, []]


def test_a_handler_knows_its_clients_address(peer):
    result = peer(lambda flow, client: f"{client.peer.host} {client.peer.port}").call()
    assert result.value == "192.168.1.1 54321"


def test_messages_come_before_the_result(peer):
    def handler(flow, client):
        for packet in flow:
            client.message({"n": packet.n})
        client.success("Done")

    client = peer(handler)
    result = client.call({"n": 1}, {"n": 2})
    assert [packet.n for packet in client.messages(result.flow_id)] == [1, 2]
    assert client.events[-1] is result


@pytest.mark.parametrize("again", ["success", "error", "message"])
def test_a_handler_that_speaks_after_its_result_gets_an_error_and_the_result_stands(
    peer, logged_errors, again
):
    def handler(flow, client):
        list(flow)
        client.success("first")
        getattr(client, again)({})

    client = peer(handler)
    assert client.call().value == "first"
    client.returned()
    logged_errors.claim()


class Held:
    """
    Something whose end can be seen.
    """


def test_what_a_handler_held_is_let_go_as_soon_as_the_flows_error_has_ended_it(peer):
    seen = []

    async def handler(flow, client):
        held = Held()
        seen.append(weakref.ref(held))
        async for _ in flow:
            pass

    client = peer(handler)
    flow = client.open({"n": 1})
    gc.disable()
    try:
        client.machine.cancel(flow)
        assert client.over(flow)
        client.returned()
        assert seen[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("say", ["return", "success"])
def test_a_handler_that_has_enough_ends_the_flow_early(peer, say):
    def handler(flow, client):
        value = next(flow).n
        if say == "success":
            client.success(value)
        return value

    client = peer(handler)
    flow = client.open()
    client.send(flow, {"n": 1}, {"n": 2})
    result = client.result(flow)
    assert (result.status, result.value, result.consumed) == ("success", 1, 1)
    client.end(flow)
    assert client.over(flow)


def test_a_handler_that_goes_on_reading_after_its_result_is_stopped_quietly(peer):
    stopped = []

    def handler(flow, client):
        try:
            for packet in flow:
                client.success(packet.n)
        except FlowCancelled as error:
            stopped.append(error)
            raise

    client = peer(handler)
    flow = client.open()
    client.send(flow, {"n": 1})
    assert client.result(flow).value == 1
    client.returned()
    assert len(stopped) == 1


def test_what_still_comes_after_the_result_is_dropped(peer):
    client = peer(async_first)
    flow = client.machine.open_flow()
    client.machine.send_packets(flow, deque([encode_packet({"n": 1})] * 2 * BATCH_PACKETS))
    client.pump()
    assert client.result(flow).value == 1
    client.machine.send_packets(flow, deque([encode_packet({"n": 2})]))
    client.end(flow)
    assert client.over(flow)


def test_a_handlers_failure_says_class_and_id_and_nothing_else(peer, logged_errors):
    def handler(flow, client):
        raise ZeroDivisionError("secret")

    result = peer(handler).call()
    (event,) = logged_errors.claim(ZeroDivisionError)
    assert result.error == {
        "code": "handler_failed",
        "error_class": "ZeroDivisionError",
        "error_id": event["error_id"],
        "message": None,
        "traceback": None,
    }


def test_a_server_can_expose_what_went_wrong(peer, logged_errors):
    def handler(flow, client):
        raise ZeroDivisionError("secret")

    error = peer(handler, expose_errors=True).call().error
    logged_errors.claim(ZeroDivisionError)
    assert error["message"] == "secret"
    assert error["traceback"].endswith("ZeroDivisionError: secret\n")


@pytest.mark.parametrize(
    ("said", "facts"),
    [("no room", ("Error", "no room")), (ValueError("secret"), ("ValueError", None))],
)
def test_an_error_that_the_handler_reports_is_told_and_is_no_failure(peer, said, facts):
    error = peer(lambda flow, client: client.error(said)).call().error
    assert error["code"] == "handler_error"
    assert (error["error_class"], error["message"]) == facts


def test_a_result_that_the_client_does_not_take_is_a_failure_it_hears_of(peer, logged_errors):
    client = peer(lambda flow, client: "x" * 70_000, Limits(max_packet=65536))
    result = client.call()
    logged_errors.claim()
    assert result.error["error_class"] == "PacketTooLarge"


def test_a_message_that_the_client_does_not_take_is_a_failure_it_hears_of(peer, logged_errors):
    def handler(flow, client):
        client.message({"text": "x" * 70_000})

    result = peer(handler, Limits(max_packet=65536)).call()
    logged_errors.claim()
    assert result.error["error_class"] == "PacketTooLarge"


# Flows that end before their time


def test_a_failed_generator_is_a_client_error_behind_its_packets(peer, any_recorder):
    handler = any_recorder()
    client = peer(handler)
    flow = client.open()
    client.send(flow, {"n": 1}, {"n": 2})
    client.machine.abort(flow, "ValueError")
    assert client.over(flow)
    client.returned()
    assert handler.packets == [1, 2]
    assert isinstance(handler.error, ClientError)
    assert (handler.error.error_class, handler.error.sent) == ("ValueError", 2)


def echo(taken):
    def handler(flow, client):
        for packet in flow:
            taken.append(packet.n)
            client.message(packet)

    return handler


def async_echo(taken):
    async def handler(flow, client):
        async for packet in flow:
            taken.append(packet.n)
            await client.message(packet)

    return handler


@pytest.mark.parametrize("make", [echo, async_echo])
def test_messages_are_no_obstacle_to_what_came_before_a_failure(peer, make):
    """
    A handler that answers each packet takes all of them, though nobody hears the answers.
    """
    taken: list[int] = []
    client = peer(make(taken))
    flow = client.open(header={"n": 0})
    client.send(flow, *({"n": n} for n in range(1, 2001)))
    client.machine.abort(flow, "ValueError")
    assert client.over(flow)
    client.returned()
    assert taken == list(range(2001))


def test_a_class_name_of_any_length_is_cut(peer, async_recorder):
    handler = async_recorder()
    client = peer(handler, Limits(max_packet=65536))
    flow = client.open()
    text = {"error_class": "x" * 60_000}
    payload = (0).to_bytes(8, "big") + encode_packet(text)
    head = len(payload).to_bytes(4, "big") + bytes([FrameType.ABORT]) + flow.to_bytes(4, "big")
    client.protocol.dataReceived(head + payload)
    assert isinstance(handler.error, ClientError)
    assert handler.error.error_class == "x" * MAX_TEXT


def test_a_flow_that_is_given_up_raises_in_the_handler(peer, any_recorder):
    handler = any_recorder()
    client = peer(handler)
    flow = client.open()
    client.send(flow, {"n": 1})
    client.machine.cancel(flow)
    assert client.over(flow)
    client.returned()
    assert isinstance(handler.error, FlowCancelled)


def test_a_flow_can_be_given_up_behind_its_end(peer, gate):
    told = []
    read = threading.Event()

    def handler(flow, client):
        list(flow)
        read.set()
        gate(flow, client)
        told.append(client.cancelled)
        client.success("too late")

    client = peer(handler)
    flow = client.open()
    client.end(flow)
    assert read.wait(10)
    client.machine.cancel(flow)
    assert client.over(flow)
    gate.opened.set()
    client.returned()
    assert told == [True]


def test_a_coroutine_that_waits_for_something_else_is_interrupted_by_a_cancel(peer):
    seen = []

    async def handler(flow, client):
        try:
            await Deferred()
        except CancelledError as error:
            seen.append(error)
            raise
        finally:
            seen.append("finally")

    client = peer(handler)
    flow = client.open({"n": 1})
    client.machine.cancel(flow)
    assert client.over(flow)
    client.returned()
    assert [type(seen[0]), seen[1]] == [CancelledError, "finally"]


def test_a_deadline_ends_the_flow_on_both_sides(peer, hand_reactor, any_recorder):
    handler = any_recorder()
    client = peer(handler)
    flow = client.open({"n": 0}, timeout=2.5)
    hand_reactor.advance(2.4)
    assert not client.of(ResultReceived)
    hand_reactor.advance(0.2)
    result = client.result(flow)
    assert (result.status, result.error["message"]) == (
        "deadline",
        "the client gave the call 2.5 s",
    )
    client.returned()
    assert isinstance(handler.error, DeadlineExceeded)
    assert handler.error.timeout == 2.5


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_a_deadline_wakes_a_handler_that_waits_to_send(peer, hand_reactor, kind):
    """
    A blocked message raises it, just as the flow does.
    """
    seen = []
    packet = {"blob": bytes(30_000)}

    def in_thread(flow, client):
        try:
            while True:
                client.message(packet)
        except StationError as error:
            seen.append(error)
            raise

    async def on_reactor(flow, client):
        try:
            while True:
                await client.message(packet)
        except StationError as error:
            seen.append(error)
            raise

    client = peer(in_thread if kind == "thread" else on_reactor, reads=False)
    flow = client.open({"n": 0}, timeout=2.5)
    client.reactor.run_until(
        lambda: client.pump() or sum(each.batch.packets for each in client.unread) >= 32
    )
    hand_reactor.advance(2.6)
    assert client.result(flow).status == "deadline"
    client.returned()
    assert [type(error) for error in seen] == [DeadlineExceeded]


def test_a_deadline_that_was_kept_does_nothing(peer, hand_reactor):
    client = peer(async_reading)
    client.pump()
    before = hand_reactor.getDelayedCalls()
    assert client.call({"n": 1}, timeout=1.0).value == [1]
    assert hand_reactor.getDelayedCalls() == before


def test_the_deadline_of_a_lost_connection_does_nothing(peer, hand_reactor):
    client = peer(async_reading)
    client.open(timeout=1.0)
    client.lose()
    assert hand_reactor.getDelayedCalls() == []


# Connections that are cut


def a_whole_call():
    """
    What a client sends for a flow of three packets; and where in it each frame begins.
    """
    machine = Connection(Role.CLIENT)
    flow = machine.open_flow()
    data = b"".join(machine.data_to_send())
    for n in range(3):
        machine.send_packets(flow, deque([encode_packet({"n": n})]))
    machine.end(flow)
    data += b"".join(machine.data_to_send())
    starts = [0]
    while starts[-1] < len(data):
        length = int.from_bytes(data[starts[-1] : starts[-1] + 4], "big")
        starts.append(starts[-1] + 9 + length)
    return data, starts


def test_a_flow_cut_at_any_byte_is_never_whole(hand_reactor, async_recorder):
    data, starts = a_whole_call()
    for cut in range(len(data)):
        handler = async_recorder()
        protocol = FlowServer(handler, reactor=hand_reactor).buildProtocol(None)
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(data[:cut])
        protocol.connectionLost()
        # HELLO, OPEN, and so on
        assert handler.packets == list(range(max(0, sum(start <= cut for start in starts) - 3)))
        if cut >= starts[2]:
            assert isinstance(handler.error, BadFlowEnding)
            assert handler.error.received == len(handler.packets)
            assert ("in the middle of a frame" in str(handler.error)) is (cut not in starts)
            assert "before the flow" in str(handler.error)
    assert hand_reactor.getDelayedCalls() == []


def test_a_flow_cut_behind_its_end_is_whole_but_its_client_is_gone(peer, gate):
    told = []

    def handler(flow, client):
        told.append(list(flow))
        gate(flow, client)
        try:
            client.message({})
        except BadFlowEnding as error:
            told.append(error)
            raise

    client = peer(handler)
    flow = client.open()
    client.send(flow, {"n": 1})
    client.end(flow)
    client.lose()
    gate.opened.set()
    client.returned()
    assert told[0] == [{"n": 1}]
    assert "before the result; 1 packets had come" in str(told[1])


@pytest.mark.parametrize("packets", [0, 1, 2])
def test_a_handler_in_a_thread_gets_what_came_before_the_cut_and_then_the_error(
    peer, packets, recorder
):
    handler = recorder()
    client = peer(handler)
    flow = client.open()
    client.send(flow, *({"n": n} for n in range(packets)))
    client.lose()
    client.returned()
    assert handler.packets == list(range(packets))
    assert isinstance(handler.error, BadFlowEnding)


def test_a_handler_is_not_disturbed_by_a_client_that_leaves_behind_its_end(peer, gate):
    seen = []

    def handler(flow, client):
        gate(flow, client)
        seen.extend(packet.n for packet in flow)
        for _ in range(2 * BATCH_PACKETS):
            client.message({"nobody": "listens"})
        seen.append(client.cancelled)
        client.success("Done")

    client = peer(handler)
    flow = client.open(waits=False)
    client.send(flow, {"n": 1}, {"n": 2})
    client.end(flow)
    client.lose()
    gate.opened.set()
    client.returned()
    assert seen == [1, 2, False]


def test_a_result_that_finds_nobody_disturbs_nobody(peer, gate):
    client = peer(gate)
    client.open({"n": 1})
    client.protocol.transport = None
    client.lose()
    gate.opened.set()
    client.returned()


# Back-pressure


def test_a_handler_that_does_not_read_stops_its_client_after_one_window(peer, gate):
    limits = Limits(window_packets=INITIAL_PACKETS)
    client = peer(gate, limits=limits)
    flow = client.open({"n": 0})
    pending = deque([encode_packet({"n": 1})] * 2 * INITIAL_PACKETS)
    client.machine.send_packets(flow, pending)
    client.pump()
    assert len(pending) == INITIAL_PACKETS
    assert client.machine.room(flow)[0] == 0
    assert not client.of(CreditReceived)


def test_a_handler_that_reads_gives_credit_at_a_quarter_of_a_window(peer):
    limits = Limits(window_packets=INITIAL_PACKETS)
    client = peer(async_reading, limits=limits)
    flow = client.open()
    quarter = INITIAL_PACKETS // 4
    client.send(flow, *({"n": n} for n in range(quarter)))
    assert [event.consumed for event in client.of(CreditReceived)] == [quarter]
    assert client.machine.room(flow)[0] == INITIAL_PACKETS
    client.send(flow, *({"n": n} for n in range(quarter - 1)))
    assert len(client.of(CreditReceived)) == 1


async def async_endless(flow, client):
    while True:
        await client.message({"text": "x" * 1000})


def endless(flow, client):
    while True:
        client.message({"text": "x" * 1000})


@pytest.mark.parametrize("handler", [endless, async_endless])
def test_a_client_that_does_not_read_stops_its_handler_after_one_window(peer, handler):
    client = peer(handler, Limits(window_packets=INITIAL_PACKETS), reads=False)
    flow = client.open({"n": 1})
    while len(client.messages(flow)) < INITIAL_PACKETS:
        client.reactor.run_until(lambda: True)
    client.pump()
    assert len(client.messages(flow)) == INITIAL_PACKETS
    client.read()
    client.reactor.run_until(lambda: len(client.messages(flow)) > INITIAL_PACKETS)
    client.machine.cancel(flow)
    assert client.over(flow)
    client.returned()


def test_pings_are_answered_while_handlers_block(peer, gate):
    client = peer(gate)
    client.open({"n": 1})
    client.machine.ping(5)
    assert [event.token for event in client.of(PongReceived)] == [5]


def test_all_slots_blocked_hold_up_neither_refusals_nor_pings(peer, gate):
    """
    Both are answered as they come: no thread has to be free, and no time has to pass.
    """
    client = peer(gate, max_handlers=2)
    client.open({"n": 1})
    client.open({"n": 2})
    flow = client.machine.open_flow({"n": 3})
    client.machine.ping(5)
    client.protocol.dataReceived(b"".join(client.machine.data_to_send()))
    client._to_client()
    refused, pong = client.events[-2:]
    assert isinstance(refused, ResultReceived)
    assert (refused.flow_id, refused.error["code"]) == (flow, "busy")
    assert isinstance(pong, PongReceived)


def test_all_slots_blocked_leave_the_reactors_threads_alone(serve, gate, reactor, in_reactor):
    """
    Names are resolved in them.
    """
    port = serve(gate, max_handlers=12)
    calls = [StationClient(HOST, port).open({"n": n}) for n in range(12)]
    pool = in_reactor(reactor.getThreadPool)
    assert pool.max > 0
    assert pool.working == []
    for call in calls:
        call.cancel()


# Stuck


@pytest.mark.parametrize("leave", ["cancel", "lose", "deadline"])
def test_a_handler_that_nobody_waits_for_is_stuck_until_it_returns(peer, gate, hand_reactor, leave):
    client = peer(gate)
    flow = client.open({"n": 1}, timeout=1.0)
    assert (client.server.handlers, client.server.stuck) == (1, 0)
    if leave == "cancel":
        client.machine.cancel(flow)
        client.pump()
    elif leave == "lose":
        client.lose()
    else:
        hand_reactor.advance(1.0)
    assert (client.server.handlers, client.server.stuck) == (1, 1)
    gate.opened.set()
    client.returned()
    assert client.server.stuck == 0


@pytest.mark.parametrize("end", ["drain", "stop"])
def test_a_stuck_handler_is_reported_at_the_end(peer, gate, hand_reactor, warnings, end):
    client = peer(gate)
    client.open({"n": 1})
    if end == "drain":
        client.server.drain(1.0)
        hand_reactor.advance(1.0)
        hand_reactor.advance(STOP_GRACE)
    else:
        client.server.stop()
        hand_reactor.advance(STOP_GRACE)
    assert warnings == ["1 handlers have not returned (1 are stuck), and nobody waits now"]


# Breaches


def test_a_stranger_is_told_and_closed(peer, warnings):
    client = peer(reading)
    client.protocol.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
    (away,) = client.of(GoAwayReceived)
    assert away.code == "not_this_protocol"
    assert client.transport.half_closed
    (warning,) = warnings
    assert "192.168.1.1" in warning
    assert "first bytes are b'GET / HTTP/1'" in warning


def test_a_breach_ends_every_flow_of_the_connection_with_the_breach(peer, warnings, async_recorder):
    handler = async_recorder()
    client = peer(handler)
    flow = client.open()
    client.send(flow, {"n": 1})
    client.protocol.dataReceived(b"".join(encode_batch(FrameType.DATA, flow, 5, 1, b"\x80")))
    assert isinstance(handler.error, RemoteProtocolError)
    assert handler.packets == [1]
    assert len(warnings) == 1


def test_packets_that_a_handler_cannot_decode_close_the_connection(peer, warnings, recorder):
    handler, other = recorder(), recorder()

    def either(flow, client):
        return (handler if flow.header.n == 1 else other)(flow, client)

    client = peer(either)
    flow = client.open({"n": 1})
    client.open({"n": 2})
    client.protocol.dataReceived(b"".join(encode_batch(FrameType.DATA, flow, 0, 1, b"\xc1")))
    client.reactor.run_until(partial(client.of, GoAwayReceived))
    assert client.events[-1].code == "malformed_value"
    assert client.transport.half_closed
    client.returned()
    assert isinstance(handler.error, RemoteProtocolError)
    assert other.error is handler.error
    assert not client.of(ResultReceived)
    assert len(warnings) == 1


def test_a_second_breach_is_not_told_again(peer, warnings):
    client = peer(reading)
    flows = [client.open(), client.open()]
    for flow in flows:
        frame = b"".join(encode_batch(FrameType.DATA, flow, 0, 1, b"\xc1"))
        client.protocol.dataReceived(frame)
    client.returned()
    client.pump()
    assert len(client.of(GoAwayReceived)) == 1
    assert len(warnings) == 1


def test_a_breach_that_is_found_after_the_connection_has_ended_is_only_raised(
    peer, warnings, recorder
):
    handler = recorder()
    client = peer(handler)
    flow = client.open({"n": 0})
    frame = b"".join(encode_batch(FrameType.DATA, flow, 0, 1, b"\xc1"))
    client.protocol.dataReceived(frame)
    client.connected = False
    client.protocol.connectionLost()
    client.returned()
    assert isinstance(handler.error, RemoteProtocolError)
    assert warnings == []


def test_what_comes_behind_a_breach_is_ignored(peer, async_recorder):
    client = peer(async_recorder())
    client.pump()
    client.machine.open_flow()
    flow = b"".join(client.machine.data_to_send())
    client.protocol.dataReceived(b"\xff" * 9 + flow)
    client.protocol.dataReceived(flow)
    assert client.server.handlers == 0


def test_a_pong_that_nobody_asked_for_is_no_breach(peer):
    client = peer(async_reading)
    client.pump()
    client.protocol.dataReceived(encode_frame(FrameType.PONG, 0, bytes(8))[0] + bytes(8))
    assert client.call({"n": 1}).value == [1]


def test_a_client_that_gives_up_is_logged_with_its_reason_cut_and_escaped(peer, warnings):
    client = peer(reading)
    client.pump()
    client.machine.go_away("frame_length", "y\n" * 1000)
    client.pump()
    (warning,) = warnings
    assert "gave up with frame_length: y\\ny\\n" in warning
    assert len(warning) < 2 * MAX_TEXT


@pytest.mark.parametrize("code", ["", "draining"])
def test_a_client_that_goes_politely_is_not_logged(peer, warnings, code):
    client = peer(reading)
    client.pump()
    client.machine.go_away(code, "")
    client.pump()
    assert warnings == []


# Handshake and close


def test_a_client_that_says_nothing_is_told_and_closed(peer, hand_reactor):
    client = peer(reading, limits=Limits(handshake_timeout=3.0))
    hand_reactor.advance(2.9)
    assert not client.transport.half_closed
    hand_reactor.advance(0.2)
    assert client.transport.half_closed
    client.machine = Connection(Role.CLIENT)
    client.machine.data_to_send()
    (away,) = client.of(GoAwayReceived)
    assert away.code == "handshake_timeout"
    assert "the client sent no HELLO within 3 s (Limits.handshake_timeout)" in away.message


def test_a_client_that_has_said_hello_may_take_its_time(peer, hand_reactor):
    client = peer(reading, limits=Limits(handshake_timeout=3.0))
    client.pump()
    hand_reactor.advance(9.0)
    assert not client.transport.half_closed


def test_a_client_that_keeps_its_half_open_is_aborted(peer, hand_reactor):
    client = peer(reading, limits=Limits(close_timeout=4.0))
    client.protocol.stop("the test is over")
    hand_reactor.advance(3.9)
    assert (client.transport.half_closed, client.transport.aborted) == (True, False)
    hand_reactor.advance(0.2)
    assert client.transport.aborted


def test_a_client_that_closes_its_half_is_not_aborted(peer, hand_reactor):
    client = peer(reading)
    client.protocol.stop("the test is over")
    client.lose()
    assert hand_reactor.getDelayedCalls() == []
    assert not client.transport.aborted


@pytest.mark.parametrize("secure", [True, False])
def test_a_transport_that_knows_no_half_is_closed_whole(hand_reactor, secure):
    protocol = FlowServer(reading, reactor=hand_reactor).buildProtocol(None)
    transport = StringTransport()
    if secure:
        # As on a TLS transport, which lets the TCP beneath shine through.
        vars(transport)["loseWriteConnection"] = transport.abortConnection
        directlyProvides(transport, ISSLTransport)
        vars(transport)["getPeerCertificate"] = lambda: None
    protocol.makeConnection(transport)
    if secure:
        protocol.handshakeCompleted()
    protocol.stop("the test is over")
    assert (transport.disconnecting, transport.disconnected) == (True, False)
    protocol.connectionLost()


# Stopping


def test_a_server_that_stops_wakes_its_handlers_and_tells_its_clients(peer, recorder):
    handler = recorder()
    client = peer(handler)
    client.send(client.open(), {"n": 1})
    stopped = client.server.stop()
    (away,) = client.of(GoAwayReceived)
    assert (away.code, away.message) == ("draining", "the server is stopping")
    assert client.transport.half_closed
    client.returned()
    assert isinstance(handler.error, BadFlowEnding)
    assert not stopped.called
    client.lose()
    assert stopped.called


def test_a_result_that_is_there_is_not_lost_when_the_server_stops(peer):
    said = threading.Event()

    def handler(flow, client):
        client.success("Done")
        said.set()

    client = peer(handler)
    flow = client.machine.open_flow({"n": 1})
    client._to_server()
    assert said.wait(10)
    client.server.stop()
    client.pump()
    (result,) = client.of(ResultReceived, flow)
    assert result.value == "Done"


def test_a_server_without_clients_stops_at_once(hand_reactor):
    stopped = FlowServer(reading, reactor=hand_reactor).stop()
    assert stopped.called
    assert hand_reactor.getDelayedCalls() == []


def test_a_server_waits_for_a_handler_that_does_not_return_but_not_for_ever(
    peer, gate, hand_reactor
):
    client = peer(gate)
    client.open({"n": 1})
    stops = [client.server.stop(), client.server.stop()]
    hand_reactor.advance(STOP_GRACE - 0.1)
    assert not any(stop.called for stop in stops)
    assert not client.transport.aborted
    hand_reactor.advance(0.2)
    assert all(stop.called for stop in stops)
    assert client.transport.aborted


def test_a_server_that_stops_turns_new_clients_away(peer):
    client = peer(reading)
    client.server.stop()
    late = peer(client.server)
    assert [event.code for event in late.of(GoAwayReceived)] == ["draining"]
    client.server.startFactory()
    again = peer(client.server)
    assert again.call({"n": 1}).value == [1]


class HookedReactor(MemoryReactorClock):
    """
    A reactor that keeps its triggers for a shutdown.
    """

    def __init__(self):
        super().__init__()
        self.hooks = {}

    def addSystemEventTrigger(self, phase, eventType, callable, *args, **kw):  # noqa: N802, N803
        assert (phase, eventType) == ("before", "shutdown")
        self.hooks[id(callable)] = callable
        hook: Any = id(callable)
        return hook

    def removeSystemEventTrigger(self, triggerID):  # noqa: N802, N803
        del self.hooks[triggerID]


def test_a_server_stops_when_its_reactor_does():
    reactor = HookedReactor()
    server = FlowServer(reading, reactor=reactor)
    server.doStart()
    server.doStart()
    (hook,) = reactor.hooks.values()
    assert hook().called
    assert server.stopping
    server.doStop()
    server.doStop()
    # Twisted minds if one is removed that has been called.
    assert len(reactor.hooks) == 1


def test_a_reactor_forgets_a_server_whose_ports_have_closed():
    reactor = HookedReactor()
    server = FlowServer(reading, reactor=reactor)
    for _ in range(2):
        server.doStart()
        assert len(reactor.hooks) == 1
        server.doStop()
        assert reactor.hooks == {}


def test_a_server_that_listens_again_while_it_has_clients_is_stopped_once():
    reactor = HookedReactor()
    server = FlowServer(reading, reactor=reactor)
    protocol = server.buildProtocol(None)
    for _ in range(2):
        server.doStart()
        assert len(reactor.hooks) == 1
        if not server.connections:
            protocol.makeConnection(StringTransport())
        server.doStop()
    protocol.connectionLost()
    assert reactor.hooks == {}


def test_a_coroutine_may_stop_its_server(peer):
    stopped = []

    async def handler(flow, client):
        stopped.append(client_of.server.stop())
        try:
            await flow.next()
            await flow.next()
        except BadFlowEnding as error:
            stopped.append(error)
            raise

    client = client_of = peer(handler)
    first, second = client.machine.open_flow({"n": 1}, timeout=5.0), client.machine.open_flow({})
    client.pump()
    assert [type(each) for each in stopped] == [Deferred, BadFlowEnding]
    assert (first, second) == (1, 2)
    assert [event.code for event in client.of(GoAwayReceived)] == ["draining"]
    assert not client.of(ResultReceived)


def test_a_server_whose_ports_have_closed_serves_the_clients_it_has(peer, hand_reactor):
    client = peer(reading)
    client.pump()
    server = client.server
    server.doStart()
    server.doStop()
    assert client.call({"n": 1}).value == [1]


def idle(pool):
    """
    Wait until a thread of the pool has nothing to do, and says so.
    """
    deadline = time.monotonic() + 10
    while not pool._idle:
        assert time.monotonic() < deadline
        os.sched_yield()


def pool_threads():
    return [each for each in threading.enumerate() if each.name == "pyf.station-handler"]


def test_threads_are_used_again_and_end_with_the_last_client(peer):
    ran = []
    client = peer(lambda flow, client: ran.append(threading.current_thread()))
    client.server.numPorts = 1
    for _ in range(3):
        client.call()
        client.returned()
        idle(client.server._workers)
    assert len(set(ran)) == 1
    client.server.numPorts = 0
    client.lose()
    for each in set(ran):
        each.join(10)
        assert not each.is_alive()


def test_what_blocks_beside_handlers_has_so_many_threads_and_waits_for_one(
    monkeypatch, reactor, in_reactor
):
    """
    However many coroutines ask for one at once.
    """
    monkeypatch.setattr("pyf.station.server.MAX_THREADS", 3)
    server = FlowServer(async_reading, reactor=reactor)
    together, lock, running, most = threading.Barrier(3), threading.Lock(), [0], [0]

    def work(number: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait(10)
        with lock:
            running[0] -= 1
        return number

    def ask() -> Any:
        return gatherResults([server.call_in_thread(work, number) for number in range(9)])

    assert in_reactor(ask) == list(range(9))
    assert most == [3]
    in_reactor(server.stop)


def test_a_system_without_threads_is_told_of_by_what_would_have_needed_one(
    monkeypatch, reactor, in_reactor
):
    server = FlowServer(async_reading, reactor=reactor)

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def ask() -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            return DeferredList([server.call_in_thread(bool) for _ in range(2)], consumeErrors=True)

    answers = in_reactor(ask)
    assert [(done, str(failure.value)) for done, failure in answers] == [
        (False, "can't start new thread")
    ] * 2
    assert in_reactor(server.call_in_thread, bool) is False
    in_reactor(server.stop)


# Over real sockets


@pytest.mark.parametrize("handler", [reading, async_reading])
def test_a_real_client_is_served(serve, handler):
    client = StationClient(HOST, serve(handler), True)
    assert client.send({"n": n} for n in range(5000)) == list(range(5000))


def test_a_real_client_over_max_handlers_is_refused(serve, gate):
    client = StationClient(HOST, serve(gate, max_handlers=1), True)
    with client.open({"n": 1}), pytest.raises(FlowRefused) as caught:
        client.send([{"n": 2}])
    assert caught.value.code == "busy"
    gate.opened.set()


def test_a_real_client_over_max_clients_is_refused(serve, gate):
    client = StationClient(HOST, serve(gate, max_clients=1), True)
    with client.open({"n": 1}), pytest.raises(FlowRefused) as caught:
        client.send([{"n": 2}])
    assert caught.value.code == "busy"
    gate.opened.set()


def test_a_real_client_hears_of_a_failure(serve, logged_errors):
    def handler(flow, client):
        for packet in flow:
            assert 1 / packet.n

    with pytest.raises(ServerError) as caught:
        StationClient(HOST, serve(handler), True).send({"n": 3 - n} for n in range(10))
    logged_errors.claim(ZeroDivisionError)
    assert (caught.value.error_class, caught.value.consumed) == ("ZeroDivisionError", 4)


def test_blocked_handlers_do_not_hold_up_the_others(serve, gate):
    def handler(flow, client):
        if flow.header.block:
            gate(flow, client)
        return [packet.block for packet in flow]

    client = StationClient(HOST, serve(handler, max_handlers=9), True)
    blocked = [client.open({"block": True}) for _ in range(8)]
    for _ in range(3):
        assert client.send([], {"block": False}) == [False]
    gate.opened.set()
    for each in blocked:
        each.cancel()


def test_many_coroutines_run_at_once_without_a_thread(serve):
    port = serve(async_reading)
    client = StationClient(HOST, port, True)
    conversations = [client.open() for _ in range(50)]
    assert pool_threads() == []
    for n, each in enumerate(conversations):
        each.send({"n": n})
    assert [each.end() for each in conversations] == [[n] for n in range(50)]


def run(script):
    """
    Run *script* in a new interpreter, which has to exit by itself, and return what it printed.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("waits", "printed"),
    [("next(flow)", "woken\nstopped\n"), ("threading.Event().wait()", "stopped\n")],
)
def test_a_process_ends_when_its_reactor_stops_whatever_a_handler_waits_for(waits, printed):
    assert printed == run(f"""
        import socket, threading
        from twisted.internet import reactor
        from pyf.station import FlowServer, server
        from pyf.transport import Connection, Limits, Role

        server.STOP_GRACE = 0.5
        limits = Limits(drain_grace=0.1)

        def handler(flow, client):
            next(flow)
            reactor.callFromThread(reactor.stop)
            try:
                {waits}
            finally:
                print("woken", flush=True)

        port = reactor.listenTCP(0, FlowServer(handler, limits=limits), interface="127.0.0.1")
        client = Connection(Role.CLIENT)
        client.open_flow({{}})
        with socket.create_connection(("127.0.0.1", port.getHost().port)) as connection:
            connection.sendall(b"".join(client.data_to_send()))
            reactor.run()
        print("stopped", flush=True)
    """)
