"""NATS: a message for each packet, through a nats-server, which has to be installed."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import nats

from benchmarks.cases import Case, total
from benchmarks.contestant import HOST, Contestant, announce, await_port, free_port, timed_async
from benchmarks.contestants.sockets import msgspec_codec

SERVER = shutil.which("nats-server")
if SERVER is None:
    raise ImportError("there is no nats-server on the PATH")

PENDING: dict[str, int] = {"pending_msgs_limit": -1, "pending_bytes_limit": -1}
SUBJECT = "packets"


class Nats(Contestant):
    name = "nats"
    title = "NATS"
    how = "A message for each packet, published, packed by msgspec; nats-server in between."

    def _run(self, port: int, main: Callable[[Any], Any]) -> Any:
        async def running() -> Any:
            async with await nats.connect(f"nats://{HOST}:{port}") as connection:
                return await main(connection)

        return asyncio.run(running())

    def there(self, port: int, case: Case) -> Any:
        encode, _ = msgspec_codec(case, batched=False)

        async def main(connection: Any) -> int:
            answers = await connection.subscribe("answer")
            for packet in case.packets():
                await connection.publish(SUBJECT, encode(packet))
            await connection.publish(SUBJECT, b"")
            return int((await answers.next_msg(timeout=120)).data)

        return self._run(port, main)

    def trip(self, port: int, case: Case) -> Any:
        encode, decode = msgspec_codec(case, batched=False)
        packet = next(case.packets())

        async def main(connection: Any) -> list[float]:
            async def step() -> None:
                answer = await connection.request(SUBJECT, encode(packet))
                assert decode(answer.data) == packet

            return await timed_async(step, case.count)

        return self._run(port, main)

    def serve(self, case: Case) -> None:
        port = free_port()
        assert SERVER is not None
        quiet = subprocess.DEVNULL
        broker = subprocess.Popen([SERVER, "-a", HOST, "-p", str(port)], stdout=quiet, stderr=quiet)
        await_port(port)
        _, decode = msgspec_codec(case, batched=False)

        async def main() -> None:
            connection = await nats.connect(f"nats://{HOST}:{port}")
            messages = await connection.subscribe(SUBJECT, **PENDING)
            await connection.flush()
            announce(port, broker.pid)
            found = 0
            async for message in messages.messages:
                if case.kind == "trip":
                    await message.respond(message.data)
                elif message.data:
                    found += total([decode(message.data)])
                else:
                    await connection.publish("answer", b"%d" % found)
                    found = 0

        asyncio.run(main())


CONTESTANTS = (Nats(),)
