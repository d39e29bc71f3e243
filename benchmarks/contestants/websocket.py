"""websockets: its client and server in threads, and those for asyncio; packed by msgspec."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from websockets.asyncio import client as aio_client
from websockets.asyncio import server as aio_server
from websockets.sync import client as sync_client
from websockets.sync import server as sync_server

from benchmarks.cases import Case, total
from benchmarks.contestant import HOST, Contestant, announce, in_thread, timed, timed_async
from benchmarks.contestants.sockets import msgspec_codec

# Compression would cost time; the pings keep their defaults.
OPTIONS: dict[str, Any] = {"compression": None, "max_size": None}
END = b""


class Websockets(Contestant):
    name = "websockets"
    title = "websockets, in threads"
    how = "A message for each packet, packed by msgspec, without compression."

    def _connect(self, port: int) -> Any:
        return sync_client.connect(f"ws://{HOST}:{port}", **OPTIONS)

    def there(self, port: int, case: Case) -> int:
        with self._connect(port) as socket:
            send_all(socket, case)
            return int(socket.recv())

    def back(self, port: int, case: Case) -> int:
        _, decode = msgspec_codec(case, batched=False)
        with self._connect(port) as socket:
            socket.send(b"%d" % case.count)
            return total(map(decode, iter(socket.recv, END)))

    def both(self, port: int, case: Case) -> int:
        _, decode = msgspec_codec(case, batched=False)
        with self._connect(port) as socket:
            in_thread(send_all, socket, case)
            return total(map(decode, iter(socket.recv, END)))

    def trip(self, port: int, case: Case) -> list[float]:
        encode, decode = msgspec_codec(case, batched=False)
        packet = next(case.packets())
        with self._connect(port) as socket:

            def step() -> None:
                socket.send(encode(packet))
                assert decode(socket.recv()) == packet

            return timed(step, case.count)

    def serve(self, case: Case) -> None:
        encode, decode = msgspec_codec(case, batched=False)

        def handle(socket: Any) -> None:
            if case.kind == "there":
                socket.send(b"%d" % total(map(decode, iter(socket.recv, END))))
            elif case.kind == "back":
                send_all(socket, replace(case, count=int(socket.recv())))
            else:
                for message in socket:
                    socket.send(encode(decode(message)) if message else END)

        with sync_server.serve(handle, HOST, 0, **OPTIONS) as server:
            announce(server.socket.getsockname()[1])
            server.serve_forever()


def send_all(socket: Any, case: Case) -> None:
    encode, _ = msgspec_codec(case, batched=False)
    for packet in case.packets():
        socket.send(encode(packet))
    socket.send(END)


class AsyncWebsockets(Contestant):
    name = "websockets-asyncio"
    title = "websockets, asyncio"
    how = "The same with its asyncio client and server."

    def _run(self, port: int, main: Callable[[Any], Any]) -> Any:
        async def running() -> Any:
            async with aio_client.connect(f"ws://{HOST}:{port}", **OPTIONS) as socket:
                return await main(socket)

        return asyncio.run(running())

    def there(self, port: int, case: Case) -> Any:
        async def main(socket: Any) -> int:
            await send_all_async(socket, case)
            return int(await socket.recv())

        return self._run(port, main)

    def back(self, port: int, case: Case) -> Any:
        async def main(socket: Any) -> int:
            await socket.send(b"%d" % case.count)
            return await total_async(socket, case)

        return self._run(port, main)

    def both(self, port: int, case: Case) -> Any:
        async def main(socket: Any) -> int:
            sending = asyncio.create_task(send_all_async(socket, case))
            found = await total_async(socket, case)
            await sending
            return found

        return self._run(port, main)

    def trip(self, port: int, case: Case) -> Any:
        encode, decode = msgspec_codec(case, batched=False)
        packet = next(case.packets())

        async def main(socket: Any) -> list[float]:
            async def step() -> None:
                await socket.send(encode(packet))
                assert decode(await socket.recv()) == packet

            return await timed_async(step, case.count)

        return self._run(port, main)

    def serve(self, case: Case) -> None:
        encode, decode = msgspec_codec(case, batched=False)

        async def handle(socket: Any) -> None:
            if case.kind == "there":
                await socket.send(b"%d" % await total_async(socket, case))
            elif case.kind == "back":
                await send_all_async(socket, replace(case, count=int(await socket.recv())))
            else:
                async for message in socket:
                    await socket.send(encode(decode(message)) if message else END)

        async def main() -> None:
            async with aio_server.serve(handle, HOST, 0, **OPTIONS) as server:
                announce(next(iter(server.sockets)).getsockname()[1])
                await server.serve_forever()

        asyncio.run(main())


async def send_all_async(socket: Any, case: Case) -> None:
    encode, _ = msgspec_codec(case, batched=False)
    for packet in case.packets():
        await socket.send(encode(packet))
    await socket.send(END)


async def total_async(socket: Any, case: Case) -> int:
    _, decode = msgspec_codec(case, batched=False)
    found = 0
    while message := await socket.recv():
        found += total([decode(message)])
    return found


CONTESTANTS = (Websockets(), AsyncWebsockets())
