"""Worker processes that share listening sockets, restarted when they die or their code changes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from pyf.station.cli.common import say
from pyf.station.cli.running import DRAINING, handling

PAUSE: Final = 1.0
"""Seconds before a worker that was killed is started again: one that always dies must not spin."""

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
_DELIBERATE: Final = (1, 2)
"""Exit codes of a worker that could not start, and never will as things are."""


class Supervisor:
    """Keeps *count* processes of *command*, which inherit *descriptors*.

    They have *grace* seconds to end once they are told to; then they are killed.
    """

    def __init__(
        self, command: Sequence[str], count: int, descriptors: Sequence[int], grace: float
    ) -> None:
        self._command = list(command)
        self._count = count
        self._descriptors = list(descriptors)
        self._grace = grace
        self._events: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._workers: set[subprocess.Popen[bytes]] = set()
        self._old: set[subprocess.Popen[bytes]] = set()
        self._stopped_by = 0
        self._code = 0
        self._watched: Path | None = None
        self._done = threading.Event()

    def run(self, watched: Path | None = None) -> int:
        """Run until a signal comes or no worker can start, and return the exit code.

        With *watched*, new workers take the place of the old ones when a Python file in that folder
        changes; the old ones drain meanwhile.
        """
        self._watched = watched
        leash, held = os.pipe()
        self._descriptors.append(leash)
        self._command += ["--leash", str(leash)]
        if watched is not None:
            threading.Thread(target=self._watch, args=(watched,), daemon=True).start()
        try:
            with handling(lambda number, _: self._events.put(("stop", number)), *_STOPS):
                self._start()
                while self._workers or self._old or self._awaits_change():
                    kind, value = self._events.get()
                    getattr(self, f"_on_{kind}")(value)
        finally:
            self._done.set()
            for worker in self._workers | self._old:
                worker.kill()
            os.close(leash)
            os.close(held)
        interrupted = self._stopped_by == signal.SIGINT
        return 128 + signal.SIGINT if interrupted else self._code

    def _awaits_change(self) -> bool:
        return self._watched is not None and not self._stopped_by

    def _start(self) -> None:
        while len(self._workers) < self._count:
            worker = subprocess.Popen(  # noqa: S603 - ourselves
                self._command, pass_fds=self._descriptors, stdin=subprocess.DEVNULL
            )
            self._workers.add(worker)
            threading.Thread(target=self._wait, args=(worker,), daemon=True).start()

    def _wait(self, worker: subprocess.Popen[bytes]) -> None:
        self._events.put(("exit", (worker, worker.wait())))

    def _on_exit(self, ended: tuple[subprocess.Popen[bytes], int]) -> None:
        worker, code = ended
        if worker in self._old or self._stopped_by:
            self._old.discard(worker)
            self._workers.discard(worker)
            return
        self._workers.discard(worker)
        if code not in _DELIBERATE:
            say(f"worker {worker.pid} ended with {code}: starting another one")
            threading.Timer(PAUSE, self._events.put, [("restart", None)]).start()
            self._old.add(worker)  # Until then the supervisor has something to wait for.
        elif self._watched is None:
            self._code = code
            self._on_stop(signal.SIGTERM)

    def _on_restart(self, _: object) -> None:
        self._old = {worker for worker in self._old if worker.poll() is None}
        if not self._stopped_by:
            self._start()

    def _on_change(self, names: Sequence[str]) -> None:
        say(f"{', '.join(names)} changed: starting anew")
        self._retire()
        self._start()

    def _on_stop(self, number: int) -> None:
        if self._stopped_by:
            number = signal.SIGKILL  # Asked twice: now.
        else:
            if number == signal.SIGINT:
                say(DRAINING)
            self._stopped_by = number
            timer = threading.Timer(self._grace, self._events.put, [("stop", signal.SIGKILL)])
            timer.daemon = True
            timer.start()
        self._retire(signal.SIGKILL if number == signal.SIGKILL else signal.SIGTERM)

    def _retire(self, number: int = signal.SIGTERM) -> None:
        self._old |= self._workers
        self._workers = set()
        for worker in self._old:
            worker.send_signal(number)

    def _watch(self, folder: Path) -> None:
        from watchfiles import PythonFilter, watch

        for changes in watch(folder, watch_filter=PythonFilter(), stop_event=self._done):
            names = sorted({os.path.relpath(path, folder) for _, path in changes})
            self._events.put(("change", names))
