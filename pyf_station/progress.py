"""A progress bar around a flow, in one line, on either side.

Needs the extra ``pyf.station[progress]``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from tqdm import tqdm

__all__ = ["bar"]

Update = Callable[[int], object]


@contextmanager
def _tqdm(total: int | None, options: dict[str, Any]) -> Generator[Update]:
    with tqdm(total=total, **{"unit": " packets", **options}) as shown:
        yield lambda position: shown.update(position - shown.n)


@contextmanager
def _rich(total: int | None, options: dict[str, Any]) -> Generator[Update]:
    from rich.progress import Progress

    description = options.pop("description", "packets")
    with Progress(*Progress.get_default_columns(), **options) as shown:
        task = shown.add_task(description, total=total)
        yield lambda position: shown.update(task, completed=position)


STYLES: Final[dict[str, Callable[..., AbstractContextManager[Update]]]] = {
    "tqdm": _tqdm,
    "rich": _rich,
}
"""The bars there are, by the library that draws them."""


def bar(flow: Any, style: str = "tqdm", **options: Any) -> Any:
    """Return an iterator over *flow* that draws a bar: over a handler's flow, or a client's call.

    It counts the packets that the handler has taken, or that have left the client, out of
    ``flow.length_hint`` where that is known. An asynchronous flow gives an asynchronous iterator.
    *style* is ``"tqdm"`` or ``"rich"``; *options* are those of ``tqdm``, or of
    ``rich.progress.Progress`` and a ``description``.

    Raises ValueError for another style. Iterating raises what iterating *flow* does. For the thread
    that iterates.
    """
    if style not in STYLES:
        raise ValueError(f"no style {style!r}; there are {', '.join(STYLES)}")
    over = _over_async if hasattr(flow, "__aiter__") else _over
    return over(flow, style, options)


def _position(flow: Any) -> int:
    return int(flow.sent if hasattr(flow, "sent") else flow.consumed)


def _over(flow: Any, style: str, options: dict[str, Any]) -> Iterator[Any]:
    with STYLES[style](flow.length_hint, options) as update:
        try:
            for value in flow:
                update(_position(flow))
                yield value
        finally:
            update(_position(flow))


async def _over_async(flow: Any, style: str, options: dict[str, Any]) -> AsyncIterator[Any]:
    with STYLES[style](flow.length_hint, options) as update:
        try:
            async for value in flow:
                update(_position(flow))
                yield value
        finally:
            update(_position(flow))
