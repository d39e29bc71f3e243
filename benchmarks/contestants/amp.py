"""Twisted AMP: a command for each packet, several on their way at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, ensureDeferred, gatherResults
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
)
from twisted.internet.protocol import Factory
from twisted.protocols import amp

from benchmarks.cases import Case
from benchmarks.contestant import HOST, Contestant, announce, timed_async

PLAIN: list[tuple[bytes, Any]] = [
    (b"Field1", amp.Integer()),
    (b"Field2", amp.Unicode()),
    (b"num", amp.Integer()),
    (b"Field3", amp.Integer()),
]
AT_ONCE = 500  # commands whose answers have not come yet
PIECE = 32 * 1024  # of 64 KiB: a value has less than that in AMP


class Take(amp.Command):
    arguments = PLAIN
    requiresAnswer = False  # noqa: N815 - AMP's name


class TakePiece(amp.Command):
    arguments = [(b"num", amp.Integer()), (b"data", amp.String())]  # noqa: RUF012 - AMP's own way
    requiresAnswer = False  # noqa: N815 - AMP's name


class End(amp.Command):
    response = [(b"total", amp.Integer())]  # noqa: RUF012 - AMP's own way


class Echo(amp.Command):
    arguments = PLAIN
    response = PLAIN


class Server(amp.AMP):
    total = 0

    @Take.responder
    def take(self, num: int, **_: Any) -> dict[str, Any]:
        self.total += num
        return {}

    @TakePiece.responder
    def take_piece(self, num: int, data: bytes) -> dict[str, Any]:
        self.total += num
        return {}

    @End.responder
    def end(self) -> dict[str, Any]:
        found, self.total = self.total, 0
        return {"total": found}

    @Echo.responder
    def echo(self, **packet: Any) -> dict[str, Any]:
        return packet


class Amp(Contestant):
    name = "amp"
    title = "Twisted AMP"
    how = "A command for each packet, without an answer; 64 KiB as two values."
    shapes = ("plain", "bulk")

    def _run(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        from twisted.internet import reactor

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

    async def _connect(self, port: int) -> Any:
        from twisted.internet import reactor

        return await connectProtocol(TCP4ClientEndpoint(reactor, HOST, port), amp.AMP())

    def there(self, port: int, case: Case) -> Any:
        return self._run(lambda: self._there(port, case))

    async def _there(self, port: int, case: Case) -> int:
        peer = await self._connect(port)
        for number, packet in enumerate(case.packets(), 1):
            if case.shape == "bulk":
                peer.callRemote(TakePiece, num=packet["num"], data=packet["data"][:PIECE])
                peer.callRemote(TakePiece, num=0, data=packet["data"][PIECE:])
            else:
                peer.callRemote(Take, **packet)
            if number % AT_ONCE == 0:
                await turn()  # the reactor writes
        return int((await peer.callRemote(End))["total"])

    def both(self, port: int, case: Case) -> Any:
        async def main() -> int:
            peer = await self._connect(port)
            free = DeferredSemaphore(AT_ONCE)
            found = 0

            def add(packet: dict[str, Any]) -> None:
                nonlocal found
                found += packet["num"]
                free.release()

            for packet in case.packets():
                await free.acquire()
                peer.callRemote(Echo, **packet).addCallback(add)
            await gatherResults([free.acquire() for _ in range(AT_ONCE)])
            return found

        return self._run(main)

    def trip(self, port: int, case: Case) -> Any:
        packet = next(case.packets())

        async def main() -> list[float]:
            peer = await self._connect(port)

            async def step() -> None:
                assert await peer.callRemote(Echo, **packet) == packet

            return await timed_async(step, case.count)

        return self._run(main)

    def call(self, port: int, case: Case) -> Any:
        packet = next(case.packets())

        async def step() -> None:
            peer = await self._connect(port)
            peer.callRemote(Take, **packet)
            assert (await peer.callRemote(End))["total"] == 0
            peer.transport.loseConnection()

        return self._run(lambda: timed_async(step, case.count))

    def serve(self, case: Case) -> None:
        from twisted.internet import reactor

        loop: Any = reactor
        endpoint: Any = TCP4ServerEndpoint(loop, 0, interface=HOST)
        listening = endpoint.listen(Factory.forProtocol(Server))
        listening.addCallback(lambda port: announce(port.getHost().port))
        loop.run()


def turn() -> Deferred[None]:
    """Return what fires in the reactor's next turn."""
    from twisted.internet import reactor, task

    loop: Any = reactor
    return task.deferLater(loop, 0)


CONTESTANTS = (Amp(),)
