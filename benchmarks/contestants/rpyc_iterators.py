"""rpyc: the server iterates over the client's generator, item by item or with buffiter."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import rpyc
from rpyc.utils.helpers import buffiter
from rpyc.utils.server import ThreadedServer

from benchmarks.cases import SHAPES, Case, total
from benchmarks.contestant import HOST, Contestant, announce, timed

# Its brine ships no dicts by value, so their items go as tuples, without pickle.
CONFIG = {"allow_public_attrs": True}


def as_items(packets: Iterable[dict[str, Any]]) -> Iterable[tuple[Any, ...]]:
    return (tuple(packet.items()) for packet in packets)


class Service(rpyc.Service):
    def __init__(self, shape: str, *, buffered: bool) -> None:
        self._shape = shape
        self._iterate = partial(buffiter, max_chunk=1000, factor=2) if buffered else iter

    def exposed_sum(self, flow: Any) -> int:
        return total(map(dict, self._iterate(flow)))

    def exposed_packets(self, count: int) -> Any:
        return as_items(SHAPES[self._shape].packets(count))

    def exposed_echo(self, items: Any) -> Any:
        return tuple(dict(items).items())


class Rpyc(Contestant):
    shapes = ("plain", "bulk", "wide")  # what its brine ships by value

    def __init__(self, name: str, title: str, how: str, *, buffered: bool) -> None:
        self.name, self.title, self.how = name, title, how
        self.buffered = buffered

    def plays(self, case: Case) -> bool:
        return super().plays(case) and not (self.buffered and case.kind in {"trip", "call"})

    def there(self, port: int, case: Case) -> int:
        with rpyc.connect(HOST, port, config=CONFIG) as connection:
            return int(connection.root.sum(as_items(case.packets())))

    def back(self, port: int, case: Case) -> int:
        iterate = partial(buffiter, max_chunk=1000, factor=2) if self.buffered else iter
        with rpyc.connect(HOST, port, config=CONFIG) as connection:
            return total(map(dict, iterate(connection.root.packets(case.count))))

    def trip(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())
        with rpyc.connect(HOST, port, config=CONFIG) as connection:
            echo = connection.root.echo

            def step() -> None:
                assert dict(echo(tuple(packet.items()))) == packet

            return timed(step, case.count)

    def call(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())

        def step() -> None:
            with rpyc.connect(HOST, port, config=CONFIG) as connection:
                assert connection.root.sum(as_items([packet])) == 0

        return timed(step, case.count)

    def serve(self, case: Case) -> None:
        service = rpyc.utils.helpers.classpartial(Service, case.shape, buffered=self.buffered)
        server = ThreadedServer(service, HOST, protocol_config=CONFIG, backlog=128)
        announce(server.port)
        server.start()


CONTESTANTS = (
    Rpyc("rpyc", "rpyc", "The server iterates over the client's generator.", buffered=False),
    Rpyc(
        "rpyc-buffiter", "rpyc, buffiter", "The same in chunks, by its `buffiter`.", buffered=True
    ),
)
