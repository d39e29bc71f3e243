"""Iterators that are given packets one by one, as if they asked for them."""

import asyncio
import threading
from contextvars import ContextVar

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from pyf.station.turned import AwaitedTurned, Turned

who: ContextVar[str] = ContextVar("who", default="nobody")


def pairs(packets):
    """
    Two packets become one; what is left comes at the end.
    """
    held = []
    for packet in packets:
        held.append(packet)
        if len(held) == 2:
            yield tuple(held)
            held.clear()
    if held:
        yield tuple(held)


async def async_pairs(packets):
    held = []
    async for packet in packets:
        held.append(packet)
        if len(held) == 2:
            yield tuple(held)
            held.clear()
    if held:
        yield tuple(held)


class Awaiting:
    """
    An AwaitedTurned in the guise of a Turned, where nothing is waited for.
    """

    def __init__(self, wrap):
        self.turned = AwaitedTurned(wrap)
        self.drop = self.turned.drop

    def push(self, packet):
        return finished(self.turned.push(packet))

    def finish(self):
        return finished(self.turned.finish())


def finished(coroutine):
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


BOTH = pytest.mark.parametrize(
    ("make", "wrap"), [(Turned, pairs), (Awaiting, async_pairs)], ids=["thread", "coroutine"]
)


@BOTH
def test_what_comes_out_is_returned_where_it_is_pushed(make, wrap):
    """
    None, one or many packets for each that goes in, and the rest at the end.
    """
    turned = make(wrap)
    assert [turned.push(number) for number in range(5)] == [[], [(0, 1)], [], [(2, 3)], []]
    assert turned.finish() == [(4,)]
    assert turned.finish() == turned.push(5) == []
    turned.drop()


@BOTH
def test_one_that_nobody_pushed_to_gives_what_it_has(make, wrap):
    """
    At the end, and none if it is dropped.
    """
    assert make(wrap).finish() == []
    make(wrap).drop()


class Failing:
    """
    Generators of both kinds that fail, or end, or say that they are closed.
    """

    def __init__(self, error):
        self.error = error
        self.closed = threading.Event()

    def sync(self, packets):
        try:
            for packet in packets:
                yield packet
                if self.error is not None:
                    raise self.error
        finally:
            self.closed.set()

    async def awaited(self, packets):
        try:
            async for packet in packets:
                yield packet
                if self.error is not None:
                    raise self.error
        finally:
            self.closed.set()


KINDS = pytest.mark.parametrize(
    ("make", "kind"), [(Turned, "sync"), (Awaiting, "awaited")], ids=["thread", "coroutine"]
)


@KINDS
def test_what_it_raises_is_raised_by_the_push(make, kind):
    """
    Once; then it is over.
    """
    error = LookupError("mine")
    turned = make(getattr(Failing(error), kind))
    with pytest.raises(LookupError) as raised:
        turned.push(1)
    assert raised.value is error
    assert turned.push(2) == []
    turned.drop()


@KINDS
def test_one_that_is_dropped_is_closed(make, kind):
    """
    Its finally runs, before the drop returns.
    """
    failing = Failing(None)
    turned = make(getattr(failing, kind))
    assert turned.push(1) == [1]
    turned.drop()
    assert failing.closed.is_set()
    assert turned.push(2) == []


def test_a_generator_sees_the_context_of_who_pushes_first():
    """
    As it would where it ran there.
    """

    def named(packets):
        for _ in packets:
            yield who.get()

    token = who.set("somebody")
    turned = Turned(named)
    assert turned.push(1) == ["somebody"]
    who.reset(token)
    turned.drop()


def test_threads_may_push_at_once():
    """
    Nothing is lost, and nothing comes twice.
    """
    turned = Turned(pairs)
    out: list[int] = []

    def push():
        for number in range(200):
            out.extend(each for pair in turned.push(number) for each in pair)

    threads = [threading.Thread(target=push) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert turned.finish() == []
    assert sorted(out) == sorted([*range(200)] * 4)
    turned.drop()


async def slowly(packets):
    async for packet in packets:
        await asyncio.sleep(0)
        yield packet


def test_a_coroutine_may_await_what_its_loop_knows():
    """
    Who pushes meanwhile goes on at once: its packet comes out with the first one.
    """

    async def use():
        turned = AwaitedTurned(slowly)
        out = await asyncio.gather(turned.push(1), turned.push(2))
        assert await turned.finish() == []
        return out

    assert asyncio.run(use()) == [[1, 2], []]


def test_a_coroutine_may_await_deferreds():
    """
    One that fails raises there, and one that is cancelled, too.
    """
    waiting: list[Deferred[int]] = [succeed(1), fail(LookupError()), Deferred()]
    heard = []

    async def awaits(packets):
        async for packet in packets:
            try:
                heard.append(await waiting[packet])
            except Exception as error:
                heard.append(type(error).__name__)
            yield packet

    turned = AwaitedTurned(awaits)
    pushes = [Deferred.fromCoroutine(turned.push(0)), Deferred.fromCoroutine(turned.push(1))]
    assert [push.result for push in pushes] == [[0], [1]]
    third = Deferred.fromCoroutine(turned.push(2))
    assert not third.called
    waiting[2].callback(3)
    assert third.result == [2]
    assert heard == [1, "LookupError", 3]


def test_a_cancelled_push_cancels_the_iterator():
    """
    Where it waits: it is over then.
    """
    heard = []

    async def waits(packets):
        try:
            async for packet in packets:
                await asyncio.Event().wait()
                yield packet
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    async def use():
        turned = AwaitedTurned(waits)
        push = asyncio.create_task(turned.push(1))
        await asyncio.sleep(0)
        push.cancel()
        with pytest.raises(asyncio.CancelledError):
            await push
        return await turned.push(2)

    assert asyncio.run(use()) == []
    assert heard == ["cancelled"]
