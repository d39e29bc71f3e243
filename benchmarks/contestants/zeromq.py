"""pyzmq: pipelines for streams, request and reply for the rest, packed by msgspec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import zmq

from benchmarks.cases import Case, total
from benchmarks.contestant import HOST, Contestant, announce, in_thread, timed
from benchmarks.contestants.sockets import batches, msgspec_codec

END = b""


class ZeroMq(Contestant):
    """DEALER sockets at both ends; packets, or lists of them, as messages."""

    def __init__(self, name: str, title: str, how: str, *, batched: bool) -> None:
        self.name, self.title, self.how = name, title, how
        self.batched = batched
        # One for all runs: a server's DEALER may still answer a socket that has gone.
        self._sockets: dict[int, Any] = {}

    def plays(self, case: Case) -> bool:
        return super().plays(case) and not (self.batched and case.kind in {"trip", "call"})

    def _messages(self, case: Case) -> Iterator[bytes]:
        encode, _ = msgspec_codec(case, batched=self.batched)
        return map(encode, batches(case, case.batch) if self.batched else case.packets())

    def _sum(self, socket: Any, case: Case) -> int:
        _, decode = msgspec_codec(case, batched=self.batched)
        values: Any = map(decode, iter(receiver(socket, case), END))
        return total(chain.from_iterable(values) if self.batched else values)

    def _connect(self, port: int) -> Any:
        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.connect(f"tcp://{HOST}:{port}")
        return socket

    def _connected(self, port: int) -> Any:
        if port not in self._sockets:
            self._sockets[port] = self._connect(port)
        return self._sockets[port]

    def there(self, port: int, case: Case) -> int:
        socket = self._connected(port)
        send_all(socket, self._messages(case), case)
        return int(socket.recv())

    def back(self, port: int, case: Case) -> int:
        socket = self._connected(port)
        socket.send(b"%d" % case.count)
        return self._sum(socket, case)

    def both(self, port: int, case: Case) -> int:
        # A socket is for one thread: here one takes what comes back, as its guide says.
        outward = self._connected(port)
        socket = zmq.Context.instance().socket(zmq.PULL)
        inward = socket.bind_to_random_port(f"tcp://{HOST}")
        outward.send(b"%d" % inward)
        thread = in_thread(send_all, outward, self._messages(case), case)
        found = self._sum(socket, case)
        thread.join()
        return found

    def trip(self, port: int, case: Case) -> list[float]:
        encode, decode = msgspec_codec(case, batched=False)
        packet = next(case.packets())
        socket = self._connected(port)

        def step() -> None:
            socket.send(encode(packet))
            assert decode(socket.recv()) == packet

        return timed(step, case.count)

    def call(self, port: int, case: Case) -> list[float]:
        encode, decode = msgspec_codec(case, batched=False)
        packet = next(case.packets())

        def step() -> None:
            socket = self._connect(port)
            socket.send_multipart([encode({"action": "sum"}), encode(packet)])
            assert decode(socket.recv()) == 0
            socket.close()

        return timed(step, case.count)

    def serve(self, case: Case) -> None:
        socket = zmq.Context.instance().socket(zmq.ROUTER if case.kind == "call" else zmq.DEALER)
        announce(socket.bind_to_random_port(f"tcp://{HOST}"))
        while True:
            getattr(self, f"_serve_{case.kind}")(socket, case)

    def _serve_there(self, socket: Any, case: Case) -> None:
        socket.send(b"%d" % self._sum(socket, case))

    def _serve_back(self, socket: Any, case: Case) -> None:
        count = int(socket.recv())
        send_all(socket, self._messages(replace(case, count=count)), case)

    def _serve_both(self, socket: Any, case: Case) -> None:
        encode, decode = msgspec_codec(case, batched=self.batched)
        back = zmq.Context.instance().socket(zmq.PUSH)
        back.connect(f"tcp://{HOST}:{int(socket.recv())}")
        send_all(back, (encode(decode(each)) for each in iter(socket.recv, END)), case)

    def _serve_trip(self, socket: Any, case: Case) -> None:
        encode, decode = msgspec_codec(case, batched=False)
        socket.send(encode(decode(socket.recv())))

    def _serve_call(self, socket: Any, case: Case) -> None:
        encode, decode = msgspec_codec(case, batched=False)
        peer, _, packet = socket.recv_multipart()
        socket.send_multipart([peer, encode(total([decode(packet)]))])


def send_all(socket: Any, messages: Iterator[bytes], case: Case) -> None:
    copy = case.shape != "bulk"  # of large messages it is told not to make a copy
    for each in messages:
        socket.send(each, copy=copy)
    socket.send(END)


def receiver(socket: Any, case: Case) -> Any:
    if case.shape != "bulk":
        return socket.recv
    return lambda: socket.recv(copy=False).buffer


CONTESTANTS = (
    ZeroMq(
        "zmq",
        "pyzmq, msgspec",
        "DEALER sockets, a message for each packet, packed by msgspec.",
        batched=False,
    ),
    ZeroMq(
        "zmq-batched",
        "pyzmq, msgspec, in batches",
        "The same with lists of 500 packets.",
        batched=True,
    ),
)
