"""Who hears of what comes back, and who is refused."""

import threading
from typing import Any

import pytest

from pyf.station import StationClient
from pyf.station.listeners import Listeners
from pyf.transport import Packet

WAIT = 10.0


@pytest.mark.parametrize("listener", [None, 5, "print"])
def test_a_listener_that_cannot_be_called_is_refused(listener):
    """
    TypeError where it is added, and not where a packet comes.
    """
    client = StationClient("127.0.0.1")
    with pytest.raises(TypeError, match="cannot be called"):
        client.add_listener("success", listener)


def test_listeners_of_unknown_events_are_refused():
    """
    ValueError names the events there are; removing what was not added is a ValueError too.
    """
    client = StationClient("127.0.0.1")
    events = "appinfo, failure, message_received, other, success"
    with pytest.raises(ValueError, match=f"no event 'sucess'; there are {events}"):
        client.add_listener("sucess", print)
    with pytest.raises(ValueError, match="not in list"):
        client.remove_listener("success", print)


def test_a_listener_may_remove_itself():
    """
    All that were there when the packet came hear of it.
    """
    listeners = Listeners()
    heard: list[Any] = []

    def once(packet: Packet) -> None:
        listeners.remove("other", once)
        heard.append(once)

    for listener in (once, heard.append):
        listeners.add("other", listener)
    packet = Packet(type="news")
    listeners(packet)
    listeners(packet)
    assert heard == [once, packet, packet]


def test_a_listener_that_is_added_while_another_is_removed_is_heard():
    """
    Whether anybody listens at all is looked up and noted as one.
    """
    listeners = Listeners()
    looking, added = threading.Event(), threading.Event()

    class Slow(dict[str, list[Any]]):
        def values(self) -> Any:
            found = [list(each) for each in super().values()]
            looking.set()
            added.wait(0.05)  # It cannot be added before this has ended.
            return found

    listeners._by_event = Slow(listeners._by_event)
    listeners.add("other", print)
    remove = threading.Thread(target=listeners.remove, args=("other", print))
    remove.start()
    assert looking.wait(WAIT)
    listeners.add("success", print)
    added.set()
    remove.join()
    assert listeners.heard
