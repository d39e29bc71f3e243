"""The checks of the soak: what is done, how often at full scale, and what has to hold."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any, Literal, NamedTuple, cast

from soak_peers import slow_loris
from soak_tools import MIB, Line, Process, Progress, lines, packet, serving

from pyf.station import StationClient
from pyf.station.testing import ChaosProxy
from pyf.transport import ConnectionLost, Limits, Packet, StationError

ROOT = Path(__file__).resolve().parent.parent
KIB_PACKET = {"blob": bytes(1012)}
WINDOW = Limits().window_bytes
PER_LINE = 100
WAVE = 50
HEALTHY = 20_000
ROUNDS = 40
HANGS = 5.0
"""Seconds that nothing takes which does not hang."""
HOWS: tuple[Literal["fin", "rst"], ...] = ("fin", "rst")


class Finding(NamedTuple):
    """What came of a check."""

    text: str
    held: bool


def short_flows(progress: Progress) -> Finding:
    """Flows of three packets, 400 at a time on 8 connections."""
    errors = 0

    async def run(port: int) -> None:
        nonlocal errors
        connections = await lines(port, 8)
        for step in progress.steps(8 * WAVE):
            opened = [(line, _whole_flow(line)) for line in (connections * WAVE)[:step]]
            for line, flow in opened:
                errors += await line.results[flow] != len(_THREE)
                del line.results[flow]
        for line in connections:
            line.close()

    began = time.monotonic()
    with serving("coroutine") as (port, _):
        progress.run(run(port))
    rate = progress.done / (time.monotonic() - began)
    return Finding(f"{errors} errors; {rate:,.0f} flows a second", errors == 0)


_THREE = [packet(n=n) for n in range(3)]


def _whole_flow(line: Line) -> int:
    flow = line.open({"count": len(_THREE)}, _THREE)
    line.end(flow)
    return flow


def storms(progress: Progress) -> Finding:
    """Clients that connect 50 at a time: a third is served, the others reset or close mid-flow."""
    errors = 0

    async def run(port: int) -> None:
        nonlocal errors
        for step in progress.steps(WAVE):
            wave = await lines(port, step)
            whole = [(line, _whole_flow(line)) for line in wave[::3]]
            for index, line in enumerate(wave):
                if index % 3:
                    line.open({"count": 9}, _THREE)
                    (line.abort if index % 3 == 1 else line.close)()
            for line, flow in whole:
                errors += await line.results[flow] != len(_THREE)
                line.close()

    with serving("coroutine") as (port, server):
        StationClient("127.0.0.1", port).send(iter([Packet(n=1)]))
        before = server.resources
        progress.run(run(port))
        free = server.settles(before)
        StationClient("127.0.0.1", port).send(iter([Packet(n=1)]))
    text = f"{errors} errors; threads and descriptors {'free again' if free else 'leaked'}"
    return Finding(text, free and not errors)


def crowd(progress: Progress) -> Finding:
    """Coroutine flows that are open at the same time, 100 on a connection; then pings, then END."""

    async def run(port: int, server: Process) -> Finding:
        connections = await lines(port, -(-progress.count // PER_LINE))
        flows: list[tuple[Line, int]] = []
        for step in progress.steps(PER_LINE):
            line = connections[len(flows) // PER_LINE]
            flows += [(line, line.open({"count": len(_THREE)}, _THREE)) for _ in range(step)]
        await asyncio.gather(*(line.ping() for line in connections))
        pings = sorted([await line.ping() for line in connections for _ in range(10)])
        memory, p99 = server.memory, pings[int(0.99 * len(pings))]
        for line, flow in flows:
            line.end(flow)
        errors = sum([await line.results[flow] != len(_THREE) for line, flow in flows])
        for line in connections:
            line.close()
        text = f"{errors} errors; server {memory / MIB:.0f} MiB; p99 ping {1000 * p99:.1f} ms"
        return Finding(text, errors == 0 and memory <= 300 * MIB and p99 <= 0.25)  # noqa: PLR2004

    with serving("coroutine") as (port, server):
        return progress.run(run(port, server))


def stalled(progress: Progress) -> Finding:
    """Flows whose handlers never read, each offered 1 KiB packets without end; one that is read.

    That one's rate is compared with one at an idle server, in turns: other processes slow both.
    """

    async def run(port: int, idle_port: int, server: Process) -> Finding:
        loop, before = asyncio.get_running_loop(), server.memory
        connections = await lines(port, -(-progress.count // PER_LINE))
        for index, _ in enumerate(progress.steps()):
            line = connections[index // PER_LINE]
            line.offer(line.open({"action": "stall"}, []), packet(**KIB_PACKET))
        for _ in ("the server's HELLO gives more credit", "all that this allows has come"):
            await asyncio.gather(*(line.ping() for line in connections))
        grown, windows = server.memory - before, progress.done * WINDOW
        sent = sum(line.sent for line in connections) * len(packet(**KIB_PACKET))
        rate, idle_rate = await loop.run_in_executor(
            None, _rates, min(ROUNDS, progress.count // 10), port, idle_port
        )
        for line in connections:
            line.abort()
        text = (
            f"{sent / windows:.0%} of the windows was sent; memory {grown / windows:.0%} of them;"
            f" the healthy flow kept {rate / idle_rate:.0%} of its rate"
        )
        return Finding(text, grown <= 1.2 * windows and rate >= 0.9 * idle_rate)

    with serving("coroutine") as (port, server), serving("coroutine") as (idle_port, _):
        return progress.run(run(port, idle_port, server))


def _rates(rounds: int, *ports: int) -> list[float]:
    """Return the best rate of a healthy flow at each port, in packets a second."""
    best = dict.fromkeys(ports, 0.0)
    for port in ports * rounds:
        began = time.monotonic()
        StationClient("127.0.0.1", port).send(repeat(KIB_PACKET, HEALTHY))
        best[port] = max(best[port], HEALTHY / (time.monotonic() - began))
    return list(best.values())


def long_flow(progress: Progress) -> Finding:
    """One flow to a handler in a thread."""
    sizes: list[tuple[int, int]] = []
    small = {"n": 1}

    def sample(server: Process) -> Any:
        # The first tenth fills buffers and allocators: what comes then has to stay flat.
        every = max(1, progress.count // 200)
        for step in progress.steps(every):
            if 10 * progress.done >= progress.count:
                sizes.append((server.memory, Process().memory))
            yield from repeat(small, step)

    with serving("thread") as (port, server):
        client = StationClient("127.0.0.1", port, waits_for_success=True)
        began = time.monotonic()
        (last,) = deque(client.call(sample(server), header={"action": "count"}), maxlen=1)
        rate = progress.done / (time.monotonic() - began)
    swings = [(max(side) - min(side)) / MIB for side in zip(*sizes, strict=True)]
    whole = isinstance(last, Packet) and last.message == progress.done
    text = "server ±{:.1f} MiB, client ±{:.1f} MiB".format(*(swing / 2 for swing in swings))
    text = f"{'whole' if whole else 'cut'}; {text}; {rate:,.0f} packets a second"
    return Finding(text, whole and max(swings) <= 10)  # noqa: PLR2004


def cuts(progress: Progress) -> Finding:
    """A flow of 20 packets, cut at a random byte by FIN or RST, in a random direction."""
    random, tally = Random(0), {"wrong": 0, "hangs": 0, "errors": 0}  # noqa: S311 - no secret
    count = 20
    with serving("thread") as (port, server), ChaosProxy(port) as proxy:
        direct = StationClient("127.0.0.1", port)
        direct.send(iter([]), header={"action": "report"})
        before = (server.resources, Process().resources)
        for _ in progress.steps():
            way, other = random.sample([proxy.to_server, proxy.to_client], 2)
            way.how, other.cut_after_bytes = random.choice(HOWS), None
            way.cut_after_bytes = random.randrange(700)
            _cut_call(proxy.port, count, random.random() < 0.5, tally)  # noqa: PLR2004
        proxy.wait_until_idle()
        free = server.settles((before[0][0] + 64, before[0][1]))  # the pool keeps its threads
        free = Process().settles(before[1]) and free
        report = _settled_report(direct)
    truncated = report["truncated"] + tally["wrong"]
    hangs = report["handlers"] + tally["hangs"]
    text = (
        f"{truncated} silent truncations, {hangs} hangs, {'0' if free else 'some'} leaks;"
        f" {tally['errors']:,} calls failed, as they had to"
    )
    if hangs:
        print(f"{tally['hangs']} calls and {report['handlers']} handlers hang", file=sys.stderr)
    return Finding(text, free and not truncated and not hangs)


def _settled_report(client: StationClient) -> Packet:
    """Return what the server reports once no other handler runs, or one hangs."""
    until = time.monotonic() + HANGS
    while (report := client.send(iter([]), header={"action": "report"}))["handlers"]:
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return cast(Packet, report)


def _cut_call(port: int, count: int, slow: bool, tally: dict[str, int]) -> None:
    flow = (Packet(n=n, text="x" * n) for n in range(count))
    began = time.monotonic()
    try:
        client = StationClient("127.0.0.1", port)
        if slow:  # One packet to a frame.
            with client.open({"count": count}) as conversation:
                for each in flow:
                    conversation.send(each)
                value = conversation.end()
        else:
            value = client.send(flow, header={"count": count})
        tally["wrong"] += value != count
    except StationError:
        tally["errors"] += 1
    tally["hangs"] += time.monotonic() - began > HANGS


def kills(progress: Progress) -> Finding:
    """Kill -9 of the server, then of the client, in turns between packets and in a pause."""
    known: list[float] = []
    for index, _ in enumerate(progress.steps(2)):
        busy = bool(index % 2)
        known += [_killed_server(busy), _killed_client(busy)]
    worst, middle = max(known), statistics.median(known)
    text = f"known after {worst:.3f} s at most, {middle:.3f} s in the median"
    return Finding(text, worst <= 0.5)  # noqa: PLR2004


def _killed_server(busy: bool) -> float:
    with serving("thread") as (port, server), StationClient("127.0.0.1", port).open() as flow:
        flow.send({"n": 0})
        killed = 0.0

        def kill() -> None:
            nonlocal killed
            killed = time.monotonic()
            os.kill(server.pid, signal.SIGKILL)

        timer = Timer(0.05, kill)
        timer.start()
        try:
            while busy:
                flow.send({"n": 1})
            flow.receive(timeout=5)
        except ConnectionLost:
            return time.monotonic() - killed
        finally:
            timer.join()
    raise AssertionError("the client took a killed server's flow for whole")


_KILLED = """
import sys
from pyf.station import StationClient
with StationClient("127.0.0.1", int(sys.argv[1])).open() as flow:
    flow.send({"n": 0})
    print("ready", flush=True)
    while sys.argv[2] == "True":
        flow.send({"n": 1})
    sys.stdin.read()
