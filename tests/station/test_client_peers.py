"""What the blocking client makes of servers that lie, vanish or speak something else."""

import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import pytest

from pyf.station import burst
from pyf.station import keeper as keeper_module
from pyf.station.client import StationClient
from pyf.transport import (
    ConnectFailed,
    Connection,
    ConnectionLost,
    FlowRefused,
    Limits,
    LocalProtocolError,
    OutcomeUnknown,
    RemoteProtocolError,
    Role,
    encode_packet,
)
from pyf.transport.events import Event, FlowAbandoned, FlowEnded, FlowOpened, PacketsReceived
from pyf.transport.frames import MAGIC, FrameType, encode_batch, encode_frame
from pyf.transport.limits import BATCH_PACKETS
from pyf.transport.payloads import encode_go_away, encode_outcome, encode_result

WAIT = 30.0


class Peer:
    """
    The server's end of one connection: a socket, and a machine that a script moves.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(WAIT)
        self.socket = sock
        self.machine = Connection(Role.SERVER)
        self.data_frames = 0

    def read_until(self, kind: type[Event]) -> None:
        while True:
            while event := self.machine.next_event():
                if isinstance(event, PacketsReceived):
                    self.data_frames += 1
                    self.machine.consume(1, event.batch.packets, event.batch.size)
                if isinstance(event, kind):
                    self.say()
                    return
            self.say()
            data = self.socket.recv(65536)
            assert data, "the client closed the connection"
            self.machine.receive_data(data)

    def say(self, *more: bytes) -> None:
        self.socket.sendall(b"".join((*self.machine.data_to_send(), *more)))

    def finish(self, status: str = "success", **facts: Any) -> None:
        self.machine.finish(1, 0, status, **facts)
        self.say()

    def read_to_the_end(self) -> None:
        while self.socket.recv(65536):
            pass

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.fixture
def answer() -> Iterator[Callable[..., StationClient]]:
    """
    Serve one connection by a script; return a client for it.
    """
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def answer(
        script: Callable[[Peer], object], *, waits: bool = True, limits: Limits | None = None
    ) -> StationClient:
        def serve() -> None:
            try:
                with listener:
                    sock, _ = listener.accept()
                with sock:
                    script(Peer(sock))
            except BaseException as error:
                failures.append(error)

        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(WAIT)
        port = listener.getsockname()[1]
        thread = threading.Thread(target=serve)
        thread.start()
        threads.append(thread)
        return StationClient("127.0.0.1", port, waits, limits=limits)

    yield answer
    for thread in threads:
        thread.join(WAIT)
    assert failures == []


def numbers(count: int) -> list[dict[str, int]]:
    return [{"n": number} for number in range(count)]


def hello(least: int, most: int, **fields: Any) -> bytes:
    """
    A HELLO that says what the test wants.
    """
    limits = {
        "max_packet": 65536,
        "max_header": 65536,
        "window_packets": 1024,
        "window_bytes": 65536,
    }
    payload = MAGIC + bytes([least, most]) + encode_packet({**limits, **fields})
    return b"".join(encode_frame(FrameType.HELLO, 0, payload))


# Something else


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46 and more",
        bytes(64),
        b"\xff" * 64,
        b"\x00\x00\x00\x06\x01\x00\x00\x00\x00NoF!\x01\x01\x80",
    ],
)
def test_a_server_that_speaks_something_else(answer, words):
    """
    RemoteProtocolError names what came; nothing of it is taken for an answer.
    """

    def script(peer):
        peer.socket.sendall(words)
        peer.read_to_the_end()

    with pytest.raises(RemoteProtocolError) as caught:
        answer(script).send(numbers(3))
    assert caught.value.code in ("not_this_protocol", "frame_length")


def test_a_server_of_another_version(answer):
    """
    RemoteProtocolError says which versions each side speaks.
    """

    def script(peer):
        peer.socket.sendall(hello(2, 3))
        peer.read_to_the_end()

    with pytest.raises(RemoteProtocolError, match="speaks versions 2 to 3, this side 1") as caught:
        answer(script).send(numbers(3))
    assert caught.value.code == "version"


def test_a_server_that_requires_what_we_lack(answer):
    """
    RemoteProtocolError names the feature.
    """

    def script(peer):
        peer.socket.sendall(hello(1, 1, required=["telepathy"]))
        peer.read_to_the_end()

    with pytest.raises(RemoteProtocolError, match="telepathy") as caught:
        answer(script).send(numbers(3))
    assert caught.value.code == "required_feature"


# Vanishing


@pytest.mark.parametrize("how", [lambda peer: peer.socket.close(), Peer.reset])
def test_a_server_that_closes_at_once(answer, how):
    """
    ConnectionLost, by a FIN and by a RST; ConnectFailed if connect() itself hears of the RST.
    """
    with pytest.raises((ConnectionLost, ConnectFailed)):
        answer(how).send(iter(numbers(3)))


def test_a_connection_that_ends_before_the_end_is_lost(answer):
    """
    ConnectionLost, not OutcomeUnknown: the handler cannot have seen the whole flow.
    """
    gone = threading.Event()

    def script(peer):
        peer.read_until(PacketsReceived)
        peer.socket.close()
        gone.set()

    def source():
        yield {"n": 1}
        assert gone.wait(WAIT)
        yield from repeat({"n": 2})

    with pytest.raises(ConnectionLost) as caught:
        answer(script).send(source())
    assert type(caught.value) is ConnectionLost
    assert caught.value.sent >= 1


@pytest.mark.parametrize("how", [lambda peer: peer.socket.close(), Peer.reset])
@pytest.mark.parametrize("waits", [True, False])
def test_a_connection_that_ends_behind_the_end_leaves_the_outcome_unknown(answer, how, waits):
    """
    OutcomeUnknown, also where nobody waits for the success: all may not have arrived.
    """

    def script(peer):
        peer.machine._RECEIVERS = {  # the PING stays unanswered
            **peer.machine._RECEIVERS,
            FrameType.PING: lambda machine, frame: None,
        }
        peer.read_until(FlowEnded)
        how(peer)

    with pytest.raises(OutcomeUnknown) as caught:
        list(answer(script, waits=waits).call(numbers(3)))
    assert caught.value.sent == 3


@pytest.mark.parametrize("how", [lambda peer: peer.socket.close(), Peer.reset])
def test_a_result_cut_in_the_middle_is_no_result(answer, how):
    """
    Half a RESULT is none.
    """

    def script(peer):
        peer.read_until(FlowEnded)
        peer.machine.finish(1, 0, "success", value="Done")
        whole = b"".join(peer.machine.data_to_send())
        peer.socket.sendall(whole[:-1])
        how(peer)

    with pytest.raises(OutcomeUnknown):
        answer(script).send(numbers(3))


# Lying


def test_the_first_of_two_results_stands(answer):
    """
    What comes behind the result changes nothing.
    """

    def script(peer):
        peer.read_until(FlowEnded)
        first = encode_frame(
            FrameType.RESULT, 1, encode_result(3, 0, encode_outcome("success", {"value": 1}))
        )
        second = encode_frame(
            FrameType.RESULT, 1, encode_result(3, 0, encode_outcome("success", {"value": 2}))
        )
        peer.say(*first, *second)
        peer.read_to_the_end()

    assert answer(script).send(numbers(3)) == 1


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (
            encode_frame(FrameType.RESULT, 7, encode_result(0, 0, encode_outcome("success", {}))),
            "unknown_flow",
        ),
        (
            encode_frame(FrameType.RESULT, 1, encode_result(9, 0, encode_outcome("success", {}))),
            "count",
        ),
        (
            encode_frame(FrameType.RESULT, 1, encode_result(0, 9, encode_outcome("success", {}))),
            "count",
        ),
        (
            encode_frame(FrameType.RESULT, 1, encode_result(0, 0, encode_outcome("maybe", {}))),
            "malformed_value",
        ),
        (encode_frame(FrameType.DATA, 1, b"\x00" * 20), "unexpected_frame"),
        (encode_frame(FrameType.OPEN, 2, encode_packet({})), "unexpected_frame"),
        (encode_batch(FrameType.MESSAGE, 1, 5, 1, b"\x80"), "sequence"),
        (encode_batch(FrameType.MESSAGE, 1, 0, 2, b"\x01\x02"), "malformed_batch"),
        (encode_batch(FrameType.MESSAGE, 1, 0, 2000, b"\x80" * 2000), "over_credit"),
        (encode_frame(FrameType.CREDIT, 1, struct.pack(">QQQ", 99, 5000, 99999)), "count"),
        ([b"\x00\x00\x00\x00\x42\x00\x00\x00\x00"], "unknown_frame"),
    ],
)
def test_a_server_that_breaks_the_protocol(answer, frame, code):
    """
    RemoteProtocolError with the code of the breach, and the source is closed.
    """
    finals = []

    def script(peer):
        peer.read_until(FlowEnded)
        peer.say(*frame)
        peer.read_to_the_end()

    def source():
        try:
            yield from numbers(3)
        finally:
            finals.append(1)

    client = answer(script, limits=Limits(window_packets=1024))
    with pytest.raises(RemoteProtocolError) as caught:
        client.send(source())
    assert caught.value.code == code
    assert finals == [1]


@pytest.mark.parametrize("code", ["busy", "draining", "handshake_timeout"])
def test_a_server_without_room_refuses_the_flow(answer, code):
    """
    A GOAWAY that leaves the flow out is FlowRefused.
    """

    def script(peer):
        peer.machine.go_away(code, "come back later")
        peer.say()
        peer.read_to_the_end()

    with pytest.raises(FlowRefused, match="come back later") as caught:
        answer(script).send(numbers(3))
    assert caught.value.code == code


@pytest.mark.parametrize("code", ["version", "anything"])
def test_a_server_that_gives_up_on_us(answer, code):
    """
    A GOAWAY that leaves the flow out, for another reason, is LocalProtocolError.
    """

    def script(peer):
        peer.machine.go_away(code, "not with you")
        peer.say()
        peer.read_to_the_end()

    with pytest.raises(LocalProtocolError, match="the server gave up: not with you") as caught:
        answer(script).send(numbers(3))
    assert caught.value.code == code


def test_a_server_that_gives_up_on_a_flow_it_has_begun(answer):
    """
    Its words are the reason of the ConnectionLost.
    """

    def script(peer):
        peer.read_until(FlowEnded)
        payload = encode_go_away(1, "over_credit", "the peer sent too much")
        peer.say(*encode_frame(FrameType.GOAWAY, 0, payload))
        peer.socket.close()

    with pytest.raises(OutcomeUnknown, match="never came: the peer sent too much"):
        answer(script).send(numbers(3))


def test_a_server_that_drains_still_finishes_the_flow(answer):
    """
    A GOAWAY that includes the flow changes nothing for it.
    """

    def script(peer):
        peer.read_until(FlowOpened)
        peer.machine.go_away("draining", "stopping soon")
        peer.read_until(FlowEnded)
        peer.finish(value=5)
        peer.read_to_the_end()

    assert answer(script).send(numbers(3)) == 5


def test_a_server_that_does_not_hear_a_cancel_is_left(answer, monkeypatch):
    """
    Giving up waits for the server only so long.
    """
    monkeypatch.setattr(keeper_module, "LAST_WORD", 0.05)

    def script(peer):
        peer.read_until(FlowAbandoned)
        peer.read_to_the_end()

    for _ in answer(script).call(iter(numbers(3))):
        break


# Batches


def test_a_fast_source_is_batched(answer, monkeypatch):
    """
    Packets of a fast source share frames.
    """
    monkeypatch.setattr(burst, "SECONDS", 3600)
    peers = []

    def script(peer):
        peers.append(peer)
        peer.read_until(FlowEnded)
        peer.finish(value=1)
        peer.read_to_the_end()

    answer(script).send(numbers(20_000))
    assert 20_000 / BATCH_PACKETS < peers[0].data_frames < 20_000 / 10


def test_a_slow_source_is_not(answer, monkeypatch):
    """
    Each packet of a slow source has a frame of its own.
    """
    monkeypatch.setattr(burst, "SECONDS", 0)
    peers = []

    def script(peer):
        peers.append(peer)
        peer.read_until(FlowEnded)
        peer.finish(value=1)
        peer.read_to_the_end()

    answer(script).send(numbers(50))
    assert peers[0].data_frames == 50


def test_messages_that_came_with_the_result_come_first(answer):
    """
    All that was said before the result is yielded before it.
    """

    def script(peer):
        peer.read_until(FlowEnded)
        peer.machine.send_packets(1, deque(map(encode_packet, numbers(1500))))
        peer.finish(value=1)
        peer.read_to_the_end()

    replies = list(answer(script).stream(numbers(3)))
    assert replies == [*numbers(1500), {"type": "success", "message": 1}]
