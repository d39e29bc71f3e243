"""Frames that would burst, sent to whole processes with default limits."""

import os
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyf.transport import Connection, Limits, Role, encode_packet
from pyf.transport.events import FlowOpened
from pyf.transport.frames import BATCH, END, RESULT, FrameParser, FrameType, encode_frame
from pyf.transport.limits import KIB, MIB

HOST = "127.0.0.1"
WAIT = 30.0
FACTOR = 16
LAST = {FrameType.RESULT, FrameType.GOAWAY}
SERVER = """
    import sys
    from twisted.internet import reactor
    from pyf.station import FlowServer

    def in_a_thread(flow, client):
        return sum(1 for _ in flow)

    async def on_the_reactor(flow, client):
        return len([packet async for packet in flow])

    port = reactor.listenTCP(0, FlowServer(globals()[sys.argv[1]]), interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()
"""


def many(unit: bytes, count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count) + unit * count


def number(tag: int, digit: bytes, size: int) -> bytes:
    return b"\xc9" + struct.pack(">IB", size, tag) + digit * size


CLIENTS = {
    "blocking": """
        import sys
        from pyf.station import StationClient, StationError

        client = StationClient("127.0.0.1", int(sys.argv[1]), True)
        while True:
            try:
                print(sum(1 for _ in client.stream([{"n": 1}])), flush=True)
            except StationError as error:
                print(type(error).__name__, flush=True)
    """,
    "asyncio": """
        import asyncio
        import sys
        from pyf.station import StationError
        from pyf.station.aio import StationClient

        async def run():
            while True:
                async with StationClient("127.0.0.1", int(sys.argv[1]), True) as client:
                    try:
                        print(len([_ async for _ in client.stream([{"n": 1}])]), flush=True)
                    except StationError as error:
                        print(type(error).__name__, flush=True)

        asyncio.run(run())
    """,
    "twisted": """
        import sys
        from twisted.internet.defer import ensureDeferred
        from twisted.internet.task import react
        from pyf.station import StationError
        from pyf.station.tx import StationClient

        async def run(reactor):
            while True:
                client = StationClient("127.0.0.1", int(sys.argv[1]), True)
                try:
                    print(len([_ async for _ in client.stream([{"n": 1}])]), flush=True)
                except StationError as error:
                    print(type(error).__name__, flush=True)
                await client.close()

        react(lambda reactor: ensureDeferred(run(reactor)))
    """,
}


BOMBS = {
    "nested arrays": b"\x91" * 8 * KIB,
    "empty maps": many(b"\x80", MIB),
    "as many empty maps as are allowed": many(b"\x80", 262_000),
    "a str of 4 GiB": b"\xdb\xff\xff\xff\xffx",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xffx",
    "a huge int": number(1, b"\x7f", MIB),
    "a huge Decimal": number(2, b"9", MIB),
    "long Decimals": many(number(2, b"9", 64 * KIB), 240),
    "tiny Decimals": many(b"\xd4\x021", 262_000),
    "UUIDs": many(b"\xd8\x07" + bytes(range(16)), 262_000),
    "an unknown extension": many(b"\xd4\x631", 1000),
    "a wide str": b"\xdb" + struct.pack(">I", 15 * MIB) + "😀".encode() + b"a" * (15 * MIB - 4),
}
ALLOWED = {
    "long Decimals",
    "as many empty maps as are allowed",
    "tiny Decimals",
    "UUIDs",
    "a wide str",
}
TOLD = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system doesn't tell")


@contextmanager
def started(source: str, argument: str) -> Generator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), argument],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # It goes on for ever, and would be waited for.


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def memory(process: "subprocess.Popen[str]", name: str) -> int:
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return KIB * int(text.partition(f"{name}:")[2].split()[0])


def frame_of(kind: FrameType, flow: int, value: bytes) -> list[bytes]:
    return encode_frame(kind, flow, BATCH.pack(0, 0xDD, 1), b"\x81\xa1k", value)


def send(port: int, value: bytes) -> None:
    """
    Send a flow of one packet with *value*, and wait for what is said of it.
    """
    client = Connection(Role.CLIENT)
    flow = client.open_flow({"n": 1})
    data = client.data_to_send()
    data += frame_of(FrameType.DATA, flow, value)
    data += encode_frame(FrameType.END, flow, END.pack(1))
    with socket.create_connection((HOST, port), WAIT) as peer:
        peer.sendall(b"".join(data))
        answers = FrameParser(MIB, MIB)
        answers.allowed = ()
        while (frame := answers.next_frame()) is None or frame.type not in LAST:
            if frame is None:
                answers.receive_data(peer.recv(64 * KIB))


def answer(listening: socket.socket, value: bytes) -> None:
    """
    Answer the flow of the next client with a message of *value*, and success.
    """
    server = Connection(Role.SERVER)
    peer, _ = listening.accept()
    with peer, suppress(OSError):  # A client may leave when it likes.
        peer.settimeout(WAIT)
        while not isinstance(event := server.next_event(), FlowOpened):
            if event is None:
                server.receive_data(peer.recv(64 * KIB))
        data = server.data_to_send() + frame_of(FrameType.MESSAGE, event.flow_id, value)
        success = RESULT.pack(0, 1) + encode_packet({"status": "success", "value": None})
        peer.sendall(b"".join(data + encode_frame(FrameType.RESULT, event.flow_id, success)))
        while peer.recv(64 * KIB):
            pass


@TOLD
@pytest.mark.parametrize("kind", ["in_a_thread", "on_the_reactor"])
def test_no_frame_takes_more_of_a_server_than_a_few_times_the_limit(kind):
    """Peak memory stays below 16 times ``max_packet``, one bomb after another."""
    with started(SERVER, kind) as server:
        port = int(line(server))
        before = memory(server, "VmRSS")
        for name, value in BOMBS.items():
            send(port, value)
            assert memory(server, "VmHWM") - before < FACTOR * Limits().max_packet, name


@TOLD
@pytest.mark.parametrize("kind", CLIENTS)
def test_no_frame_takes_more_of_a_client_than_a_few_times_the_limit(kind):
    """Nor does it of a client, which tells its caller of each bomb, or gives him what it holds."""
    with (
        socket.create_server((HOST, 0)) as listening,
        started(CLIENTS[kind], str(listening.getsockname()[1])) as client,
    ):
        listening.settimeout(WAIT)
        before = 0
        for name, value in BOMBS.items():
            answer(listening, value)
            said = line(client).strip()
            assert said.startswith("2" if name in ALLOWED else "RemoteProtocolError"), (name, said)
            before = before or memory(client, "VmRSS")
            assert memory(client, "VmHWM") - before < FACTOR * Limits().max_packet, name