"""


def _killed_client(busy: bool) -> float:
    with serving("thread") as (port, _):
        direct = StationClient("127.0.0.1", port)
        command = [sys.executable, "-c", _KILLED, str(port), str(busy)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as client:  # noqa: S603
            assert client.stdout is not None
            client.stdout.readline()
            killed = time.monotonic()
            client.kill()
        until = killed + 5
        while time.monotonic() < until:
            broken_at = direct.send(iter([]), header={"action": "report"})["broken_at"]
            if broken_at:
                return float(broken_at) - killed
            time.sleep(0.01)
    raise AssertionError("the server took a killed client's flow for whole")


def sequences(progress: Progress) -> Finding:
    """Sequences of moves of both machines and of the wire, against the model of a flow."""
    with ProcessPoolExecutor() as pool:
        step = 100 * (os.cpu_count() or 1)
        for size in progress.steps(step):
            numbers = range(progress.done, progress.done + size)
            list(pool.map(_play, numbers, chunksize=25))
    return Finding("0 broken promises", held=True)  # One that is broken raises.


def _play(number: int) -> None:
    folder = str(ROOT / "tests" / "transport")
    if folder not in sys.path:
        sys.path.append(folder)
    import test_model  # pyright: ignore[reportMissingImports]

    for _ in test_model.play(number):
        pass


def resumes(progress: Progress) -> Finding:
    """Flows that survive their connection: cut in memory, a fiftieth as often over TCP."""
    tests = [
        "tests/transport/test_resume.py::test_a_flow_goes_on_as_often_as_its_connection_is_lost",
        "tests/station/test_resuming.py::test_a_call_survives_as_many_cuts_as_there_are",
    ]
    survived = True
    for step in progress.steps(progress.count):
        cut = {"RESUMES": str(step), "CUTS": str(max(1, step // 50))}
        command = [sys.executable, "-m", "pytest", "-q", "-n0", "--timeout=3600", *tests]
        options = ["-o", "faulthandler_timeout=0", "-p", "no:cacheprovider"]
        done = subprocess.run(  # noqa: S603
            [*command, *options], cwd=ROOT, env=os.environ | cut, capture_output=True, check=False
        )
        if done.returncode:
            survived = False
            print(done.stdout.decode(), file=sys.stderr)
    return Finding("nothing lost, nothing twice" if survived else "a test failed", survived)


class Check(NamedTuple):
    """One row of the table."""

    what: str
    run: Callable[[Progress], Finding]
    full: int
    """How often, at full scale."""
    promise: str
    least: int = 1
    """How often, at any scale."""


CHECKS = {
    "flows": Check("short flows", short_flows, 1_000_000, "no error"),
    "storms": Check(
        "reconnects, in storms", storms, 100_000, "no error, all threads and descriptors free again"
    ),
    "crowd": Check(
        "concurrent coroutine flows",
        crowd,
        10_000,
        "no error, server ≤ 300 MiB, p99 ping ≤ 250 ms",
        PER_LINE,
    ),
    "stalled": Check(
        "flows that nobody reads",
        stalled,
        1000,
        "server within the sum of windows + 20 %, a healthy flow keeps ≥ 90 % of its rate",
        20,
    ),
    "long": Check(
        "packets in one flow", long_flow, 100_000_000, "whole, memory ±5 MiB on both sides", 100_000
    ),
    "cuts": Check(
        "random cuts of a TCP connection",
        cuts,
        10_000,
        "no silent truncation, no hang, no leak",
        20,
    ),
    "kills": Check("kill -9 of either side", kills, 200, "known to the other within 0.5 s", 4),
    "model": Check("sequences against the model", sequences, 200_000, "no broken promise", 20),
    "resumes": Check(
        "cuts of flows that survive them", resumes, 100_000, "nothing lost, nothing twice", 50
    ),
    "loris": Check(
        "peers that never finish their HELLO",
        lambda progress: Finding(*slow_loris(progress)),
        5000,
        "all gone within 5 s of their deadline, p99 of an honest connect ≤ 100 ms",
        20,
    ),
}
