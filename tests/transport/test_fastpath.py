"""What is ordinary in one step: what that does is what the machine does, step by step."""

from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport import (
    Connection,
    Limits,
    Packet,
    Role,
    StationError,
    encode_packet,
    fastpath,
    speed,
)
from pyf.transport.budget import SMALL
from pyf.transport.census import QUICK_BYTES
from pyf.transport.codec import decode
from pyf.transport.compiled import compiled
from pyf.transport.events import FlowEnded, FlowOpened, PacketsReceived, ResultReceived
from pyf.transport.frames import (
    BATCH,
    CREDIT,
    END,
    HEADER,
    HELLO,
    Frame,
    FrameType,
    encode_batch,
    encode_frame,
)
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS, LARGE, MIB
from pyf.transport.payloads import encode_hello, encode_open, encode_outcome, encode_result
from pyf.transport.pieces import encode_pieces
from pyf.transport.resume import Ticket
from pyf.transport.states import FlowState

LEAST = Limits(window_packets=INITIAL_PACKETS, window_bytes=INITIAL_BYTES)
FIELD = encode_packet({"a": 1})
SUCCESS = encode_outcome("success", {"value": {"v": 1}})
ORDINARY = pytest.mark.skipif(
    compiled("pyf.transport._fastpath") is None, reason="nothing is compiled here"
)
TICKET = Ticket(b"boot", b"session", b"token", 60.0, INITIAL_BYTES, 0)
SIZES = (0, SMALL, LARGE, INITIAL_BYTES // 2, INITIAL_BYTES, 2 * INITIAL_BYTES)


def encode_in_run(packet: dict[str, Any]) -> Any:
    """
    Return *packet* in a run, where it is small and that is compiled.
    """
    return next(speed.encode_each([encode_packet] * 2, iter([packet]), MIB))


ENCODERS = encode_packet, encode_pieces, encode_in_run


@contextmanager
def step_by_step() -> Generator[None]:
    """
    No batch is ordinary.
    """
    with (
        patch.object(fastpath, "store", lambda *_: False),
        patch.object(fastpath, "next_frame", lambda _: None),
        patch.object(fastpath, "receive", lambda _: None),
        patch.object(fastpath, "send", lambda *_: False),
        patch.object(fastpath, "send_packet", lambda *_: False),
    ):
        yield


def pair(limits: Limits = LEAST, *, strangers: bool = False, resume: bool = False) -> Any:
    """
    Return client and server, which know each other, and their flow.
    """
    client = Connection(Role.CLIENT, limits, lambda: 0.0)
    server = Connection(Role.SERVER, limits, lambda: 0.0, strangers=strangers)
    flow = client.open_flow({"h": 1}, resume=INITIAL_BYTES if resume else None)
    receive(server, b"".join(client.data_to_send()))
    receive(client, b"".join(server.data_to_send()))
    return client, server, flow


def receive(machine: Connection, *pieces: bytes) -> list[Any]:
    """
    Return the events of *pieces*, and the error that ends them.
    """
    told: list[Any] = []
    try:
        for piece in pieces:
            machine.receive_data(piece)
            while (event := machine.next_event()) is not None:
                told.append(event)
    except StationError as error:
        told.append((type(error), str(error), vars(error)))
    return told


def send(machine: Connection, flow: int, pending: deque[Any]) -> Any:
    """
    Return how many packets of *pending* were sent, or the error.
    """
    try:
        return machine.send_packets(flow, pending)
    except StationError as error:
        return type(error), str(error), vars(error)


def known(machine: Connection) -> Any:
    """
    Return all that a batch may change.
    """
    parser, budget = machine._parser, machine._budget
    assert budget is not None
    flows = [
        (
            *(each.state, each.send.sent_packets, each.send.sent_bytes),
            *(each.receive.received_packets, each.receive.unread_bytes),
            each.kept and (list(each.kept.batches()), each.kept.last_words, each.kept.heard),
        )
        for each in machine._flows.values()
    ]
    pending = parser._needed, parser.pending, b"".join(bytes(part) for part in parser._chunks)
    said = machine.state, machine._last_flow, machine._trusted
    return said, flows, pending, parser.frames, budget._left


def batch(count: int = 1, *, first: int = 0, flow: int = 1, body: bytes = FIELD) -> bytes:
    kind = FrameType.DATA
    return b"".join(encode_batch(kind, flow, first, count, *[body] * (count or 1)))


def opening(flow: int, payload: bytes) -> bytes:
    return b"".join(encode_frame(FrameType.OPEN, flow, payload))


def result(
    outcome: bytes = SUCCESS, *, consumed: int = 0, messages: int = 0, flow: int = 1
) -> bytes:
    payload = encode_result(consumed, messages, outcome)
    return b"".join(encode_frame(FrameType.RESULT, flow, payload))


FRAMES = st.one_of(
    st.builds(
        batch,
        st.sampled_from([1, 1, 1, 2, 50, 0, INITIAL_PACKETS]),
        first=st.sampled_from([0, 1, 2, 3]),
        flow=st.sampled_from([1, 1, 1, 2, 0]),
        body=st.sampled_from([FIELD, encode_packet({"a": bytes(99)})]),
    ),
    st.sampled_from(
        [
            batch(body=encode_packet({"a": bytes(INITIAL_BYTES)})),
            b"".join(encode_frame(FrameType.DATA, 1, BATCH.pack(0, 0xDC, 1), FIELD)),
            b"".join(encode_frame(FrameType.DATA, 1, BATCH.pack(0, 0xDD, 99), FIELD)),
            b"".join(encode_batch(FrameType.MESSAGE, 1, 0, 1, FIELD)),
            b"".join(encode_frame(FrameType.PING, 0, bytes(8))),
            b"".join(encode_frame(FrameType.CANCEL, 1)),
            *(b"".join(encode_frame(FrameType.END, 1, END.pack(n))) for n in (0, 1, 2, 2**64 - 1)),
            b"".join(encode_frame(FrameType.END, 2, END.pack(0))),
            b"".join(encode_frame(FrameType.END, 1, b"short")),
            HEADER.pack(0, FrameType.DATA, 1),
            HEADER.pack(1 << 31, FrameType.DATA, 1) + bytes(99),
        ]
    ),
    st.builds(
        opening,
        st.sampled_from([2, 2, 3, 1, 0, 2**32 - 1]),
        st.sampled_from(
            [
                encode_open({"h": 1}, None, True),
                encode_open(None, 1.5, False, 3, INITIAL_BYTES, "name"),
                encode_open({"h": bytes(LARGE)}, None, True),
                encode_open({"h": bytes(INITIAL_BYTES)}, None, True),
                encode_packet({"header": {}, "timeout": -1.0, "waits": True}),
                encode_packet({"header": "text"}),
                b"\xc1",
                b"",
            ]
        ),
    ),
)


@given(
    st.lists(FRAMES, max_size=8),
    st.booleans(),
    st.sampled_from(["strangers", "resume", "full", "leaving", ""]),
    st.lists(st.integers(1, 300), max_size=12),
)
def test_what_comes_is_told_and_counted_alike(frames, ordered, kind, cuts):
    """
    Whatever comes, in whatever pieces: events, errors, answers, counts and what is left.
    """
    if ordered:
        count = len(frames)
        frames = [batch(first=number) for number in range(count)]
        frames += encode_frame(FrameType.END, 1, END.pack(count))
    data = b"".join(frames)
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    pieces.append(data)

    def taken() -> Any:
        limits = replace(LEAST, max_flows=1 if kind == "full" else 100)
        _, server, flow = pair(limits, strangers=kind == "strangers")
        if kind == "leaving":
            server.go_away("draining", "")
        if kind == "resume":
            server.open_session(flow, TICKET, INITIAL_BYTES)
        told = receive(server, *pieces)
        return told, b"".join(server.data_to_send()), known(server)

    quickly = taken()
    with step_by_step():
        assert taken() == quickly


ANSWERS = st.one_of(
    st.builds(
        result,
        st.sampled_from(
            [
                *(SUCCESS, SUCCESS, SUCCESS),
                encode_outcome("error", {"code": "handler_error", "message": "why"}),
                encode_outcome("no such status", {}),
                encode_outcome("success", {"value": bytes(QUICK_BYTES)}),
                encode_packet({"status": 1}),
                encode_packet({}),
                b"\xc1",
                b"",
            ]
        ),
        consumed=st.sampled_from([0, 0, 0, 1, 2, 2**64 - 1]),
        messages=st.sampled_from([0, 0, 0, 1, 2**64 - 1]),
        flow=st.sampled_from([1, 1, 1, 2]),
    ),
    st.sampled_from(
        [
            b"".join(encode_batch(FrameType.MESSAGE, 1, 0, 1, FIELD)),
            b"".join(encode_frame(FrameType.STOP, 1)),
            opening(1, encode_open({"h": 1}, None, True)),
        ]
    ),
)


@given(
    st.lists(ANSWERS, max_size=4),
    st.booleans(),
    st.sampled_from([None, "end", "abort", "cancel"]),
    st.booleans(),
    st.lists(st.integers(1, 100), max_size=4),
)
def test_what_comes_back_is_told_and_counted_alike(frames, sends, word, resume, cuts):
    """
    Whatever the server answers, to a flow that has said what it may.
    """
    data = b"".join(frames)
    bounds = [0, *sorted(cuts), len(data)]

    def taken() -> Any:
        client, _, flow = pair(resume=resume)
        if sends:
            send(client, flow, deque([FIELD]))
        if word is not None:
            SAYINGS[word](client, flow)
        client.data_to_send()
        told = receive(client, *(data[a:b] for a, b in pairwise(bounds)))
        return told, b"".join(client.data_to_send()), known(client)

    quickly = taken()
    with step_by_step():
        assert taken() == quickly


@given(
    st.sampled_from(Role),
    st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from(ENCODERS)), max_size=8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, INITIAL_BYTES, 2**63, 2**64 - 1]),
)
def test_what_leaves_is_the_same(role, sizes, resume, ended, granted):
    """
    Whatever is sent, packet by packet: bytes, counts, errors, and what stays.
    """

    def sent() -> Any:
        client, server, flow = pair(resume=resume)
        machine = client if role is Role.CLIENT else server
        if ended:
            client.end(flow)
            receive(server, b"".join(client.data_to_send()))
        credit = CREDIT.pack(0, granted, granted)
        receive(machine, b"".join(encode_frame(FrameType.CREDIT, flow, credit)))
        results: list[Any] = []
        pending: deque[Any] = deque()
        for size, encode in sizes:
            pending.append(encode({"a": bytes(size)}))
            results.append(send(machine, flow, pending))
            results.append(b"".join(machine.data_to_send()))
        return results, [len(packet) for packet in pending], known(machine)

    quickly = sent()
    with step_by_step():
        assert sent() == quickly


