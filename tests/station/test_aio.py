"""The asyncio client, against a real server: flows, their errors, and one connection for all."""

import asyncio
import gc
import queue
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from itertools import islice, repeat
from typing import Any

import pytest

from pyf.station.aio import StationClient, _Transport
from pyf.station.testing import ChaosProxy
from pyf.station.trunk import FAST_SOURCES
from pyf.transport import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    FlowCancelled,
    FlowRefused,
    Limits,
    LocalProtocolError,
    OutcomeUnknown,
    Packet,
    PacketTooLarge,
    ServerError,
    UnsupportedValue,
)

WAIT = 30.0


def count(flow, client):
    return sum(1 for _ in flow)


async def echo(flow, client):
    async for packet in flow:
        await client.message(packet)
    return "echoed"


def run(coroutine: Any) -> Any:
    """
    Run a coroutine to its end, with a deadline.
    """

    async def bounded() -> Any:
        async with asyncio.timeout(WAIT):
            return await coroutine

    return asyncio.run(bounded())


async def numbers(*values: int):
    for value in values:
        yield {"n": value}


class Endings:
    """
    A handler that notes how its flow ends: by the name of an error, or "whole".
    """

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self._endings: list[str] = []
        self._ended = threading.Semaphore(0)

    def __call__(self, flow, client):
        ending = "whole"
        try:
            for _ in flow:
                self.started.release()
        except BaseException as error:
            ending = type(error).__name__
            raise
        finally:
            self._endings.append(ending)
            self._ended.release()

    async def next(self) -> str:
        assert await asyncio.to_thread(self._ended.acquire, timeout=WAIT)
        return self._endings.pop(0)


