"""A flow that goes on over another connection has lost nothing, and has nothing twice."""

import os
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyf.transport import (
    Connection,
    FlowRefused,
    Limits,
    RemoteProtocolError,
    Role,
    encode_packet,
)
from pyf.transport.events import (
    CreditReceived,
    Event,
    FlowAbandoned,
    FlowAborted,
    FlowEnded,
    FlowOpened,
    FlowRejected,
    FlowResumed,
    PacketsReceived,
    ResultAcknowledged,
    ResultReceived,
    ResumeRequested,
    SessionOpened,
)
from pyf.transport.frames import FrameType, encode_batch, encode_frame
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS
from pyf.transport.payloads import encode_resumed
from pyf.transport.resume import (
    MAX_RETIRED,
    MAX_UNCONFIRMED,
    FlowMachine,
    Kept,
    Ticket,
    Tokens,
    Verdict,
)
from pyf.transport.states import FlowState
from pyf.transport.window import ReceiveWindow, SendWindow

CLIENT, SERVER = Role.CLIENT, Role.SERVER
LIMITS = Limits(window_packets=INITIAL_PACKETS, window_bytes=INITIAL_BYTES, max_packet=200_000)
KEEPS = INITIAL_BYTES
RESUMES = int(os.environ.get("RESUMES", "300"))
"""Resumes of the longest run; script/soak sets it to 100,000."""


def numbered(number: int, size: int) -> dict[str, Any]:
    return {"n": number, "fill": bytes(size)}


class Server:
    """
    A server's session with one flow, apart from its connections.
    """

    def __init__(self) -> None:
        self.log: list[int] = []
        self.handlers = 0
        self.whole = False
        self.said: list[int] = []
        self.result: list[int] | None = None
        self.acknowledged = False
        self.flow: FlowMachine | None = None
        self.machine: Connection | None = None
        self.ticket = Ticket(b"boot", b"session", self.token(0), 120.0, KEEPS, 0)
        self.tokens = Tokens(b"", self.ticket.token)
        self.generation = 1
        self.confirmed = True
        self.pending: deque[bytes] = deque()
        self.unread: deque[tuple[int, int, list[int]]] = deque()

    @staticmethod
    def token(generation: int) -> bytes:
        return generation.to_bytes(32, "big")

    def hear(self, machine: Connection, event: Event) -> None:
        match event:
            case FlowOpened(flow_id=flow_id, resume=keeps):
                assert keeps == KEEPS
                if self.handlers:
                    machine.finish(flow_id, 0, "refused")
                    return
                machine.open_session(flow_id, self.ticket, keeps)
                self.machine, self.flow = machine, machine.flow(flow_id)
                self.whole = False
            case ResumeRequested():
                self.resume(machine, event)
            case ResultAcknowledged():
                self.acknowledged = True
            case _ if self.flow is not None and machine is self.machine:
                self.handlers = 1
                if not self.confirmed:
                    self.confirmed = True
                    self.tokens.confirm()
                self.hear_flow(event)
            case _:
                pass

    def resume(self, machine: Connection, event: ResumeRequested) -> None:
        verdict = self.tokens.check(event.token)
        if verdict is not Verdict.VALID:
            assert verdict is Verdict.RETIRED
            machine.reject(event.flow_id, "superseded", "", final=False)
            return
        flow = self.flow
        assert flow is not None
        assert self.machine is not None
        assert flow.can_go_on(event.received_back, event.first_available)
        self.machine.fence(flow.id)
        self.generation += 1
        self.confirmed = False
        ticket = self.ticket._replace(token=self.token(self.generation))
        self.tokens.add(ticket.token)
        self.machine = machine
        machine.resume(event.flow_id, flow, event, ticket, self.generation)

    def hear_flow(self, event: Event) -> None:
        match event:
            case PacketsReceived(batch=batch):
                numbers = [packet["n"] for packet in batch.decode()]
                self.unread.append((batch.packets, batch.size, numbers))
            case FlowEnded(count=count):
                assert not self.whole, "the end came twice"
                self.whole = True
                assert count == len(self.log) + sum(count for count, _, _ in self.unread)
            case _:
                pass

    def read(self) -> None:
        """
        The handler takes a batch.
        """
        if self.unread and self.machine is not None and self.flow is not None:
            packets, size, numbers = self.unread.popleft()
            self.log += numbers
            self.machine.consume(self.flow.id, packets, size)

    def say(self, size: int) -> None:
        if self.handlers and self.result is None:
            number = len(self.said)
            self.said.append(number)
            self.pending.append(encode_packet(numbered(number, size)))

    def move(self) -> None:
        """
        Send what credit allows, and the result behind all of it.
        """
        if self.machine is None or self.flow is None or self.result is not None:
            return
        self.machine.send_packets(self.flow.id, self.pending)
        if self.whole and not self.unread and not self.pending:
            self.result = list(self.log)
            self.machine.finish(self.flow.id, len(self.log), "success", value=len(self.log))


