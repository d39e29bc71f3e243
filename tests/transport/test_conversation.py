"""Two honest machines never accuse each other, whatever they do and however bytes are delayed."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyf.transport import (
    Connection,
    FlowRefused,
    Limits,
    LocalProtocolError,
    Role,
    encode_packet,
)
from pyf.transport.events import (
    CreditReceived,
    FlowAborted,
    FlowEnded,
    FlowOpened,
    HelloReceived,
    PacketsReceived,
    ResultReceived,
)
from pyf.transport.limits import INITIAL_BYTES, INITIAL_PACKETS
from pyf.transport.states import FlowState

LIMITS = Limits(
    window_packets=INITIAL_PACKETS, window_bytes=INITIAL_BYTES, max_flows=3, max_packet=200_000
)
SIZES = st.lists(
    st.sampled_from([0, 10, 30_000, INITIAL_BYTES, 150_000]) | st.just(1), min_size=1, max_size=5
)
PACKET = encode_packet({})


class Conversation(RuleBasedStateMachine):
    """
    Moves of both users in any order; what one machine says reaches the other at any later time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ends = {role: Connection(role, LIMITS) for role in Role}
        self.wires = {role: bytearray() for role in Role}
        self.pending: dict[tuple[Role, int], deque[bytes]] = {}
        self.unread: dict[tuple[Role, int], list[tuple[int, int]]] = {}
        self.sent: dict[tuple[Role, int], list[bytes]] = {}
        self.received: dict[tuple[Role, int], int] = {}
        self.consumed: dict[int, int] = {}
        self.finished: dict[int, int] = {}

    def flow(self, role: Role, choice: int) -> int:
        flows = self.ends[role].open_flows
        return flows[choice % len(flows)] if flows else 0

    def flush(self, role: Role) -> None:
        self.wires[role] += b"".join(self.ends[role].data_to_send())

    @rule(header=st.none() | st.just({"a": 1}))
    def open(self, header):
        try:
            self.ends[Role.CLIENT].open_flow(header)
        except FlowRefused:
            assert self.ends[Role.CLIENT].state.name in ("DRAINING", "REFUSED")

    @rule(role=st.sampled_from(Role), choice=st.integers(0, 5), sizes=SIZES)
    def send(self, role, choice, sizes):
        if flow := self.flow(role, choice):
            pending = self.pending.setdefault((role, flow), deque())
            pending.extend(encode_packet({"a": bytes(size)}) for size in sizes)
            self.push(role, flow)

    @rule(role=st.sampled_from(Role), choice=st.integers(0, 5), count=st.integers(1, 700))
    def send_many(self, role, choice, count):
        if flow := self.flow(role, choice):
            self.pending.setdefault((role, flow), deque()).extend([PACKET] * count)
            self.push(role, flow)

    def push(self, role, flow):
        pending = self.pending.get((role, flow), deque())
        before = len(pending)
        try:
            count = self.ends[role].send_packets(flow, pending)
        except LocalProtocolError:
            pending.clear()
            return
        assert count == before - len(pending)

    @rule(
        choice=st.integers(0, 5),
        word=st.sampled_from(["end", "abort", "cancel"]),
    )
    def last_word_of_the_client(self, choice, word):
        client = self.ends[Role.CLIENT]
        if flow := self.flow(Role.CLIENT, choice):
            try:
                client.abort(flow, "Error") if word == "abort" else getattr(client, word)(flow)
            except LocalProtocolError:
                assert client.flow_state(flow).name in ("ENDED", "ABANDONED")

    @rule(choice=st.integers(0, 5), status=st.sampled_from(["success", "error", "cancelled"]))
    def last_word_of_the_server(self, choice, status):
        server = self.ends[Role.SERVER]
        if flow := self.flow(Role.SERVER, choice):
            try:
                server.finish(flow, self.consumed.get(flow, 0), status)
                self.finished[flow] = self.consumed.get(flow, 0)
            except LocalProtocolError:
                assert server.flow_state(flow).name == "ANSWERED"

    @rule(role=st.sampled_from(Role), choice=st.integers(0, 5))
    def consume(self, role, choice):
        waiting = [key for key, batches in self.unread.items() if key[0] is role and batches]
        if waiting:
            key = waiting[choice % len(waiting)]
            packets, size = self.unread[key].pop(0)
            self.ends[role].consume(key[1], packets, size)
            if role is Role.SERVER:
                self.consumed[key[1]] = self.consumed.get(key[1], 0) + packets

    @rule(role=st.sampled_from(Role))
    def ping(self, role):
        if role is Role.CLIENT or self.ends[role].state.name != "AWAITING_HELLO":
            self.ends[role].ping(1)

    @precondition(lambda self: self.ends[Role.SERVER].open_flows)
    @rule(really=st.integers(0, 5))
    def drain(self, really):
        if not really:
            self.ends[Role.SERVER].go_away("draining", "")

    @rule(role=st.sampled_from(Role), part=st.sampled_from([1, 10, 1000, 10**9]))
    def carry(self, role, part):
        """
        Let some of what *role* has said arrive.
        """
        self.flush(role)
        wire, other = self.wires[role], self.ends[role.peer]
        other.receive_data(bytes(wire[:part]))
        del wire[:part]
        while event := other.next_event():
            self.hear(role, event)

    def hear(self, role, event):
        match event:
            case PacketsReceived(flow_id=flow, batch=batch):
                key = (role.peer, flow)
                assert batch.first == self.received.get(key, 0)
                self.received[key] = batch.first + batch.packets
                self.unread.setdefault(key, []).append((batch.packets, batch.size))
            case FlowEnded(flow_id=flow, count=count) | FlowAborted(flow_id=flow, count=count):
                assert count == self.received.get((Role.SERVER, flow), 0)
            case FlowOpened():
                assert role is Role.CLIENT
            case ResultReceived(flow_id=flow, consumed=consumed):
                assert consumed == self.finished.get(flow, 0)
            case CreditReceived(flow_id=flow):
                self.push(role.peer, flow)
            case HelloReceived():
                for flow in self.ends[role.peer].open_flows:
                    self.push(role.peer, flow)
            case _:
                pass

    @invariant()
    def memory_is_bounded(self):
        for batches in self.unread.values():
            assert sum(packets for packets, _ in batches) <= LIMITS.window_packets
            assert sum(size for _, size in batches) <= LIMITS.window_bytes + LIMITS.max_packet

    def teardown(self):
        """
        In the end everything arrives, is consumed and ends: nothing is stuck, nothing is left.
        """
        client, server = self.ends[Role.CLIENT], self.ends[Role.SERVER]
        for _ in range(200):
            for role in Role:
                self.carry(role, 10**9)
            for (role, flow), batches in self.unread.items():
                while batches:
                    packets, size = batches.pop(0)
                    self.ends[role].consume(flow, packets, size)
                    if role is Role.SERVER:
                        self.consumed[flow] = self.consumed.get(flow, 0) + packets
            if not any(self.wires.values()) and not self.moving():
                break
        for (role, flow), pending in self.pending.items():
            sending = (FlowState.STREAMING, FlowState.ENDED)[: 1 if role is Role.CLIENT else 2]
            assert not pending or self.ends[role].flow_state(flow) not in sending
        for flow in client.open_flows:
            if client.flow_state(flow).name in ("STREAMING", "ANSWERED"):
                client.end(flow)
        self.carry(Role.CLIENT, 10**9)
        for flow in server.open_flows:
            if server.flow_state(flow).name != "ANSWERED":
                self.finished[flow] = self.consumed.get(flow, 0)
                server.finish(flow, self.finished[flow], "success")
        self.carry(Role.SERVER, 10**9)
        assert client.idle
        assert server.idle

    def moving(self) -> bool:
        for role in Role:
            self.flush(role)
        return any(self.wires.values()) or any(self.unread.values())


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=80, stateful_step_count=40)
