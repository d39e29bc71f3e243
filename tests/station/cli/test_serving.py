"""What listens, as processes: it drains, reloads, shares its port, and says why it can't start."""

import os
import signal
import socket
import threading
import time
import urllib.request

import pytest

from pyf.station import StationClient, StationError
from pyf.transport import Limits, decode_packet_flow

LOCAL = "tcp:0:interface=127.0.0.1"
HANDLERS = """
import os

def count(flow, client):
    client.message({"began": True})
    return [VERSION, sum(1 for _ in flow), os.getpid()]

class Deep:
    count = staticmethod(count)

def alone(flow):
    pass
"""


@pytest.fixture(autouse=True)
def module(tmp_path):
    path = tmp_path / "served.py"
    path.write_text(HANDLERS.replace("VERSION", "1"))
    return path


def test_a_handler_of_the_current_folder_is_served_until_sigterm(start):
    """
    A name with dots is found, too; SIGTERM ends it well.
    """
    process = start("serve", "served:Deep.count", "-e", LOCAL, "--limit", "window_bytes=2MiB")
    client = StationClient("127.0.0.1", process.port())
    assert client.send([{"n": 1}] * 3)[:2] == [1, 3]
    assert process.end()[0] == 0
    assert "Traceback" not in process.said


def test_sigterm_lets_open_flows_end(start):
    """
    The drain is the server's own: a flow that is open goes on, and Ctrl-C is exit code 130.
    """
    process = start("serve", "served:count", "-e", LOCAL)
    client = StationClient("127.0.0.1", process.port())
    with client.open(header={}) as flow:
        flow.send({"n": 1})
        assert flow.receive(10)
        process.popen.send_signal(signal.SIGINT)
        process.hear("draining; Ctrl-C again breaks off")
        assert flow.end()[:2] == [1, 2]
    assert process.end(None)[0] == 130


def test_ctrl_c_reaches_workers_too_and_lets_open_flows_end(start):
    """
    On a terminal all processes get the signal: the workers leave it to their supervisor.
    """
    process = start("serve", "served:count", "-e", LOCAL, "--workers", 2)
    limits = Limits(handshake_timeout=40)
    with StationClient("127.0.0.1", process.port(), limits=limits).open(header={}) as flow:
        flow.send({"n": 1})
        assert flow.receive(20)
        os.killpg(process.popen.pid, signal.SIGINT)
        process.hear("draining; Ctrl-C again breaks off")
        flow.send({"n": 1})
        assert flow.end()[:2] == [1, 3]
    assert process.end(None)[0] == 130


def test_workers_share_a_port_and_one_that_is_killed_is_replaced(start):
    """
    Several processes answer on one port; all end with the supervisor, and it with 0.
    """
    process = start("serve", "served:count", "-e", LOCAL, "--workers", 2, "--max-handlers", 3)
    # A client may be taken in only once the new worker has started.
    client = StationClient("127.0.0.1", process.port(), limits=Limits(handshake_timeout=40))
    first = client.send([{}])[2]
    assert first != process.popen.pid
    os.kill(first, signal.SIGKILL)
    process.hear(f"worker {first} ended with -9")
    assert client.send([{}])[2] != first
    assert process.end()[0] == 0


def test_changed_code_is_served_on_the_same_port(start, module):
    """
    With --reload, and no connection is refused meanwhile; code that is broken waits to be mended.
    """
    process = start("serve", "served:count", "-e", LOCAL, "--reload")
    client = StationClient("127.0.0.1", process.port())
    assert client.send([{}])[0] == 1
    for text, version in (("VERSION +", None), ("2", 2)):
        module.write_text(HANDLERS.replace("VERSION", text))
        process.hear("served.py changed: starting anew")
        if version is None:
            process.hear("cannot import served: .*served.py:6: SyntaxError")
    assert client.send([{}])[0] == 2
    assert process.end()[0] == 0


