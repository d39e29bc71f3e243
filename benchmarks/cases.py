"""What is measured, as data: shapes of packets, cases, and what is demanded of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID

Packets = Iterator[dict[str, Any]]

BLOCK = bytes(range(256)) * 256  # 64 KiB
TEXTS = [f"{i:4} " + "It was a bright cold day. " * 315 for i in range(100)]  # of 8 KiB
CHUNK = 256 * 1024  # of a file
WORDS = ("titi", "tata")
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
PRICE = Decimal("1234.56")
TOKEN = UUID("12345678-1234-5678-1234-567812345678")


def plain(count: int) -> Packets:
    for i in range(count):
        yield {"Field1": i, "Field2": WORDS[i % 2], "num": i, "Field3": i * 10}


def bulk(count: int) -> Packets:
    for i in range(count):
        yield {"num": i, "data": BLOCK}


def texts(count: int) -> Packets:
    for i in range(count):
        yield {"num": i, "text": TEXTS[i % 100]}


def wide(count: int) -> Packets:
    names = [f"Field{i}" for i in range(99)]
    for i in range(count):
        yield {"num": i} | dict.fromkeys(names, i)


def nested(count: int) -> Packets:
    for i in range(count):
        yield {
            "num": i,
            "order": {
                "customer": {"name": WORDS[i % 2], "address": {"street": "Main", "number": i}},
                "lines": [{"item": i, "count": 1}, {"item": i + 1, "count": 2}],
            },
        }


def typed(count: int) -> Packets:
    for i in range(count):
        yield {"num": i, "price": PRICE, "at": MOMENT, "token": TOKEN}


class Typed(TypedDict, total=False):
    """What a codec that does not keep types has to be told."""

    num: int
    price: Decimal
    at: datetime
    token: UUID


@dataclass(frozen=True)
class Shape:
    packets: Callable[[int], Packets]
    batch: int = 500  # packets in a batch made by hand
    schema: Any = Any


SHAPES = {
    "plain": Shape(plain),
    "bulk": Shape(bulk, batch=1),
    "texts": Shape(texts, batch=20),
    "wide": Shape(wide, batch=50),
    "nested": Shape(nested),
    "typed": Shape(typed, schema=Typed),
}


def total(packets: Iterable[Any]) -> int:
    """What the receiving side does with a packet: it sums a field."""
    found = 0
    for packet in packets:
        found += packet["num"]
    return found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is measured. *kind* names the method of the contestants that does it."""

    name: str
    title: str
    kind: str
    count: int  # at the most: slow contestants are given less, see drive.py
    shape: str = "plain"
    exact: bool = False  # whether all of it is shipped; without rivals, which may be slow
    quick: bool = True  # whether a quick run has it
    cores: tuple[int, int] | None = None  # which one each end keeps to, the server's first
    flows: int = 1  # at once
    rate: float = 0  # packets a second that the source gives; 0: as many as are wanted
    tls: bool = False

    def packets(self) -> Packets:
        return SHAPES[self.shape].packets(self.count)

    @property
    def batch(self) -> int:
        return SHAPES[self.shape].batch

    @property
    def sum(self) -> int:
        """What the receiving side has to come to."""
        return self.count * (self.count - 1) // 2


MILLION = 1_000_000
ONE_CORE = (0, 0)
A_CORE_EACH = (0, -1)

