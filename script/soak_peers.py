"""The check of the soak that has hostile peers."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

from soak_tools import Progress, serving

from pyf.transport import Connection, Limits, Role

HOST = "127.0.0.1"
DEADLINE = Limits().handshake_timeout
LATE = 5.0
MOST = 0.1


def slow_loris(progress: Progress) -> tuple[str, bool]:
    """Peers that send a byte of a HELLO now and then, while an honest one connects and connects."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = get_context("spawn")
    answers, over = context.SimpleQueue(), context.Event()

    async def run(port: int) -> list[float]:
        peers = []
        for step in progress.steps(100):
            peers += [asyncio.create_task(_slow_peer(port)) for _ in range(step)]
            await asyncio.sleep(0.1)  # 1,000 a second: it is not the backlog that is asked
        return list(await asyncio.gather(*peers))

    with serving("coroutine") as (port, _):
        honest = context.Process(target=_connect, args=(port, answers, over), daemon=True)
        honest.start()
        lasted = progress.run(run(port))
        over.set()
        seconds = sorted(answers.get())
        honest.join()
    p99 = seconds[int(0.99 * len(seconds))]
    text = (
        f"the last was gone {max(lasted) - DEADLINE:.1f} s after its deadline;"
        f" p99 of {len(seconds)} honest connects {1000 * p99:.1f} ms"
    )
    return text, max(lasted) <= DEADLINE + LATE and p99 <= MOST


async def _slow_peer(port: int) -> float:
    """Send a byte a second; return after how many seconds the server has gone."""
    reader, writer = await asyncio.open_connection(HOST, port)
    began = time.monotonic()
    word = bytes(_hello()[0][:1])
    with suppress(ConnectionError):
        while not reader.at_eof():
            writer.write(word)
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1 << 16), 1.0)
    writer.close()
    return time.monotonic() - began


def _hello() -> list[bytes]:
    return Connection(Role.CLIENT).data_to_send()


def _connect(port: int, answers: Any, over: Any) -> None:
    """Connect and be greeted, again and again, until it is *over*; put how long each took."""
    seconds = []
    while not over.is_set():
        began = time.monotonic()
        with socket.create_connection((HOST, port)) as sock:
            sock.sendall(b"".join(_hello()))
            assert sock.recv(1 << 16)
        seconds.append(time.monotonic() - began)
        time.sleep(0.01)
    answers.put(seconds)
