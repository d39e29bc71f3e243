"""Coroutines that may await Twisted's Deferreds and asyncio's futures, where one loop runs both."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine as awaitable
from typing import Any

from twisted.internet.defer import Deferred


def run_coroutine(coroutine: Coroutine[Any, Any, None]) -> Deferred[None]:
    """Run *coroutine* on the reactor; cancelling the Deferred cancels it.

    Where the reactor runs on an asyncio event loop, it runs as a task of that: there it may await
    whatever asyncio knows, and Deferreds as well. For the reactor's thread.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return Deferred.fromCoroutine(coroutine)
    return Deferred.fromFuture(loop.create_task(_bridged(coroutine)))


async def _bridged(coroutine: Coroutine[Any, Any, None]) -> None:
    await _steps(coroutine)


@awaitable
def _steps(coroutine: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Run *coroutine*; where it waits for a Deferred, wait for a future instead."""
    failure: BaseException | None = None
    while True:
        try:
            waited = coroutine.send(None) if failure is None else coroutine.throw(failure)
        except StopIteration:
            return
        failure = None
        try:
            if isinstance(waited, Deferred):
                yield from _fired(waited)
            else:
                yield waited
        except BaseException as error:  # noqa: BLE001 - a cancellation, for the coroutine to handle
            failure = error


def _fired(deferred: Deferred[Any]) -> Generator[Any, Any, None]:
    """Wait until *deferred* has fired; its result is for whoever awaits it."""
    future = asyncio.get_running_loop().create_future()

    def fire(result: Any) -> Any:
        if not future.done():
            future.set_result(None)
        return result

    deferred.addBoth(fire)
    try:
        yield from future
    except asyncio.CancelledError:
        deferred.cancel()
        # Nobody is left to hear that it was cancelled.
        deferred.addErrback(lambda _: None)
        raise
