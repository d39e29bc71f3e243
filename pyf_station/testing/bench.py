"""What the promises are checked with: a client and a server, and ways to wait and to compare."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pyf.station.handlers import Handler
from pyf.station.testing.chaos import WAIT, ChaosProxy
from pyf.station.testing.scripts import Kind, Script, handler_of
from pyf.transport import Limits
from pyf.transport.limits import BATCH_BYTES

QUIET: Final = 0.2
"""Seconds without a packet after which a side counts as stopped."""

BLOB: Final = bytes(4096)
"""What fills a window soon."""

SHORT: Final = 200
"""Characters of a value that a failure shows, from its start and from its end."""


class FlowCall(Protocol):
    """A call under way: an iterator of True and of packets."""

    def __iter__(self) -> Iterator[Any]:
        """Return what is iterated."""
        ...

    def __next__(self) -> Any:
        """Go on with the call; return what comes of it."""
        ...

    def close(self) -> None:
        """Give the flow up."""
        ...


class FlowClient(Protocol):
    """What is checked: a client that waits for the handler's result."""

    def call(
        self, flow: Iterable[dict[str, Any]], header: dict[str, Any] | None = None
    ) -> FlowCall:
        """Ship *flow* as the call is iterated, in the iterating thread or another one."""
        ...


Connect = Callable[[Handler, Callable[[int], int]], AbstractContextManager[FlowClient]]
"""``connect(handler, through)`` serves *handler* on a TCP port of 127.0.0.1, and gives a client for
use in ``with``. The client connects to port ``through(port)``, where *port* is the server's."""


class HandlerFailed(Exception):
    """What a handler of the checks raises on purpose: the server logs it."""


class SourceFailed(Exception):
    """What a generator of the checks raises on purpose."""


@dataclass
class Bench:
    """What a promise is checked with."""

    connect: Connect
    """Makes a server and a client of it."""
    kind: Kind = "function"
    """The kind of the handlers."""
    limits: Limits = field(default_factory=Limits)
    """The limits that both sides keep."""

    def client(
        self, script: Callable[[], Script], through: Callable[[int], int] = int
    ) -> AbstractContextManager[FlowClient]:
        """Return a client of a server whose handler plays *script*, for use in ``with``."""
        return self.connect(handler_of(script, self.kind), through)

    @property
    def most(self) -> int:
        """Packets with a BLOB that one side may be ahead of the other: a window, two batches."""
        return (self.limits.window_bytes + 2 * BATCH_BYTES) // len(BLOB) + 2

    @contextmanager
    def cut_client(self, script: Callable[[], Script]) -> Generator[tuple[FlowClient, ChaosProxy]]:
        """Give a client whose connection goes through a proxy, and the proxy."""
        proxies: list[ChaosProxy] = []

        def through(port: int) -> int:
            proxies.append(ChaosProxy(port).__enter__())
            return proxies[-1].port

        try:
            with self.client(script, through) as client:
                yield client, proxies[0]
        finally:
            for proxy in proxies:
                proxy.close()


Promise = Callable[[Bench], None]
"""Checks one promise of a client on a bench; raises AssertionError where it is broken."""


class Tally:
    """Counts, and knows when the counting has stopped."""

    def __init__(self) -> None:
        self.count: int = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        """Count one more, from any thread."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def settled(self) -> int:
        """Wait until nothing was counted for QUIET seconds; return the count."""
        with self._changed:
            self._changed.wait_for(lambda: self.count, WAIT)
            seen = -1
            while seen != self.count:
                seen = self.count
                self._changed.wait(QUIET)
            return seen


@contextmanager
def beside(function: Callable[[], None]) -> Generator[None]:
    """Run *function* in another thread meanwhile."""
    thread = threading.Thread(target=function, name="pyf.station-beside", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(WAIT)


def failure_of(call: Iterable[Any]) -> Exception:
    """Iterate *call* to its end; return what it raises, raise AssertionError if it doesn't."""
    try:
        values = list(call)
    except Exception as error:  # noqa: BLE001 - the promise says which it is to be
        return error
    raise AssertionError(f"the call did not fail: its last value is {values[-1:]}")


def wait_for(event: threading.Event, what: str) -> None:
    """Wait until *event* is set; raises AssertionError."""
    if not event.wait(WAIT):
        raise AssertionError(f"{what} did not come within {WAIT:g} s")


def expect(actual: object, expected: object, what: str) -> None:
    """Raise AssertionError if two values differ, with *what* as the start of the sentence."""
    if actual != expected:
        raise AssertionError(f"{what} {_short(actual)}, not {_short(expected)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 2 * SHORT else f"{text[:SHORT]} … {text[-SHORT:]}"


def typed(value: Any) -> Any:
    """Return *value* so that == sees types too, at any depth, and the sign of a zero."""
    if isinstance(value, dict):
        return dict, {key: typed(each) for key, each in value.items()}
    if isinstance(value, list):
        return list, [typed(each) for each in value]
    return type(value), repr(value)
