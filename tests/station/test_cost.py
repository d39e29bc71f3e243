"""What a packet costs, whoever handles it: no call of a function of ours.

Counted, since time says nothing on a busy machine. What is done for each batch is a few calls for
hundreds of packets.
"""

import asyncio
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pyf.station
import pyf.transport
from pyf.station import StationClient, aio
from pyf.transport.compiled import compiled

COUNT = 20_000
MOST = COUNT // 2
WAIT = 30.0
OURS = tuple(str(Path(str(package.__file__)).parent) for package in (pyf.station, pyf.transport))

pytestmark = pytest.mark.skipif(
    compiled("pyf.station._flattened") is None, reason="in Python, a packet costs a call"
)


@contextmanager
def counted() -> Generator[list[int]]:
    """
    Count the calls of functions of ours in this thread, each step of a generator among them.
    """
    calls = [0]

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            calls[0] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def packets() -> Generator[dict[str, Any]]:
    for n in range(COUNT):
        yield {"n": n}


def take(flow: Any, client: Any) -> int:
    with counted() as calls:
        assert sum(1 for _ in flow) == 1 + COUNT
    return calls[0]


def give(flow: Any, client: Any) -> int:
    with counted() as calls:
        for packet in packets():
            client.message(packet)
    return calls[0]


async def take_on_reactor(flow: Any, client: Any) -> int:
    with counted() as calls:
        assert sum([1 async for _ in flow]) == 1 + COUNT
    return calls[0]


async def give_on_reactor(flow: Any, client: Any) -> int:
    with counted() as calls:
        for packet in packets():
            await client.message(packet)
    return calls[0]


@pytest.mark.parametrize("handler", [take, give, take_on_reactor, give_on_reactor])
def test_a_handler_pays_no_call_for_a_packet(serve, handler: Callable[..., Any]):
    client = StationClient("127.0.0.1", serve(handler), True)
    flow = packets() if handler in {take, take_on_reactor} else []
    assert 0 < client.send(flow, header={}) < MOST


def quiet(flow: Any, client: Any) -> None:
    for _ in flow:
        pass


def chatty(flow: Any, client: Any) -> None:
    for packet in packets():
        client.message(packet)


@pytest.mark.parametrize(("handler", "flow"), [(quiet, packets), (chatty, list)])
def test_a_blocking_client_pays_no_call_for_a_packet(serve, handler, flow):
    client = StationClient("127.0.0.1", serve(handler), True)
    with counted() as calls:
        assert sum(1 for _ in client.call(flow(), header={})) == COUNT + 1
    assert 0 < calls[0] < MOST


@pytest.mark.parametrize(("handler", "flow"), [(quiet, packets), (chatty, list)])
def test_an_async_client_pays_no_call_for_a_packet(serve, handler, flow):
    """
    Not even one in C that steps through a generator of ours.
    """

    async def use() -> int:
        async with aio.StationClient("127.0.0.1", serve(handler), True) as client:
            with counted() as calls:
                assert sum([1 async for _ in client.call(flow(), header={})]) == COUNT + 1
            return calls[0]

    assert 0 < asyncio.run(asyncio.wait_for(use(), WAIT)) < MOST
