"""The Twisted client, on a real reactor: what is not in the promises that it keeps."""

import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    fail,
    gatherResults,
    inlineCallbacks,
    succeed,
)
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater

from pyf.station import tx
from pyf.transport import ConnectFailed, DeadlineExceeded, UnsupportedValue

WAIT = 30.0


def count(flow, client):
    return sum(1 for _ in flow)


async def echo(flow, client):
    async for packet in flow:
        await client.message(packet)
    return "echoed"


@pytest.fixture
def run(in_reactor) -> Callable[..., Any]:
    """
    Run a coroutine function on the reactor, and wait for what it returns.
    """

    def run(function: Callable[[], Any]) -> Any:
        return in_reactor(lambda: Deferred.fromCoroutine(function()))

    return run


def test_coroutines(serve, reactor, run):
    """
    async with, async for over a call and a stream, await send, a conversation.
    """
    port = serve(echo)

    async def numbers():
        for n in (1, 2):
            yield {"n": await deferLater(reactor, 0, lambda n=n: n)}

    async def use():
        async with tx.StationClient("127.0.0.1", port, True, reactor=reactor) as client:
            values = [value async for value in client.call(numbers())]
            assert [v for v in values if v is not True][:2] == [{"n": 1}, {"n": 2}]
            assert values.count(True) == 2
            assert await client.send([{"n": 1}], header={}) == "echoed"
            back = [packet async for packet in client.stream(iter([{"n": 1}]))]
            assert back == [{"n": 1}, {"type": "success", "message": "echoed"}]
            async with client.open(header={"h": 1}) as flow:
                assert await flow.receive() == {"h": 1}
                with pytest.raises(DeadlineExceeded):
                    await flow.receive(timeout=0.01)
                await flow.send({"n": 1})
                assert await flow.end() == "echoed"
                assert [packet async for packet in flow] == [{"n": 1}]
            async with client.open(header={}) as flow:
                await flow.cancel()

    run(use)


def test_deferreds(serve, reactor, in_reactor):
    """
    send, close, and a conversation's methods are Deferreds, for callbacks and inlineCallbacks.
    """
    port = serve(count)

    @inlineCallbacks
    def use() -> Any:
        client = tx.StationClient("127.0.0.1", port, reactor=reactor)
        results = yield gatherResults([client.send([{"n": n}]) for n in range(10)])
        assert results == [1] * 10
        assert (yield client.send([]).addCallback(str)) == "0"
        yield client.close()

    in_reactor(use)


@pytest.mark.parametrize("kind", ["list", "generator"])
def test_the_steps_of_a_flow_may_be_deferreds(serve, reactor, run, kind):
    """
    Packets may come as results, mixed with those that are there; later steps run on the reactor.
    """
    port = serve(echo)
    threads = []

    def steps():
        yield {"n": 0}
        for n in range(1, 30):
            yield succeed({"n": n}) if n % 2 else deferLater(reactor, 0, lambda n=n: {"n": n})
            threads.append(threading.current_thread())

    async def use():
        async with tx.StationClient("127.0.0.1", port, reactor=reactor) as client:
            flow = list(steps()) if kind == "list" else steps()
            back = [packet.get("n") async for packet in client.stream(flow)]
            assert back[:-1] == list(range(30))
            assert {each.name for each in threads} == {"pyf.station-reactor"}

    run(use)


def test_steps_that_are_deferreds_pass_interceptors(serve, reactor, run):
    """
    What a Deferred fires with is mapped, or dropped, as every packet.
    """
    port = serve(echo)

    @contextmanager
    def odd_ones(call):
        call.map_packets(lambda packet: packet | {"seen": True} if packet["n"] % 2 else None)
        yield

    def steps():
        for n in range(6):
            yield succeed({"n": n}) if n < 3 else {"n": n}

    async def use():
        options = {"interceptors": [odd_ones], "reactor": reactor}
        async with tx.StationClient("127.0.0.1", port, **options) as client:
            back = [packet async for packet in client.stream(steps())]
            assert back[:-1] == [{"n": n, "seen": True} for n in (1, 3, 5)]

    run(use)


def test_a_step_that_fails_fails_the_call(serve, reactor, run):
    """
    A Deferred's failure, and a result that cannot travel, are raised; the generator is closed.
    """
    port = serve(count)
    closed = []

    def steps(bad):
        try:
            yield succeed({"n": 1})
            yield bad
        finally:
            closed.append(True)

    async def use():
        async with tx.StationClient("127.0.0.1", port, reactor=reactor) as client:
            failure = ZeroDivisionError("on purpose")
            with pytest.raises(ZeroDivisionError) as caught:
                await client.send(steps(fail(failure)))
            assert caught.value is failure
            with pytest.raises(UnsupportedValue):
                await client.send(steps(succeed({"n": object()})))
            assert closed == [True, True]

    run(use)


def test_cancelling_the_deferred_cancels_the_flow(serve, reactor, run):
    """
    send(…).cancel() ends the flow on both sides; a step that is awaited is cancelled.
    """
    ended = threading.Event()
    reading = threading.Event()

    def handler(flow, client):
        try:
            for _ in flow:
                reading.set()
        finally:
            ended.set()

    asked: list[Any] = []
    cancelled: list[Any] = []

    def steps():
        yield {"n": 1}
        asked.append(Deferred(cancelled.append))
        yield asked[0]

    port = serve(handler)

    async def use():
        async with tx.StationClient("127.0.0.1", port, reactor=reactor) as client:
            sending = client.send(steps())
            while not (reading.is_set() and asked):
                await deferLater(reactor, 0.001)
            while not sending.called:
                await deferLater(reactor, 0.01)
                sending.cancel()
            with pytest.raises(CancelledError):
                await sending
            while not (ended.is_set() and cancelled):
                await deferLater(reactor, 0.001)

    run(use)


def test_endpoints_and_their_strings(serve, reactor, run):
    """
    The server may be named by an endpoint, by the string of one, or by an address of either kind.
    """
    port = serve(count)

    async def use():
        for where in (
            TCP4ClientEndpoint(reactor, "127.0.0.1", port),
            f"tcp:127.0.0.1:{port}",
            f"tcp:host=127.0.0.1:port={port}",
        ):
            async with tx.StationClient(where, reactor=reactor) as client:
                assert await client.send([{}, {}]) == 2
        with pytest.raises(ValueError, match="nonsense"):
            tx.StationClient("nonsense:1", reactor=reactor)
        for host in ("127.0.0.1", "::1"):
            async with tx.StationClient(host, 1, reactor=reactor) as client:
                with pytest.raises(ConnectFailed) as caught:
                    await client.send([])
            assert (caught.value.host, caught.value.port) == (host, 1)

    run(use)


def test_a_thousand_calls_at_once(serve, reactor, run):
    """
    A thousand calls go over one connection.
    """
    server_port = serve(echo)

    async def use():
        async with tx.StationClient("127.0.0.1", server_port, reactor=reactor) as client:
            results = await gatherResults([client.send([{"n": n}]) for n in range(1000)])
            assert results == ["echoed"] * 1000

    run(use)
