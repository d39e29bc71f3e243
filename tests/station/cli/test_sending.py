"""What the commands send, write and end with."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from decimal import Decimal

import pytest

from pyf.station import ndjson
from pyf.station.cli import source
from pyf.station.files import Receiver
from pyf.transport import Packet, decode_packet_flow, encode_packet_flow


def echo(flow, client):
    header = next(flow)
    for packet in flow:
        client.message(packet)
    return dict(header)


@pytest.fixture
def address(serve):
    return f"127.0.0.1:{serve(echo)}"


def lines(text):
    return [ndjson.loads(line) for line in text.splitlines()]


def test_packets_go_in_and_come_out_as_lines(run, address):
    """
    What is sent comes back, of its types; the header is made of the options; the success is last.
    """
    sent = [{"n": 2**70}, {"price": Decimal("1.50"), "data": b"\x00"}]
    done = run(
        *("call", address, "-H", "a=b=c", "-H", 'n:={"$decimal":"2"}', "-H", "empty="),
        input="\n".join(map(ndjson.dumps, sent)),
    )
    assert done.exit_code == 0, done.output
    success = {"type": "success", "message": {"a": "b=c", "n": Decimal(2), "empty": ""}}
    assert lines(done.stdout) == [*sent, success]
    assert done.stderr == ""


def test_without_options_the_first_packet_is_the_header(run, address):
    """
    As for any flow.
    """
    done = run("call", address, input='{"h":1}\n{"n":1}\n')
    assert lines(done.stdout) == [{"n": 1}, {"type": "success", "message": {"h": 1}}]


def test_csv_gives_a_packet_of_texts_for_each_row(run, address, tmp_path):
    """
    By the ending of the name, or by --format.
    """
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffname,amount\n"a, b",1\nc,\n')
    rows = [{"name": "a, b", "amount": "1"}, {"name": "c", "amount": ""}]
    for done in (
        run("call", address, path, "-H", "x=1"),
        run("call", address, "-f", "csv", "-H", "x=1", input=path.read_text()),
    ):
        assert lines(done.stdout)[:-1] == rows


@pytest.mark.parametrize(
    ("form", "text", "reason"),
    [
        ("ndjson", '{"n":1}\n{"n":\n', "stdin:2: Expecting value (column 6)"),
        ("ndjson", b'{"n":1}\n\x00\xff', "stdin:2: 'utf-8' codec can't decode byte 0xff"),
        ("csv", b"a\n1\n\xff\n", "stdin:3: 'utf-8' codec can't decode byte 0xff"),
        ("csv", "a,b,a\n1,2,3\n", "stdin:1: it names 'a' twice"),
        ("csv", "a,b\n1,2\n3\n", "stdin:3: it has another number of fields"),
        ("csv", "a,b\n1,2,3\n", "stdin:2: it has another number of fields"),
        ("csv", 'a\n"x', "unexpected end of data"),
        ("flow", "nonsense!!!!!!!!", "stdin: the peer does not speak this protocol"),
    ],
)
def test_input_that_is_wrong_is_named_and_cuts_the_flow(run, serve, form, text, reason):
    """
    One line on stderr, exit code 1; the handler hears that the client failed.
    """
    ended = []
    heard = threading.Event()

    def handler(flow, client):
        try:
            list(flow)
        except Exception as error:
            ended.append(type(error).__name__)
        heard.set()

    done = run("call", f":{serve(handler)}", "-f", form, "-H", "x=1", input=text)
    assert done.exit_code == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert heard.wait(10)
    assert ended == ["ClientError"]


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_a_line_without_end_is_refused(run, address, monkeypatch, form):
    """
    Memory is bounded, whatever comes in.
    """
    monkeypatch.setattr(source, "LINE", 2**20)
    done = run("call", address, "-f", form, "-H", "a=b", input="\n" + "x" * 2**21)
    assert (done.exit_code, done.stderr) == (1, "pyf-station: stdin:2: a line of more than 1 MiB\n")


def test_a_field_of_csv_may_be_large(run, address):
    """
    As large as a packet.
    """
    done = run("call", address, "-f", "csv", "-H", "a=b", input="a\n" + "x" * 200_000)
    assert len(lines(done.stdout)[0].a) == 200_000


def test_a_failing_handler_is_one_line_and_exit_code_1(run, serve):
    """
    The error's text goes to stderr, without a traceback.
    """

    def handler(flow, client):
        client.error("no room")

    done = run("call", f"tcp:127.0.0.1:{serve(handler)}", input='{"a":1}')
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("pyf-station: the handler reported Error")
    assert "no room" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["call", "nonsense"],
        ["call", "127.0.0.1:0"],
        ["call", "127.0.0.1:70000"],
        ["call", ":8000", "-H", "x"],
        ["call", ":8000", "-H", "x:={"],
        ["call", ":8000", "--limit", "colour=1"],
        ["call", ":8000", "--limit", "window_bytes=1"],
        ["call", ":8000", "--limit", "window_bytes=much"],
        ["call", ":8000", "no such file"],
        ["record", "x", "--listen", "tcp:0"],
        ["frobnicate"],
    ],
)
def test_wrong_usage_is_exit_code_2(run, args):
    """
    It says what is wrong, and does nothing.
    """
    done = run(*args)
    assert done.exit_code == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_there_is_exit_code_1(run):
    """
    One line says what was tried.
    """
    done = run("call", "127.0.0.1:1", input="")
    assert done.exit_code == 1
    assert done.stderr.startswith("pyf-station: cannot connect to 127.0.0.1:1")


@pytest.mark.parametrize("command", ["call", "replay", "record", "send-file", "serve", "ping"])
def test_each_command_has_examples(run, command):
    """
    ``--help`` shows how the command is used, one example a line.
    """
    done = run(command, "--help")
    assert done.exit_code == 0
    assert f"\n    pyf-station {command} " in done.stdout


def test_a_flow_is_recorded_and_replayed(run, address, tmp_path):
    """
    It is in a file, header first, and goes out as it went in.
    """
    path = tmp_path / "a.flow"
    done = run("record", path, "-H", "h=1", input='{"n":1}\n{"n":{"$bytes":"AA=="}}\n')
    assert (done.exit_code, done.output) == (0, "")
    with path.open("rb") as file:
        assert list(decode_packet_flow(file)) == [{"h": "1"}, {"n": 1}, {"n": b"\0"}]
    assert [each.name for each in tmp_path.iterdir()] == ["a.flow"]
    for done in (run("replay", path, address), run("call", address, path)):
        success = {"type": "success", "message": {"h": "1"}}
        assert lines(done.stdout) == [{"n": 1}, {"n": b"\0"}, success]


def test_a_flow_on_stdin_is_known_by_its_first_bytes(run, address):
    """
    ``record -`` writes to stdout, and ``call`` reads what comes.
    """
    recorded = run("record", "-", input='{"h":1}\n{"n":1}\n').stdout_bytes
    assert recorded == b"".join(encode_packet_flow([{"h": 1}, {"n": 1}]))
    assert lines(run("call", address, input=recorded).stdout)[0] == {"n": 1}


def test_a_recording_of_bad_input_leaves_no_file(run, tmp_path):
    """
    Nothing is there that looks like a flow.
    """
    done = run("record", tmp_path / "a.flow", input='{"h":1}\n?\n')
    assert done.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_a_recording_goes_where_a_link_leads(run, tmp_path):
    """
    The link stays one.
    """
    link = tmp_path / "link.flow"
    link.symlink_to("target.flow")
    assert run("record", link, input='{"h":1}\n').exit_code == 0
    assert link.is_symlink()
    assert (tmp_path / "target.flow").read_bytes() == b"".join(encode_packet_flow([{"h": 1}]))


def test_a_recording_goes_into_a_pipe(run, tmp_path):
    """
    What is no regular file is written to, and not replaced.
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert run("record", pipe, input='{"h":1}\n').exit_code == 0
    reader.join(10)
    assert read == [b"".join(encode_packet_flow([{"h": 1}]))]
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


