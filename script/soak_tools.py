"""What the checks of the soak are made with: a server, its figures, many flows at once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pyf.transport import Connection, Role, encode_packet
from pyf.transport.events import CreditReceived, FlowEvent, PongReceived, ResultReceived

T = TypeVar("T")
MIB = 1024 * 1024
SETTLE = 10.0
"""Seconds in which what was used has to be free again."""
LONGEST = 60.0
"""Seconds by which a check may take longer than it was given: the last step has to end."""


class Process:
    """A process, and what the system says it uses."""

    def __init__(self, pid: int | str = "self") -> None:
        self.pid = os.getpid() if pid == "self" else int(pid)
        self._folder = Path("/proc") / str(pid)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return 1024 * self._status("VmRSS")

    @property
    def resources(self) -> tuple[int, int]:
        """Threads, and open descriptors."""
        return self._status("Threads"), sum(1 for _ in (self._folder / "fd").iterdir())

    def settles(self, before: tuple[int, int]) -> bool:
        """Wait until no more threads and descriptors are in use than *before*."""
        until = time.monotonic() + SETTLE
        while any(now > then for now, then in zip(self.resources, before, strict=True)):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def _status(self, name: str) -> int:
        text = (self._folder / "status").read_text(encoding="ascii")
        return int(text.partition(f"{name}:")[2].split()[0])


@contextmanager
def serving(kind: str) -> Generator[tuple[int, Process]]:
    """Run a server whose handlers are a *kind*; give its port, and the process."""
    command = [sys.executable, str(Path(__file__).with_name("soak_server.py")), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), Process(process.pid)
        finally:
            process.kill()


class Line(asyncio.Protocol):
    """One connection with many flows."""

    def __init__(self) -> None:
        self.results: dict[int, asyncio.Future[Any]] = {}
        self.machine = Connection(Role.CLIENT)
        self._transport: Any = None
        self._offers: dict[int, bytes] = {}
        self._pongs: deque[tuple[float, asyncio.Future[float]]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self.results.values():
            if not future.done():
                future.set_exception(exc or ConnectionError("closed"))
                future.exception()  # It need not be asked for.

    def data_received(self, data: bytes) -> None:
        self.machine.receive_data(data)
        while event := self.machine.next_event():
            if isinstance(event, PongReceived):
                began, future = self._pongs.popleft()
                future.set_result(time.monotonic() - began)
            elif isinstance(event, ResultReceived):
                value = event.value if event.status == "success" else RuntimeError(event.error)
                self.results[event.flow_id].set_result(value)
            elif isinstance(event, CreditReceived | FlowEvent):
                self._fill(event.flow_id)
        for flow in self._offers:
            self._fill(flow)
        self.flush()

    def open(self, header: dict[str, Any], packets: list[bytes]) -> int:
        """Open a flow and send *packets*, which fit into the first credit."""
        flow = self.machine.open_flow(header)
        self.results[flow] = asyncio.get_running_loop().create_future()
        self.machine.send_packets(flow, deque(packets))
        self.flush()
        return flow

    def end(self, flow: int) -> None:
        self.machine.end(flow)
        self.flush()

    def offer(self, flow: int, packet: bytes) -> None:
        """Send *packet* again and again, as far as there is credit."""
        self._offers[flow] = packet
        self._fill(flow)
        self.flush()

    def ping(self) -> asyncio.Future[float]:
        """Return the seconds that a PING takes."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._pongs.append((time.monotonic(), future))
        self.machine.ping(1)
        self.flush()
        return future

    def abort(self) -> None:
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    def flush(self) -> None:
        if out := self.machine.data_to_send():
            self._transport.writelines(out)

    @property
    def sent(self) -> int:
        """Packets sent on all offered flows."""
        return sum(self.machine.sent(flow) for flow in self._offers)

    def _fill(self, flow: int) -> None:
        if packet := self._offers.get(flow):
            room, size = self.machine.room(flow)
            count = min(room, size // len(packet))
            self.machine.send_packets(flow, deque([packet] * count))


async def lines(port: int, count: int) -> list[Line]:
    """Connect *count* times."""
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Line, "127.0.0.1", port))[1] for _ in range(count)]


class Progress:
    """How far a check is, shown in one line; it ends once its time is over."""

    def __init__(self, name: str, count: int, seconds: float) -> None:
        self.name = name
        self.count = count
        self.done = 0
        self._began = self._shown = time.monotonic()
        self._until = self._began + seconds

    def steps(self, size: int = 1) -> Iterator[int]:
        """Yield how many of at most *size* to do next, until all are done or the time is over."""
        while self.done < self.count and time.monotonic() < self._until:
            step = min(size, self.count - self.done)
            yield step
            self.tell(step)

    def run(self, check: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine; raises TimeoutError where it goes on long after the time is over."""

        async def bounded() -> T:
            return await asyncio.wait_for(check, self._until - time.monotonic() + LONGEST)

        return asyncio.run(bounded())

    def tell(self, step: int) -> None:
        """Note that *step* more are done."""
        self.done += step
        now = time.monotonic()
        if now - self._shown > (0.2 if sys.stderr.isatty() else SETTLE):
            self._shown = now
            end = "\r" if sys.stderr.isatty() else "\n"
            text = f"{self.name}: {self.done:,} of {self.count:,}, {now - self._began:.0f} s"
            print(text, end=end, file=sys.stderr, flush=True)


def packet(**fields: Any) -> bytes:
    return encode_packet(fields)