def test_importing_it_imports_no_twisted():
    """
    Who ships flows from asyncio doesn't load Twisted.
    """
    program = (
        "import sys, pyf.station.aio as aio; aio.StationClient('h')\n"
        "assert 'twisted' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=WAIT)


@pytest.mark.parametrize(
    "flow",
    [
        lambda: [{"n": 1}, Packet(n=2)],
        lambda: ({"n": n} for n in (1, 2)),
        partial(numbers, 1, 2),
        {1: {"n": 1}, 2: {"n": 2}}.values,
    ],
    ids=["list", "generator", "async generator", "view"],
)
def test_a_call_yields_what_the_blocking_one_does(serve, flow):
    """
    True for each packet, the messages, and last the success; with the counters.
    """

    async def use():
        async with StationClient("127.0.0.1", serve(echo), True) as client:
            call = client.call(flow())
            values = [value async for value in call]
            assert values.count(True) == 2
            assert values[-1] == {"type": "success", "message": "echoed"}
            assert [v for v in values if v is not True][:-1] == [{"n": 1}, {"n": 2}]
            assert (call.sent, call.consumed, call.received) == (2, 2, 3)

    run(use())


def test_send_and_stream(serve):
    """
    send returns what the handler succeeded with, stream gives only what comes back.
    """

    async def use():
        async with StationClient("127.0.0.1", serve(echo)) as client:
            assert await client.send([{"n": 1}], header={"h": 1}) == "echoed"
            back = [packet async for packet in client.stream(numbers(1), header={"h": 1})]
            assert back == [{"h": 1}, {"n": 1}, {"type": "success", "message": "echoed"}]

    run(use())


def test_without_waiting_a_call_ends_once_the_server_has_it(serve):
    """
    A client that doesn't wait is done when the flow has arrived; the handler goes on with it, and
    its messages, which nobody takes, don't hold it up.
    """
    got = threading.Event()

    def handler(flow, client):
        total = count(flow, client)
        for _ in range(5000):
            client.message({"blob": bytes(1000)})
        assert total == 3
        got.set()

    async def use():
        async with StationClient("127.0.0.1", serve(handler)) as client:
            values = [value async for value in client.call(numbers(1, 2, 3))]
            assert values.count(True) == 3
            assert await asyncio.to_thread(got.wait, WAIT)

    run(use())


def test_what_is_no_flow_is_refused_at_once():
    """
    A flow, header or timeout that cannot be is refused before anything is connected.
    """

    async def use():
        client: Any = StationClient("127.0.0.1", 1)
        for flow in ("text", b"bytes", {"a": 1}, 7, None):
            with pytest.raises(TypeError, match="a flow is an iterable or async iterable"):
                client.call(flow)
        with pytest.raises(TypeError, match="a header"):
            client.open(header=[])
        with pytest.raises(ValueError, match="timeout"):
            client.stream([], timeout=-1)
        with pytest.raises(ValueError, match="port"):
            StationClient("127.0.0.1", 0)

    run(use())


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_what_the_source_raises_comes_back_as_it_is(serve, kind):
    """
    The caller gets the very exception, behind a True for each packet before it; the handler gets
    ClientError.
    """
    endings, failure = Endings(), KeyError("on purpose")

    def source():
        yield {"n": 1}
        raise failure

    async def async_source():
        yield {"n": 1}
        raise failure

    async def use():
        async with StationClient("127.0.0.1", serve(endings), True) as client:
            values = []

            async def iterate(flow):
                async for value in client.call(flow):
                    values.append(value)  # noqa: PERF401 - what comes before the error counts

            with pytest.raises(KeyError) as caught:
                await iterate(source() if kind == "generator" else async_source())
            assert caught.value is failure
            assert values == [True]
            assert await endings.next() == ClientError.__name__

    run(use())


@pytest.mark.parametrize("kind", ["list", "generator", "async generator"])
def test_what_cannot_travel_is_refused_at_the_sender(serve, kind):
    """
    A value that does not travel, what is no packet, and a packet that the server takes not, raise.
    """

    async def stream(packet):
        yield packet

    make: Any = {
        "list": lambda packet: [packet],
        "generator": lambda packet: (each for each in [packet]),
        "async generator": stream,
    }[kind]

    async def use():
        port = serve(count, limits=Limits(max_packet=70_000, window_bytes=100_000))
        async with StationClient("127.0.0.1", port) as client:
            with pytest.raises(UnsupportedValue):
                await client.send(make({"n": object()}))
            with pytest.raises(TypeError):
                await client.send(make("no packet"))
            with pytest.raises(PacketTooLarge):
                await client.send(make({"blob": bytes(80_000)}))
            assert await client.send(make({"n": 1})) == 1

    run(use())


def test_a_failing_handler_fails_the_call(serve, logged_errors):
    """
    The error is a ServerError with the facts; the source is closed by then; other calls go on.
    """
    closed = threading.Event()

    def source():
        try:
            while True:
                yield {"n": 1}
        finally:
            closed.set()

    def handler(flow, client):
        next(flow)
        raise LookupError("on purpose")

    async def use():
        async with StationClient("127.0.0.1", serve(handler), True) as client:
            with pytest.raises(ServerError) as caught:
                await client.send(source())
            assert caught.value.error_class == "LookupError"
            assert closed.is_set()

    run(use())
    logged_errors.claim(LookupError)


def test_large_and_small_packets_and_messages_arrive_as_they_were_sent(serve):
    """
    Those that are large like the ones before them are not copied on their way.
    """
    packets = [{"n": n, "data": bytes([n]) * (100_000 if n % 8 else 1)} for n in range(40)]

    async def echo(flow, client):
        async for packet in flow:
            await client.message(packet)
        await client.success()

    async def use():
        async with StationClient("127.0.0.1", serve(echo)) as client:
            return [value async for value in client.stream(packets)]

    assert asyncio.run(use())[:-1] == packets


def test_an_early_answer_closes_the_source(serve):
    """
    A handler that answers early ends the flow: its source, of either kind, is closed by then.
    """
    closed = []

    def first(flow, client):
        next(islice(flow, 1, None))  # Otherwise the source may not even have begun.
        return "enough"

    def source():
        try:
            while True:
                yield {"n": 1}
        finally:
            closed.append("generator")

    async def async_source():
        try:
            while True:
                yield {"n": 1}
        finally:
            closed.append("async generator")

    async def use():
        async with StationClient("127.0.0.1", serve(first)) as client:
            assert await client.send(source(), header={}) == "enough"
            assert closed == ["generator"]
            assert await client.send(async_source(), header={}) == "enough"
            assert closed == ["generator", "async generator"]

    run(use())


def test_a_handler_that_wants_no_more_closes_the_source(serve):
    """
    Behind flow.close() the source is closed while the handler goes on; a conversation can't send.
    """
    closed = threading.Event()

    def handler(flow, client):
        next(flow)
        flow.close()
        assert closed.wait(WAIT)
        return "enough"

    def source():
        try:
            while True:
                yield {"n": 1}
        finally:
            closed.set()

    async def use():
        async with StationClient("127.0.0.1", serve(handler)) as client:
            assert await client.send(source()) == "enough"
            closed.clear()
            async with client.open(header={}) as flow:

                async def fill():
                    while True:
                        await flow.send({"blob": bytes(100_000)})

                with pytest.raises(LocalProtocolError, match="closed its flow"):
                    await fill()
                closed.set()
                assert await flow.end() == "enough"

    run(use())


def test_the_length_of_a_flow_is_told(serve):
    """
    A source that knows its length says so on both sides; a generator doesn't.
    """

    def handler(flow, client):
        return flow.length_hint

    async def use():
        async with StationClient("127.0.0.1", serve(handler)) as client:
            assert client.call([{}] * 3).length_hint == 3
            assert client.call(numbers(1)).length_hint is None
            assert await client.send([{}] * 3) == 3
            assert await client.send({} for _ in range(3)) is None

    run(use())


@pytest.mark.parametrize("kind", ["generator", "async generator"])
@pytest.mark.parametrize("how", ["task", "aclose", "break", "timeout"])
def test_giving_up_cancels_the_flow_and_closes_the_source(serve, kind, how):
    """
    A cancelled task, a closed call, a break and a timeout: the handler hears of it, and the
    source's finally runs.
    """
    endings, closed = Endings(), threading.Event()

    def source():
        try:
            while True:
                yield {"n": 1}
                time.sleep(0.001)
        finally:
            closed.set()

    async def async_source():
        try:
            while True:
                yield {"n": 1}
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    async def use():
        async with StationClient("127.0.0.1", serve(endings), True) as client:
            flow = source() if kind == "generator" else async_source()
            if how == "timeout":
                with pytest.raises(DeadlineExceeded):
                    await client.send(flow, timeout=0.1)
            elif how == "task":
                task = asyncio.ensure_future(client.send(flow))
                await asyncio.to_thread(endings.started.acquire, timeout=WAIT)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert closed.is_set()
            elif how == "aclose":
                async with client.call(flow) as call:
                    await anext(call)
                assert closed.is_set()
            else:
                async for _ in client.call(flow):
                    break
                gc.collect()
            assert await asyncio.to_thread(closed.wait, WAIT)
            expected = {DeadlineExceeded.__name__, FlowCancelled.__name__}
            assert await endings.next() in expected

    run(use())


def test_a_source_that_blocks_blocks_nobody_else(serve):
    """
    While a generator blocks, the loop turns and other calls on the same connection succeed; and its
    first packet has gone to the handler.
    """
    endings, go_on = Endings(), threading.Event()

    def source():
        yield {"n": 1}
        go_on.wait(WAIT)
        yield {"n": 2}

    async def use():
        async with StationClient("127.0.0.1", serve(endings), True) as client:
            stalled = asyncio.ensure_future(client.send(source()))
            assert await asyncio.to_thread(endings.started.acquire, timeout=WAIT)
            await asyncio.gather(*(client.send([{"n": n}]) for n in range(20)))
            assert not stalled.done()
            go_on.set()
            await stalled

    run(use())


def test_a_source_that_is_no_generator_is_not_waited_for(serve, monkeypatch):
    """
    There is nothing to close: a call whose handler has answered ends at once, though it blocks.
    """
    monkeypatch.setattr("pyf.station.pump.LAST_WORD", 10 * WAIT)
    packets: queue.SimpleQueue[dict[str, int] | None] = queue.SimpleQueue()

    async def use():
        async with StationClient("127.0.0.1", serve(lambda flow, client: "enough")) as client:
            assert await client.send(iter(packets.get, None), header={}) == "enough"

    run(use())
    packets.put(None)


def test_a_source_that_stops_in_a_burst_keeps_nothing_back(serve):
    """
    What a fast source gave before it blocks reaches the handler, though the burst is not over.
    """
    got, go_on = threading.Semaphore(0), threading.Event()

    def handler(flow, client):
        for _ in flow:
            got.release()

    def source():
        for n in range(5003):
            yield {"n": n}
        go_on.wait(WAIT)

    def all_got():
        return all(got.acquire(timeout=WAIT) for _ in range(5003))

    async def use():
        async with StationClient("127.0.0.1", serve(handler)) as client:
            sending = asyncio.ensure_future(client.send(source()))
            assert await asyncio.to_thread(all_got)
            go_on.set()
            await sending

    run(use())


def test_many_sources_that_stop_in_a_burst_hold_up_no_other(serve):
    """
    Only so many are asked for a burst at once; those that block count no more.
    """
    handlers, go_on = 3 * FAST_SOURCES, threading.Event()

    def source():
        for n in range(5000):
            yield {"n": n}
            if n == 600:  # in the middle of a burst
                assert go_on.wait(WAIT)

    async def use():
        async with StationClient("127.0.0.1", serve(count, max_handlers=handlers)) as client:
            stalled = [asyncio.ensure_future(client.send(source())) for _ in range(handlers - 1)]
            assert await client.send({"n": n} for n in range(5000)) == 5000
            assert not any(each.done() for each in stalled)
            go_on.set()
            assert await asyncio.gather(*stalled) == [5000] * (handlers - 1)

    run(use())


def test_a_generator_stays_in_one_thread_with_the_context_of_its_caller(serve):
    """
    What a generator keeps by thread stays valid, and it sees its caller's context variables.
    """
    from contextvars import ContextVar

    who: ContextVar[str] = ContextVar("who")
    threads = set()

    def source():
        for n in range(5000):
            threads.add(threading.get_ident())
            assert who.get() == "the caller"
            yield {"n": n}

    async def use():
        who.set("the caller")
        async with StationClient("127.0.0.1", serve(count)) as client:
            assert await client.send(source()) == 5000

    run(use())
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_thousand_calls_share_one_connection(serve):
    """
    A thousand concurrent calls, one of them stalled, go over one connection.
    """
    release = []

    async def handler(flow, client):
        packet = await anext(flow)
        if packet.n == "stalled":
            await client.message({})
            return [each async for each in flow]
        return packet.n

    async def source(go_on):
        yield {"n": "stalled"}
        await go_on.wait()

    async def use():
        go_on = asyncio.Event()
        release.append(go_on)
        with ChaosProxy(serve(handler)) as proxy:
            async with StationClient("127.0.0.1", proxy.port) as client:
                stalled = client.stream(source(go_on))
                await anext(stalled)
                results = await asyncio.gather(*(client.send([{"n": n}]) for n in range(1000)))
                assert results == list(range(1000))
                go_on.set()
                assert [p.message async for p in stalled] == [[]]
            assert proxy.connections == 1

    run(use())


def test_a_conversation(serve, logged_errors):
    """
    send, receive, iteration and end; two tasks may share it, one sending and one receiving.
    """

    async def use():
        port = serve(echo)
        async with StationClient("127.0.0.1", port) as client, client.open({"h": 1}) as flow:
            assert await flow.receive() == {"h": 1}
            with pytest.raises(DeadlineExceeded):
                await flow.receive(timeout=0.01)
            receiving = asyncio.ensure_future(flow.receive(timeout=WAIT))
            await asyncio.sleep(0)
            await flow.send({"n": 1})
            assert await receiving == {"n": 1}
            with pytest.raises(UnsupportedValue):
                await flow.send({"n": object()})
            await flow.send({"n": 2})
            assert await flow.end() == "echoed"
            assert [packet async for packet in flow] == [{"n": 2}]
            assert await flow.end() == "echoed"
            assert (flow.sent, flow.consumed, flow.received) == (2, 2, 3)
            with pytest.raises(LocalProtocolError):
                await flow.send({"n": 3})

    run(use())


def test_how_a_conversation_is_left_says_what_the_handler_gets(serve):
    """
    Left without end() the flow is cancelled, with an exception aborted; a receive that waits in
    another task ends then.
    """
    endings = Endings()

    async def use():
        async with StationClient("127.0.0.1", serve(endings)) as client:
            async with client.open(header={}) as flow:
                receiving = asyncio.ensure_future(flow.receive())
                await asyncio.sleep(0)
            with pytest.raises(LocalProtocolError):
                await receiving
            assert await endings.next() == FlowCancelled.__name__
            with suppress(ZeroDivisionError):
                async with client.open(header={}):
                    raise ZeroDivisionError
            assert await endings.next() == ClientError.__name__
            async with client.open(header={}) as flow:
                await flow.cancel()
                await flow.cancel()
            assert await endings.next() == FlowCancelled.__name__

    run(use())


def test_a_conversation_feels_back_pressure_and_early_answers(serve):
    """
    send waits while the handler doesn't read, and raises once the handler has answered.
    """
    go_on = threading.Event()

    def handler(flow, client):
        go_on.wait(WAIT)
        for _ in range(50):
            next(flow)
        return "enough"

    async def use():
        limits = Limits(window_bytes=65536)
        port = serve(handler, limits=limits)
        async with StationClient("127.0.0.1", port) as client, client.open(header={}) as flow:
            for _ in range(5):
                await flow.send({"blob": bytes(10_000)})
            more = [asyncio.ensure_future(flow.send({"blob": bytes(60_000)}))]
            await asyncio.sleep(0)
            assert not more[0].done()
            go_on.set()
            await more[0]

            async def fill():
                while True:
                    await flow.send({"blob": bytes(10_000)})

            with pytest.raises(LocalProtocolError, match="succeeded already"):
                await fill()

    run(use())


def test_listeners_hear_of_calls_and_conversations(serve):
    """
    Listeners get messages and the result by type; one that raises stops the call.
    """

    async def use():
        async with StationClient("127.0.0.1", serve(echo), True) as client:
            heard: list[Any] = []
            client.add_listener("message_received", heard.append)
            client.add_listener("success", heard.append)
            await client.send([{"n": 1}])
            assert heard == [{"n": 1}, {"type": "success", "message": "echoed"}]
            client.remove_listener("success", heard.append)

            def fail(_):
                raise ArithmeticError("on purpose")

            client.add_listener("success", fail)
            with pytest.raises(ArithmeticError):
                await client.send([{"n": 1}])

    run(use())


def test_a_call_counts_what_it_gives_and_who_begins_to_listen_hears_of_the_next(serve):
    """
    Also where many messages came in one batch.
    """

    def handler(flow, client):
        for packet in flow:
            for n in range(packet.n):
                client.message({"n": n})

    async def use():
        async with StationClient("127.0.0.1", serve(handler), True) as client:
            heard: list[Any] = []
            counts = []
            call = client.call([{"n": 20}])
            async for value in call:
                if value is not True:
                    counts.append(call.received)
                if value == {"n": 6}:
                    client.add_listener("message_received", heard.append)
            assert counts == list(range(1, 22))
            assert heard == [{"n": n} for n in range(7, 20)]

    run(use())


def test_errors_of_connecting_are_typed():
    """
    Refused, unknown, and out of time: the errors of the blocking client.
    """

    async def use():
        async with StationClient("127.0.0.1", 1) as client:
            errors = await asyncio.gather(
                *(client.send([]) for _ in range(2)), return_exceptions=True
            )
            for error in errors:
                assert isinstance(error, ConnectFailed)
                assert (error.host, error.port) == ("127.0.0.1", 1)
                assert "refused" in error.tried[0]
        async with StationClient("no-such-name.invalid") as client:
            with pytest.raises(ConnectFailed, match="is not known"):
                await client.send([])

    run(use())


@pytest.mark.parametrize("ended", [False, True])
def test_a_lost_connection_is_told_and_new_calls_get_a_new_one(serve, ended):
    """
    The call under way raises ConnectionLost, or OutcomeUnknown behind its END; the next succeeds.
    """
    reading, release = threading.Semaphore(0), threading.Event()

    def handler(flow, client):
        packet = {}
        for packet in flow:
            if packet.get("first"):
                reading.release()
        if packet.get("first"):
            reading.release()
            release.wait(WAIT)
        return "again"

    async def use():
        with ChaosProxy(serve(handler)) as proxy:
            async with StationClient("127.0.0.1", proxy.port) as client:
                async with client.open(header={}) as flow:
                    await flow.send({"first": True})
                    assert await asyncio.to_thread(reading.acquire, timeout=WAIT)
                    end = asyncio.ensure_future(flow.end() if ended else flow.receive())
                    if ended:
                        assert await asyncio.to_thread(reading.acquire, timeout=WAIT)
                    else:
                        await asyncio.sleep(0)
                    proxy.cut()
                    with pytest.raises(OutcomeUnknown if ended else ConnectionLost) as caught:
                        await end
                    assert caught.value.sent == 1
                release.set()
                assert await client.send([{"n": 1}]) == "again"
            assert proxy.connections == 2

    run(use())


def test_a_busy_server_refuses_one_flow_and_keeps_the_others(serve):
    """
    A flow that finds all handlers busy is refused; the connection goes on.
    """
    release = threading.Event()

    def handler(flow, client):
        client.message({})
        release.wait(WAIT)

    async def use():
        async with StationClient("127.0.0.1", serve(handler, max_handlers=1)) as client:
            first = client.stream([{"n": 1}])
            await anext(first)
            with pytest.raises(FlowRefused):
                await client.send([{"n": 2}])
            release.set()
            assert [packet.type async for packet in first] == ["success"]

    run(use())


def test_closing_the_client_ends_its_calls(serve):
    """
    close() cancels what is under way, and what comes later is refused.
    """
    endings = Endings()

    async def forever():
        yield {"n": 1}
        await asyncio.Event().wait()

    async def use():
        client = StationClient("127.0.0.1", serve(endings))
        call = asyncio.ensure_future(client.send(forever()))
        assert await asyncio.to_thread(endings.started.acquire, timeout=WAIT)
        await client.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            await call
        assert await endings.next() == FlowCancelled.__name__
        with pytest.raises(LocalProtocolError, match="closed"):
            await client.send([])

    run(use())


@pytest.mark.parametrize("begun", [False, True])
def test_a_call_is_cancelled_from_outside(serve, begun):
    """
    Whoever iterates it gets FlowCancelled, and so does the handler; also before it has begun.
    """
    endings = Endings()

    async def use():
        async with StationClient("127.0.0.1", serve(endings), True) as client:
            call = client.call({"n": 1} for _ in repeat(None))
            if begun:
                assert await anext(call) is True
            call.cancel()
            with pytest.raises(FlowCancelled):
                [value async for value in call]
            call.cancel()
            if begun:
                assert await endings.next() == "FlowCancelled"

    run(use())


def test_a_client_belongs_to_one_loop(serve):
    """
    In another loop it is refused, or starts anew where the first one has been closed.
    """
    client = StationClient("127.0.0.1", serve(count))

    async def use():
        assert await client.send([{}]) == 1

        def elsewhere():
            with pytest.raises(RuntimeError, match="another event loop"):
                asyncio.run(client.send([{}]))

        await asyncio.to_thread(elsewhere)
        await client.close()

    run(use())
    run(use())


def come(sock, size):
    """
    Return the *size* bytes that come, as far as they do within the time.
    """
    found = b""
    while len(found) < size and (data := sock.recv(size)):
        found += data
    return found


@pytest.fixture(params=[True, False], ids=["asyncio's loop", "another loop"])
def selects(request, monkeypatch):
    """
    Whether the loop passes for asyncio's own.
    """
    if not request.param:
        monkeypatch.setattr(asyncio, "SelectorEventLoop", type("Other", (), {}))
    return request.param


@pytest.mark.usefixtures("selects")
def test_what_is_written_comes_in_its_order_whatever_the_system_takes_at_once():
    """
    A transport that waits for the system is waited for, by what comes behind it, too. It says so,
    and when that is over.
    """
    blocks = [[bytes([number]) * 100_000, b"-"] for number in range(40)]
    whole = b"".join(map(b"".join, blocks))
    told = []

    class Told(asyncio.Protocol):
        def pause_writing(self):
            told.append("pause")

        def resume_writing(self):
            told.append("resume")

    async def main():
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        with theirs:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(Told, sock=ours)
            written = _Transport(transport, ours)
            for block in blocks:
                written.writeSequence(block)
            assert written.offset > 0
            assert told == ["pause"]
            assert await asyncio.to_thread(come, theirs, len(whole)) == whole
            assert written.offset == 0
            assert told == ["pause", "resume"]
            written.writeSequence([b"end"])
            assert await asyncio.to_thread(come, theirs, 3) == b"end"
            transport.abort()

    run(main())


class Empty:
    """
    A transport in which nothing waits.
    """

    def __init__(self):
        self.given = []
        self.close = self.abort = self.pause_reading = self.resume_reading = bool
        self.is_closing = bool
        self.get_write_buffer_size = int
        self.write = self.given.append


def test_what_the_system_takes_at_once_is_not_given_to_asyncio(selects):
    """
    It would copy it. Other loops are given all: they may hold back more than they say.
    """

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            transport: Any = Empty()
            _Transport(transport, ours).writeSequence([b"ab", b"c"])
            if selects:
                assert theirs.recv(10) == b"abc"
            assert transport.given == ([] if selects else [b"abc"])

    run(main())


def test_what_is_written_to_a_lost_connection_goes_nowhere():
    """
    asyncio would log what it cannot write.
    """

    async def main():
        ours, theirs = socket.socketpair()
        theirs.close()
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, sock=ours
        )
        transport.abort()
        await asyncio.sleep(0)
        _Transport(transport, ours).writeSequence([b"late", b"words"])

    asyncio.run(main())
