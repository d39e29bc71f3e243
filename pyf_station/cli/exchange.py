"""One flow to a server, and what comes back to stdout: at once, whatever the input does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

from pyf.station import ndjson
from pyf.station.aio import StationClient
from pyf.station.cli import meter
from pyf.station.cli.common import standard
from pyf.station.cli.source import Source
from pyf.transport import Packet

UNWRITTEN: Final = 1024 * 1024
"""Bytes that may wait for a slow reader of stdout, and as many that are being written. Then what
comes back waits in the flow's window, and the handler behind that."""


def ship(
    client: StationClient,
    flow: Any,
    header: Packet | None,
    timeout: float | None,
    progress: bool | None,
) -> None:
    """Send *flow* and write what comes back, the success last. Ctrl-C cancels the flow."""
    asyncio.run(_ship(client, flow, header, timeout, progress))


async def _ship(
    client: StationClient,
    flow: Any,
    header: Packet | None,
    timeout: float | None,
    progress: bool | None,
) -> None:
    task: Any = asyncio.current_task()
    if isinstance(flow, Source):
        flow.check_end = partial(_check_end, asyncio.get_running_loop(), task)
    wanted = meter.is_wanted(flow) if progress is None else progress
    clear = meter.CLEAR if wanted and standard("stdout").isatty() else ""
    async with Output(clear) as output, client, client.call(flow, header, timeout) as call:
        with meter.metering(call, flow, wanted):
            async for value in call:
                if value is not True:
                    await output.write(value)


def _check_end(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """Raise CancelledError if Ctrl-C came before the input ended, in the thread that reads it.

    It has ended who wrote the input, too: what there is of that is no whole flow.
    """
    seen = threading.Event()
    loop.call_soon_threadsafe(seen.set)  # Signals that came before have been handled then.
    seen.wait()
    if task.cancelling():
        raise asyncio.CancelledError


class Output:
    """Packets as lines of JSON on stdout, each at once; for use in ``async with``, by one task.

    *before* each of them comes what takes another line away. A thread writes them: a reader that is
    slow, a pager say, must not keep the event loop from answering the server. The task is cancelled
    where they cannot be written, and the ``with`` then raises why. It waits until all is written,
    unless it is left by a cancellation.
    """

    def __init__(self, before: str = "") -> None:
        self._before = before.encode()
        self._loop = asyncio.get_running_loop()
        # Unbuffered: as Python exits, the thread must not hold the lock of a buffer.
        stdout = standard("stdout")
        self._out: Any = getattr(stdout, "raw", stdout)
        self._lines = bytearray()
        self._batches: SimpleQueue[bytearray] = SimpleQueue()
        self._writing = False
        self._failure: OSError | None = None
        self._eased = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None

    async def write(self, packet: dict[str, Any]) -> None:
        """Have *packet* written; wait while too much is unwritten."""
        self._lines += self._before + ndjson.dumps(packet).encode() + b"\n"
        self._hand_over()
        await self._until(lambda: len(self._lines) < UNWRITTEN)

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        # A daemon: a reader that never reads must not keep the process.
        threading.Thread(target=self._work, name="pyf.station-output", daemon=True).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if self._failure is not None and task is not None:
            task.uncancel()
            raise self._failure from None
        try:
            if not isinstance(error, asyncio.CancelledError):
                await self._until(lambda: not self._writing)
        finally:
            self._batches.put(bytearray())

    async def _until(self, eased: Callable[[], bool]) -> None:
        while not eased():
            self._eased.clear()
            await self._eased.wait()
            if self._failure is not None and self._task is None:
                raise self._failure

    def _hand_over(self) -> None:
        """Give what is there to the thread, unless it writes."""
        if self._lines and not self._writing:
            self._writing = True
            self._batches.put(self._lines)
            self._lines = bytearray()

    def _written(self, failure: OSError | None) -> None:
        self._writing = False
        self._failure = failure
        if failure is None:
            self._hand_over()
        elif self._task is not None:
            self._task.cancel()
        self._eased.set()

    # In the thread

    def _work(self) -> None:
        failure = None
        while failure is None and (batch := self._batches.get()):
            failure = _write(self._out, batch)
            with suppress(RuntimeError):  # The loop has been closed: nobody waits.
                self._loop.call_soon_threadsafe(self._written, failure)


def _write(out: Any, data: bytearray) -> OSError | None:
    """Write all of *data*; return what went wrong."""
    left = memoryview(data)
    try:
        while left:
            left = left[out.write(left) :]
    except OSError as error:
        error.filename = "stdout"
        return error
    return None
