"""Who is let in, and how the commands show it: TLS, a certificate, a shared secret."""

import json
from pathlib import Path

import pytest

from pyf.station import FlowServer, StationClient, shared_secrets
from pyf.station.credentials import presenting

SECRET = "a secret that nobody guesses"
HOST = "127.0.0.1"


def whoami(flow, client):
    return [client.identity and str(client.identity)[:9], sum(1 for _ in flow)]


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """
    Where the secret is: in a file, and in the environment.
    """
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    monkeypatch.setenv("STATION_SECRET", SECRET)
    return f"file:{path}"


@pytest.fixture
def guarded(listen, files):
    """
    The address of a server that asks for a secret, in TLS.
    """
    server = FlowServer(whoami, authenticate=shared_secrets(SECRET))
    return f"{HOST}:{listen(server, tls=files.server)}"


@pytest.fixture
def mutual(listen, files):
    """
    The address of a server that lets in whom its authority knows.
    """
    return f"{HOST}:{listen(whoami, tls=files.server, client_ca=files.ca)}"


def test_a_secret_goes_with_the_header(run, guarded, files, secret):
    """
    From a file or the environment; with a header of options, and with that of the input.
    """
    for source in (secret, "env:STATION_SECRET"):
        for args, packets in ((["-H", "a=b"], 1), ([], 2)):
            done = run(
                *("call", guarded, *args, "--ca", files.ca, "--secret", source),
                input='{"n":1}\n' * packets,
            )
            assert done.exit_code == 0, done.output
            assert json.loads(done.stdout)["message"] == ["authtkt 1", 2]


@pytest.mark.parametrize("command", ["replay", "send-file", "bench", "ping"])
def test_each_command_gets_in(run, guarded, files, secret, tmp_path, command):
    """
    By the same options.
    """
    path = tmp_path / "a.flow"
    assert run("record", path, input='{"h":1}\n').exit_code == 0
    args = {
        "replay": [path, guarded],
        "send-file": [path, guarded],
        "bench": [guarded, "-n", 10],
        "ping": [guarded, "-c", 1],
    }[command]
    identity = () if command == "ping" else ("--secret", secret)
    done = run(command, *args, "--ca", files.ca, *identity)
    assert done.exit_code == 0, done.output


def test_a_certificate_is_shown(run, mutual, files, tmp_path):
    """
    With its key in a file of its own, or in the same one.
    """
    certificate, key = files.client
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(path).read_text() for path in files.client))
    for paths in (["--cert", certificate, "--key", key], ["--cert", both]):
        done = run("call", f"tls:{mutual}", "--ca", files.ca, *paths, input="{}\n")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["message"] == ["<Certific", 1]


@pytest.mark.parametrize("command", ["call", "ping"])
@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "it may expect TLS"),
        (["--tls"], "the server's certificate is refused: "),
        (["--ca", "other_ca"], "the server's certificate is refused: "),
        (["--ca", "ca"], "pyf-station: "),  # With TLS 1.3 a reset may overtake the server's word.
    ],
)
def test_who_does_not_get_in_is_told_in_a_line(run, mutual, files, command, args, reason):
    """
    With exit code 1.
    """
    args = [getattr(files, each, each) for each in args]
    done = run(command, mutual, *args, input='{"n":1}\n')
    assert done.exit_code == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_name_of_the_server_is_checked(run, listen, files):
    """
    A certificate for another one is refused.
    """
    address = f"{HOST}:{listen(whoami, tls=files.other_host)}"
    done = run("call", address, "--ca", files.ca, input='{"n":1}\n')
    assert (done.exit_code, "certificate is not valid for" in done.stderr) == (1, True)


def test_who_has_no_secret_is_told_in_a_line(run, guarded, files):
    """
    As any failure.
    """
    done = run("call", guarded, "--ca", files.ca, input="{}\n")
    assert done.exit_code == 1
    assert done.stderr == "pyf-station: the server does not know who the client is\n"