CASES = (
    Case(name="there", title="there", kind="there", count=MILLION),
    Case(name="back", title="back", kind="back", count=MILLION),
    Case(name="both", title="both at once", kind="both", count=MILLION // 2),
    Case(name="trip", title="round trip", kind="trip", count=3000, cores=ONE_CORE),
    Case(name="call", title="whole call", kind="call", count=1000),
    Case(
        name="again",
        title="call on an open connection",
        kind="again",
        count=1000,
        cores=ONE_CORE,
    ),
    Case(name="bulk", title="64 KiB", kind="there", shape="bulk", count=20_000),
    Case(name="texts", title="8 KiB of text", kind="there", shape="texts", count=100_000),
    Case(name="file", title="file to file", kind="file", count=1 << 30),
    Case(name="wide", title="100 fields", kind="there", shape="wide", count=50_000),
    Case(name="nested", title="nested", kind="there", shape="nested", count=300_000, quick=False),
    Case(
        name="typed",
        title="Decimal, datetime, UUID",
        kind="there",
        shape="typed",
        count=300_000,
        quick=False,
    ),
    *(
        Case(
            name=f"growth-1e{power}",
            title=f"10^{power} packets",
            kind="there",
            count=10**power,
            exact=True,
            quick=power in {4, 6},
        )
        for power in range(3, 9)
    ),
    *(
        Case(
            name=f"{name}-{flows}",
            title=f"{flows:,} at once{where}",
            kind="flows",
            count=10 * MILLION,
            exact=True,
            flows=flows,
            quick=flows in quick,
            cores=cores,
        )
        for name, where, cores, quick in (
            ("flows", "", None, {1, 100}),
            ("apart", ", a core for each end", A_CORE_EACH, set[int]()),
        )
        for flows in (1, 10, 100, 1000)
    ),
    *(
        Case(
            name=f"pace-{rate}",
            title=f"{rate:,} a second" if rate else "as fast as it can",
            kind="pace",
            count=max(20, 2 * rate) if rate else MILLION,
            exact=True,
            rate=rate,
            quick=rate in {100, 10_000},
        )
        for rate in (10, 100, 1_000, 10_000, 100_000, 0)
    ),
    Case(name="tls", title="there, over TLS", kind="there", count=MILLION, tls=True),
)
CASE = {case.name: case for case in CASES}
HUGE = {"growth-1e8"}  # only where asked for: minutes each


@dataclass(frozen=True)
class Demand:
    """What a figure of a contestant in a case must come to, against that of another one.

    That is a *rival*'s, or its own in another case, *than*. Without either the figure itself is
    bounded.
    """

    case: str
    contestant: str
    figure: str
    bound: float
    rival: str = ""
    than: str = ""
    below: bool = False  # the bound is from above

    @property
    def text(self) -> str:
        other = self.rival or (self.than and CASE[self.than].title)
        return f"{'≤' if self.below else '≥'} {self.bound:g}{f' × of {other}' if other else ''}"


OURS = ("station", "station-coroutine", "station-asyncio", "station-twisted")
LEAST = {"station": 0.6, "station-coroutine": 0.6, "station-asyncio": 0.4, "station-twisted": 0.4}

DEMANDS = (
    *(
        Demand(case, contestant, "rate", bound, "limit")
        for case in ("there", "back", "both")
        for contestant, bound in LEAST.items()
    ),
    *(Demand(case, "station-resume", "rate", 0.9, "station") for case in ("there", "back", "both")),
    *(
        demand
        for case in ("there", "back", "both")
        for contestant in ("station", "station-coroutine")
        for demand in (
            Demand(case, contestant, "cpu", 1.0, below=True),
            Demand(case, contestant, "rate", 100, "grpc"),
            Demand(case, contestant, "rate", 1, "grpc-batched"),
            Demand(case, contestant, "rate", 1, "flight"),
        )
    ),
    # The same on any machine: there the limit took 0.58.
    Demand("there", "station", "cpu", 1.72, "limit", below=True),
    Demand("trip", "station-coroutine", "p50", 4.6, "limit", below=True),
    Demand("trip", "station", "p50", 8, "limit", below=True),
    Demand("trip", "station-coroutine", "spread", 3, below=True),
    Demand("trip", "station", "spread", 3, below=True),
    Demand("call", "station", "p50", 7, "limit", below=True),
    Demand("again", "station-asyncio", "p50", 1.5, than="trip", below=True),
    Demand("again", "station-twisted", "p50", 1.5, than="trip", below=True),
    Demand("bulk", "station", "rate", 0.75, "limit"),
    Demand("bulk", "station", "rate", 1, "websockets"),
    Demand("bulk", "station", "rate", 1, "amp"),
    Demand("file", "station", "rate", 0.5, "limit"),
    *(
        Demand("texts", "station", "rate", 1, rival)
        for rival in ("pickle", "zmq", "zmq-batched", "websockets", "grpc-batched")
    ),
    *(
        Demand(case, "station", "rate", 1, rival)
        for case in ("wide", "nested")
        for rival in ("pickle", "pickle-batched", "zmq", "zmq-batched", "grpc-batched")
    ),
    *(
        Demand("typed", "station", "rate", 1, rival)
        for rival in ("mp-connection", "zmq", "zmq-batched", "grpc-batched")
    ),
    *(
        Demand(f"growth-1e{power}", "station", "rate", 0.9, than="growth-1e6")
        for power in (3, 4, 5, 7, 8)
    ),
    *(
        Demand(f"growth-1e{power}", "station", "beyond", 0.9, than="growth-1e6")
        for power in (4, 5, 7, 8)
    ),
    *(
        Demand(f"{case}-{flows}", contestant, "rate", 0.8, than=f"{case}-1")
        for case in ("flows", "apart")
        for flows in (10, 100, 1000)
        for contestant in ("station", "station-coroutine")
    ),
    Demand("tls", "station", "rate", 0.45, "limit"),
)
