"""Pyro5: streams of packets, and remote calls, by its msgpack serializer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import Pyro5.api

from benchmarks.cases import SHAPES, Case, total
from benchmarks.contestant import HOST, Contestant, announce, timed

Pyro5.api.config.SERIALIZER = "msgpack"


@Pyro5.api.expose
@Pyro5.api.behavior(instance_mode="single")
class Remote:
    case: Case

    def __init__(self) -> None:
        self._sum = 0

    def take(self, packet: dict[str, Any]) -> None:
        self._sum += packet["num"]

    def end(self) -> int:
        found, self._sum = self._sum, 0
        return found

    def packets(self, count: int) -> Iterator[dict[str, Any]]:
        return SHAPES[self.case.shape].packets(count)

    def echo(self, packet: dict[str, Any]) -> dict[str, Any]:
        return packet


class Pyro(Contestant):
    name = "pyro5"
    title = "Pyro5"
    how = (
        "Its msgpack serializer, and its iterator streaming, which goes only from a server to its"
        " client: that counts for both ways."
    )
    shapes = ("plain", "wide", "nested", "bulk")

    def _proxy(self, port: int) -> Any:
        return Pyro5.api.Proxy(f"PYRO:benchmark@{HOST}:{port}")

    def back(self, port: int, case: Case) -> int:
        with self._proxy(port) as proxy:
            return total(proxy.packets(case.count))

    there = back

    def trip(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())
        with self._proxy(port) as proxy:

            def step() -> None:
                assert proxy.echo(packet) == packet

            return timed(step, case.count)

    def call(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())

        def step() -> None:
            with self._proxy(port) as proxy:
                proxy.take(packet)
                assert proxy.end() == 0

        return timed(step, case.count)

    def serve(self, case: Case) -> None:
        Remote.case = case
        daemon = Pyro5.api.Daemon(HOST)
        daemon.register(Remote, "benchmark")
        announce(int(daemon.locationStr.rpartition(":")[2]))
        daemon.requestLoop()


CONTESTANTS = (Pyro(),)
