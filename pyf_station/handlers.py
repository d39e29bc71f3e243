"""What a handler is, told without running it, and how each kind is run."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from enum import Enum
from functools import partial
from queue import SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue

from pyf.station.flow import AsyncClient, AsyncFlow, Client, Flow
from pyf.station.session import Inbox, Item, Session

Handler = Callable[..., Any]


class Kind(Enum):
    """Where a handler runs."""

    THREAD = "thread"
    """A callable, a class or a generator function: in a thread of the server's pool."""
    REACTOR = "reactor"
    """A coroutine function or an async generator function: on the reactor."""


class HandlerRunner:
    """Runs one handler, for one session after another.

    Raises TypeError for what is not a handler: something that cannot be called with a flow and a client, or a
    class without ``handle_data``.
    """

    def __init__(self, handler: Handler) -> None:
        self.name = getattr(handler, "__qualname__", None) or type(handler).__qualname__
        self._handler = handler
        self._is_class = inspect.isclass(handler)
        _check(handler)
        self.kind = _kind(handler)

    def make_inbox(self) -> Inbox:
        """Return the inbox in which this kind of handler waits for its flow."""
        return SimpleQueue[Item]() if self.kind is Kind.THREAD else DeferredQueue[Item]()

    def run_in_thread(self, session: Session, inbox: SimpleQueue[Item]) -> None:
        """Run a THREAD handler to its end, in this thread. Its failure is the session's, never raised."""
        flow, client = Flow(session, inbox), Client(session)
        try:
            flow.wait_for_header()
            result = self._call(flow, client)
            if isinstance(result, Generator):
                result = _drive(result, client)
            if not session.answered and not session.cancelled:
                client.success(result)
        except BaseException as error:
            session.report_failure(error)

    async def run_on_reactor(self, session: Session, inbox: DeferredQueue[Item]) -> None:
        """Run a REACTOR handler to its end. Its failure is the session's, never raised."""
        flow, client = AsyncFlow(session, inbox), AsyncClient(session)
        try:
            await flow.wait_for_header()
            result = self._call(flow, client)
            if isinstance(result, AsyncGenerator):
                result = await _drive_async(result, client)
            else:
                result = await result
            if not session.answered and not session.cancelled:
                await client.success(result)
        except BaseException as error:
            session.report_failure(error)

    def _call(self, flow: object, client: object) -> Any:
        result = self._handler(flow, client)
        result = result.handle_data() if self._is_class else result
        if self.kind is Kind.THREAD and (inspect.isawaitable(result) or isinstance(result, Deferred)):
            close = getattr(result, "close", None) or result.cancel
            close()
            raise TypeError(f"{self.name} gave something to await: make it a coroutine function")
        return result


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


def _check(handler: Handler) -> None:
    if not callable(handler):
        raise TypeError(f"a handler is called with a flow and a client; {handler!r} cannot be called")
    if inspect.isclass(handler) and not callable(getattr(handler, "handle_data", None)):
        raise TypeError(f"a handler class needs a method handle_data(); {handler.__qualname__} has none")
    try:
        signature = inspect.signature(handler)
    except ValueError:
        return  # A callable made in C need not tell what it takes.
    try:
        signature.bind(None, None)
    except TypeError as error:
        text = f"a handler is called with a flow and a client; {handler!r} takes {signature}: {error}"
        raise TypeError(text) from None


def _kind(handler: Handler) -> Kind:
    function: Any = handler.handle_data if inspect.isclass(handler) else handler
    while True:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return Kind.REACTOR
        if isinstance(function, partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.isfunction(function) or inspect.ismethod(function) or inspect.isbuiltin(function):
            return Kind.THREAD
        elif hasattr(type(function), "__call__") and inspect.isfunction(type(function).__call__):
            function = type(function).__call__
        else:
            return Kind.THREAD
