"""An async client in the guise of a blocking one, so that the same promises can be checked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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

    async def _step(self) -> Any:
        return await anext(self._call, END)


class AwaitedClient:
    """An async client, whose every call is waited for.

    *run* runs a coroutine in the client's event loop, and returns what it returns.
    """

    def __init__(self, client: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._client = client
        self._run = run

    def call(
        self, flow: Iterable[dict[str, Any]], header: dict[str, Any] | None = None
    ) -> AwaitedCall:
        """Ship *flow* as the call is iterated."""
        return AwaitedCall(self._run(self._call(flow, header)), self._run)

    async def _call(self, flow: Iterable[dict[str, Any]], header: dict[str, Any] | None) -> Any:
        return self._client.call(flow, header)


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