@pytest.mark.parametrize(
    ("args", "code", "reason"),
    [
        (["--cert", "CERT"], 2, "--cert needs --tls or --ca"),
        (["--tls", "--key", "KEY"], 2, "--key needs --cert"),
        (["--ca", "nowhere"], 2, "does not exist"),
        (["--ca", "KEY"], 1, "server.key: "),
        (["--tls", "--cert", "CERT", "--key", "CERT"], 1, "server.pem with "),
        (["--secret", SECRET], 2, "a secret is given as env:NAME or file:PATH"),
        (["--secret", "env:STATION_NONE"], 2, "there is no secret in env:STATION_NONE"),
        (["--secret", "file:/nowhere"], 1, "/nowhere: No such file"),
    ],
)
def test_options_that_are_of_no_use_are_refused(run, files, args, code, reason):
    """
    In a line, before anything is sent; and a secret on the command line is not repeated.
    """
    certificate, key = files.server
    args = [{"CERT": certificate, "KEY": key}.get(each, each) for each in args]
    done = run("call", f"{HOST}:1", *args, input="{}\n")
    assert done.exit_code == code, done.output
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "reason"),
    [
        (["--tls-key", "KEY"], 2, "--tls-key and --client-ca need --tls-cert"),
        (["--tls-cert", "CERT", "-e", "ssl:0"], 2, "would be TLS inside TLS"),
        (["--tls-cert", "CERT"], 1, "server.pem is no key for "),
        (["--tls-cert", "KEY"], 1, "there is no certificate in "),
        (["--secret", "env:SHORT"], 2, "a shared secret has at least 16 bytes"),
        (["--secret", "env:STATION_NONE", "--workers", "2"], 2, "there is no secret in"),
    ],
)
def test_what_a_server_cannot_use_is_said_once(run, files, monkeypatch, args, code, reason):
    """
    Before it listens; with workers, too.
    """
    monkeypatch.setenv("SHORT", "short")
    certificate, key = files.server
    args = [{"CERT": certificate, "KEY": key}.get(each, each) for each in args]
    done = run("serve", "operator:add", *args)
    assert (done.exit_code, done.stderr.count(reason)) == (code, 1), done.output


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_lets_in_whom_its_options_say(start, run, files, secret, tmp_path, workers):
    """
    In TLS with a certificate and a secret, in each worker.
    """
    (tmp_path / "served.py").write_text(
        "def count(flow, client):\n    return sum(1 for _ in flow)\n"
    )
    certificate, key = files.server
    process = start(
        *("serve", "served:count", "-e", f"{HOST}:0", "--workers", workers),
        *("--tls-cert", certificate, "--tls-key", key, "--client-ca", files.ca),
        *("--secret", secret, "--secret", "env:STATION_SECRET"),
    )
    address = f"{HOST}:{process.port()}"
    # Workers may have to start yet.
    shown = ["--cert", files.client[0], "--key", files.client[1], "--ca", files.ca]
    shown += ["--limit", "handshake_timeout=40"]
    done = run("call", address, *shown, "--secret", secret, input='{"n":1}\n')
    assert done.exit_code == 0, done.output
    assert run("call", address, *shown, input='{"n":1}\n').exit_code == 1
    assert process.end()[0] == 0


def test_files_are_received_from_those_who_know_the_secret(start, run, files, secret, tmp_path):
    """
    ``receive-file`` takes the same options.
    """
    path = tmp_path / "data"
    path.write_bytes(b"x" * 1000)
    (tmp_path / "in").mkdir()
    certificate, key = files.server
    process = start(
        *("receive-file", "in", "-e", f"{HOST}:0", "--once", "--secret", secret),
        *("--tls-cert", certificate, "--tls-key", key),
    )
    address = f"{HOST}:{process.port()}"
    assert run("send-file", path, address, "--ca", files.ca).exit_code == 1
    assert run("send-file", path, address, "--ca", files.ca, "--secret", secret).exit_code == 0
    assert process.end(None) == (0, "in/data\n")


def test_a_tap_that_could_not_connect_does_not_listen(run, files, tmp_path):
    """
    A key that belongs to another certificate is said in a line, at once.
    """
    shown = ["--ca", files.ca, "--cert", files.client[0], "--key", files.server[1]]
    done = run("record", tmp_path / "taps", "--listen", f"{HOST}:0", "--to", f"{HOST}:1", *shown)
    assert (done.exit_code, "server.key is no key for " in done.stderr) == (1, True), done.output


def test_a_tap_speaks_tls_on_both_sides(start, mutual, files, tmp_path):
    """
    It shows its certificate to the server, and what passes is recorded.
    """
    certificate, key = files.server
    process = start(
        *("record", "taps", "--listen", f"{HOST}:0", "--tls-cert", certificate, "--tls-key", key),
        *("--to", mutual, "--ca", files.ca, "--cert", files.client[0], "--key", files.client[1]),
    )
    client = StationClient(HOST, process.port(), tls=files.ca, interceptors=[presenting(SECRET)])
    assert client.send([{"n": 1}] * 3, header={}) == ["<Certific", 4]
    assert process.end()[0] == 0
    assert [path.name for path in (tmp_path / "taps").iterdir()] == ["000001.flow"]
