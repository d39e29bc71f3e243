"""What the asyncio and the Twisted client are: calls and conversations over one connection.

The coroutines run in any event loop that comes as a :class:`~pyf.station.multiplex.Loop`.
"""

from __future__ import annotations

import random
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from pyf.station.base import BaseClient, check_call, not_a_flow
from pyf.station.coflow import Call, CallRun
from pyf.station.joint import Joint
from pyf.station.length import known_length
from pyf.station.loop import Loop
from pyf.station.multiplex import Multiplex
from pyf.station.pump import INSTANT, Inline, IteratorPump, Pump, TaskPump, Worker
from pyf.station.stream import Stream
from pyf.station.tls import ClientTls, Paths, TlsPipe, client_context
from pyf.station.trunk import Trunk
from pyf.transport import Limits


class CoClient(BaseClient):
    """What the asyncio and the Twisted client share. For the loop's thread, but for listeners."""

    def __init__(
        self,
        host: str,
        port: int,
        waits_for_success: bool,
        *,
        tls: ClientTls,
        certificate: Paths | None,
        limits: Limits | None,
        rng: Callable[[], float] | None,
    ) -> None:
        super().__init__(host, port, waits_for_success, limits=limits)
        self._tls = client_context(tls, certificate)
        self._rng = rng or random.random

    @property
    @abstractmethod
    def _trunk(self) -> Trunk:
        """The connection, in the loop that this is called in."""

    @abstractmethod
    async def _dial(self, trunk: Trunk) -> Multiplex:
        """Return a new connection. Raises ConnectFailed."""

    def _joint(self, trunk: Trunk) -> Joint:
        """Return what joins a new transport to the flows."""
        return Joint(trunk, TlsPipe(self._tls, self.host) if self._tls is not None else None)

    def _iterate(
        self, loop: Loop, stream: Stream, source: Iterator[Any], worker: Worker | Inline
    ) -> Pump:
        """Return what takes the packets of an iterator."""
        return IteratorPump(loop, stream, source, worker)

    def _new_trunk(self, loop: Loop) -> Trunk:
        trunk = Trunk(loop, self.limits, self._dial, self._rng)
        # Without a close(), too, its threads end.
        weakref.finalize(self, trunk.workers.close)
        return trunk

    def _call(
        self,
        flow: Any,
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        waits: bool,
        resume: bool,
    ) -> Call:
        check_call(header, timeout)
        refused = isinstance(flow, str | bytes | bytearray | Mapping)
        if refused or not isinstance(flow, Iterable | AsyncIterable):
            raise not_a_flow(flow, "an iterable or async iterable")

        trunk = self._trunk

        def pump(stream: Stream) -> Pump:
            if isinstance(flow, AsyncIterable):
                return TaskPump(trunk.loop, stream, flow)
            worker = Inline() if type(flow) in INSTANT else trunk.workers.take()
            return self._iterate(trunk.loop, stream, iter(flow), worker)

        run = CallRun(*(trunk, self._notify, pump, header, timeout), waits=waits, resume=resume)
        run.progress.length_hint = known_length(flow)
        return Call(run.steps(), run)

    async def _send(
        self, flow: Any, header: dict[str, Any] | None, timeout: float | None, *, resume: bool
    ) -> Any:
        last: Any = None
        async for value in self._call(flow, header, timeout, waits=True, resume=resume):
            last = value
        return last["message"]

    async def _close(self) -> None:
        await self._trunk.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()