class Client:
    """
    A client's flow, apart from its connections.
    """

    def __init__(self) -> None:
        self.machine: Connection | None = None
        self.flow: FlowMachine | None = None
        self.attached = False
        self.ticket: Ticket | None = None
        self.generation = 1
        self.produced = 0
        self.ended = False
        self.received: list[int] = []
        self.result: ResultReceived | None = None
        self.pending: deque[bytes] = deque()

    def connect(self) -> Connection:
        machine = Connection(CLIENT, LIMITS)
        if self.ticket is None or self.flow is None:
            machine.open_flow(resume=KEEPS)
        else:
            machine.resume_flow(self.flow, self.ticket)
        if self.flow is None or self.ticket is None:
            self.machine = machine
        self.attached = False
        return machine

    def hear(self, machine: Connection, event: Event) -> None:
        match event:
            case SessionOpened(flow_id=flow_id, ticket=ticket):
                self.ticket, self.flow, self.machine = ticket, machine.flow(flow_id), machine
                self.attached = True
            case FlowResumed(token=token, generation=generation):
                assert generation > self.generation
                assert self.ticket is not None
                self.generation = generation
                self.ticket = self.ticket._replace(token=token)
                self.machine, self.attached = machine, True
            case PacketsReceived(flow_id=flow_id, batch=batch):
                self.received += [packet["n"] for packet in batch.decode()]
                machine.consume(flow_id, batch.packets, batch.size)
            case ResultReceived():
                assert self.result is None
                self.result = event
            case FlowRejected(final=final):
                assert not final
            case _:
                pass

    def send(self, size: int) -> None:
        if self.flow is not None and not self.ended and self.result is None:
            self.pending.append(encode_packet(numbered(self.produced, size)))
            self.produced += 1

    def end(self) -> None:
        if self.flow is not None and not self.pending and not self.ended and self.result is None:
            assert self.machine is not None
            self.machine.end(self.flow.id)
            self.ended = True

    def move(self) -> None:
        if self.flow is not None and self.machine is not None and self.result is None:
            self.machine.send_packets(self.flow.id, self.pending)


class Path:
    """
    One connection between the two; either side's bytes may be late, or never come.
    """

    def __init__(self, client: Client, server: Server) -> None:
        self.users = {CLIENT: client, SERVER: server}
        self.ends = {CLIENT: client.connect(), SERVER: Connection(SERVER, LIMITS)}
        self.wires = {role: bytearray() for role in Role}
        self.alive = dict.fromkeys(Role, True)

    def carry(self, role: Role, size: int) -> bool:
        """
        Bring up to *size* bytes of what *role* has said to the other side; say whether any came.
        """
        wire, other = self.wires[role], role.peer
        wire += b"".join(self.ends[role].data_to_send())
        piece = bytes(wire[:size])
        del wire[:size]
        if self.alive[other]:
            machine = self.ends[other]
            machine.receive_data(piece)
            while event := machine.next_event():
                self.users[other].hear(machine, event)
        return bool(piece)

    def cut(self, role: Role) -> None:
        """
        *role* hears no more on this connection, and what it says on it from now on is lost.
        """
        self.alive[role] = False
        self.wires[role] += b"".join(self.ends[role].data_to_send())


