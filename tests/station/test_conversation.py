"""Conversations: flows that a blocking client sends packet by packet."""

import gc
import threading
import time
from queue import Queue
from typing import Any

import pytest

from pyf.station.client import StationClient
from pyf.station.conversation import Conversation
from pyf.station.link import Link
from pyf.transport import (
    ClientError,
    ConnectFailed,
    DeadlineExceeded,
    FlowCancelled,
    Limits,
    LocalProtocolError,
    Packet,
    PacketTooLarge,
    ServerError,
    UnsupportedValue,
)

WAIT = 30.0


def echo(flow, client):
    count = 0
    for packet in flow:
        client.message(packet)
        count += 1
    return count


class Endings:
    """
    A handler that echoes, and notes how its flow ends: None for a whole one.
    """

    def __init__(self) -> None:
        self._endings: Queue[BaseException | None] = Queue()

    def __call__(self, flow, client):
        try:
            count = echo(flow, client)
        except BaseException as error:
            self._endings.put(error)
            raise
        self._endings.put(None)
        return count

    def get(self) -> BaseException | None:
        return self._endings.get(timeout=WAIT)


@pytest.fixture
def connect(serve):
    """
    Serve with a handler; return a client of that server.
    """

    def connect(handler: Any, **options: Any) -> StationClient:
        return StationClient("127.0.0.1", serve(handler, **options))

    return connect


@pytest.fixture
def endings() -> Endings:
    return Endings()


def test_the_next_packet_may_depend_on_the_last_answer(connect):
    """
    A packet leaves at once, and its answer is there before the next is sent.
    """
    with connect(echo).open() as flow:
        packet = {"n": 1}
        for _ in range(10):
            flow.send(packet)
            answer = flow.receive()
            assert type(answer) is Packet
            packet = {"n": answer.n * 2}
        assert flow.end() == 10
    assert packet == {"n": 1024}
    assert (flow.sent, flow.consumed, flow.received) == (10, 10, 10)


def test_a_conversation_may_have_a_header(connect):
    """
    The handler starts before a packet is sent; the header is not counted.
    """

    def handler(flow, client):
        client.message(client.header)
        return sum(1 for _ in flow)

    with connect(handler).open(header={"action": "x"}) as flow:
        assert flow.receive() == {"action": "x"}
        flow.send({"n": 1})
        assert flow.end() == 2
    assert (flow.sent, flow.consumed) == (1, 1)


def test_opening_connects_at_once():
    """
    open() raises what connecting raises, and refuses what is no header or timeout.
    """
    client = StationClient("no..where")
    with pytest.raises(ConnectFailed):
        client.open()
    with pytest.raises(TypeError, match="a header is a Packet or a dict"):
        client.open(header="text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a timeout is a number of seconds"):
        client.open(timeout=-1)


def test_a_header_that_cannot_travel_opens_nothing(connect):
    """
    PacketError, and the connection is closed.
    """
    with pytest.raises(UnsupportedValue):
        connect(echo).open(header={"x": object()})


def test_a_receive_that_times_out_harms_nothing(connect):
    """
    DeadlineExceeded has the time that was given; the flow goes on.
    """
    with connect(echo).open() as flow:
        with pytest.raises(DeadlineExceeded, match=r"no message came within 0.01 s") as caught:
            flow.receive(timeout=0.01)
        assert caught.value.timeout == 0.01
        flow.send({"n": 1})
        assert flow.receive(timeout=WAIT) == {"n": 1}
        assert flow.end() == 1


def test_receiving_without_waiting(connect):
    """
    receive(timeout=0) gives what has come, and waits for nothing.
    """
    with connect(echo).open() as flow:
        with pytest.raises(DeadlineExceeded):
            flow.receive(timeout=0)
        flow.end()


def test_receive_gives_none_after_the_success(connect):
    """
    Messages first, then None, as often as it is asked.
    """

    def handler(flow, client):
        client.message(next(flow))
        client.success("enough")

    with connect(handler).open() as flow:
        flow.send({"n": 1})
        assert [flow.receive(), flow.receive(), flow.receive()] == [{"n": 1}, None, None]
        assert flow.end() == "enough"


def test_iterating_ends_with_the_success(connect):
    """
    A for loop takes what comes back until the handler has succeeded.
    """

    def handler(flow, client):
        for n in range(next(flow).n):
            client.message({"n": n})

    with connect(handler).open() as flow:
        flow.send({"n": 700})
        assert list(flow) == [{"n": n} for n in range(700)]


def test_end_keeps_what_comes_meanwhile(connect):
    """
    Messages that come while end() waits can be received afterwards, also after the with.
    """
    with connect(echo).open() as flow:
        for n in range(5):
            flow.send({"n": n})
        assert flow.end() == 5
        assert flow.received == 0
        assert flow.receive() == {"n": 0}
    assert list(flow) == [{"n": n} for n in range(1, 5)]
    assert flow.received == 5


