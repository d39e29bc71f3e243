"""PyF.Station: its clients, with handlers in threads and on the reactor."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import pyf.station
from benchmarks import certificate
from benchmarks.cases import CHUNK, SHAPES, Case, total
from benchmarks.contestant import (
    HOST,
    Contestant,
    announce,
    at_once,
    folder,
    part,
    remove,
    run_async,
    source_file,
    timed,
    timed_async,
)
from benchmarks.statistics import spread
from pyf.station import FlowServer, ResumePolicy, StationClient
from pyf.station.server import MAX_THREADS


def paced(case: Case) -> Iterator[dict[str, Any]]:
    """Give packets at the rate, each with the time it was given."""
    began = time.monotonic()
    for i in range(case.count):
        if case.rate and (early := began + i / case.rate - time.monotonic()) > 0:
            time.sleep(early)
        yield {"num": i, "at": time.monotonic()}


# Handlers in a thread


def there(flow: Any, client: Any) -> int:
    next(flow)
    return total(flow)


def back(flow: Any, client: Any) -> None:
    header = next(flow)
    for packet in SHAPES[header.shape].packets(header.count):
        client.message(packet)


def both(flow: Any, client: Any) -> None:
    next(flow)
    for packet in flow:
        client.message(packet)


def pace(flow: Any, client: Any) -> dict[str, float]:
    next(flow)
    return spread([time.monotonic() - packet["at"] for packet in flow])


def file(flow: Any, client: Any) -> int:
    next(flow)
    path = folder() / "target"
    with path.open("wb", buffering=0) as target:
        for packet in flow:
            target.write(packet["data"])
        written = target.tell()
    remove(path)
    return written


IN_THREAD = {"there": there, "back": back, "both": both, "trip": both, "call": there} | {
    "again": there,
    "flows": there,
    "pace": pace,
    "file": file,
}


# Handlers on the reactor


async def async_there(flow: Any, client: Any) -> int:
    await flow.next()
    found = 0
    async for packet in flow:
        found += packet["num"]
    return found


async def async_back(flow: Any, client: Any) -> None:
    header = await flow.next()
    for packet in SHAPES[header.shape].packets(header.count):
        await client.message(packet)


async def async_both(flow: Any, client: Any) -> None:
    await flow.next()
    async for packet in flow:
        await client.message(packet)


async def async_pace(flow: Any, client: Any) -> dict[str, float]:
    await flow.next()
    return spread([time.monotonic() - packet["at"] async for packet in flow])


ON_REACTOR = {"there": async_there, "back": async_back, "both": async_both, "trip": async_both} | {
    "call": async_there,
    "again": async_there,
    "flows": async_there,
    "pace": async_pace,
}


class Station(Contestant):
    """The blocking client."""

    resume: ResumePolicy | None = None
    tls = "tls" in inspect.signature(StationClient).parameters

    def __init__(self, name: str, title: str, how: str, handlers: dict[str, Any]) -> None:
        self.name, self.title, self.how = name, title, how
        self._handlers = handlers

    def plays(self, case: Case) -> bool:
        return case.kind in self._handlers and super().plays(case)

    def serve(self, case: Case) -> None:
        from twisted.internet import endpoints, reactor

        loop: Any = reactor
        description = f"tcp:0:interface={HOST}:backlog=1024"
        if case.tls:
            key, chain = certificate.path("key"), certificate.path("certificate")
            description = f"ssl:0:interface={HOST}:privateKey={key}:certKey={chain}"
        endpoint: Any = endpoints.serverFromString(loop, description)
        handlers = case.flows if case.flows > MAX_THREADS else None  # All are welcome.
        server = FlowServer(self._handlers[case.kind], resume=self.resume, max_handlers=handlers)
        listening = endpoint.listen(server)
        listening.addCallback(lambda port: announce(port.getHost().port))
        loop.run()

    def _client(self, port: int, case: Case) -> StationClient:
        if case.tls:
            return StationClient("localhost", port, True, tls=certificate.client())
        return StationClient(HOST, port, True)

    def there(self, port: int, case: Case) -> Any:
        last: Any = None
        for value in self._client(port, case).call(case.packets(), header={}):
            last = value
        return last.message

    def back(self, port: int, case: Case) -> int:
        ask = {"shape": case.shape, "count": case.count}
        return sum_until_success(self._client(port, case).call((), header=ask))

    def both(self, port: int, case: Case) -> int:
        return sum_until_success(self._client(port, case).call(case.packets(), header={}))

    def trip(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())
        with self._client(port, case).open(header={}) as flow:

            def step() -> None:
                flow.send(packet)
                assert flow.receive() == packet

            found = timed(step, case.count)
            flow.end()
        return found

    def call(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())
        client = self._client(port, case)

        def step() -> None:
            assert client.send([packet], header={"action": "sum"}) == 0

        return timed(step, case.count)

    def flows(self, port: int, case: Case) -> int:
        return at_once(partial(self.there, port), case)

    def pace(self, port: int, case: Case) -> dict[str, float]:
        client = self._client(port, case)
        return dict(client.send(paced(case), header={}))

    def file(self, port: int, case: Case) -> int:
        path = source_file(case.count)
        with path.open("rb", buffering=0) as source:
            chunks = ({"data": data} for data in iter(lambda: source.read(CHUNK), b""))
            written = int(self._client(port, case).send(chunks, header={}))
        remove(path)
        return written


def sum_until_success(call: Any) -> int:
    """Add up what comes back; the last one is the success."""
    found = 0
    for value in call:
        if value is not True and "num" in value:
            found += value["num"]
    return found


class SurvivingClient(StationClient):
    """A client whose flows survive their connection."""

    def call(self, *args: Any, **options: Any) -> Any:
        return super().call(*args, resume=True, **options)


class SurvivingStation(Station):
    """The blocking client, with flows that survive their connection."""

    resume = ResumePolicy()

    def _client(self, port: int, case: Case) -> StationClient:
        return SurvivingClient(HOST, port, True)


class AsyncStation(Station):
    """The asyncio client: one connection carries everything."""

    file = None  # type: ignore[assignment]

    def plays(self, case: Case) -> bool:
        return case.kind != "file" and super().plays(case)

    def _run(self, main: Callable[[], Awaitable[Any]]) -> Any:
        return run_async(main())

    def _async_client(self, port: int, case: Case) -> Any:
        from pyf.station import aio

        return aio.StationClient(HOST, port, True)

    def there(self, port: int, case: Case) -> Any:
        async def main() -> Any:
            async with self._async_client(port, case) as client:
                return await shipped(client, case)

        return self._run(main)

    def _summed(self, port: int, case: Case, flow: Any, header: dict[str, Any]) -> Any:
        async def main() -> int:
            found = 0
            async with self._async_client(port, case) as client:
                async for value in client.call(flow, header=header):
                    if value is not True and "num" in value:
                        found += value["num"]
            return found

        return self._run(main)

    def back(self, port: int, case: Case) -> Any:
        return self._summed(port, case, (), {"shape": case.shape, "count": case.count})

    def both(self, port: int, case: Case) -> Any:
        return self._summed(port, case, case.packets(), {})

    def flows(self, port: int, case: Case) -> Any:
        return self._run(lambda: self._many(port, case))

    async def _many(self, port: int, case: Case) -> int:
        import asyncio

        async with self._async_client(port, case) as client:
            jobs = (shipped(client, part(case)) for _ in range(case.flows))
            return sum(await asyncio.gather(*jobs))

    def trip(self, port: int, case: Case) -> Any:
        packet = next(case.packets())

        async def main() -> list[float]:
            async with (
                self._async_client(port, case) as client,
                client.open(header={}) as flow,
            ):

                async def step() -> None:
                    await flow.send(packet)
                    assert await flow.receive() == packet

                found = await timed_async(step, case.count)
                await flow.end()
                return found

        return self._run(main)

    def again(self, port: int, case: Case) -> Any:
        packet = next(case.packets())

        async def main() -> list[float]:
            async with self._async_client(port, case) as client:

                async def step() -> None:
                    assert await client.send([packet], header={"action": "sum"}) == 0

                return await timed_async(step, case.count)

        return self._run(main)

    def call(self, port: int, case: Case) -> Any:
        packet = next(case.packets())

        async def step() -> None:
            async with self._async_client(port, case) as client:
                assert await client.send([packet], header={"action": "sum"}) == 0

        return self._run(lambda: timed_async(step, case.count))

    def pace(self, port: int, case: Case) -> Any:
        async def main() -> dict[str, float]:
            async with self._async_client(port, case) as client:
                return dict(await client.send(paced(case), header={}))

        return self._run(main)


async def shipped(client: Any, case: Case) -> Any:
    values: AsyncIterator[Any] = client.call(case.packets(), header={})
    last: Any = None
    async for value in values:
        last = value
    return last.message


class TwistedStation(AsyncStation):
    """The Twisted client."""

    def _async_client(self, port: int, case: Case) -> Any:
        from pyf.station import tx

        return tx.StationClient(HOST, port, True)

    def _run(self, main: Callable[[], Awaitable[Any]]) -> Any:
        from twisted.internet import reactor
        from twisted.internet.defer import ensureDeferred

        loop: Any = reactor
        found: list[Any] = []

        async def running() -> None:
            try:
                found.append(await main())
            finally:
                loop.crash()  # to be run again; stop() is for good

        loop.callWhenRunning(lambda: ensureDeferred(running()))
        loop.run(installSignalHandlers=False)
        return found[0]

    async def _many(self, port: int, case: Case) -> int:
        from twisted.internet.defer import ensureDeferred, gatherResults

        async with self._async_client(port, case) as client:
            jobs = [ensureDeferred(shipped(client, part(case))) for _ in range(case.flows)]
            return sum(await gatherResults(jobs))


OPTIONAL: dict[str, Callable[[], Station]] = {
    "aio": lambda: AsyncStation(
        "station-asyncio",
        "PyF.Station, asyncio client",
        "`async for value in client.call(packets)`, one connection; the handler in a thread.",
        IN_THREAD,
    ),
    "tx": lambda: TwistedStation(
        "station-twisted",
        "PyF.Station, Twisted client",
        "The same with the Twisted client.",
        IN_THREAD,
    ),
}


def exists(module: str) -> bool:
    return find_spec(f"{pyf.station.__name__}.{module}") is not None


CONTESTANTS = (
    Station(
        "station",
        "PyF.Station",
        "`for value in client.call(packets)`, and `for packet in flow` in a handler in a thread.",
        IN_THREAD,
    ),
    Station(
        "station-coroutine",
        "PyF.Station, coroutine handler",
        "The same, with `async for packet in flow` in a handler on the reactor.",
        ON_REACTOR,
    ),
    SurvivingStation(
        "station-resume",
        "PyF.Station, resume=True",
        "The same as the first, with flows that survive their connection; nothing is cut.",
        {kind: IN_THREAD[kind] for kind in ("there", "back", "both")},
    ),
    *(make() for module, make in OPTIONAL.items() if exists(module)),
)
