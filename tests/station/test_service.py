"""The server as a Twisted service: it listens, drains when stopped, and `twist` runs it."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.application.service import IServiceMaker
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.plugin import getPlugins
from twisted.python import usage

from pyf.station import FlowServer, StationClient, StationError
from pyf.station.service import (
    HandlerNotFound,
    Options,
    StationService,
    endpoint_string,
    load_handler,
    makeService,
)

ROOT = Path(__file__).resolve().parent.parent.parent
LOCAL = "tcp:0:interface=127.0.0.1"


def handler(flow, client):
    client.message({"began": True})
    return sum(1 for _ in flow)


def port_of(service):
    return next(iter(service))._waitingForPort.result.getHost().port


@pytest.fixture
def service(reactor, in_reactor):
    made = []

    def make(*where):
        made.append(StationService(FlowServer(handler, reactor=reactor), *where))
        in_reactor(made[-1].startService)
        return made[-1]

    yield make
    for each in made:
        if each.running:
            in_reactor(each.stopService)


def test_a_service_listens_on_strings_and_endpoints(service, reactor):
    """
    On each of them, with one server.
    """
    running = service(LOCAL, TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
    for each in running:
        port = each._waitingForPort.result.getHost().port
        assert StationClient("127.0.0.1", port).send([{"n": 1}]) == 1


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:8000", "tcp:8000:interface=127.0.0.1"),
        ("localhost:0", "tcp:0:interface=localhost"),
        ("station.example.org:1", "tcp:1:interface=station.example.org"),
        ("[::1]:8000", r"tcp6:8000:interface=\:\:1"),
        ("tcp:8000", "tcp:8000"),
        ("onion:80", "onion:80"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_an_address_stands_for_its_endpoint(text, endpoint):
    """
    HOST:PORT will do; what begins as an endpoint is one.
    """
    assert endpoint_string(text) == endpoint


def test_a_service_lets_in_whom_it_is_told_to(reactor, in_reactor, files, monkeypatch):
    """
    By TLS with certificates, and by shared secrets.
    """
    monkeypatch.setenv("STATION_SECRET", "a secret that nobody guesses")
    options = Options()
    options.parseOptions(
        [
            *("--handler", f"{__name__}:handler", "--endpoint", "127.0.0.1:0"),
            *("--tls-cert", files.server[0], "--tls-key", files.server[1]),
            *("--client-ca", files.ca, "--secret", "env:STATION_SECRET"),
        ]
    )
    made = makeService(options)
    in_reactor(made.startService)
    client = StationClient("127.0.0.1", port_of(made), tls=files.ca, certificate=files.client)
    header = {"authtkt": "a secret that nobody guesses"}
    assert client.send([{"n": 1}], header) == 2
    with pytest.raises(StationError, match="who the client is"):
        client.send([{"n": 1}])
    in_reactor(made.stopService)


def test_stopping_drains(service, in_reactor, reactor):
    """
    An open flow ends well, and only then has the service stopped; nobody else is let in.
    """
    running = service(LOCAL)
    port = port_of(running)
    stopped: list[Deferred[None]] = []
    with StationClient("127.0.0.1", port).open(header={}) as flow:
        flow.send({"n": 1})
        assert flow.receive(10)
        in_reactor(lambda: stopped.append(running.stopService()))
        assert not stopped[0].called
        assert flow.end() == 2
    in_reactor(lambda: stopped[0])
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_a_port_that_is_taken_is_an_error_at_the_start(service):
    """
    And no line in a log that nobody reads.
    """
    port = port_of(service(LOCAL))
    with pytest.raises(CannotListenError):
        service(f"tcp:{port}:interface=127.0.0.1")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "--handler MODULE:NAME is needed"),
        (["--handler", "json"], "'json' is not MODULE:NAME"),
        (["--handler", "json:nope"], "json has no 'nope'"),
        (["--handler", "nope.nope:x"], "there is no module 'nope.nope'"),
        (["--handler", "operator:add", "--drain-grace", "-1"], "Limits.drain_grace"),
        (["--handler", "operator:add", "--endpoint", "bogus:1"], "Unknown endpoint type"),
        (["--handler", "operator:add", "--secret", "hush"], "as env:NAME or file:PATH"),
        (["--handler", "operator:add", "--tls-key", "x"], "need --tls-cert"),
        (["--handler", "operator:add", "--tls-cert", "/nowhere"], "No such file"),
        (["--handler", "operator:add", "--tls-cert", "/dev/null"], "no certificate in /dev/null"),
    ],
)
def test_what_cannot_be_served_is_a_usage_error(reactor, args, reason):
    """
    ``twist`` shows it in a line.
    """
    options = Options()

    def make():
        options.parseOptions(args)
        makeService(options)

    with pytest.raises(usage.UsageError, match=re.escape(reason)):
        make()


def test_options_become_the_server(reactor):
    """
    What is given counts, and what is not has the server's default.
    """
    options = Options()
    options.parseOptions(
        ["--handler", "operator:add", "--max-handlers=3", "--drain-grace=2", "--expose-errors"]
    )
    server = makeService(options).server
    assert (server.max_handlers, server.limits.drain_grace, server.expose_errors) == (3, 2.0, True)
    assert server.max_clients == FlowServer(handler).max_clients


def test_a_module_that_fails_raises_what_it_raises(tmp_path, monkeypatch):
    """
    A handler's module that imports what is absent is there all the same.
    """
    (tmp_path / "failing_module.py").write_text("import absent_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_module"):
        load_handler("failing_module:x")
    with pytest.raises(HandlerNotFound):
        load_handler("absent_module:x")


@pytest.fixture
def environment(tmp_path):
    """
    What ``twist`` finds the plugin with: from the checkout, as if it was installed.
    """
    paths = [path for path in sys.path if Path(path, "pyf", "station").is_dir()]
    (tmp_path / "served.py").write_text("def count(flow, client):\n    return len([*flow])\n")
    if not any(str(plugin.tapname) == "pyf-station" for plugin in getPlugins(IServiceMaker)):
        plugins = tmp_path / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        source = ROOT / "plugins" / "pyf_station_plugin.py"
        (plugins / source.name).write_bytes(source.read_bytes())
    paths = os.pathsep.join([str(tmp_path), *paths, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths.strip(os.pathsep)}


def twist(environment, cwd, *args, before="", **options):
    program = (
        f"{before}\nimport sys\n"
        "from twisted.application.twist._twist import Twist\n"
        "Twist.main(['twist', *sys.argv[1:]])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, "--log-format=text", "pyf-station", *args],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def test_twist_runs_it(environment, tmp_path):
    """
    ``twist pyf-station --endpoint … --handler …`` serves a module of the current folder.
    """
    process = twist(environment, tmp_path, "--endpoint", LOCAL, "--handler", "served:count")
    try:
        assert process.stdout is not None
        port = next(
            int(found[1])
            for line in process.stdout
            if (found := re.search(r"FlowServer starting on (\d+)", line))
        )
        assert StationClient("127.0.0.1", port).send([{"n": 1}] * 5, timeout=20) == 5
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert "Traceback" not in output


def test_a_socket_that_was_passed_is_served(environment, tmp_path):
    """
    ``systemd:`` endpoints take the descriptor that a supervisor has opened.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        # As systemd does it: the first descriptor that is passed is 3, for the process it starts.
        before = (
            f"import os; os.dup2({listening.fileno()}, 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='x')"
        )
        args = ("--endpoint", "systemd:domain=INET:index=0", "--handler", "served:count")
        process = twist(environment, tmp_path, *args, before=before, pass_fds=[listening.fileno()])
        try:
            assert StationClient("127.0.0.1", port).send([{"n": 1}] * 5, timeout=20) == 5
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
    assert "Traceback" not in output
