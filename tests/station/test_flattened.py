"""Values of batches, one after the other: the same whether that is compiled or not."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from pyf.station import flattened as module

WAIT = 10.0


@pytest.fixture(params=["as used", "python"])
def flatten(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return module.flattened if request.param == "as used" else module._Flattened


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, WAIT))


async def batches(*many: Iterable[Any]) -> AsyncGenerator[Iterable[Any]]:
    for values in many:
        yield values


async def closing(closed: list[bool]) -> AsyncGenerator[Iterable[int]]:
    """
    Give a batch, and then no other; note the end.
    """
    try:
        yield [1, 2]
        await asyncio.Future()
    finally:
        closed.append(True)


async def taken(values: Any) -> list[Any]:
    return [value async for value in values]


@pytest.mark.parametrize("flat", [module.flattened, module._Flattened])
@given(st.lists(st.lists(st.integers())))
def test_all_values_are_given_in_their_order(flat, many):
    """
    Also behind batches that are empty.
    """
    expected = [value for values in many for value in values]
    coroutine = taken(flat(batches(*many)))
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)  # Nothing waits for anything: it needs no loop.
    assert end.value.value == expected


def test_a_value_may_be_anything(flatten):
    """
    What a StopIteration would take for its own, too.
    """
    values = [None, (), (1, 2), ValueError("x"), StopIteration(3), StopAsyncIteration()]
    assert run(taken(flatten(batches(values)))) == values


def test_a_failure_is_raised_behind_the_values_that_came_before(flatten):
    async def failing() -> AsyncGenerator[Iterable[Any]]:
        yield [1, 2]
        raise ArithmeticError("on purpose")

    def values() -> Iterable[Any]:
        yield 1
        raise LookupError("on purpose")

    async def use() -> None:
        first, second = flatten(failing()), flatten(batches(values()))
        assert [await anext(first), await anext(first), await anext(second)] == [1, 2, 1]
        with pytest.raises(ArithmeticError):
            await anext(first)
        with pytest.raises(LookupError):
            await anext(second)

    run(use())


def test_it_waits_for_the_next_batch_and_takes_it_up_where_it_was_cancelled(flatten):
    """
    Who is cancelled between two values, or before he has asked, has lost none.
    """

    async def use() -> None:
        waits: asyncio.Queue[list[int]] = asyncio.Queue()

        class Batches:
            async def __anext__(self) -> list[int]:
                return await waits.get()

            def __aiter__(self) -> Any:
                return self

            async def aclose(self) -> None: ...

        values = flatten(Batches())
        first = asyncio.ensure_future(anext(values))
        await asyncio.sleep(0)
        assert not first.done()
        waits.put_nowait([1, 2, 3])
        assert await first == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(values), 0)
        assert await anext(values) == 2
        assert await anext(values, "none") == 3

    run(use())


def test_who_waits_for_a_batch_can_be_cancelled(flatten):
    async def use() -> None:
        closed: list[bool] = []
        values = flatten(closing(closed))
        assert [await anext(values), await anext(values)] == [1, 2]
        waiting = asyncio.ensure_future(anext(values))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert closed

    run(use())


def test_a_coroutine_of_twisted_may_ask(flatten):
    arrives: Deferred[list[int]] = Deferred()

    async def later() -> AsyncGenerator[Iterable[int]]:
        yield [1]
        yield await arrives

    result = Deferred.fromCoroutine(taken(flatten(later())))
    found: list[Any] = []
    result.addCallback(found.append)
    assert not found
    arrives.callback([2, 3])
    assert found == [[1, 2, 3]]


def test_closing_it_closes_the_generator_and_gives_no_more(flatten):
    async def use() -> None:
        closed: list[bool] = []
        values = flatten(closing(closed))
        assert await anext(values) == 1
        await values.aclose()
        assert closed
        assert await taken(values) == []

    run(use())


def test_dropping_it_closes_the_generator(flatten):
    async def use() -> None:
        closed: list[bool] = []
        values = flatten(closing(closed))
        assert await anext(values) == 1
        del values
        gc.collect()
        for _ in range(3):  # The loop closes it, in a turn of its own.
            await asyncio.sleep(0)
        assert closed

    run(use())


def steps(awaitable: Awaitable[Any]) -> Any:
    return awaitable.__await__()


def test_a_step_can_be_taken_by_hand(flatten):
    """
    As whoever drives coroutines may do it: with send(), next(), throw() and close().
    """
    values = flatten(batches([1, 2, 3]))
    for take in (lambda step: step.send(None), next):
        with pytest.raises(StopIteration) as end:
            take(steps(anext(values)))
        assert end.value.value in {1, 2}
    step = steps(anext(values))
    with pytest.raises(ArithmeticError):
        step.throw(ArithmeticError("on purpose"))
    step.close()


def test_a_step_is_taken_once(flatten):
    """
    Awaited again, it takes nothing from whoever comes next.
    """

    async def use() -> None:
        values = flatten(batches([1], [2]))
        for number in (1, 2):  # At hand, and fetched.
            step = anext(values)
            assert await step == number
            with pytest.raises(RuntimeError, match="cannot reuse"):
                await step
        assert await taken(values) == []

    run(use())