class World:
    """
    Both sides, and the connections between them, old and new.
    """

    def __init__(self) -> None:
        self.client, self.server = Client(), Server()
        self.paths = [Path(self.client, self.server)]

    def carry(self, role: Role, size: int) -> bool:
        some = self.paths[-1].carry(role, size)
        self.client.move()
        self.server.move()
        return some

    def reconnect(self) -> None:
        """
        The client takes its connection for lost, and makes another one; the server may not know.
        """
        if self.client.result is None:
            self.paths[-1].cut(CLIENT)
            self.paths.append(Path(self.client, self.server))

    def settle(self) -> None:
        """
        Nothing is cut any more: bring it all to its end.
        """
        while self.carry(CLIENT, 10**9) | self.carry(SERVER, 10**9) | bool(self.server.unread):
            self.server.read()
            self.client.move()
            self.server.move()

    def check(self) -> None:
        """
        The handler's log, and what came back, are prefixes of what was sent: no gap, none twice.
        """
        assert self.server.log == list(range(len(self.server.log)))
        assert self.client.received == list(range(len(self.client.received)))
        for flow, most in ((self.client.flow, 0), (self.server.flow, 0)):
            if flow is not None and flow.kept is not None:
                assert flow.kept.size <= KEEPS + LIMITS.max_packet + most

    def check_end(self) -> None:
        """
        Both sides have one and the same outcome.
        """
        client, server = self.client, self.server
        self.check()
        assert client.result is not None
        assert server.log == list(range(client.produced))
        assert client.result.value == client.produced
        assert client.received == server.said
        # A connection that was late may have taken the session over behind the result: the ack is
        # lost with the one it took it from, and the server keeps the result until its time is over.
        assert server.acknowledged or server.machine is not self.paths[-1].ends[SERVER]
        assert server.handlers == 1


