"""gRPC: streaming calls, whose messages are packed by msgspec, which is faster than protobuf."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any

import grpc

from benchmarks.cases import Case, total
from benchmarks.contestant import HOST, Contestant, announce, timed
from benchmarks.contestants.sockets import batches, msgspec_codec

SERVICE = "benchmark"
METHOD = f"/{SERVICE}/run"


class Grpc(Contestant):
    def __init__(self, name: str, title: str, how: str, *, batched: bool) -> None:
        self.name, self.title, self.how = name, title, how
        self.batched = batched

    def plays(self, case: Case) -> bool:
        return super().plays(case) and not (self.batched and case.kind in {"trip", "call"})

    def _values(self, case: Case) -> Iterator[Any]:
        return batches(case, case.batch) if self.batched else case.packets()

    def _total(self, values: Any) -> int:
        return total(chain.from_iterable(values) if self.batched else values)

    def _wrap(self, value: Any) -> Any:
        return [value] if self.batched else value

    def _method(self, channel: Any, kind: str, case: Case) -> Any:
        encode, decode = msgspec_codec(case, batched=self.batched)
        return getattr(channel, kind)(METHOD, encode, decode)

    def there(self, port: int, case: Case) -> int:
        with grpc.insecure_channel(f"{HOST}:{port}") as channel:
            answer = self._method(channel, "stream_unary", case)(self._values(case))
        return self._total([answer])

    def back(self, port: int, case: Case) -> int:
        with grpc.insecure_channel(f"{HOST}:{port}") as channel:
            ask = self._wrap({"num": case.count})
            return self._total(self._method(channel, "unary_stream", case)(ask))

    def both(self, port: int, case: Case) -> int:
        with grpc.insecure_channel(f"{HOST}:{port}") as channel:
            return self._total(self._method(channel, "stream_stream", case)(self._values(case)))

    def trip(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())
        with grpc.insecure_channel(f"{HOST}:{port}") as channel:
            method = self._method(channel, "unary_unary", case)  # faster than a stream's messages

            def step() -> None:
                assert method(packet) == packet

            return timed(step, case.count)

    def call(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())

        def step() -> None:
            # Otherwise channels of a process share a connection.
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(f"{HOST}:{port}", options) as channel:
                method = self._method(channel, "stream_unary", case)
                assert method(iter([{"num": 0}, packet]))["num"] == 0

        return timed(step, case.count)

    def serve(self, case: Case) -> None:
        encode, decode = msgspec_codec(case, batched=self.batched)

        def summing(values: Any, context: Any) -> Any:
            return self._wrap({"num": self._total(values)})

        def giving(ask: Any, context: Any) -> Any:
            return self._values(replace(case, count=self._total([ask])))

        def echoing(values: Any, context: Any) -> Any:
            return values

        kind, function = {
            "there": ("stream_unary", summing),
            "call": ("stream_unary", summing),
            "back": ("unary_stream", giving),
            "both": ("stream_stream", echoing),
            "trip": ("unary_unary", echoing),
        }[case.kind]
        handler = getattr(grpc, f"{kind}_rpc_method_handler")(function, decode, encode)
        server = grpc.server(ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"run": handler}),)
        )
        port = server.add_insecure_port(f"{HOST}:0")
        server.start()
        announce(port)
        server.wait_for_termination()


CONTESTANTS = (
    Grpc("grpc", "gRPC", "Streaming calls, a message for each packet.", batched=False),
    Grpc("grpc-batched", "gRPC, in batches", "The same with lists of 500 packets.", batched=True),
)
