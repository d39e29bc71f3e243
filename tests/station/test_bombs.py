"""Frames that would burst, sent to whole processes with default limits."""

import os
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyf.transport import Connection, Limits, Role
from pyf.transport.frames import BATCH, END, FrameParser, FrameType, encode_frame
from pyf.transport.limits import KIB, MIB

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


@pytest.fixture(params=["in_a_thread", "on_the_reactor"])
def server(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER), request.param],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        yield process
        process.kill()


def memory(process: "subprocess.Popen[str]", name: str) -> int:
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return KIB * int(text.partition(f"{name}:")[2].split()[0])


def send(port: int, value: bytes) -> None:
    """
    Send a flow of one packet with *value*, and wait for what is said of it.
    """
    client = Connection(Role.CLIENT)
    flow = client.open_flow({"n": 1})
    data = client.data_to_send()
    data += encode_frame(FrameType.DATA, flow, BATCH.pack(0, 0xDD, 1), b"\x81\xa1k", value)
    data += encode_frame(FrameType.END, flow, END.pack(1))
    with socket.create_connection(("127.0.0.1", port), WAIT) as peer:
        peer.sendall(b"".join(data))
        answers = FrameParser(MIB, MIB)
        while (frame := answers.next_frame()) is None or frame.type not in LAST:
            answers.allowed = ()
            answers.receive_data(peer.recv(64 * KIB))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system doesn't tell")
def test_no_frame_takes_more_than_a_few_times_the_limit(server):
    """Peak memory stays below 16 times ``max_packet``, one bomb after another."""
    assert server.stdout is not None
    port = int(server.stdout.readline())
    before = memory(server, "VmRSS")
    for name, value in BOMBS.items():
        send(port, value)
        assert memory(server, "VmHWM") - before < FACTOR * Limits().max_packet, name
