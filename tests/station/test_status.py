"""The status page and what is beside it: by plain HTTP always, and as a browser shows it."""

import re
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from html.parser import HTMLParser
from queue import SimpleQueue

import pytest

from pyf.station import FlowServer, StationClient, statuspage
from pyf.station.service import StationService
from pyf.station.status import status_site
from pyf.station.statuspage import duration, sparkline

BROWSER = 50  # seconds that a browser may take on a busy machine


def get(address, method="GET"):
    request = urllib.request.Request(address, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


class Text(HTMLParser):
    """The text of a page, and the names of its elements."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def page_with(address: str, text: str) -> str:
    """
    Return the page once *text* is on it: the server notes a moment later what its clients know.
    """
    gone = threading.Event()
    for _ in range(1000):
        if text in (page := str(get(address)[2])):
            return page
        gone.wait(0.01)
    pytest.fail(f"the page does not say {text!r}")


@pytest.fixture
def station(reactor, in_reactor):
    """
    A server with its status page; return a client of it and the page's address.
    """
    ended = []

    def make(handler, **options):
        server = FlowServer(handler, reactor=reactor, **options)
        site = status_site(server)
        ports = [
            in_reactor(reactor.listenTCP, 0, each, interface="127.0.0.1") for each in (server, site)
        ]
        ended.append((server, ports))
        port, web = (each.getHost().port for each in ports)
        return server, StationClient("127.0.0.1", port, True), f"http://127.0.0.1:{web}"

    yield make
    for server, ports in ended:
        for port in ports:
            in_reactor(port.stopListening)
        in_reactor(server.stop)


@pytest.fixture
def reader():
    """
    A handler that reads two packets and then waits for the test.
    """
    read, go_on = threading.Event(), threading.Event()

    def handler(flow, client):
        next(flow)
        next(flow)
        client.message({"read": True})
        read.set()
        assert go_on.wait(BROWSER + 5)
        return sum(1 for _ in flow)

    yield handler, read, go_on.set
    go_on.set()


def test_the_page_shows_what_is_going_on(station, reader):
    """
    A live flow, its header without secrets and as text, its counts, and who waits for whom.
    """
    handler, read, _ = reader
    _, client, address = station(handler)
    header = {"table": "<b>prices</b>", "authtkt": "hush", "long": "x" * 999}
    with client.open(header) as flow:
        for number in range(3):
            flow.send({"n": number})
        assert flow.receive(10)
        read.wait(10)
        code, headers, page = get(f"{address}/")
        assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        shown = Text(page)
        text = " ".join(shown.texts)
        assert "'table': '<b>prices</b>'" in text
        assert "hush" not in page
        assert "x" * 300 not in page
        assert "handler" in shown.texts
        assert "script" not in shown.tags
        assert re.search(r"process \d+, which alone is shown here", text)
        cells = re.findall(r"<td class=n>([^<]*)", page)
        assert cells[2:5] == ["3", "1", "1"]
    assert get(f"{address}/", "HEAD")[0] == 200
    assert get(f"{address}/", "POST")[0] == 405
    assert get(f"{address}/nothing")[0] == 404


def test_an_idle_server_has_a_page(station):
    """
    It says that no flow is open, and later how many there were.
    """
    _, client, address = station(lambda flow, client: sum(1 for _ in flow))
    assert "No flow is open" in get(address)[2]
    client.send([{"n": 1}])
    assert page_with(address, "Finished: 1 success")


def test_health_is_told_to_load_balancers(station, reader, in_reactor):
    """
    Live while the process answers; ready until it drains, with the flow that is left shown.
    """
    handler, read, go_on = reader
    server, client, address = station(handler)
    assert get(f"{address}/health/live")[::2] == (200, "alive\n")
    assert get(f"{address}/health/ready")[::2] == (200, "ready\n")
    with client.open({}) as flow:
        flow.send({"n": 1})
        assert read.wait(10)
        in_reactor(lambda: server.drain(5) and None)
        assert get(f"{address}/health/live")[0] == 200
        assert get(f"{address}/health/ready")[::2] == (503, "draining\n")
        page = get(f"{address}/")[2]
        go_on()
        flow.end()
    assert ">draining<" in page
    assert "<tbody><tr>" in page


def test_metrics_are_beside_it(station):
    """
    In the format of Prometheus, with what has happened.
    """
    _, client, address = station(lambda flow, client: sum(1 for _ in flow))
    client.send([{"n": 1}] * 7)
    code, headers, text = get(f"{address}/metrics")
    assert code == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert 'pyf_station_flows_total{outcome="success"} 1.0' in text
    assert "pyf_station_packets_received_total 7.0" in text


def test_a_handler_that_nobody_waits_for_shows_as_stuck(station, reader):
    """
    Its client has gone and it has not returned: both on the page and in the metrics.
    """
    handler, read, go_on = reader
    events = SimpleQueue()
    _, client, address = station(handler, observers=[lambda event: events.put(event.name)])

    def stuck_after(name):
        while events.get(timeout=10) != name:
            pass
        metrics = get(f"{address}/metrics")[2]
        return "1 stuck" in get(address)[2], "pyf_station_stuck 1.0" in metrics

    with client.open({}) as flow:
        for number in range(2):
            flow.send({"n": number})
        assert read.wait(10)
        assert stuck_after("flow_opened") == (False, False)
        flow.cancel()
    assert stuck_after("flow_cancelled") == (True, True)
    go_on()
    assert stuck_after("flow_finished") == (False, False)


def test_without_prometheus_there_is_no_metrics_page(station, monkeypatch):
    """
    The rest of the page needs no other library.
    """
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    _, _, address = station(lambda flow, client: None)
    assert get(f"{address}/metrics")[0] == 404
    assert get(f"{address}/")[0] == 200


def test_a_service_has_it_until_all_has_stopped(reactor, in_reactor, reader):
    """
    So a load balancer hears that the service drains, while it does.
    """
    handler, read, go_on = reader
    server = FlowServer(handler, reactor=reactor)
    local = "tcp:0:interface=127.0.0.1"
    service = StationService(server, local, status=local)
    in_reactor(service.privilegedStartService)
    in_reactor(service.startService)
    ports = [each._waitingForPort.result.getHost().port for each in (*service, service._status)]
    stopped = []
    with StationClient("127.0.0.1", ports[0], True).open({}) as flow:
        flow.send({"n": 1})
        assert read.wait(10)
        in_reactor(lambda: stopped.append(service.stopService()))
        assert get(f"http://127.0.0.1:{ports[1]}/health/ready")[0] == 503
        go_on()
        flow.end()
    in_reactor(lambda: stopped[0])
    with pytest.raises(urllib.error.URLError):
        get(f"http://127.0.0.1:{ports[1]}/health/ready")


def test_many_flows_are_cut_to_what_fits(station, monkeypatch):
    """
    The page says how many more there are.
    """

    async def waits(flow, client):
        await client.message({})
        async for _ in flow:
            pass

    _, client, address = station(waits)
    monkeypatch.setattr(statuspage, "ROWS", 2)
    with ExitStack() as stack:
        for number in range(3):
            assert stack.enter_context(client.open({"n": number})).receive(10) == {}
        page = get(address)[2]
    assert page.count("<td class=header>") == 2
    assert "and 1 more" in page


def test_a_narrow_screen_gets_the_names_of_the_columns(station):
    """
    There is no head of the table there: each field of a flow says which it is.
    """
    _, client, address = station(lambda flow, client: sum(1 for _ in flow))
    with client.open({}):
        page = get(address)[2]
    names = re.findall(r"<th class=\w>([^<]+)", page)
    assert len(names) == 9
    for number, name in enumerate(names, 1):
        assert f'td:nth-child({number}):not([colspan])::before{{content:"{name}"}}' in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (245, "4 min 05 s"), (7620, "2 h 07 min"), (273_600, "3 d 4 h")],
)
def test_durations_read_well(seconds, text):
    """
    In two units at the most.
    """
    assert duration(seconds) == text


def test_the_sparkline_shows_gaps_and_forgets():
    """
    What is older than two minutes has left; where no flow was open the line is at the ground.
    """
    image = sparkline([(0.0, 999.0), (900.0, 5.0), (950.0, 10.0), (951.0, 5.0)], 1000.0)
    points = re.search(r"<polyline.* points=\"(.*)\"", image)
    assert points is not None
    assert points[1] == "60.0,24.0 60.0,44.0 210.0,44.0 210.0,4.0 213.0,24.0"
    assert "<svg" in sparkline([], 0.0)


def test_a_browser_shows_it(station, reader, program, tmp_path):
    """
    A real Chromium, headless: it loads the page, keeps to it, and draws the flow and the line.
    """
    chromium = program("chromium", "chromium-browser", "google-chrome")
    handler, *_ = reader
    _, client, address = station(handler)
    with client.open({"table": "<i>prices</i>", "authtkt": "hush"}) as flow:
        flow.send({"n": 1})
        assert flow.receive(10)
        done = subprocess.run(
            [
                str(chromium),
                *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--disable-sync", "--disable-quic", f"--user-data-dir={tmp_path}"),
                *("--dump-dom", f"{address}/"),
            ],
            capture_output=True,
            text=True,
            timeout=BROWSER,
            check=True,
        )
    shown = Text(done.stdout)
    assert "PyF.Station" in shown.texts
    assert any("'table': '<i>prices</i>'" in text for text in shown.texts)
    assert {"polyline", "table", "style"} <= set(shown.tags)
    assert "i" not in shown.tags
