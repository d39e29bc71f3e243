"""Blocking sockets and nothing else: the limit, and what pickle makes of it."""

from __future__ import annotations

import pickle
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from typing import Any

import msgspec

from benchmarks import certificate
from benchmarks.cases import CHUNK, SHAPES, Case, total
from benchmarks.contestant import (
    HOST,
    LENGTH,
    Contestant,
    at_once,
    connected,
    folder,
    in_thread,
    listener,
    remove,
    source_file,
    timed,
    tuned,
)

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


def msgspec_codec(case: Case, *, batched: bool = True) -> Codec:
    """Return an encoder and a decoder of packets, or of lists of them."""
    schema: Any = SHAPES[case.shape].schema
    kind: Any = list[schema] if batched else schema
    return msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(kind).decode


def pickle_codec(case: Case) -> Codec:
    return partial(pickle.dumps, protocol=pickle.HIGHEST_PROTOCOL), pickle.loads


def batches(case: Case, batch: int) -> Iterator[list[dict[str, Any]]]:
    packets = case.packets()
    while taken := list(islice(packets, batch)):
        yield taken


class Channel:
    """Messages with their length before them, on a blocking socket."""

    def __init__(self, sock: socket.socket, codec: Codec) -> None:
        self.socket = sock
        self.encode, self.decode = codec
        self.read = sock.makefile("rb", buffering=256 * 1024).read

    def send(self, value: Any) -> None:
        data = self.encode(value)
        self.socket.sendall(LENGTH.pack(len(data)) + data)

    def receive(self) -> Any:
        """Return the next message; EOFError where there is none."""
        head = self.read(4)
        if not head:
            raise EOFError
        return self.decode(self.read(*LENGTH.unpack(head)))

    def lists(self) -> Iterator[Any]:
        """Yield what comes, until an empty list."""
        return iter(self.receive, [])

    def send_all(self, lists: Iterable[Any]) -> None:
        for each in lists:
            self.send(each)
        self.send([])


class Sockets(Contestant):
    """Lists of packets, each encoded as a whole."""

    tls = True

    def __init__(
        self, name: str, title: str, how: str, codec: Callable[[Case], Codec], batch: int = 0
    ) -> None:
        self.name, self.title, self.how = name, title, how
        self._codec = codec
        self._batch = batch

    def _lists(self, case: Case) -> Iterator[Any]:
        return batches(case, self._batch or case.batch)

    def _connect(self, port: int, case: Case) -> Channel:
        sock = connected(port)
        if case.tls:
            sock = certificate.client().wrap_socket(sock, server_hostname="localhost")
        return Channel(sock, self._codec(case))

    def there(self, port: int, case: Case) -> int:
        channel = self._connect(port, case)
        channel.send_all(self._lists(case))
        return total(channel.receive())

    def back(self, port: int, case: Case) -> int:
        channel = self._connect(port, case)
        channel.send([{"num": case.count}])
        return total(chain.from_iterable(channel.lists()))

    def both(self, port: int, case: Case) -> int:
        channel = self._connect(port, case)
        in_thread(channel.send_all, self._lists(case))
        return total(chain.from_iterable(channel.lists()))

    def trip(self, port: int, case: Case) -> list[float]:
        channel = self._connect(port, case)
        packet = next(case.packets())

        def step() -> None:
            channel.send([packet])
            assert channel.receive() == [packet]

        return timed(step, case.count)

    def call(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())

        def step() -> None:
            channel = self._connect(port, case)
            channel.send([{"num": 0}])
            channel.send([packet])
            assert channel.receive() == [{"num": 0}]
            channel.socket.close()

        return timed(step, case.count)

    def serve(self, case: Case) -> None:
        context = certificate.server() if case.tls else None
        serve: Callable[[socket.socket], object] = partial(self._serve, case)
        if case.flows > 1:
            serve = partial(in_thread, serve)
        with listener() as sock:
            while True:
                connection: socket.socket = tuned(sock.accept()[0])
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                serve(connection)

    def _serve(self, case: Case, connection: socket.socket) -> None:
        serve = getattr(self, f"_serve_{case.kind}")
        with connection, suppress(EOFError, ssl.SSLError, ConnectionError):
            serve(Channel(connection, self._codec(case)), case)

    def _serve_there(self, channel: Channel, case: Case) -> None:
        channel.send([{"num": total(chain.from_iterable(channel.lists()))}])

    def _serve_back(self, channel: Channel, case: Case) -> None:
        [ask] = channel.receive()
        packets = SHAPES[case.shape].packets(ask["num"])
        while taken := list(islice(packets, self._batch or case.batch)):
            channel.send(taken)
        channel.send([])

    def _serve_both(self, channel: Channel, case: Case) -> None:
        channel.send_all(channel.lists())

    def _serve_trip(self, channel: Channel, case: Case) -> None:
        while True:
            channel.send(channel.receive())

    def _serve_call(self, channel: Channel, case: Case) -> None:
        channel.receive()
        channel.send([{"num": total(channel.receive())}])


class Limit(Sockets):
    """Beside lists of packets: bare blocks of bytes, a file that is copied, and many threads."""

    def there(self, port: int, case: Case) -> int:
        if case.shape != "bulk":
            return super().there(port, case)
        sock = connected(port)
        for packet in case.packets():
            sock.sendall(packet["data"])
        sock.shutdown(socket.SHUT_WR)
        blocks = int(sock.recv(64, socket.MSG_WAITALL))
        return blocks * (blocks - 1) // 2

    def flows(self, port: int, case: Case) -> int:
        return at_once(partial(self.there, port), case)

    def file(self, port: int, case: Case) -> int:
        path = source_file(case.count)
        buffer = memoryview(bytearray(CHUNK))
        with path.open("rb", buffering=0) as file, socket.create_connection((HOST, port)) as sock:
            while size := file.readinto(buffer):
                sock.sendall(buffer[:size])
            sock.shutdown(socket.SHUT_WR)
            written = int(sock.recv(64, socket.MSG_WAITALL))
        remove(path)
        return written

    def _serve_there(self, channel: Channel, case: Case) -> None:
        if case.shape != "bulk":
            super()._serve_there(channel, case)
            return
        count = 0
        while channel.socket.recv(64 * 1024, socket.MSG_WAITALL):
            count += 1
        channel.socket.sendall(b"%d" % count)

    def _serve_flows(self, channel: Channel, case: Case) -> None:
        self._serve_there(channel, case)

    def _serve_file(self, channel: Channel, case: Case) -> None:
        path = folder() / "target"
        buffer = memoryview(bytearray(CHUNK))
        with path.open("wb", buffering=0) as file:
            while size := channel.socket.recv_into(buffer):
                file.write(buffer[:size])
            written = file.tell()
        channel.socket.sendall(b"%d" % written)
        remove(path)


CONTESTANTS = (
    Limit(
        "limit",
        "the limit: sockets, msgspec",
        "Blocking sockets, lists of 500 packets encoded by msgspec, each with its length before it.",
        msgspec_codec,
    ),
    Sockets(
        "pickle-batched",
        "sockets, pickle, in batches",
        "The same with pickle, protocol 5.",
        pickle_codec,
    ),
    Sockets(
        "pickle",
        "sockets, pickle",
        "The same with pickle, a message for each packet.",
        pickle_codec,
        batch=1,
    ),
)