SAYINGS: dict[str, Callable[[Connection, int], object]] = {
    "end": lambda machine, flow: machine.end(flow),
    "abort": lambda machine, flow: machine.abort(flow, "ValueError"),
    "cancel": lambda machine, flow: machine.cancel(flow),
    "stop": lambda machine, flow: machine.stop(flow),
    "consume": lambda machine, flow: machine.consume(flow, INITIAL_PACKETS, INITIAL_BYTES),
    "finish": lambda machine, flow: machine.finish(flow, 0, "success", value=1),
    "finish largely": lambda machine, flow: machine.finish(flow, 0, "success", value=bytes(LARGE)),
    "open": lambda machine, flow: machine.open_flow({"h": flow}),
}


@given(
    st.lists(
        st.tuples(st.sampled_from(Role), st.sampled_from(sorted(SAYINGS)), st.booleans()),
        max_size=8,
    ),
    st.booleans(),
)
def test_what_is_said_of_a_flow_is_the_same(sayings, resume):
    """
    Whoever says it, whether it may be said or not: bytes, errors, events and what is left.
    """

    def said() -> Any:
        client, server, flow = pair(resume=resume)
        peers = {client.role: (client, server), server.role: (server, client)}
        results: list[Any] = []
        for role, saying, arrives in sayings:
            machine, peer = peers[role]
            try:
                SAYINGS[saying](machine, flow)
            except StationError as error:
                results.append((type(error), str(error), vars(error)))
            if arrives:
                data = b"".join(machine.data_to_send())
                results += [data, receive(peer, data)]
            results.append(known(machine))
        return results, b"".join(client.data_to_send()), known(client), known(server)

    quickly = said()
    with step_by_step():
        assert said() == quickly