@pytest.mark.parametrize(
    ("args", "code", "reason"),
    [
        (["served"], 2, "'served' is not MODULE:NAME"),
        (["served:nope"], 2, "served has no 'nope'"),
        (["absent:nope"], 2, "there is no module 'absent'"),
        (["served:alone"], 2, "a handler is called with a flow and a client"),
        (["broken:x"], 1, "broken.py:1: ModuleNotFoundError: No module named 'absent'"),
        (["served:count", "-e", "bogus:1"], 2, "'bogus:1' is no endpoint"),
        (["served:count", "-e", "127.0.0.1:70000"], 1, "cannot listen on 127.0.0.1:70000"),
        (["served:count", "-e", "unix:/tmp/x", "--workers", "2"], 2, "cannot be shared"),
        (["served:nope", "-e", LOCAL, "--workers", "2"], 2, "served has no 'nope'"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(start, tmp_path, args, code, reason):
    """
    No traceback; exit code 2 where the command line is wrong, 1 where the module is.
    """
    (tmp_path / "broken.py").write_text("import absent\n")
    process = start("serve", *args)
    assert process.end(None)[0] == code
    assert reason in process.said
    assert "Traceback" not in process.said


def test_a_port_that_is_taken_is_exit_code_1(start):
    """
    One line says which.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("serve", "served:count", "-e", f"tcp:{port}:interface=127.0.0.1")
        assert process.end(None)[0] == 1
    assert f"cannot listen on tcp:{port}:interface=127.0.0.1: " in process.said


def test_a_file_is_received_once(start, run, tmp_path):
    """
    ``receive-file --once`` ends after the first whole file, and writes its path.
    """
    (tmp_path / "in").mkdir()
    path = tmp_path / "data"
    path.write_bytes(os.urandom(300_000))
    process = start("receive-file", "in", "-e", LOCAL, "--once")
    assert run("send-file", path, f":{process.port()}").exit_code == 0
    assert process.end(None) == (0, "in/data\n")
    assert (tmp_path / "in" / "data").read_bytes() == path.read_bytes()


def test_a_tap_records_what_passes(start, serve, tmp_path):
    """
    Each whole flow is a file; one that is given up stays a .part that reads as cut.
    """
    port = serve(lambda flow, client: sum(1 for _ in flow))
    process = start("record", "taps", "--listen", LOCAL, "--to", f"127.0.0.1:{port}")
    client = StationClient("127.0.0.1", process.port(), True)
    assert client.send([{"n": 1}, {"n": 2}], header={"h": 1}) == 3
    with client.open(header={}) as flow:
        flow.send({"n": 1})
    deadline = time.monotonic() + 10
    found: list[str] = []
    while len(found) < 2 and time.monotonic() < deadline:
        found = sorted(path.name for path in (tmp_path / "taps").iterdir())
    assert found == ["000001.flow", "000002.part"]
    with (tmp_path / "taps" / "000001.flow").open("rb") as file:
        assert list(decode_packet_flow(file)) == [{"h": 1}, {"n": 1}, {"n": 2}]
    assert process.end()[0] == 0


def test_a_tap_says_that_its_server_cannot_be_reached(start):
    """
    Its clients are closed; it goes on.
    """
    process = start("record", "taps", "--listen", LOCAL, "--to", "127.0.0.1:1")
    with pytest.raises(StationError):
        StationClient("127.0.0.1", process.port()).send([{}])
    process.hear("the server cannot be reached: .*[Rr]efused")
    assert process.end()[0] == 0


def test_round_trips_are_measured(run, serve):
    """
    As ping does it: a line each, then statistics; nobody there is exit code 1.
    """
    done = run("ping", f":{serve(lambda flow, client: None)}", "-c", 2, "-i", 0.1)
    assert done.exit_code == 0
    assert "seq=1 time=" in done.stdout
    assert "2 sent, 2 answered, 0% lost" in done.stdout
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = run("ping", f":{port}", "-c", 1, "-W", 0.05)
        assert done.exit_code == 1
        silent.accept()[0].close()

        def close_one():
            silent.accept()[0].close()

        closing = threading.Thread(target=close_one)
        closing.start()
        assert run("ping", f":{port}", "-c", 1).exit_code == 1
        closing.join()
    assert run("ping", "127.0.0.1:1", "-c", 1).exit_code == 1


def test_a_server_that_gives_round_trips_up_is_quoted(run, serve):
    """
    With its reason: here, that it has its client already.
    """
    port = serve(lambda flow, client: len(list(flow)), max_clients=1)
    with StationClient("127.0.0.1", port).open({}):
        done = run("ping", f":{port}", "-c", 1)
    assert done.exit_code == 1
    assert "the server takes 1 clients at once (its max_clients): it is safe" in done.stderr


def test_round_trips_in_more_haste_than_servers_take_are_refused(run):
    """
    Before a server breaks them off in the middle.
    """
    done = run("ping", "127.0.0.1:1", "-i", 0.09)
    assert done.exit_code == 2
    assert "0.09 is not in the range x>=0.1" in done.stderr


def test_an_ipv6_address_is_said_as_it_is_given(start, run):
    """
    In brackets, where it is served, called and pinged.
    """
    process = start("serve", "served:count", "-e", "[::1]:0")
    address = process.hear(r"serves on (\[::1\]:\d+)$")[1]
    assert run("call", address, input="{}\n").exit_code == 0
    assert f"PING {address} " in run("ping", address, "-c", 1).stdout
    assert process.end()[0] == 0


def test_a_server_at_a_path_is_called_and_pinged_there_and_tapped(start, run, tmp_path):
    """
    By an endpoint string, as it listens; TLS is for what has a name.
    """
    address, tap = f"unix:{tmp_path}/socket", f"unix:{tmp_path}/tap"
    server = start("serve", "served:count", "-e", address)
    server.hear("serves on")
    tapping = start("record", "taps", "--listen", tap, "--to", address)
    tapping.hear("recording on")
    for each in (address, tap):
        assert run("call", each, input='{"n":1}\n').exit_code == 0
        assert f"PING {each} " in run("ping", each, "-c", 1).stdout
    assert run("call", address, "--tls", input="{}\n").exit_code == 2
    assert tapping.end()[0] == server.end()[0] == 0
    with (tmp_path / "taps" / "000001.flow").open("rb") as file:
        assert list(decode_packet_flow(file)) == [{"n": 1}]


def test_a_reader_of_round_trips_that_leaves_is_no_error(start, serve):
    """
    As with ``| head``: no word about it, and the exit code of SIGPIPE.
    """
    process = start("ping", f":{serve(lambda flow, client: None)}", "-i", 0.1)
    process.popen.stdout.readline()
    process.popen.stdout.close()
    assert process.popen.wait(20) == 128 + signal.SIGPIPE
    assert process.popen.stderr.read() == b""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_status_page_is_served_beside_it(start, workers):
    """
    Also with several workers, of which one answers; events are logged where that is asked for.
    """
    options = ("--status", LOCAL, "--log-events", "--workers", workers)
    process = start("serve", "served:count", "-e", LOCAL, *options)
    ports = {}
    while len(ports) < 2:
        what, port = process.hear(r"(serves|status) on (?:http://)?127.0.0.1:(\d+)").groups()
        ports[what] = int(port)
    limits = Limits(handshake_timeout=20)  # Workers may have to start yet.
    StationClient("127.0.0.1", ports["serves"], limits=limits).send([{"n": 1}] * 3, timeout=20)
    process.hear(r"flow_finished 1 from .*: success after 3 packets")
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['status']}/", timeout=20) as page:
        assert b"which alone is shown here" in page.read()
    assert process.end(signal.SIGTERM)[0] == 0
