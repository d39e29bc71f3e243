"""The flows of an async client whose connection is lost: what one connection for all adds to it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pyf.station import ResumePolicy, backoff
from pyf.station.aio import StationClient
from pyf.station.testing import ChaosProxy
from pyf.transport import ConnectionLost, FlowCancelled, LocalProtocolError

HOST = "127.0.0.1"
WAIT = 30.0


class Reader:
    """
    A handler that says when it has begun, and keeps how its flow ended.
    """

    def __init__(self, flows: int = 1) -> None:
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.endings: list[str] = []
        self.flows = flows

    def __call__(self, flow: Any, client: Any) -> list[int]:
        ending = "whole"
        try:
            numbers = [next(flow)["n"]]
            self.begun.release()
            numbers += [packet["n"] for packet in flow]
        except BaseException as error:
            ending = type(error).__name__
            raise
        finally:
            self.endings.append(ending)
            self.ended.release()
        return numbers

    async def all(self, what: threading.Semaphore) -> None:
        for _ in range(self.flows):
            assert await asyncio.to_thread(what.acquire, timeout=WAIT)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.01)


async def gated(gate: asyncio.Event) -> AsyncIterator[dict[str, int]]:
    yield {"n": 0}
    await gate.wait()
    yield {"n": 1}


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - what is looked at tells nobody
        await asyncio.sleep(0)


def test_all_flows_of_a_connection_survive_it_but_those_that_cannot(serve):
    """
    They go on over one new connection; a flow without a session fails as ever.
    """
    reader = Reader(21)

    async def use() -> None:
        gate = asyncio.Event()
        with ChaosProxy(serve(reader, resume=ResumePolicy(), max_handlers=30)) as proxy:
            async with asyncio.timeout(WAIT), StationClient(HOST, proxy.port) as client:
                flows = [
                    asyncio.ensure_future(client.send(gated(gate), resume=bool(number)))
                    for number in range(21)
                ]
                await reader.all(reader.begun)
                proxy.cut("rst")
                with pytest.raises(ConnectionLost):
                    await flows[0]
                gate.set()
                assert await asyncio.gather(*flows[1:]) == [[0, 1]] * 20
                assert proxy.connections == 2

    asyncio.run(use())
    assert sorted(set(reader.endings)) == ["BadFlowEnding", "whole"]


def test_closing_the_client_ends_the_wait_for_a_connection(serve):
    """
    Its calls fail, and nothing goes on in the background.
    """
    reader = Reader()

    async def use() -> None:
        with ChaosProxy(serve(reader, resume=ResumePolicy(ttl=0.2))) as proxy:
            async with asyncio.timeout(WAIT), StationClient(HOST, proxy.port) as client:
                flow = asyncio.ensure_future(client.send(gated(asyncio.Event()), resume=True))
                await reader.all(reader.begun)
                proxy.close()
                await until(lambda: client._trunk.reviving)
                await client.close()
                with pytest.raises(LocalProtocolError, match="closed"):
                    await flow
                await until(lambda: not client._trunk.reviving)
                await reader.all(reader.ended)

    asyncio.run(use())


def test_a_call_given_up_without_a_connection_tells_that_over_the_next_one(serve):
    """
    The handler gets FlowCancelled, once the client has come back for it.
    """
    reader = Reader()

    async def use() -> None:
        with ChaosProxy(serve(reader, resume=ResumePolicy())) as proxy:
            async with asyncio.timeout(WAIT), StationClient(HOST, proxy.port) as client:
                call = client.call(gated(asyncio.Event()), resume=True)
                assert await anext(call) is True
                await reader.all(reader.begun)
                proxy.cut("rst")
                await until(lambda: client._trunk.reviving)
                await call.aclose()
                await reader.all(reader.ended)
        assert reader.endings == [FlowCancelled.__name__]

    asyncio.run(use())
