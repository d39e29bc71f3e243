"""An async client in the guise of a blocking one, so that the same promises can be checked."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Self

END = object()


class AwaitedCall(Iterator[Any]):
    """A call of an async client, each of whose steps is waited for."""

    def __init__(self, call: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._call = call
        self._run = run

    def __next__(self) -> Any:
        value = self._run(self._step())
        if value is END:
            raise StopIteration
        return value

    def close(self) -> None:
        """Give the flow up."""
        self._run(self._call.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def _step(self) -> Any:
        return await anext(self._call, END)


class AwaitedClient:
    """An async client, whose every call is waited for.

    *run* runs a coroutine in the client's event loop, and returns what it returns.
    """

    def __init__(self, client: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._client = client
        self._run = run

    def call(self, *args: Any, **options: Any) -> AwaitedCall:
        """Ship a flow as the call is iterated; arguments are the client's."""
        return AwaitedCall(self._run(self._call(self._client.call, args, options)), self._run)

    def stream(self, *args: Any, **options: Any) -> AwaitedCall:
        """Ship a flow, and give what comes back."""
        return AwaitedCall(self._run(self._call(self._client.stream, args, options)), self._run)

    def send(self, *args: Any, **options: Any) -> Any:
        """Ship a flow, and return what its handler succeeded with."""

        async def send() -> Any:
            return await self._client.send(*args, **options)

        return self._run(send())

    @contextmanager
    def open(self, *args: Any, **options: Any) -> Generator[AwaitedConversation]:
        """Give a flow that is sent packet by packet."""
        flow = self._run(self._call(self._client.open, args, options))
        self._run(flow.__aenter__())
        try:
            yield AwaitedConversation(flow, self._run)
        finally:
            self._run(flow.__aexit__(*sys.exc_info()))

    def close(self) -> None:
        """Cancel what is open, and close the connection."""

        async def close() -> None:
            await self._client.close()

        self._run(close())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def _call(self, method: Any, args: Any, options: Any) -> Any:
        return method(*args, **options)


class AwaitedConversation:
    """A conversation of an async client, each of whose methods is waited for."""

    def __init__(self, flow: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._flow = flow
        self._run = run

    def __getattr__(self, name: str) -> Any:
        method: Any = getattr(self._flow, name)
        if not callable(method):
            return method

        async def awaited(*args: Any) -> Any:
            waited: Any = method(*args)
            return await waited

        return lambda *args: self._run(awaited(*args))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.receive, None)


@contextmanager
def asyncio_thread() -> Generator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Run an asyncio event loop in a thread; give what runs a coroutine there, and waits."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="pyf.station-asyncio", daemon=True)
    thread.start()
    try:
        yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
