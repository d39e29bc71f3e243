"""What a handler is, told without running it, and how each kind is run."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from enum import Enum
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred

from pyf.station.auth import Gate
from pyf.station.flow import AsyncClient, AsyncFlow, Client, Flow, SwiftAsyncClient, SwiftClient
from pyf.station.inbox import AsyncInbox
from pyf.station.relay import RelayQueue
from pyf.station.session import Item, Session

Handler = Callable[..., Any]


_VALUES: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, list, dict})
"""What most handlers return: neither a generator nor awaitable."""


class Kind(Enum):
    """Where a handler runs."""

    THREAD = "thread"
    """A callable, a class or a generator function: in a thread of the server's pool."""
    REACTOR = "reactor"
    """A coroutine function or an async generator function: on the reactor."""


class HandlerRunner:
    """Runs one handler, for one session after another.

    Raises TypeError for what is not a handler: something that cannot be called with a flow and a
    client, or a class without ``handle_data()``.
    """

    _ends_with_answer = True
    """Whether nothing is left to run behind the answer of a handler that has returned."""

    def __init__(self, handler: Handler, gate: Gate | None = None) -> None:
        _check(handler)
        self.kind: Kind = _kind(handler)
        self._handler = handler
        self._gate = gate
        self._is_class = _class_of(handler) is not None

    def make_inbox(self) -> RelayQueue[Item] | AsyncInbox:
        """Return the inbox in which this kind of handler waits for its flow."""
        return RelayQueue() if self.kind is Kind.THREAD else AsyncInbox()

    def run_in_thread(self, session: Session, inbox: RelayQueue[Item]) -> None:
        """Run a THREAD handler to its end, in this thread. Its failure is the session's."""
        flow, client = Flow(session, inbox), SwiftClient(session)
        try:
            flow.wait_for_header()
            if self._gate is not None and not self._gate.pass_in_thread(session):
                return
            self._handle(session, flow, client)
        except BaseException as error:  # noqa: BLE001 - the client is to hear of any
            session.report_failure(error)

    async def run_on_reactor(self, session: Session, inbox: AsyncInbox) -> None:
        """Run a REACTOR handler to its end. Its failure is the session's."""
        flow, client = AsyncFlow(session, inbox), SwiftAsyncClient(session)
        try:
            await flow.wait_for_header()
            if self._gate is not None and not await self._gate.pass_on_reactor(session):
                return
            await self._handle_async(session, flow, client)
        except GeneratorExit as error:
            # Where nothing holds the coroutine any more, its flow is over, and this is any thread.
            if not (session.cancelled or session.answered):
                session.carrier.call_soon(partial(session.report_failure, error))
        except BaseException as error:  # noqa: BLE001 - the client is to hear of any
            session.report_failure(error)

    def _handle(self, session: Session, flow: Any, client: Client) -> None:
        result = self._call(flow, client)
        if type(result) not in _VALUES:
            if isinstance(result, Generator):
                result = _drive(result, client)
            _refuse_awaitable(result)
        if not session.answered and not session.cancelled:
            session.returned = self._ends_with_answer
            client.success(result)

    async def _handle_async(self, session: Session, flow: Any, client: AsyncClient) -> None:
        result = self._call(flow, client)
        if isinstance(result, AsyncGenerator):
            await _drive_async(result, client)
            result = None
        else:
            result = await result
        if not session.answered and not session.cancelled:
            session.returned = self._ends_with_answer
            await client.success(result)

    def _call(self, flow: object, client: object) -> Any:
        result = self._handler(flow, client)
        return result.handle_data() if self._is_class else result


def _drive(replies: Generator[dict[str, Any], None, Any], client: Client) -> Any:
    """Send what a generator yields; return what it returns. It is closed whatever happens."""
    try:
        while True:
            client.message(next(replies))
    except StopIteration as end:
        return end.value
    finally:
        replies.close()


async def _drive_async(replies: AsyncGenerator[dict[str, Any], None], client: AsyncClient) -> None:
    """Send what an async generator yields. It is closed whatever happens."""
    try:
        async for packet in replies:
            await client.message(packet)
    finally:
        await replies.aclose()


def _refuse_awaitable(result: Any) -> None:
    """Raise TypeError for what a function gives that should have run on the reactor."""
    if isinstance(result, Coroutine):
        result.close()
    elif isinstance(result, Deferred):
        result.cancel()
    elif not isinstance(result, AsyncGenerator):
        return
    raise TypeError(
        f"a handler in a thread gave a {type(result).__name__}, which nobody awaits:"
        " make the handler a coroutine function or an async generator function"
    )


def _check(handler: Handler) -> None:
    if not callable(handler):
        raise TypeError(
            f"a handler is called with a flow and a client; {handler!r} cannot be called"
        )
    _check_arguments(handler, handler, "a handler is called with a flow and a client", 2)
    cls = _class_of(handler)
    if cls is not None:
        what = "a handler class needs a method handle_data(self)"
        method = inspect.getattr_static(cls, "handle_data", None)
        if not callable(getattr(cls, "handle_data", None)):
            raise TypeError(f"{what}; {cls.__qualname__} has none")
        if inspect.isfunction(method):
            _check_arguments(method, f"{cls.__qualname__}.handle_data", what, 1)


def _check_arguments(function: Callable[..., Any], name: object, what: str, count: int) -> None:
    given, named = [None] * count, {}
    if isinstance(function, partial):
        given, named = [*function.args, *given], function.keywords
        function = function.func
    try:
        # What is called is the wrapper, whatever it passes on.
        signature = inspect.signature(function, follow_wrapped=False)
    except ValueError:
        return  # A callable made in C need not tell what it takes.
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        raise TypeError(f"{what}; {name} takes {signature}: {error}") from None


def _class_of(handler: Any) -> type | None:
    while isinstance(handler, partial):
        handler = handler.func
    return handler if inspect.isclass(handler) else None


def _kind(handler: Handler) -> Kind:
    cls: Any = _class_of(handler)
    function: Any = handler if cls is None else cls.handle_data
    while True:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return Kind.REACTOR
        if isinstance(function, partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.isroutine(function):
            return Kind.THREAD
        else:  # an object
            function = type(function).__call__