def test_a_recording_that_cannot_be_written_is_named(run, tmp_path):
    """
    By the name that was given.
    """
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no" / "x", "No such file")):
        done = run("record", path, input='{"h":1}\n')
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith(f"pyf-station: {path}: {reason}")


def test_a_cut_recording_is_an_error_and_no_short_flow(run, address, tmp_path):
    """
    A replay of it fails, and says how much there was.
    """
    path = tmp_path / "a.flow"
    whole = b"".join(encode_packet_flow([Packet(n=n) for n in range(10)]))
    path.write_bytes(whole[:-1])
    done = run("replay", path, address)
    assert done.exit_code == 1
    assert "the recorded flow was cut: it has no END after 10 packets" in done.stderr


def test_a_file_is_sent(run, serve, tmp_path):
    """
    Under its own name, or another one.
    """
    path = tmp_path / "a.txt"
    path.write_bytes(b"text")
    folder = tmp_path / "in"
    folder.mkdir()
    port = serve(Receiver(folder))
    for done in (
        run("send-file", path, f":{port}"),
        run("send-file", path, f":{port}", "--name=b"),
    ):
        assert done.exit_code == 0, done.output
        assert lines(done.stdout)[0].message["size"] == 4
    assert sorted(each.name for each in folder.iterdir()) == ["a.txt", "b"]


