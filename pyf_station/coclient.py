"""What the asyncio and the Twisted client are: calls and conversations over one connection.

The coroutines run in any event loop that comes as a :class:`~pyf.station.multiplex.Loop`.
"""

from __future__ import annotations

import random
import weakref
from abc import abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

from pyf.station.base import BaseClient, check_call, not_a_flow
from pyf.station.burst import INSTANT
from pyf.station.coflow import Call
from pyf.station.corun import CallRun, InterceptedRun, PersistentRun, Run
from pyf.station.counts import Progress
from pyf.station.intercept import Interceptor, Lift, checked
from pyf.station.intercepted import interception
from pyf.station.joint import Joint
from pyf.station.length import known_length
from pyf.station.loop import Loop
from pyf.station.multiplex import Multiplex
from pyf.station.pump import Inline, IteratorPump, Pump, TaskPump
from pyf.station.resuming import Persistence
from pyf.station.stream import Stream
from pyf.station.tls import ClientTls, Paths, TlsPipe, client_context
from pyf.station.trunk import Trunk
from pyf.station.workers import Worker
from pyf.transport import Limits

Talk = TypeVar("Talk")


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
        interceptors: Sequence[Interceptor],
        limits: Limits | None,
        rng: Callable[[], float] | None,
    ) -> None:
        super().__init__(host, port, waits_for_success, limits=limits)
        self._tls = client_context(host, tls, certificate)
        self._interceptors = checked(interceptors)
        self._peer = self.host, self.port
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
        self, trunk: Trunk, stream: Stream, source: Iterator[Any], worker: Worker | Inline
    ) -> Pump:
        """Return what takes the packets of an iterator."""
        return IteratorPump(trunk.loop, stream, source, worker, trunk.slots)

    _lift: Lift | None = None
    """As for an interceptor's Pipe."""

    def _new_trunk(self, loop: Loop) -> Trunk:
        trunk = Trunk(loop, self.limits, self._dial, self._rng)
        # Without a close(), too, its threads end.
        weakref.finalize(self, trunk.workers.close)
        return trunk

    def _call(self, *args: Any, waits: bool, **options: Any) -> Call:
        return Call(*self._run(*args, waits=waits, **options))

    def _run(
        self,
        flow: Any,
        header: dict[str, Any] | None,
        timeout: float | None,
        resume: bool,
        flow_id: str | None,
        *,
        waits: bool,
    ) -> tuple[Run, Progress]:
        check_call(header, timeout)
        trunk, progress = self._trunk, Progress()
        options: dict[str, Any] = {"progress": progress, "waits": waits, "resume": resume}
        if flow_id is None:
            _check_flow(flow)
            progress.length_hint = known_length(flow)
        elif callable(flow):
            options |= {"resume": True, "name": flow_id}
        else:
            raise TypeError("with flow_id=, a flow is a function of the packet to start with")

        def begin(header: Any, through: Callable[[Any], Any]) -> Run:
            def pump(stream: Stream) -> Pump:
                made = flow if flow_id is None else flow(stream.start)
                return self._pump(trunk, stream, made, through)

            def run(left: float | None) -> Run:
                return CallRun(trunk, self._notify, pump, header, left, **options)

            if flow_id is None:
                return run(timeout)
            persistence = Persistence(progress, timeout, self._rng, trunk.loop.clock)
            return PersistentRun(trunk.loop, persistence, run)

        if not self._interceptors:
            return begin(header, _same), progress
        seen = interception(self._peer, header, progress, self._lift)
        return InterceptedRun(self._interceptors, seen, progress, begin), progress

    def _pump(self, trunk: Trunk, stream: Stream, flow: Any, through: Callable[[Any], Any]) -> Pump:
        if type(flow) in INSTANT:
            return self._iterate(trunk, stream, through(iter(flow)), Inline())
        _check_flow(flow)
        if isinstance(flow, AsyncIterable):
            return TaskPump(trunk.loop, stream, through(flow))
        return self._iterate(trunk, stream, through(iter(flow)), trunk.workers.take())

    async def _send(
        self,
        flow: Any,
        header: dict[str, Any] | None,
        timeout: float | None,
        resume: bool,
        flow_id: str | None,
    ) -> Any:
        run, _ = self._run(flow, header, timeout, resume, flow_id, waits=True)
        last: Any = await run.finish()
        return last["message"]

    def _open(
        self,
        make: Callable[..., Talk],
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        resume: bool,
    ) -> Talk:
        inside: dict[str, Any] = {"interceptors": self._interceptors, "peer": self._peer}
        return make(self._trunk, self._notify, header, timeout, resume=resume, **inside)

    async def _close(self) -> None:
        await self._trunk.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()


def _same(source: Any) -> Any:
    return source


def _check_flow(flow: object) -> None:
    if type(flow) in INSTANT:
        return
    refused = isinstance(flow, str | bytes | bytearray | Mapping)
    if refused or not isinstance(flow, Iterable | AsyncIterable):
        raise not_a_flow(flow, "an iterable or async iterable")
