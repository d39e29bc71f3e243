"""What we write and read is what the specification says, by vectors made from its words alone."""

import ast
import json
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from pyf.transport import (
    Connection,
    Limits,
    RemoteProtocolError,
    Role,
    decode_packet_flow,
    encode_packet,
    encode_packet_flow,
    payloads,
)
from pyf.transport.codec import decode
from pyf.transport.events import (
    FlowEnded,
    FlowResumed,
    PacketsReceived,
    ResultAcknowledged,
)
from pyf.transport.frames import (
    CREDIT,
    END,
    FrameParser,
    FrameType,
    decode_batch,
    encode_batch,
    encode_frame,
)
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS
from pyf.transport.resume import Ticket

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
GENERATORS = [VECTORS / "generate.py", VECTORS / "negative.py"]
LEAST = Limits(
    max_packet=INITIAL_BYTES,
    max_header=INITIAL_BYTES,
    window_packets=INITIAL_PACKETS,
    window_bytes=INITIAL_BYTES,
)


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="ascii"))


# By the first member of the object that stands for a value.
READERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda value: int(value["int"]),
    "float": lambda value: struct.unpack(">d", bytes.fromhex(value["float"]))[0],
    "bytes": lambda value: bytes.fromhex(value["bytes"]),
    "list": lambda value: list(map(read, value["list"])),
    "map": lambda value: {key: read(item) for key, item in value["map"]},
    "decimal": lambda value: Decimal(value["decimal"]),
    "datetime": lambda value: datetime.fromisoformat(value["datetime"]).replace(fold=value["fold"]),
    "date": lambda value: date.fromisoformat(value["date"]),
    "time": lambda value: time.fromisoformat(value["time"]).replace(fold=value["fold"]),
    "timedelta": lambda value: timedelta(*value["timedelta"]),
    "uuid": lambda value: UUID(hex=value["uuid"]),
}


def read(value: Any) -> Any:
    if isinstance(value, list):
        return [read(item) for item in value]
    return READERS[next(iter(value))](value) if isinstance(value, dict) else value


# The vectors themselves


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda path: path.stem)
def test_the_vectors_are_what_the_generator_makes(generator):
    done = subprocess.run(
        [sys.executable, generator], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda path: path.stem)
