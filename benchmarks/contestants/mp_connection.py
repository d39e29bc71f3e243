"""multiprocessing.connection: a message for each packet, pickled."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from benchmarks.cases import Case, total
from benchmarks.contestant import HOST, Contestant, announce, in_thread, timed


class MpConnection(Contestant):
    name = "mp-connection"
    title = "multiprocessing.connection"
    how = "`send` and `recv` for each packet, without an authentication key."

    def there(self, port: int, case: Case) -> int:
        with Client((HOST, port)) as connection:
            send_all(connection, case.packets())
            return int(connection.recv())

    def back(self, port: int, case: Case) -> int:
        with Client((HOST, port)) as connection:
            connection.send(case.count)
            return total(iter(connection.recv, None))

    def both(self, port: int, case: Case) -> int:
        with Client((HOST, port)) as connection:
            sending = in_thread(send_all, connection, case.packets())
            found = total(iter(connection.recv, None))
            sending.join()
            return found

    def trip(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())
        with Client((HOST, port)) as connection:

            def step() -> None:
                connection.send(packet)
                assert connection.recv() == packet

            return timed(step, case.count)

    def call(self, port: int, case: Case) -> list[float]:
        packet = next(case.packets())

        def step() -> None:
            with Client((HOST, port)) as connection:
                connection.send({"action": "sum"})
                send_all(connection, [packet])
                assert connection.recv() == 0

        return timed(step, case.count)

    def serve(self, case: Case) -> None:
        with Listener((HOST, 0), backlog=128) as listener:
            announce(int(listener.address[1]))
            while True:
                with listener.accept() as connection, suppress(EOFError, ConnectionError):
                    serve(connection, case)


def send_all(connection: Connection, packets: Any) -> None:
    for packet in packets:
        connection.send(packet)
    connection.send(None)


def serve(connection: Connection, case: Case) -> None:
    match case.kind:
        case "there":
            connection.send(total(iter(connection.recv, None)))
        case "call":
            connection.recv()
            connection.send(total(iter(connection.recv, None)))
        case "back":
            count = connection.recv()
            send_all(connection, type(case)(**{**vars(case), "count": count}).packets())
        case _:  # "both" and "trip"
            send_all(connection, iter(connection.recv, None))


CONTESTANTS = (MpConnection(),)
