"""Threads for what may block: a handler of the server's, a source of an async client's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from pyf.station.relay import RelayQueue

Job = Callable[[], object]
"""What a thread does; it raises nothing."""

LOOK: Final = 0.01
"""Seconds between looks at how busy this process is."""


class Worker:
    """A thread for one user after another."""

    def __init__(self, home: Workers, name: str) -> None:
        self._home = home
        self._jobs: RelayQueue[Job | None] = RelayQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Job) -> None:
        """Have *job* done behind those before."""
        self._jobs.put(job)

    def release(self) -> None:
        """Need it no more, once all jobs are done."""
        self._jobs.put(partial(self._home.rest, self))

    def end(self) -> None:
        """End the thread, once all jobs are done."""
        self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            job()
            del job  # It would keep what it is about as long as the thread waits.


class Slots:
    """So many may be at work at once; others wait, in the order in which they came. For one thread.

    Of threads that run Python, more would only wait for each other, and keep the loop waiting.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[Callable[[], object]] = deque()

    def take(self, then: Callable[[], object]) -> bool:
        """Take a slot; or return False, and have *then* called, to try again, once one is free."""
        if self._free <= 0:
            self._waiting.append(then)
            return False
        self._free -= 1
        return True

    def give(self) -> None:
        """Give a slot back, to those that wait."""
        self._free += 1
        while self._free > 0 and self._waiting:
            self._waiting.popleft()()


class ElasticSlots(Slots):
    """Slots for threads that may wait in the middle: more, up to *most*, where a core is idle.

    As many as keep half of it busy, *least* in any case: behind that many threads that compute, the
    next would only wait. *clock* and *used* tell the time, and how much of it this process had.
    """

    def __init__(
        self,
        least: int,
        most: int,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        super().__init__(least)
        self._count = self._least = least
        self._most = most
        self._clock = clock
        self._used = used
        self._looked, self._had = clock(), used()

    def give(self) -> None:
        """Give a slot back, and perhaps one more, to those that wait."""
        now = self._clock()
        if (elapsed := now - self._looked) >= LOOK:
            had = self._used()
            idle = had - self._had < elapsed / 2
            self._looked, self._had = now, had
            count = min(self._count + 1, self._most) if idle else max(self._count - 1, self._least)
            self._free += count - self._count
            self._count = count
        super().give()


class Workers:
    """As many threads as are needed at once; *idle* of them wait for their next user.

    They are daemons: one that blocks for ever must not keep the process. Callable from any thread.
    """

    def __init__(self, name: str, idle: int) -> None:
        self._name = name
        self._most_idle = idle
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._closed = False

    def take(self) -> Worker:
        """Return a thread for one user. Raises RuntimeError where the system has none."""
        with self._lock:
            self._closed = False
            if self._idle:
                return self._idle.pop()
        return Worker(self, self._name)

    def do(self, job: Job) -> None:
        """Have *job* done at once, in a thread. Raises RuntimeError where the system has none."""
        worker = self.take()
        worker.do(partial(self._do_and_rest, worker, job))

    def _do_and_rest(self, worker: Worker, job: Job) -> None:
        job()
        self.rest(worker)

    def rest(self, worker: Worker) -> None:
        """Take back a worker that has nothing to do."""
        with self._lock:
            if not self._closed and len(self._idle) < self._most_idle:
                self._idle.append(worker)
                return
        worker.end()

    def close(self) -> None:
        """End all threads, once they have nothing to do."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()
