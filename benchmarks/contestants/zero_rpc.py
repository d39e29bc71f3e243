"""zerorpc: streams of packets, and remote calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zerorpc

from benchmarks.cases import SHAPES, Case, total
from benchmarks.contestant import HOST, Contestant, announce, free_port, timed


class Remote:
    def __init__(self, case: Case) -> None:
        self._case = case
        self._sum = 0

    def take(self, packet: dict[str, Any]) -> None:
        self._sum += packet["num"]

    def end(self) -> int:
        found, self._sum = self._sum, 0
        return found

    @zerorpc.stream
    def packets(self, count: int) -> Iterator[dict[str, Any]]:
        return SHAPES[self._case.shape].packets(count)

    def echo(self, packet: dict[str, Any]) -> dict[str, Any]:
        return packet


class ZeroRpc(Contestant):
    name = "zerorpc"
    title = "zerorpc"
    how = "Its streams, which go only from a server to its client: that counts for both ways."
    shapes = ("plain", "wide", "nested")

    def _client(self, port: int) -> Any:
        return zerorpc.Client(f"tcp://{HOST}:{port}", heartbeat=None)

    def back(self, port: int, case: Case) -> int:
        return total(self._client(port).packets(case.count))

    there = back

    def trip(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())
        client = self._client(port)

        def step() -> None:
            assert client.echo(packet) == packet

        return timed(step, case.count)

    def call(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())

        def step() -> None:
            client = self._client(port)
            client.take(packet)
            assert client.end() == 0
            client.close()

        return timed(step, case.count)

    def serve(self, case: Case) -> None:
        port = free_port()
        server = zerorpc.Server(Remote(case), heartbeat=None)
        server.bind(f"tcp://{HOST}:{port}")
        announce(port)
        server.run()


CONTESTANTS = (ZeroRpc(),)