@ORDINARY
def test_an_ordinary_batch_is_taken_in_one_step():
    _, server, flow = pair()
    server.receive_data(batch(2) + batch(first=2))
    assert all(isinstance(fastpath.receive(server), PacketsReceived) for _ in range(2))
    assert server._flows[flow].receive.received_packets == 3


@ORDINARY
def test_that_nothing_is_left_is_known_in_one_step():
    """
    Unless nothing more will come, of which the machine has to tell.
    """
    _, server, _ = pair()
    assert fastpath.receive(server) is False
    server.receive_data(batch()[:-1])
    assert fastpath.receive(server) is None
    server.receive_data(batch()[-1:])
    assert server.next_event() is not None
    assert fastpath.receive(server) is False
    server.receive_eof()
    assert fastpath.receive(server) is None


@ORDINARY
def test_the_end_behind_an_ordinary_batch_is_taken_in_one_step():
    _, server, flow = pair()
    server.receive_data(batch() + b"".join(encode_frame(FrameType.END, 1, END.pack(1))))
    fastpath.receive(server)
    assert fastpath.receive(server) == FlowEnded(flow_id=flow, count=1)
    assert server.flow_state(flow) is FlowState.ENDED


@ORDINARY
def test_a_flow_is_opened_in_one_step():
    _, server, flow = pair()
    server.receive_data(opening(flow + 1, encode_open({"h": 1}, None, True)))
    opened = fastpath.receive(server)
    assert opened == FlowOpened(flow_id=flow + 1, header=Packet({"h": 1}), timeout=None, waits=True)
    assert server.flow_state(flow + 1) is FlowState.STREAMING


