"""A real reactor in a thread, shared by all tests, and servers that listen on it."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import threads
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.protocol import Factory

from pyf.station import FlowServer

WAIT = 10.0
"""Seconds that anything may take before a test fails."""


@pytest.fixture(scope="session")
def reactor() -> Any:
    """
    Twisted's default reactor, running in a daemon thread for as long as the tests run.
    """
    from twisted.internet import reactor as default

    running: Any = default
    if not running.running:
        started = threading.Event()
        running.callWhenRunning(started.set)
        threading.Thread(
            target=running.run,
            kwargs={"installSignalHandlers": False},
            name="pyf.station-reactor",
            daemon=True,
        ).start()
        assert started.wait(WAIT)
    # The first port reserves a file descriptor for the process.
    threads.blockingCallFromThread(
        running, lambda: running.listenTCP(0, Factory(), interface="127.0.0.1").stopListening()
    )
    return running


@pytest.fixture
def in_reactor(reactor: Any) -> Callable[..., Any]:
    """
    Call a function in the reactor's thread, and wait for what it, or its Deferred, gives.
    """

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return threads.blockingCallFromThread(reactor, _bounded, reactor, function, args, kwargs)

    return call


def _bounded(reactor: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    result = function(*args, **kwargs)
    return result.addTimeout(WAIT, reactor) if isinstance(result, Deferred) else result


@pytest.fixture
def serve(reactor: Any, in_reactor: Callable[..., Any]) -> Iterator[Callable[..., int]]:
    """
    Listen with a handler on a free port of 127.0.0.1, and return the port's number.

    Keyword arguments are FlowServer's. After the test the ports are closed, what is still open is
    broken off, and the handlers have returned: one that waits for the test has to be released.
    """
    ports: list[Any] = []

    def serve(handler: Any, **options: Any) -> int:
        server = FlowServer(handler, reactor=reactor, **options)
        port = in_reactor(reactor.listenTCP, 0, server, interface="127.0.0.1")
        ports.append(port)
        return int(port.getHost().port)

    yield serve
    servers = [port.factory for port in ports]
    in_reactor(lambda: DeferredList([maybeDeferred(port.stopListening) for port in ports]))
    in_reactor(lambda: DeferredList([server.stop() for server in servers]))
    assert not any(server.handlers for server in servers), "a handler has not returned"