def test_a_server_is_measured(run, serve):
    """
    ``bench`` writes one line of JSON.
    """
    counted = []
    port = serve(lambda flow, client: counted.append(sum(1 for _ in flow)))
    done = run("bench", f":{port}", "-n", 1000, "-s", 10)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["packets"] == 1000
    assert counted == [1001]


def test_the_progress_goes_to_stderr(run, address):
    """
    The last look stays on the screen, and stdout has nothing but packets.
    """
    done = run("call", address, "--progress", "-H", "a=b", input='{"n":1}\n')
    assert "1 sent, 1 consumed, 2 back" in done.stderr
    assert len(lines(done.stdout)) == 2


# As processes


def test_ctrl_c_cancels_the_flow_and_exits_with_130(start, serve):
    """
    The handler gets FlowCancelled, and stderr no traceback.
    """
    ended = []
    started, heard = threading.Event(), threading.Event()

    def handler(flow, client):
        try:
            for _ in flow:
                started.set()
        except Exception as error:
            ended.append(type(error).__name__)
        heard.set()

    process = start("call", f":{serve(handler)}", "-H", "a=b")
    process.popen.stdin.write(b'{"n":1}\n{"n":2}\n')
    process.popen.stdin.flush()
    assert started.wait(10)
    code, _ = process.end(signal.SIGINT)
    assert (code, process.said) == (130, "")
    assert heard.wait(10)
    assert ended == ["FlowCancelled"]


def test_a_reader_that_leaves_is_no_error(start, serve):
    """
    As with ``| head -1``: no word about it, and the exit code of SIGPIPE.
    """

    def handler(flow, client):
        for packet in flow:
            client.message(packet)

    process = start("call", f":{serve(handler)}", "-H", "a=b")
    head = threading.Thread(target=process.popen.stdout.close)
    process.popen.stdin.write(b'{"n":1}\n')
    process.popen.stdin.flush()
    head.start()
    head.join()
    with suppress(BrokenPipeError), process.popen.stdin as stdin:
        stdin.write(b'{"n":1}\n' * 1000)
    process.popen.stdin = process.popen.stdout = None
    assert process.popen.wait(30) == 128 + signal.SIGPIPE
    assert process.popen.stderr.read() == b""


def test_without_click_one_line_says_what_to_install():
    """
    A missing extra is no traceback.
    """
    program = (
        "import sys; sys.modules['click'] = None\n"
        f"sys.path[:0] = {[path for path in sys.path if path]!r}\n"
        "from pyf.station.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "pyf-station: this needs the extra 'cli': python -m pip install 'pyf.station[cli]'\n"
    )