def test_end_again_gives_the_same_value(connect):
    """
    The handler's value is kept.
    """
    with connect(echo).open() as flow:
        assert [flow.end(), flow.end()] == [0, 0]


def test_a_handler_that_answers_each_packet_does_not_hold_up_one_that_only_sends(connect):
    """
    Messages are kept while send() waits for credit, more than any window holds.
    """
    size = 40
    with connect(echo).open() as flow:
        for n in range(size):
            flow.send({"n": n, "data": bytes(150_000)})
        assert flow.end() == size
        assert [packet.n for packet in flow] == list(range(size))


# What cannot be sent


@pytest.mark.parametrize(("bad", "kind"), [({"x": object()}, UnsupportedValue), ("x", TypeError)])
def test_a_packet_that_cannot_travel_harms_nothing(connect, bad, kind):
    """
    Nothing of it leaves, and the flow goes on.
    """
    with connect(echo).open() as flow:
        with pytest.raises(kind):
            flow.send(bad)
        flow.send({"n": 1})
        assert flow.end() == 1


def test_a_packet_that_is_too_large_harms_nothing(connect):
    """
    PacketTooLarge, and the flow goes on.
    """
    with connect(echo, limits=Limits(max_packet=70_000)).open() as flow:
        with pytest.raises(PacketTooLarge):
            flow.send({"x": bytes(70_000)})
        flow.send({"n": 1})
        assert flow.end() == 1
    assert flow.sent == 1


def test_sending_to_a_handler_that_has_succeeded(connect):
    """
    LocalProtocolError says that it takes no more; what it said is not lost.
    """

    def handler(flow, client):
        client.message({"bye": 1})
        client.success("enough")

    with connect(handler).open(header={"h": 1}) as flow:
        while flow._link.result is None:
            flow._link.wait()
        with pytest.raises(LocalProtocolError, match="it takes no more") as caught:
            flow.send({"n": 1})
        assert caught.value.code == "answered"
        assert list(flow) == [{"bye": 1}]
        assert flow.end() == "enough"


def test_sending_to_a_handler_that_has_failed(connect):
    """
    The ServerError comes where the flow is used next; after that it is over.
    """

    def handler(flow, client):
        client.error("no")

    with connect(handler).open(header={"h": 1}) as flow:
        while flow._link.result is None:
            flow._link.wait()
        with pytest.raises(ServerError, match="no"):
            flow.send({"n": 1})
        for use in (lambda: flow.send({"n": 1}), flow.receive, flow.end):
            with pytest.raises(LocalProtocolError) as caught:
                use()
            assert caught.value.code == "flow_over"


@pytest.mark.parametrize("use", [Conversation.receive, Conversation.end])
def test_a_failing_handler_is_an_error_wherever_it_is_met(connect, logged_errors, use):
    """
    receive() and end() raise ServerError.
    """

    def handler(flow, client):
        raise KeyError("x")

    with connect(handler).open(header={"h": 1}) as flow:
        with pytest.raises(ServerError) as caught:
            use(flow)
        assert caught.value.error_class == "KeyError"
    logged_errors.claim(KeyError)


def test_messages_before_a_failure_are_received_first(connect):
    """
    What a handler said before it failed is not lost.
    """

    def handler(flow, client):
        client.message({"a": 1})
        client.error("no")

    with connect(handler).open(header={"h": 1}) as flow:
        assert flow.receive() == {"a": 1}
        with pytest.raises(ServerError):
            flow.receive()


def test_nothing_is_sent_after_the_end(connect):
    """
    LocalProtocolError for send() after end().
    """
    with connect(echo).open() as flow:
        flow.end()
        with pytest.raises(LocalProtocolError, match="send: the flow is over"):
            flow.send({"n": 1})


