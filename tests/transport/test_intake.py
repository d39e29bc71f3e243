"""Where packets enter a queue: what is counted, who is woken, compiled or not."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport import UnsupportedValue, speed
from pyf.transport.codec import decode, encode_packet
from pyf.transport.intake import EACH, Done, Intake, Speaker
from pyf.transport.limits import KIB, LARGE
from pyf.transport.pieces import Pieces, flatten


@pytest.fixture(params=[Intake, speed.Intake], ids=["python", "as used"])
def intake(request: pytest.FixtureRequest) -> Any:
    """
    One with room for two small packets, and what happened to it in ``told``.
    """

    class Queue(request.param):
        def __init__(self) -> None:
            super().__init__(2 * (EACH + 4), 2 * EACH)
            self.told: list[Any] = []

        def add_slowly(self, data):
            self.told.append(data)
            return True

        def stir(self):
            self.told.append("woken")

    return Queue()


def test_packets_are_encoded_and_counted(intake):
    assert intake.add({"n": 1}) is False
    assert (list(intake.pending), intake.space) == ([encode_packet({"n": 1})], EACH + 4)


def test_who_takes_packets_is_woken_as_long_as_he_rests(intake):
    assert intake.resting
    intake.add({})
    intake.resting = False
    intake.add({})
    assert intake.told == ["woken"]
    assert len(intake.pending) == 2


@given(st.lists(st.sampled_from([0, 10, 200, 300, 1900, 2100, 10 * KIB, 2 * LARGE])))
@pytest.mark.parametrize("kind", [Intake, speed.Intake], ids=["python", "as used"])
def test_packets_keep_their_order_whatever_way_they_enter(kind, take_apart, sizes):
    """
    Small ones, which may be in a row; those that have to ask; those that are not copied.
    """

    class Queue(kind):
        def add_slowly(self, data):
            self.bulky = len(data) >= LARGE
            self.pending.append(data)
            return True

        def stir(self):
            self.resting = False

    queue = Queue(100 * LARGE, LARGE)
    packets = [{"n": n, "data": bytes(size)} for n, size in enumerate(sizes)]
    for packet in packets:
        queue.add(packet)
    assert speed.packets_in(queue.pending) == len(packets)
    taken = take_apart(queue.pending)
    assert [b"".join(flatten([each])) for each in taken] == list(map(encode_packet, packets))
    assert not queue.pending


def test_a_packet_that_is_added_while_another_is_encoded_is_there_once(intake, take_apart):
    """
    Its values may have code of their own, which adds more, or has some taken.
    """

    class Meddling(tzinfo):
        def __init__(self, meddle: Callable[[], object]) -> None:
            self.steps = [meddle]

        def utcoffset(self, moment):
            if self.steps:
                self.steps.pop()()
            return timedelta(hours=1)

    taken = []

    def meddled(meddle):
        return {"at": datetime(2026, 1, 2, tzinfo=Meddling(meddle))}

    def take(count):
        taken.extend(take_apart(intake.pending, count))

    intake.space, intake.most, intake.resting = KIB, KIB, False
    add = intake.add
    for n in range(3):
        add({"n": n})
    add(meddled(lambda: take(2)))
    add(meddled(lambda: [add({"n": n}) for n in (3, 4)]))
    add(meddled(lambda: [take(9), add({"n": 5})]))
    take(9)
    numbers = [packet["n"] for packet in map(decode, taken) if "n" in packet]
    assert (numbers, len(taken)) == ([0, 1, 2, 3, 4, 5], 9)


def test_what_there_is_no_room_for_is_left_to_the_queue(intake):
    intake.space = EACH
    assert intake.add({}) is True
    assert intake.told == [encode_packet({})]
    assert not intake.pending
    assert intake.space == EACH


def test_a_packet_that_is_too_large_is_left_to_the_queue_though_there_is_room(intake):
    intake.space = 10 * EACH
    packet = {"data": bytes(2 * EACH)}
    assert intake.add(packet) is True
    assert intake.told == [encode_packet(packet)]
    assert (list(intake.pending), intake.space) == ([], 10 * EACH)


def test_large_values_are_not_copied_where_there_were_such_of_late(intake):
    value = bytes(LARGE)
    intake.space, intake.most, intake.bulky = 2**20, 2**20, True
    intake.add({"data": value})
    (packet,) = intake.pending
    assert isinstance(packet, Pieces)
    assert packet.buffers[-1] is value


def test_what_cannot_travel_is_not_added(intake):
    for bulky in (False, True):
        intake.bulky = bulky
        with pytest.raises(UnsupportedValue):
            intake.add({"n": object()})
        with pytest.raises(TypeError):
            intake.add([])
    assert not intake.pending
    assert intake.told == []
    assert intake.space == 2 * (EACH + 4)


def test_putting_returns_what_waits_for_room_where_there_is_none(intake):
    intake.done, intake.on_full = "done", lambda: "waiting"
    assert intake.put({}) == "done"
    intake.space = EACH
    assert intake.put({}) == "waiting"


@pytest.mark.parametrize("kind", [Speaker, speed.Speaker], ids=["python", "as used"])
def test_a_speaker_puts_what_it_says_into_its_outbox(kind):
    class Queue(speed.Intake):
        def add_slowly(self, data):
            raise AssertionError("there is room")

        def stir(self):
            pass

    speaker = kind()
    speaker._outbox = outbox = Queue(100, 100)
    outbox.done = "done"
    assert speaker.message({"n": 1}) == "done"
    assert list(outbox.pending) == [encode_packet({"n": 1})]


@pytest.mark.parametrize("kind", [Speaker, speed.Speaker], ids=["python", "as used"])
def test_a_speaker_without_an_outbox_says_so(kind):
    with pytest.raises(AttributeError):
        kind().message({})


@pytest.mark.parametrize("kind", [Done, speed.Done], ids=["python", "as used"])
def test_what_is_done_can_be_awaited_by_anybody_again_and_again(kind):
    done = kind()

    async def twice() -> list[None]:
        return [await done, await done]

    assert isinstance(done, Coroutine)
    for _ in range(2):
        with pytest.raises(StopIteration) as stopped:
            twice().send(None)
        assert stopped.value.value == [None, None]
        assert asyncio.run(done) is None
    done.close()
    with pytest.raises(LookupError):
        done.throw(LookupError())
