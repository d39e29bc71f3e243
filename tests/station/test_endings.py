"""However a flow is given up, by whichever side: the other one hears of it, once, and all is free.

The tables of this page are the list of what can end a flow before its time.
"""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Queue
from typing import Any

import pytest

from pyf.station import FlowServer, StationClient
from pyf.station.testing import KINDS, ChaosProxy
from pyf.station.testing.scripts import STOP, TAKE, Say, handler_of
from pyf.transport import Packet, StationError

WAIT = 30.0
BLOB = bytes(4096)


class Source:
    """
    An endless generator, which may raise, and counts how often it was closed.
    """

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.finals = Queue[bool]()

    def __iter__(self) -> Iterator[Packet]:
        try:
            yield Packet(n=0)
            yield Packet(n=1)
            while self.error is None:
                yield Packet(n=2)
            raise self.error
        finally:
            self.finals.put(True)


# How the client leaves


def by_break(call: Any) -> None:
    for _ in call:
        break


def by_close(call: Any) -> None:
    next(call)
    call.close()


def by_with(call: Any) -> None:
    with call:
        next(call)


def by_dropping(call: Any) -> None:
    next(call)


def by_garbage(call: Any) -> None:
    cycle = [call]
    cycle.append(cycle)
    next(call)


def by_exception(call: Any) -> None:
    with suppress(ZeroDivisionError):
        for _ in call:
            _ = 1 / 0


def by_ctrl_c(call: Any) -> None:
    with suppress(KeyboardInterrupt):
        for _ in call:
            raise KeyboardInterrupt


def by_failing_source(call: Any) -> None:
    with suppress(ZeroDivisionError):
        for _ in call:
            pass


LEAVES: dict[Callable[[Any], None], BaseException | None] = {
    by_break: None,
    by_close: None,
    by_with: None,
    by_dropping: None,
    by_garbage: None,
    by_exception: None,
    by_ctrl_c: None,
    by_failing_source: ZeroDivisionError(),
}


class Script:
    """
    A handler's script that waits in ``next(flow)`` or in ``client.message``, and notes its end.
    """

    def __init__(self, waits_for: str) -> None:
        self.waits_for = waits_for
        self.endings = Queue[BaseException | None]()

    def __call__(self) -> Any:
        ending: BaseException | None = None
        try:
            yield TAKE
            while True:
                if self.waits_for == "next":
                    yield TAKE
                else:
                    yield Say(Packet(blob=BLOB))
        except BaseException as error:
            ending = error
            raise
        finally:
            self.endings.put(ending)


def free(in_reactor: Any, server: Any) -> None:
    """
    Wait until the server has no handler and no connection.
    """
    gone = threading.Event()
    for _ in range(1000):
        if in_reactor(lambda: not server.handlers and not server.connections):
            return
        gone.wait(0.01)
    pytest.fail("a slot or a connection is not free")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waits_for", ["next", "message"])
@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
def test_a_client_that_leaves_wakes_its_handler(serve, reactor, in_reactor, kind, waits_for, leave):
    """
    It raises where it waits; each ``finally`` runs once; slot, thread and descriptor are free.
    """
    script = Script(waits_for)
    server = FlowServer(handler_of(script, kind), reactor=reactor)
    port = serve(server)
    source = Source(LEAVES[leave])
    leave(StationClient("127.0.0.1", port, waits_for_success=True).call(source))
    gc.collect()
    # A generator handler is closed where its message is not heard.
    assert isinstance(script.endings.get(timeout=WAIT), StationError | GeneratorExit)
    assert source.finals.get(timeout=WAIT)
    free(in_reactor, server)
    assert script.endings.empty()
    assert source.finals.empty()


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waits_for", ["next", "message"])
def test_a_dead_peer_wakes_both_sides(serve, reactor, in_reactor, kind, waits_for, how):
    """
    The handler raises where it waits, and so does the call.
    """
    script = Script(waits_for)
    server = FlowServer(handler_of(script, kind), reactor=reactor)
    port = serve(server)
    source = Source()
    with ChaosProxy(port) as proxy:
        call = StationClient("127.0.0.1", proxy.port, waits_for_success=True).call(source)
        next(call)
        proxy.to_server.wait_for_packets(1)
        proxy.cut(how)
        with pytest.raises(StationError):
            for _ in call:
                pass
    assert isinstance(script.endings.get(timeout=WAIT), StationError | GeneratorExit)
    assert source.finals.get(timeout=WAIT)
    free(in_reactor, server)
    assert script.endings.empty()
    assert source.finals.empty()


@pytest.mark.parametrize("end", ["return", "close"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_leaves_closes_the_generator(serve, reactor, in_reactor, kind, end):
    """
    By its return or by ``flow.close()``: the call ends well, and all is free.
    """

    def script() -> Any:
        yield TAKE
        if end == "close":
            yield STOP
        return "enough"

    server = FlowServer(handler_of(script, kind), reactor=reactor)
    port = serve(server)
    source = Source()
    assert StationClient("127.0.0.1", port).send(source) == "enough"
    assert source.finals.get(timeout=WAIT)
    free(in_reactor, server)
    assert source.finals.empty()