def test_an_interrupted_send_has_not_sent(connect, monkeypatch):
    """
    Ctrl-C while send() waits for credit: the packet is not sent later either.
    """
    go_on = threading.Event()

    def handler(flow, client):
        assert go_on.wait(WAIT)
        return sum(1 for _ in flow)

    def interrupted(*_):
        raise KeyboardInterrupt

    with connect(handler, limits=Limits(window_packets=1024)).open() as flow:
        for n in range(1024):
            flow.send({"n": n})
        with monkeypatch.context() as patch:
            patch.setattr(flow._link, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                flow.send({"n": 1024})
        go_on.set()
        flow.send({"n": 1025})
        assert flow.end() == 1025


def test_the_timeout_bounds_a_conversation(connect, endings):
    """
    DeadlineExceeded wherever it waits.
    """
    with pytest.raises(DeadlineExceeded), connect(endings).open({"h": 1}, timeout=0.1) as flow:
        list(flow)
    assert isinstance(endings.get(), FlowCancelled | DeadlineExceeded | ClientError)


# Leaving


def test_leaving_without_an_end_cancels_the_flow(connect, endings):
    """
    The handler gets FlowCancelled.
    """
    with connect(endings).open() as flow:
        flow.send({"n": 1})
    assert isinstance(endings.get(), FlowCancelled)


def test_leaving_after_the_end_says_nothing_more(connect, endings):
    """
    A flow that is whole stays whole.
    """
    with connect(endings).open() as flow:
        flow.end()
    assert endings.get() is None


def test_leaving_with_an_exception_tells_the_handler_its_class(connect, endings):
    """
    The handler gets ClientError; the exception goes on.
    """
    mine = KeyError("mine")

    def converse():
        with connect(endings).open() as flow:
            flow.send({"n": 1})
            raise mine

    with pytest.raises(KeyError) as caught:
        converse()
    assert caught.value is mine
    ending = endings.get()
    assert isinstance(ending, ClientError)
    assert (ending.error_class, ending.sent) == ("KeyError", 1)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_leaving_by_an_interrupt_cancels_the_flow(connect, endings, kind):
    """
    Ctrl-C is no failure of the client's.
    """

    def converse():
        with connect(endings).open() as flow:
            flow.send({"n": 1})
            raise kind

    with pytest.raises(kind):
        converse()
    assert isinstance(endings.get(), FlowCancelled)


def test_a_cancelled_flow_is_over(connect, endings):
    """
    cancel() tells the handler; nothing can be done with the flow then, but cancel it again.
    """
    with connect(endings).open() as flow:
        flow.send({"n": 1})
        flow.cancel()
        flow.cancel()
        assert isinstance(endings.get(), FlowCancelled)
        for use in (lambda: flow.send({"n": 1}), flow.receive, flow.end):
            with pytest.raises(LocalProtocolError, match="the flow is over"):
                use()


def test_a_conversation_that_is_dropped_cancels_the_flow(connect, endings):
    """
    Without `with`, the garbage collector gives the flow up.
    """
    flow = connect(endings).open()
    flow.send({"n": 1})
    del flow
    gc.collect()
    assert isinstance(endings.get(), FlowCancelled)


def keepers():
    return {each for each in threading.enumerate() if each.name == "pyf.station-keeper"}


def test_nothing_is_left_behind(connect):
    """
    The keeper has ended when the conversation has.
    """
    before = keepers()
    until = time.monotonic() + WAIT
    with connect(echo).open() as flow:
        while not keepers() - before:
            assert time.monotonic() < until, "no keeper came"
        flow.end()
        assert not keepers() - before


def test_a_conversation_that_is_over_at_once_has_no_keeper(connect, monkeypatch):
    monkeypatch.setattr(Link, "get_keeper", lambda _: pytest.fail("a keeper was started"))
    monkeypatch.setattr("pyf.station.nursery.TICK", 0.5)
    with connect(echo).open() as flow:
        flow.end()


# Listeners


def test_listeners_hear_of_what_is_received(connect):
    """
    They are called when a message is received, and when the result is met.
    """
    client = connect(echo)
    heard = []
    client.add_listener("message_received", heard.append)
    client.add_listener("success", heard.append)
    with client.open() as flow:
        flow.send({"n": 1})
        flow.send({"n": 2})
        assert flow.receive() == {"n": 1}
        assert heard == [{"n": 1}]
        flow.end()
        assert heard == [{"n": 1}, {"type": "success", "message": 2}]
        flow.receive()
        assert heard[2:] == [{"n": 2}]


def test_a_listener_that_raises_leaves_the_conversation_to_its_with(connect, endings):
    """
    The exception comes out of receive(); the handler gets ClientError.
    """

    def listener(_):
        raise KeyError("mine")

    def converse():
        with client.open() as flow:
            flow.send({"n": 1})
            flow.receive()

    client = connect(endings)
    client.add_listener("message_received", listener)
    with pytest.raises(KeyError, match="mine"):
        converse()
    assert isinstance(endings.get(), ClientError)


def test_a_listener_that_raises_at_the_success_ends_the_conversation(connect):
    """
    The exception comes out of end(), and the connection is closed.
    """

    def listener(_):
        raise KeyError("mine")

    client = connect(echo)
    client.add_listener("success", listener)
    with client.open() as flow:
        with pytest.raises(KeyError, match="mine"):
            flow.end()
        with pytest.raises(LocalProtocolError):
            flow.end()


def test_a_handler_that_closes_its_flow_takes_no_more(connect):
    """
    send() says so; messages and the result still come.
    """

    def handler(flow, client):
        next(flow)
        flow.close()
        client.message({"closed": True})
        return "done"

    with connect(handler).open({"n": 0}) as conversation:
        assert conversation.receive(WAIT) == {"closed": True}
        with pytest.raises(LocalProtocolError, match="it takes no more"):
            conversation.send({"n": 1})
        assert conversation.end() == "done"
