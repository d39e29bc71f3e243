"""Many values at a time, for whoever asks for one after the other in a coroutine.

What an async generator yields costs as much as decoding a packet; what is compiled gives it at the
cost of a plain loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Protocol, Self, TypeVar

from pyf.transport.compiled import compiled

T_co = TypeVar("T_co", covariant=True)


class Flattened(Protocol[T_co]):
    """Async iterator of values. A step that is cancelled before it was awaited loses none."""

    def __aiter__(self) -> AsyncIterator[T_co]: ...

    def __anext__(self) -> Awaitable[T_co]: ...

    def aclose(self) -> Awaitable[None]:
        """Close the generator of batches; what is left of the last one is not given any more."""
        ...


class _Flattened:
    def __init__(self, batches: AsyncGenerator[Iterable[Any], None]) -> None:
        self._batches = batches
        self._values: Iterator[Any] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            for value in self._values:
                return value
            self._values = iter(await anext(self._batches))

    async def aclose(self) -> None:
        self._values = iter(())
        await self._batches.aclose()


flattened: Callable[[AsyncGenerator[Iterable[Any], None]], Flattened[Any]]
flattened = getattr(compiled("pyf.station._flattened"), "flattened", _Flattened)
"""Return an async iterator of the values in the batches that a generator yields.

Raises what that raises, behind the values that came before.
"""