@ORDINARY
def test_the_result_of_a_whole_flow_is_taken_in_one_step():
    client, _, flow = pair()
    client.end(flow)
    client.receive_data(result())
    found = fastpath.receive(client)
    assert isinstance(found, ResultReceived)
    assert (found.flow_id, found.consumed, found.status, found.value) == (
        *(flow, 0, "success"),
        {"v": 1},
    )
    assert not any(found.error.values())
    assert client.flow_state(flow) is FlowState.CLOSED


@ORDINARY
@pytest.mark.parametrize(
    "outcome", [b"\xc1", encode_outcome("success", {"value": bytes(QUICK_BYTES)})]
)
def test_a_result_that_is_none_or_is_large_is_left_to_the_machine(outcome):
    client, _, flow = pair()
    client.end(flow)
    client.receive_data(result(outcome))
    assert fastpath.receive(client) is None
    assert client.flow_state(flow) is FlowState.ENDED


@ORDINARY
def test_a_small_frame_of_a_flow_leaves_in_one_buffer():
    client, _, flow = pair()
    client.end(flow)
    assert client.data_to_send() == [b"".join(encode_frame(FrameType.END, 1, END.pack(0)))]


@ORDINARY
def test_any_frame_that_came_whole_is_taken_in_one_step():
    _, server, _ = pair()
    end = b"".join(encode_frame(FrameType.CANCEL, 7))
    server.receive_data(end + batch() + end[:-1])
    found = [fastpath.next_frame(server._parser) for _ in range(3)]
    assert found == [
        Frame(FrameType.CANCEL, 7, b""),
        Frame(FrameType.DATA, 1, batch()[HEADER.size :]),
        None,
    ]
    assert type(found[0]) is Frame
    assert server._parser.pending == len(end) - 1


@ORDINARY
def test_a_spent_budget_is_left_to_the_machine():
    """
    It alone knows when there is more of it.
    """
    _, server, _ = pair()
    assert server._budget is not None
    server._budget._left["small batch"] = 1
    server.receive_data(batch() + batch(first=1))
    assert fastpath.receive(server) is not None
    assert fastpath.receive(server) is None
    with pytest.raises(StationError, match="too many small batch frames"):
        server.next_event()


@ORDINARY
@pytest.mark.parametrize("encode", [encode_packet, encode_in_run])
def test_a_small_packet_leaves_in_one_buffer(encode):
    client, _, flow = pair()
    assert client.send_packets(flow, deque([encode({"a": 1})])) == 1
    assert client.data_to_send() == [batch()]


@ORDINARY
@pytest.mark.parametrize("chunk", [bytearray(batch()), batch()[:-1]], ids=["grown", "cut"])
def test_what_is_not_there_as_it_was_sent_is_left_to_the_machine(chunk):
    _, server, _ = pair()
    server.receive_data(chunk)
    assert fastpath.receive(server) is None


@pytest.mark.parametrize("window", [2**63, 2**64 - 1, 2**80])
def test_a_peer_may_have_more_room_than_there_are_numbers_for(window):
    """
    Its HELLO says so, before the flow is opened or behind that.
    """
    hello = encode_hello(LEAST)
    fields = decode(hello[HELLO.size :]) | {"window_packets": window, "window_bytes": window}
    greeting = encode_frame(FrameType.HELLO, 0, hello[: HELLO.size], encode_packet(fields))
    client = Connection(Role.CLIENT, LEAST)
    before = client.open_flow({})
    receive(client, b"".join(greeting))
    for flow in (before, client.open_flow({})):
        assert client.send_packets(flow, deque([FIELD])) == 1


def test_before_its_hello_a_peer_sends_nothing_ordinary():
    server = Connection(Role.SERVER, LEAST)
    server.receive_data(batch())
    with pytest.raises(StationError, match="does not speak this protocol"):
        server.next_event()
