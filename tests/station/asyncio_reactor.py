"""A process whose Twisted runs on asyncio's event loop: a server, and a client, in both ways.

Its argument is the number of flows that it has open at once.
"""

import asyncio
import sys
import time
from typing import Any

from twisted.internet import asyncioreactor

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
asyncioreactor.install(loop)

from twisted.internet import reactor as default  # noqa: E402 - the one that is installed
from twisted.internet.task import deferLater  # noqa: E402
from twisted.logger import globalLogBeginner, textFileLogObserver  # noqa: E402

from pyf.station import FlowServer, ServerError, StationError  # noqa: E402
from pyf.station.aio import StationClient  # noqa: E402

reactor: Any = default
observer: Any = textFileLogObserver(sys.stderr)
globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
events: asyncio.Queue[str]
released: asyncio.Event
started: asyncio.Semaphore


async def both_worlds(flow, client):
    await anext(flow)
    done = []
    await asyncio.sleep(0.001)
    done.append("sleep")
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(60)
    except TimeoutError:
        done.append("timeout")
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0, "group")).add_done_callback(
            lambda task: done.append(task.result())
        )
    done.append(await deferLater(reactor, 0.001, lambda: "deferred"))
    await client.message({"done": ", ".join(done)})
    return [packet async for packet in flow]


async def sleeper(flow, client):
    header = await anext(flow)
    try:
        await client.message({"started": True})
        await (asyncio.sleep(60) if header["asyncio"] else deferLater(reactor, 60))
    except asyncio.CancelledError:
        try:
            await anext(flow)
        except StationError as error:
            events.put_nowait(f"cancelled: CancelledError {type(error).__name__}")
        raise


async def failing(flow, client):
    await asyncio.sleep(0)
    raise ValueError("on purpose")


async def waiting(flow, client):
    started.release()
    await released.wait()
    return sum([packet["n"] async for packet in flow])


async def use(port, count):
    global events, released, started
    events, released, started = asyncio.Queue(), asyncio.Event(), asyncio.Semaphore(0)
    clients = {
        name: StationClient("127.0.0.1", port(handler), True)
        for name, handler in {
            "both": both_worlds,
            "sleeper": sleeper,
            "failing": failing,
            "waiting": waiting,
        }.items()
    }
    async for answer in clients["both"].stream([{}]):
        if "done" in answer:
            print(answer.done)
    for either in (True, False):
        async with clients["sleeper"].open(header={"asyncio": either}) as flow:
            await flow.receive()
            await flow.cancel()
        print(await events.get())
    try:
        await clients["failing"].send([{}])
    except ServerError as error:
        print("failed: ServerError", error.error_class)
    began = time.monotonic()
    calls = [asyncio.ensure_future(clients["waiting"].send([{"n": 1}])) for _ in range(count)]
    for _ in range(count):
        await started.acquire()
    released.set()
    print("at once:", sum(await asyncio.gather(*calls)))
    if "--time" in sys.argv:
        print(f"{count} flows in {time.monotonic() - began:.2f} s")
    for client in clients.values():
        await client.close()


def main():
    def port(handler):
        listening = reactor.listenTCP(0, FlowServer(handler), interface="127.0.0.1")
        return listening.getHost().port

    async def run():
        try:
            await use(port, int(sys.argv[1]))
        finally:
            reactor.stop()

    tasks = []
    reactor.callWhenRunning(lambda: tasks.append(loop.create_task(run())))
    reactor.run()
    tasks[0].result()


main()
