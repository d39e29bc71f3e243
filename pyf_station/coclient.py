"""What the asyncio and the Twisted client are: calls and conversations over one connection.

The coroutines run in any event loop that comes as a :class:`~pyf.station.multiplex.Loop`.
"""

from __future__ import annotations

import random
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Self

from pyf.station.base import BaseClient, check_call, not_a_flow
from pyf.station.coflow import Call, CallRun, PersistentRun
from pyf.station.counts import Progress
from pyf.station.joint import Joint
from pyf.station.length import known_length
from pyf.station.loop import Loop
from pyf.station.multiplex import Multiplex
from pyf.station.pump import INSTANT, Inline, IteratorPump, Pump, TaskPump, Worker
from pyf.station.resuming import Persistence
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
        resume: bool,
        flow_id: str | None,
        *,
        waits: bool,
    ) -> Call:
        check_call(header, timeout)
        trunk, progress = self._trunk, Progress()
        options: dict[str, Any] = {"progress": progress, "waits": waits, "resume": resume}
        if flow_id is not None:
            if not callable(flow):
                raise TypeError("with flow_id=, a flow is a function of the packet to start with")
            options |= {"resume": True, "name": flow_id}

            def again(left: float | None) -> CallRun:
                return CallRun(trunk, self._notify, rest, header, left, **options)

            def rest(stream: Stream) -> Pump:
                return self._pump(trunk, stream, flow(stream.start))

            persistence = Persistence(progress, timeout, self._rng, trunk.loop.clock)
            persistent = PersistentRun(trunk.loop, persistence, again)
            return Call(persistent.steps(), persistent, progress)
        _check_flow(flow)
        progress.length_hint = known_length(flow)
        pump = partial(self._pump, trunk, flow=flow)
        run = CallRun(trunk, self._notify, pump, header, timeout, **options)
        return Call(run.steps(), run, progress)

    def _pump(self, trunk: Trunk, stream: Stream, flow: Any) -> Pump:
        _check_flow(flow)
        if isinstance(flow, AsyncIterable):
            return TaskPump(trunk.loop, stream, flow)
        worker = Inline() if type(flow) in INSTANT else trunk.workers.take()
        return self._iterate(trunk.loop, stream, iter(flow), worker)

    async def _send(
        self,
        flow: Any,
        header: dict[str, Any] | None,
        timeout: float | None,
        resume: bool,
        flow_id: str | None,
    ) -> Any:
        last: Any = None
        async for value in self._call(flow, header, timeout, resume, flow_id, waits=True):
            last = value
        return last["message"]

    async def _close(self) -> None:
        await self._trunk.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()


def _check_flow(flow: object) -> None:
    refused = isinstance(flow, str | bytes | bytearray | Mapping)
    if refused or not isinstance(flow, Iterable | AsyncIterable):
        raise not_a_flow(flow, "an iterable or async iterable")