def test_the_generator_knows_nothing_but_the_specification(generator):
    tree = ast.parse(generator.read_text(encoding="utf-8"))
    imported = {
        getattr(node, "module", None) or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    standard = {"json", "struct", "sys", "collections.abc", "pathlib", "typing"}
    assert imported - {"generate"} <= standard


# Values


@pytest.mark.parametrize("vector", load("values"), ids=lambda vector: vector["name"])
def test_values(same, vector):
    data, value = bytes.fromhex(vector["hex"]), read(vector["value"])
    assert same(decode(data), value)
    if vector["exact"]:
        assert encode_packet({"": value}) == b"\x81\xa0" + data


# Frames


def packets_of(says: dict[str, Any]) -> list[bytes]:
    return [encode_packet(read(packet)) for packet in says["packets"]]


def resume_of(boot_id, session_id, token, received_back, first_available) -> bytes:
    ticket = Ticket(boot_id, session_id, token, 1.0, 0, 0)
    return payloads.encode_resume(ticket, received_back, first_available)


def result_of(says: dict[str, Any]) -> bytes:
    facts = read(says["fields"])
    status = facts.pop("status")
    return payloads.encode_result(
        says["consumed"], says["messages"], payloads.encode_outcome(status, facts)
    )


# What each frame says, as we encode it; a batch is encoded with its frame.
PAYLOADS: dict[FrameType, Callable[[dict[str, Any]], bytes]] = {
    FrameType.HELLO: lambda says: payloads.encode_hello(Limits()),
    FrameType.OPEN: lambda says: payloads.encode_open(*map(read, says.values())),
    FrameType.END: lambda says: END.pack(says["count"]),
    FrameType.ABORT: lambda says: payloads.encode_abort(**says),
    FrameType.CANCEL: lambda says: b"",
    FrameType.STOP: lambda says: b"",
    FrameType.RESULT: result_of,
    FrameType.CREDIT: lambda says: CREDIT.pack(*says.values()),
    FrameType.PING: lambda says: bytes.fromhex(says["token"]),
    FrameType.PONG: lambda says: bytes.fromhex(says["token"]),
    FrameType.GOAWAY: lambda says: payloads.encode_go_away(**says),
    FrameType.OPENED: lambda says: payloads.encode_opened(Ticket(*map(read, says.values()))),
    FrameType.RESUME: lambda says: resume_of(*map(read, says.values())),
    FrameType.RESUMED: lambda says: payloads.encode_resumed(*map(read, says.values())),
    FrameType.REJECT: lambda says: payloads.encode_reject(**says),
    FrameType.ACK: lambda says: b"",
}


def say_batch(payload: bytes) -> dict[str, Any]:
    found = decode_batch(payload)
    return {"first": found.first, "packets": list(found.decode())}


def say_result(payload: bytes) -> dict[str, Any]:
    consumed, messages, status, value, error = payloads.decode_result(payload)
    facts = {"status": status, "value": value, **error}
    given = {name: fact for name, fact in facts.items() if fact is not None}
    return {"consumed": consumed, "messages": messages, "fields": given}


def say_hello(payload: bytes) -> dict[str, Any]:
    return {"least": 1, "most": 1, "max_packet": payloads.decode_hello(payload).max_packet}


def say_open(payload: bytes) -> dict[str, Any]:
    """
    What makes a flow resumable is in the frame only where it is one.
    """
    found = payloads.decode_open(payload)._asdict()
    optional = ("resume", "name")
    return {key: value for key, value in found.items() if key not in optional or value is not None}


# What we read from a payload, named as in the vectors.
SAYINGS: dict[FrameType, Callable[[bytes], dict[str, Any]]] = {
    FrameType.HELLO: say_hello,
    FrameType.OPEN: say_open,
    FrameType.DATA: say_batch,
    FrameType.MESSAGE: say_batch,
    FrameType.END: lambda payload: {"count": END.unpack(payload)[0]},
    FrameType.ABORT: lambda payload: named(payloads.decode_abort(payload), "count error_class"),
    FrameType.CANCEL: lambda payload: {},
    FrameType.STOP: lambda payload: {},
    FrameType.RESULT: say_result,
    FrameType.CREDIT: lambda payload: named(CREDIT.unpack(payload), "consumed packets bytes"),
    FrameType.PING: lambda payload: {"token": payload.hex()},
    FrameType.PONG: lambda payload: {"token": payload.hex()},
    FrameType.GOAWAY: lambda payload: named(
        payloads.decode_go_away(payload), "last_flow code message"
    ),
    FrameType.OPENED: lambda payload: payloads.decode_opened(payload)._asdict(),
    FrameType.RESUME: lambda payload: payloads.decode_resume(payload)._asdict(),
    FrameType.RESUMED: lambda payload: payloads.decode_resumed(payload)._asdict(),
    FrameType.REJECT: lambda payload: payloads.decode_reject(payload)._asdict(),
    FrameType.ACK: lambda payload: {},
}


def named(values: tuple[Any, ...], names: str) -> dict[str, Any]:
    return dict(zip(names.split(), values, strict=True))


@pytest.mark.parametrize("vector", load("frames"), ids=lambda vector: vector["frame"])
def test_frames(vector):
    kind, data = FrameType[vector["frame"]], bytes.fromhex(vector["hex"])
    says = vector["says"]
    if kind in PAYLOADS:
        ours = encode_frame(kind, vector["flow"], PAYLOADS[kind](says))
    else:
        packets = packets_of(says)
        ours = encode_batch(kind, vector["flow"], says["first"], len(packets), b"".join(packets))
    assert b"".join(ours) == data
    parser = FrameParser(INITIAL_BYTES, INITIAL_BYTES)
    parser.allowed = ()
    parser.receive_data(data)
    frame = parser.next_frame()
    assert frame is not None
    assert (frame.type, frame.flow) == (kind, vector["flow"])
    expected = {name: read(value) for name, value in says.items()}
    assert SAYINGS[kind](frame.payload) == expected


def test_every_frame_has_a_vector():
    assert {vector["frame"] for vector in load("frames")} == {kind.name for kind in FrameType}


# Conversations: what our users do in each, step by step

ROW = {"n": 1}


def send(machine: Connection, *packets: dict[str, Any]) -> None:
    machine.send_packets(1, deque(map(encode_packet, packets)))


MOVES: dict[str, list[Callable[[Connection], object]]] = {
    "one call": [
        lambda client: (client.open_flow({"action": "import"}), send(client, ROW, ROW)),
        lambda server: send(server, {"action": "import"}),
        lambda client: (send(client, ROW), client.end(1)),
        lambda server: server.finish(1, 3, "success", value=3),
    ],
    "an answer before the end": [
        lambda client: (client.open_flow(), send(client, ROW)),
        lambda server: server.finish(1, 1, "success", value=None),
        lambda client: client.end(1),
    ],
    "the client fails": [
        lambda client: (client.open_flow(), send(client, ROW)),
        lambda server: server.room(1),
        lambda client: client.abort(1, "ValueError"),
        lambda server: server.finish(1, 0, "cancelled", code="cancelled"),
    ],
    "the server drains": [
        lambda client: client.open_flow(),
        lambda server: server.go_away("draining", "bye"),
        lambda client: client.cancel(1),
        lambda server: server.finish(1, 0, "cancelled", code="cancelled"),
    ],
    "the handler wants no more": [
        lambda client: (client.open_flow(), send(client, ROW)),
        lambda server: server.stop(1),
        lambda client: (send(client, ROW), client.end(1)),
        lambda server: server.finish(1, 1, "success", value="enough"),
    ],
    "a recorded flow": [
        lambda client: (client.open_flow(), send(client, ROW, ROW), client.end(1)),
    ],
}


CUT = "a cut in the middle"
CONVERSATIONS = [vector for vector in load("conversations") if vector["name"] != CUT]


def test_a_conversation_that_is_cut(feed):
    (vector,) = [vector for vector in load("conversations") if vector["name"] == CUT]
    steps = iter(vector["steps"])

    def carry(sender: Connection, receiver: Connection) -> list[Any]:
        step = next(steps)
        data = bytes.fromhex(step["hex"])
        assert (step["from"], b"".join(sender.data_to_send())) == (sender.role.value, data)
        return feed(receiver, data)

    ticket = Ticket(b"\x0b" * 16, b"\x5e" * 16, b"\x7c" * 32, 120.0, 1 << 20, 0)
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    client.open_flow(resume=1 << 20)
    carry(client, server)
    server.open_session(1, ticket, 1 << 20)
    _, opened = carry(server, client)
    assert opened.ticket == ticket
    send(client, ROW, ROW)
    carry(client, server)
    send(client, ROW)
    send(server, ROW)
    old_client, old_server = client, server
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    client.resume_flow(old_client.flow(1), ticket)
    _, request = carry(client, server)
    server.resume(1, old_server.flow(1), request, ticket, 2)
    _, resumed, *_, message = carry(server, client)
    assert resumed == FlowResumed(flow_id=1, token=ticket.token, generation=2)
    assert list(message.batch.decode()) == [ROW]
    client.end(1)
    *_, ended = carry(client, server)
    assert ended == FlowEnded(flow_id=1, count=3)
    server.finish(1, 3, "success", value=None)
    carry(server, client)
    assert carry(client, server) == [ResultAcknowledged(flow_id=1)]
    assert client.idle
    assert server.idle


@pytest.mark.parametrize("vector", CONVERSATIONS, ids=lambda vector: vector["name"])
@pytest.mark.parametrize("chunk", [0, 1])
def test_conversations(feed, vector, chunk):
    machines = {role.value: Connection(role) for role in Role}
    for step, move in zip(vector["steps"], MOVES[vector["name"]], strict=True):
        sender = machines.pop(step["from"])
        move(sender)
        data = bytes.fromhex(step["hex"])
        assert b"".join(sender.data_to_send()) == data
        ((name, receiver),) = machines.items()
        feed(receiver, data, chunk)
        machines = {step["from"]: sender, name: receiver}
    if len(vector["steps"]) > 1:
        assert all(machine.idle for machine in machines.values())


def test_the_recorded_flow_can_be_read_and_written():
    (vector,) = [each for each in load("conversations") if each["name"] == "a recorded flow"]
    data = bytes.fromhex(vector["steps"][0]["hex"])
    assert list(decode_packet_flow([data])) == [ROW, ROW]
    machine = Connection(Role.SERVER)
    machine.receive_data(b"".join(encode_packet_flow([ROW, ROW])))
    events = list(iter(machine.next_event, None))
    assert isinstance(events[-1], FlowEnded)


# Breaches


@pytest.mark.parametrize("vector", load("breaches"), ids=lambda vector: vector["name"])
@pytest.mark.parametrize("chunk", [0, 1])
def test_breaches(feed, vector, chunk):
    machine = Connection(Role(vector["to"]), LEAST)
    for _ in range(vector["flows"]):
        machine.open_flow()

    def suffer() -> None:
        for event in feed(machine, bytes.fromhex(vector["hex"]), chunk):
            if isinstance(event, PacketsReceived):
                event.batch.decode()

    with pytest.raises(RemoteProtocolError) as caught:
        suffer()
    assert caught.value.code == vector["code"]


# The catalogue of negative cases


@pytest.mark.parametrize("case", load("catalogue"), ids=lambda case: f"{case['number']}")
@pytest.mark.parametrize("chunk", [0, 1])
def test_catalogue(feed, case, chunk):
    """Each side refuses what it must, with the code that the specification gives."""
    machine = Connection(Role(case["to"]), LEAST)
    if case["to"] == "client":
        machine.open_flow()

    def suffer() -> None:
        for event in feed(machine, bytes.fromhex(case["hex"]), chunk):
            if isinstance(event, PacketsReceived):
                event.batch.decode()

    with pytest.raises(RemoteProtocolError) as caught:
        suffer()
    assert caught.value.code == case["code"], case["name"]


def test_the_catalogue_is_numbered_and_keyed_to_sections():
    """At least 150 cases, their numbers without gaps, their sections those of the specification."""
    cases = load("catalogue")
    assert [case["number"] for case in cases] == [*range(1, len(cases) + 1)]
    assert len(cases) >= 150
    text = (VECTORS.parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
    for case in cases:
        assert f"### {case['section']} " in text
    assert {case["to"] for case in cases} == {"server", "client"}
