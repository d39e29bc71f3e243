"""The asyncio and the Twisted client keep the promises that the blocking one keeps."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pyf.station import aio, tx
from pyf.station.testing import (
    KINDS,
    PROMISES,
    AwaitedClient,
    Bench,
    HandlerFailed,
    asyncio_thread,
    check_promise,
)
from pyf.transport import Limits

BROKEN = ["a_failing_handler_fails_the_call"]

# A server that drains is dialled for so long before the call fails.
LIMITS = Limits(connect_timeout=0.5)


@pytest.fixture(params=["asyncio", "Twisted"])
def connect(request, serve, reactor, in_reactor) -> Any:
    clients = {"asyncio": connect_aio, "Twisted": connect_tx}

    @contextmanager
    def connect(handler: Any, through: Callable[[int], int]) -> Generator[AwaitedClient]:
        port = through(serve(handler))
        with clients[request.param](port, reactor, in_reactor) as client:
            yield client

    return connect


@contextmanager
def connect_aio(port: int, reactor: Any, in_reactor: Any) -> Generator[AwaitedClient]:
    with asyncio_thread() as run:
        client = aio.StationClient("127.0.0.1", port, True, limits=LIMITS)
        yield AwaitedClient(client, run)
        run(client.close())


@contextmanager
def connect_tx(port: int, reactor: Any, in_reactor: Any) -> Generator[AwaitedClient]:
    def run(coroutine: Any) -> Any:
        return in_reactor(Deferred.fromCoroutine, coroutine)

    client = tx.StationClient("127.0.0.1", port, True, limits=LIMITS, reactor=reactor)
    yield AwaitedClient(client, run)
    in_reactor(client.close)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda each: each.__name__)
def test_the_async_clients_keep_every_promise(connect, promise, logged_errors):
    """
    Each promise holds for either client, with a handler in a thread and one on the reactor.
    """
    for kind in ("generator", "coroutine"):
        assert kind in KINDS
        check_promise(promise, Bench(connect, kind))
        if promise.__name__ in BROKEN:
            logged_errors.claim(HandlerFailed)