class Cuts(RuleBasedStateMachine):
    """
    Connections are cut and replaced at any byte; old ones go on telling the server what is old.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(count=st.integers(1, 600), size=st.sampled_from([0, 0, 100, 30_000, 150_000]))
    def produce(self, count, size):
        for _ in range(count if size == 0 else 1):
            self.world.client.send(size)
        self.world.client.move()

    @rule(size=st.sampled_from([0, 100, 30_000]))
    def say(self, size):
        self.world.server.say(size)
        self.world.server.move()

    @rule()
    def end(self):
        self.world.client.end()

    @rule()
    def read(self):
        self.world.server.read()
        self.world.server.move()

    @rule(role=st.sampled_from(Role), size=st.sampled_from([1, 9, 50, 200, 5000, 10**9]))
    def carry(self, role, size):
        self.world.carry(role, size)

    @rule()
    def reconnect(self):
        self.world.reconnect()

    @rule(path=st.integers(0, 10), size=st.sampled_from([1, 50, 300, 10**9]))
    def an_old_connection_speaks(self, path, size):
        paths = self.world.paths
        paths[path % len(paths)].carry(CLIENT, size)
        self.world.server.move()

    @invariant()
    def nothing_is_missing_or_twice(self):
        self.world.check()

    def teardown(self):
        world = self.world
        world.reconnect()
        world.settle()
        world.client.end()
        world.settle()
        # An old connection that was late may have taken the session over: the client comes back.
        for _ in range(5):
            world.reconnect()
            world.settle()
            world.client.end()
            world.settle()
        world.check_end()


TestCuts = Cuts.TestCase
TestCuts.settings = settings(max_examples=60, stateful_step_count=50)


def in_mid_flow(packets: int = 700, messages: int = 3) -> World:
    """
    A world with much on its way, both ways.
    """
    world = World()
    world.settle()
    for _ in range(packets):
        world.client.send(10)
    world.client.move()
    world.carry(CLIENT, 3000)
    world.server.read()
    for _ in range(messages):
        world.server.say(10)
    world.server.move()
    return world


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("ended", [False, True])
def test_a_cut_at_every_byte_of_a_resume_loses_nothing(role, ended):
    """
    RESUME, or RESUMED with all behind it, arrives up to any byte; then the client comes back.
    """
    byte = 0
    reached = True
    while reached:
        world = in_mid_flow()
        if ended:
            world.client.end()
        world.reconnect()
        path = world.paths[-1]
        if role is SERVER:
            path.carry(CLIENT, 10**9)
        reached = path.carry(role, byte) or byte == 0
        reached = reached and bool(path.wires[role])
        world.reconnect()
        world.settle()
        world.client.end()
        world.settle()
        world.check_end()
        byte += 1
    assert byte > 200


def test_a_resume_that_is_late_is_fenced_or_fences():
    """
    Two resumes with one token: whichever the server hears last carries the flow, until the client
    comes back with what it knows.
    """
    for late_first in (True, False):
        world = in_mid_flow()
        world.reconnect()
        late = world.paths[-1]
        if late_first:
            late.carry(CLIENT, 10**9)
        world.reconnect()
        world.settle()
        late.carry(CLIENT, 10**9)
        world.reconnect()
        world.settle()
        world.client.end()
        world.settle()
        world.check_end()


def test_a_connection_remembers_nothing_of_each_flow_that_has_left_it(connect, feed):
    """
    What comes late for one of them is ignored; flows beside them go on, and an unknown one is a
    breach as ever.
    """
    pair = connect()
    flows = [pair.client.open_flow() for _ in range(6)]
    pair.to_server()

    for flow in flows[1::2]:
        pair.server.fence(flow)

    for flow in flows:
        pair.client.cancel(flow)
    assert [event.flow_id for event in pair.to_server()] == flows[::2]
    with pytest.raises(RemoteProtocolError, match="flow 7, which is not open"):
        feed(pair.server, b"".join(encode_frame(FrameType.CANCEL, 7)))


def test_a_resume_that_is_later_still_is_told_so():
    """
    Once the client has used its new token, the old one changes nothing.
    """
    world = in_mid_flow()
    world.reconnect()
    late = world.paths[-1]
    world.reconnect()
    world.settle()
    generation = world.server.generation
    late.alive[CLIENT] = True
    late.carry(CLIENT, 10**9)
    late.carry(SERVER, 10**9)
    assert world.server.generation == generation
    world.client.end()
    world.settle()
    world.check_end()


def test_a_result_whose_acknowledgement_was_lost_stays_and_comes_again():
    """
    The result is given again and again, until the client has it; the handler runs once.
    """
    world = in_mid_flow()
    world.client.end()
    world.carry(CLIENT, 10**9)
    while world.server.unread:
        world.server.read()
    world.server.move()
    assert world.server.result is not None
    for _ in range(5):
        world.reconnect()
        world.paths[-1].carry(CLIENT, 10**9)
    assert not world.server.acknowledged
    world.reconnect()
    world.settle()
    world.check_end()


def test_a_flow_goes_on_as_often_as_its_connection_is_lost():
    """
    After RESUMES connections, each cut somewhere else, nothing is lost and nothing twice.
    """
    world = World()
    world.settle()
    for number in range(RESUMES):
        for _ in range(number % 7):
            world.client.send(number % 50)
        world.client.move()
        world.server.say(number % 30)
        world.carry(CLIENT, number * 37 % 900)
        world.server.read()
        world.carry(SERVER, number * 53 % 700)
        world.reconnect()
        del world.paths[:-3]
        if number % 3 == 0:
            world.paths[0].carry(CLIENT, 10**9)
        world.check() if number % 1000 == 0 else None
    for _ in range(5):
        world.reconnect()
        world.settle()
    world.client.end()
    world.settle()
    world.check_end()


# One by one


def data(first: int, *packets: dict[str, Any]) -> bytes:
    encoded = [encode_packet(packet) for packet in packets]
    return b"".join(encode_batch(FrameType.DATA, 1, first, len(encoded), b"".join(encoded)))


@pytest.fixture
def pair(connect):
    """
    A client and a server with a session for flow 1, in which two packets have come.
    """
    pair = connect(LIMITS, LIMITS)
    pair.client.open_flow(resume=KEEPS)
    pair.to_server()
    pair.server.open_session(1, Ticket(b"", b"", b"", 1.0, KEEPS, 0), KEEPS)
    pair.to_client()
    pair.to_server()
    pair.send(CLIENT, 1, [{"n": 0}, {"n": 1}])
    pair.to_server()
    return pair


def new_numbers(events: list[Event]) -> list[int]:
    return [
        packet["n"]
        for event in events
        if isinstance(event, PacketsReceived)
        for packet in event.batch.decode()
    ]


VALUES = {
    "small": [1, -1, None, True, "text", b"bytes", 1.5, [1, [2]], {"a": {"b": 2}}],
    "large": [2**40, -(2**40), "x" * 40, "x" * 300, "x" * 70_000, bytes(300), bytes(70_000)],
    "many": [[0] * 20, [0] * 70_000, {str(n): n for n in range(20)}],
    "extended": [2**70, 10**1000],
}


@pytest.mark.parametrize("values", VALUES.values(), ids=list(VALUES))
def test_packets_that_come_twice_are_dropped_and_those_behind_them_taken(connect, feed, values):
    """
    Whatever is in the packets, the batch is cut where the new ones begin.
    """
    server = Connection(SERVER)
    for number, value in enumerate(values):
        client = Connection(CLIENT)
        client.open_flow(resume=KEEPS)
        server = Connection(SERVER)
        feed(server, b"".join(client.data_to_send()))
        server.open_session(1, Ticket(b"", b"", b"", 1.0, KEEPS, 0), KEEPS)
        feed(server, data(0, {"n": 0, "value": value}))
        events = feed(server, data(0, {"n": 0, "value": value}, {"n": number}))
        assert new_numbers(events) == [number]
        assert feed(server, data(1, {"n": number})) == []
        assert server.flow(1).receive.received_packets == 2


def test_a_gap_is_a_breach_whatever_the_flow(pair, feed):
    """
    A packet beyond the one that is due can only mean that one is lost.
    """
    with pytest.raises(
        RemoteProtocolError, match="packet 3 came where packet 2 was next"
    ) as caught:
        feed(pair.server, data(3, {"n": 3}))
    assert caught.value.code == "sequence"


@pytest.mark.parametrize("body", [b"\xc1\xc0", b"\x81\xa1", b"\xdb\xff\xff\xff\xff", b"\x81\xa1n"])
def test_an_overlap_that_holds_no_packets_is_a_breach(pair, feed, body):
    """
    Where the new packets begin cannot be told then.
    """
    frame = b"".join(encode_batch(FrameType.DATA, 1, 1, 2, body))
    with pytest.raises(RemoteProtocolError) as caught:
        feed(pair.server, frame)
    assert caught.value.code == "malformed_batch"


def test_a_flow_without_a_session_may_not_repeat_itself(connect, feed):
    """
    As ever: only the packet that is due may come.
    """
    pair = connect()
    pair.client.open_flow()
    pair.send(CLIENT, 1, [{"n": 0}])
    pair.to_server()
    with pytest.raises(RemoteProtocolError, match="packet 0 came where packet 1 was next"):
        feed(pair.server, data(0, {"n": 0}))


def test_a_session_that_was_not_asked_for_is_a_breach(connect):
    """
    Its client keeps nothing.
    """
    pair = connect()
    pair.client.open_flow()
    pair.to_server()
    pair.server.open_session(1, Ticket(b"", b"", b"", 1.0, KEEPS, 0), KEEPS)
    with pytest.raises(RemoteProtocolError) as caught:
        pair.to_client()
    assert caught.value.code == "unexpected_frame"


def test_a_session_that_comes_after_the_client_gave_up_is_ignored(connect):
    """
    Nothing is left to come back for.
    """
    pair = connect()
    pair.client.open_flow(resume=KEEPS)
    pair.to_server()
    pair.server.open_session(1, Ticket(b"", b"", b"", 1.0, KEEPS, 0), KEEPS)
    pair.client.cancel(1)
    assert pair.to_client() == []


@pytest.mark.parametrize("words", [["end"], ["cancel"], ["abort"], ["end", "cancel"]])
def test_last_words_are_said_again_and_heard_once(pair, connect, words):
    """
    Each has its effect when it comes first, and none the second time.
    """
    for word in words:
        pair.client.abort(1, "Error") if word == "abort" else getattr(pair.client, word)(1)
    kinds = {"end": FlowEnded, "cancel": FlowAbandoned, "abort": FlowAborted}
    assert [type(event) for event in pair.to_server()] == [kinds[word] for word in words]
    again = connect(LIMITS, LIMITS)
    ticket = Ticket(b"", b"", b"", 1.0, KEEPS, 0)
    again.client.resume_flow(pair.client.flow(1), ticket)
    (request,) = again.to_server()
    again.server.resume(1, pair.server.flow(1), request, ticket, 2)
    again.to_client()
    assert [type(event) for event in again.to_server()] == [CreditReceived]
    assert again.server.flow_state(1) is pair.client.flow_state(1)


@pytest.mark.parametrize(("next_sequence", "received_back"), [(3, 0), (2, 1)])
def test_a_server_that_resumes_where_it_cannot_is_in_breach(
    pair, connect, feed, next_sequence, received_back
):
    """
    It wants packets that were never sent, or has counted messages that never came.
    """
    again = connect(LIMITS, LIMITS)
    again.client.resume_flow(pair.client.flow(1), Ticket(b"", b"", b"", 1.0, KEEPS, 0))
    payload = encode_resumed(next_sequence, received_back, b"", 2)
    with pytest.raises(RemoteProtocolError) as caught:
        feed(again.client, b"".join(encode_frame(FrameType.RESUMED, 1, payload)))
    assert caught.value.code == "sequence"


def test_a_rejected_flow_is_closed_here(pair, connect):
    """
    The code, the text and whether it is final come across.
    """
    again = connect(LIMITS, LIMITS)
    again.client.resume_flow(pair.client.flow(1), Ticket(b"", b"", b"", 1.0, KEEPS, 0))
    again.to_server()
    again.server.reject(1, "gap", "why", final=True)
    assert again.to_client() == [FlowRejected(flow_id=1, code="gap", message="why", final=True)]
    assert again.client.idle
    assert again.server.idle


def test_a_server_that_leaves_lets_nothing_go_on(pair, connect):
    """
    It may be asked again, later or elsewhere.
    """
    again = connect(LIMITS, LIMITS)
    again.client.resume_flow(pair.client.flow(1), Ticket(b"", b"", b"", 1.0, KEEPS, 0))
    again.server.go_away("draining", "")
    assert again.to_server() == []
    rejected = again.to_client()[-1]
    assert isinstance(rejected, FlowRejected)
    assert (rejected.code, rejected.final) == ("draining", False)
    with pytest.raises(FlowRefused):
        again.client.resume_flow(pair.client.flow(1), Ticket(b"", b"", b"", 1.0, KEEPS, 0))


def test_a_peer_that_grants_more_than_it_counts_gets_no_more():
    """
    What is kept stays bounded, whatever the other side says.
    """
    flow = FlowMachine(
        1,
        FlowState.STREAMING,
        SendWindow(INITIAL_PACKETS, INITIAL_BYTES),
        ReceiveWindow(INITIAL_PACKETS, INITIAL_BYTES),
    )
    flow.keep(KEEPS)
    assert flow.kept is not None
    flow.send.spend(1, 1000)
    flow.kept.add(1, [bytes(1000)], 1000)
    flow.grant(0, 10**6, 10**9)
    assert flow.send.bytes_limit == KEEPS
    flow.grant(1, 10**6, 10**9)
    assert flow.send.bytes_limit == KEEPS + 1000
    flow.send.widen(INITIAL_PACKETS, 10**9)
    assert flow.send.window_bytes == KEEPS


@given(st.lists(st.integers(1, 5), max_size=8), st.data())
def test_what_is_kept_is_what_was_not_counted(sizes, draw):
    """
    In the order in which it was sent, with its size, however much is counted at a time.
    """
    kept, sent = Kept(KEEPS), []
    for size in sizes:
        batch = [encode_packet({"n": bytes(len(sent) + n)}) for n in range(size)]
        sent += batch
        kept.add(size, [b"".join(batch[:2]), *batch[2:]], sum(map(len, batch)))
        kept.acknowledge(draw.draw(st.integers(0, len(sent))))
        assert kept.size == sum(map(len, sent[kept.first :]))
    again, due = b"", kept.first
    for first, count, buffers in kept.batches():
        assert first == due
        again, due = again + b"".join(buffers), due + count
    assert (again, due) == (b"".join(sent[kept.first :]), len(sent))


def test_a_flow_weighs_what_it_may_hold(pair):
    """
    What came and was not read, what may be kept, and its last words.
    """
    flow = pair.server.flow(1)
    unread = flow.receive.unread_bytes
    assert unread > 0
    assert flow.weight == unread + KEEPS
    assert not flow.concluded
    pair.server.finish(1, 0, "success", value=bytes(1000))
    assert flow.weight > unread + KEEPS + 1000
    assert flow.concluded


def test_the_rest_of_a_frame_that_never_comes_is_forgotten(pair):
    """
    A connection that is lost holds no half of a packet.
    """
    pair.server.receive_data(data(2, {"n": 2})[:20])
    assert pair.server.next_event() is None
    assert pair.server.mid_frame
    pair.server.drop_input()
    assert not pair.server.mid_frame


# Tokens


def test_tokens_are_kept_as_hashes_bound_to_their_session():
    """
    Neither the token itself nor its hash alone opens another session.
    """
    tokens = Tokens(b"one", b"token")
    assert b"token" not in tokens._valid
    assert tokens.check(b"token") is Verdict.VALID
    assert tokens.check(b"other") is Verdict.WRONG
    assert Tokens(b"two", b"token")._valid != tokens._valid


def test_the_tokens_before_are_valid_until_the_last_is_confirmed():
    """
    Then they are known, and worth nothing.
    """
    tokens = Tokens(b"", b"0")
    tokens.add(b"1")
    assert tokens.check(b"0") is tokens.check(b"1") is Verdict.VALID
    tokens.confirm()
    tokens.confirm()
    assert tokens.check(b"0") is Verdict.RETIRED
    assert tokens.check(b"1") is Verdict.VALID


def test_what_is_known_of_tokens_is_bounded():
    """
    The one that was confirmed stays good, whatever else was given out.
    """
    tokens = Tokens(b"", b"first")
    for number in range(MAX_RETIRED + 100):
        tokens.add(str(number).encode())
        assert tokens.check(b"first") is Verdict.VALID
    assert len(tokens._valid) == MAX_UNCONFIRMED
    assert len(tokens._retired) == MAX_RETIRED
    assert tokens.check(b"0") is Verdict.WRONG
