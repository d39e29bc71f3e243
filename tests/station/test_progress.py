"""A bar is one line around a flow, on either side."""

import asyncio
import io

import pytest
from rich.console import Console
from tqdm import tqdm

from pyf.station import StationClient
from pyf.station.progress import bar


@pytest.fixture(autouse=True)
def no_monitor(monkeypatch):
    """
    tqdm starts a thread for the process that redraws bars which have not moved.
    """
    monkeypatch.setattr(tqdm, "monitor_interval", 0)


def options(style, screen):
    if style == "tqdm":
        return {"file": screen, "mininterval": 0, "ascii": True}
    return {"console": Console(file=screen, force_terminal=True, width=100)}


@pytest.mark.parametrize("style", ["tqdm", "rich"])
def test_a_bar_counts_on_both_sides(serve, style):
    """
    Around the call and around the handler's flow, it ends at all of the known length.
    """
    screens = {"client": io.StringIO(), "server": io.StringIO()}

    def handler(flow, client):
        next(flow)
        taken = sum(1 for _ in bar(flow, style, **options(style, screens["server"])))
        client.message({"taken": taken})

    client = StationClient("127.0.0.1", serve(handler), True)
    call = client.call([{"n": 1}] * 300, header={})
    values = list(bar(call, style, **options(style, screens["client"])))
    assert values.count(True) == 300
    assert values[-2:] == [{"taken": 300}, {"type": "success", "message": None}]
    for screen in screens.values():
        assert {"tqdm": "300/300", "rich": "100%"}[style] in screen.getvalue()


def test_a_bar_around_an_asynchronous_flow():
    """
    What is iterated with ``async for`` stays so.
    """

    class Flow:
        consumed = 0
        length_hint = None

        async def __aiter__(self):
            for n in range(3):
                self.consumed += 1
                yield n

    async def collect():
        return [value async for value in bar(Flow(), file=screen)]

    screen = io.StringIO()
    assert asyncio.run(collect()) == [0, 1, 2]
    assert "3 packets" in screen.getvalue()


def test_there_is_no_other_style():
    """
    A style that isn't there is named with those that are.
    """
    with pytest.raises(ValueError, match="no style 'html'; there are tqdm, rich"):
        bar([], "html")
