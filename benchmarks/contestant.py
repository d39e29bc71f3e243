"""What every contestant is: a server, and a client with a method for each kind of case."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.cases import CHUNK, Case

HOST = "127.0.0.1"
LENGTH = struct.Struct("!I")


class Contestant(ABC):
    """Something that ships packets.

    A subclass has a method for each kind of case that it knows:

    - ``there(port, case)``: send ``case.packets()``, return the sum that the server made of them;
    - ``back(port, case)``: have the server send ``case.count`` packets, return their sum;
    - ``both(port, case)``: send packets which the server sends back at once, return their sum;
    - ``flows(port, case)``: as ``there``, in ``case.flows`` flows at once;
    - ``trip(port, case)``: send ``case.count`` packets, each once the last one has come back;
      return the seconds that each took;
    - ``call(port, case)``: connect, send a header and one packet, hear of success, and close,
      ``case.count`` times; return the seconds of each;
    - ``again(port, case)``: as ``call``, on a connection that exists;
    - ``file(port, case)``: send a file of ``case.count`` bytes, return how many the server wrote;
    - ``pace(port, case)``: send packets at ``case.rate``, return figures of their delays.

    ``serve(case)`` serves the case until it is killed, and says by ``announce`` where.
    """

    name = ""
    title = ""
    how = ""
    """How it is used here, in a sentence."""
    shapes: tuple[str, ...] = ("plain", "bulk", "texts", "wide", "nested", "typed")
    tls = False
    """Whether it knows TLS here."""

    def plays(self, case: Case) -> bool:
        """Return whether this takes part in *case*."""
        return hasattr(self, case.kind) and case.shape in self.shapes and case.tls <= self.tls

    @abstractmethod
    def serve(self, case: Case) -> None: ...


def announce(port: int, *processes: int) -> None:
    """Tell the driver the port, and the processes that do the serving beside this one."""
    print(port, os.getpid(), *processes, flush=True)


def timed(step: Callable[[], object], count: int) -> list[float]:
    """Return the seconds of each of *count* times *step*."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        found.append(time.perf_counter() - began)
    return found


async def timed_async(step: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """As ``timed``, for a coroutine function."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        await step()
        found.append(time.perf_counter() - began)
    return found


def listener() -> socket.socket:
    """Return a listening socket, and announce it."""
    sock = socket.create_server((HOST, 0), backlog=1024)
    announce(sock.getsockname()[1])
    return sock


def connected(port: int) -> socket.socket:
    return tuned(socket.create_connection((HOST, port)))


def tuned(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def free_port() -> int:
    """Return a port for those that cannot tell which one the system gave them."""
    with socket.create_server((HOST, 0)) as sock:
        return int(sock.getsockname()[1])


def await_port(port: int) -> None:
    """Wait until somebody listens there."""
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
            return
        time.sleep(0.01)


def in_thread(function: Callable[..., object], *args: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def part(case: Case) -> Case:
    """Return what one of the flows at once ships."""
    return replace(case, count=case.count // case.flows)


def at_once(ship: Callable[[Case], int], case: Case) -> int:
    """Ship the parts of *case* by *ship*, each in a thread of its own; return the sum.

    None begins before all can: busy threads would keep others from being started at all.
    """
    threading.stack_size(256 * 1024)  # a thousand threads are no matter of memory
    all_there = threading.Barrier(case.flows)

    def ship_with_others(flow: Case) -> int:
        all_there.wait()
        return ship(flow)

    with ThreadPoolExecutor(case.flows) as pool:
        return sum(pool.map(ship_with_others, repeat(part(case), case.flows)))


def run_async(main: Awaitable[Any]) -> Any:
    async def running() -> Any:
        return await main

    return asyncio.run(running())


def folder() -> Path:
    """Return where files are copied from and to: in memory, where the system has such a place."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))


def source_file(size: int) -> Path:
    path = folder() / "source"
    block = os.urandom(CHUNK)
    with path.open("wb") as file:
        while (left := size - file.tell()) > 0:
            file.write(block[:left])
    return path


def remove(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
