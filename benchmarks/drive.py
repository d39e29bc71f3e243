"""One run of one contestant: a server process, and a client process that measures both.

As a program it is one of the two: ``drive.py serve`` or ``drive.py measure``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import contestants
from benchmarks.cases import Case
from benchmarks.contestant import Contestant
from benchmarks.statistics import spread

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 1.0
"""About how long a run takes of a contestant that is too slow for all of the case's packets."""
TIMEOUT = 600
WARM_SECONDS = 0.1
"""A warm-up is repeated with more packets until it takes this long."""
LEAST_SECONDS = 0.2
"""What takes less is done again: a single collection of garbage would be half of it."""
WARM_LEAST = 50

Figures = dict[str, float]


class Failed(Exception):
    """A run came to nothing."""


def run(contestant: Contestant, case: Case) -> Figures:
    """Return the figures of one run in fresh processes. Raises Failed."""
    command = [sys.executable, "-m", "benchmarks.drive"]
    what = [contestants.module_of(contestant), contestant.name, json.dumps(asdict(case))]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "process_group": 0}
    options["env"] = environment()
    server = subprocess.Popen([*command, "serve", *what], **options)
    try:
        assert server.stdout is not None
        place = server.stdout.readline().split()
        if not place:
            raise Failed(f"the server of {contestant.name} did not start")
        with subprocess.Popen([*command, "measure", *what, *place], **options) as client:
            try:
                output, _ = client.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                raise Failed(f"{contestant.name} took more than {TIMEOUT} s") from None
            finally:
                if client.poll() is None:
                    os.killpg(client.pid, signal.SIGKILL)
        if client.returncode:
            raise Failed(f"the client of {contestant.name} failed")
        return dict(json.loads(output.splitlines()[-1]))
    finally:
        # With the processes that it has started, such as another server.
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def environment() -> dict[str, str]:
    """Return the environment of a process that is to find the benchmarks."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def cpu_seconds(process: int) -> float:
    """CPU time of a process, with all its threads: Linux has a clock for each process."""
    return time.clock_gettime((~process << 3) | 2)


def peak_memory(process: int) -> float:
    """The largest resident size of a process so far, in MiB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    [line] = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def measure(contestant: Contestant, case: Case, port: int, servers: list[int]) -> Figures:
    """Run *case* after a warm-up, which also says how many packets it can be given."""
    step = getattr(contestant, case.kind)
    if case.kind != "pace":  # its count is its length
        rate = warm_up(step, port, case)
        if not case.exact:
            case = replace(case, count=min(case.count, max(int(rate * SECONDS), WARM_LEAST)))
    processes = [os.getpid(), *servers]
    before = sum(map(cpu_seconds, processes))
    result, seconds = elapsed(step, port, case)
    runs = 1
    while seconds < LEAST_SECONDS and isinstance(result, int):
        checked(result, case)
        result, more = elapsed(step, port, case)
        seconds, runs = seconds + more, runs + 1
    cpu = sum(map(cpu_seconds, processes)) - before
    count = runs * case.count * (2 if case.kind == "both" else 1)
    return {
        "count": case.count,
        "rate": count / seconds,
        "cpu": cpu / count * 1e6,
        "client_memory": peak_memory(processes[0]),
        "server_memory": max(map(peak_memory, servers)),
        **checked(result, case),
    }


def warm_up(step: Any, port: int, case: Case) -> float:
    """Return about how many packets a second there are."""
    warm = replace(case, count=min(WARM_LEAST * case.flows, case.count))
    while (seconds := elapsed(step, port, warm)[1]) < WARM_SECONDS and warm.count < case.count:
        warm = replace(warm, count=min(4 * warm.count, case.count))
    return warm.count / seconds


def elapsed(step: Any, port: int, case: Case) -> tuple[Any, float]:
    began = time.perf_counter()
    result = step(port, case)
    return result, time.perf_counter() - began


def checked(result: Any, case: Case) -> Figures:
    """Return the figures that the contestant itself gave; raise Failed for a wrong sum."""
    if isinstance(result, dict):
        return result
    if isinstance(result, list):
        return spread(result)
    part = replace(case, count=case.count // case.flows)
    expected = case.count if case.kind == "file" else part.sum * case.flows
    if result != expected:
        raise Failed(f"{case.name}: {result} arrived, not {expected}")
    return {}


def main(role: str, module: str, name: str, case_text: str, *place: str) -> None:
    contestant = contestants.load(module, name)
    case = Case(**json.loads(case_text))
    if case.cores is not None:
        mine = case.cores[role != "serve"]
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[mine]})
    if role == "serve":
        contestant.serve(case)
    else:
        port, *servers = map(int, place)
        print(json.dumps(measure(contestant, case, port, servers)))


if __name__ == "__main__":
    main(*sys.argv[1:])
