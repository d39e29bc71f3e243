"""What comes back is written as it comes, whatever the input and whoever reads it do meanwhile."""

import asyncio
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from pyf.station.cli import exchange, meter


def echo(flow, client):
    next(flow)
    for packet in flow:
        client.message(packet)
    return "done"


class Endless:
    """A handler that sends messages without end, and notes how that ended."""

    def __init__(self):
        self.over = threading.Event()
        self.ending = ""

    def __call__(self, flow, client):
        next(flow)
        try:
            while True:
                client.message({"text": "x" * 1000})
        except Exception as error:
            self.ending = type(error).__name__
        finally:
            self.over.set()


@pytest.fixture
def call(start, serve):
    """
    Start a call to a handler.
    """

    def call(handler, *args):
        return start("call", f":{serve(handler)}", *args)

    return call


def say(process, packet):
    process.popen.stdin.write(json.dumps(packet).encode() + b"\n")
    process.popen.stdin.flush()


def test_each_answer_is_written_while_the_input_is_silent(call):
    """
    As a person sees who talks to a server from a terminal, and with ``tail -f | … call``.
    """
    process = call(echo, "-H", "a=b")
    for number in range(3):
        say(process, {"n": number})
        assert json.loads(process.popen.stdout.readline()) == {"n": number}
    code, out = process.end(None)
    assert (code, json.loads(out)["message"], process.said) == (0, "done", "")


@pytest.mark.parametrize(
    ("handler", "code"),
    [(lambda flow, client: "done", 0), (lambda flow, client: client.error("no room"), 1)],
)
def test_a_handler_that_ends_ends_the_call_though_the_input_goes_on(call, handler, code):
    """
    With its result, or its failure, at once.
    """
    process = call(handler, "-H", "a=b")
    assert process.popen.wait(20) == code
    said = process.popen.stdout.read() + process.popen.stderr.read()
    assert (b'"message":"done"' if code == 0 else b"no room") in said


@pytest.mark.parametrize("header", [["-H", "a=b"], []])
def test_ctrl_c_ends_a_call_whose_input_is_silent(call, header):
    """
    The thread that reads it keeps nothing, also where the header is to be read yet.
    """
    ended = []
    over = threading.Event()

    def handler(flow, client):
        try:
            for packet in flow:
                client.message(packet)
        except Exception as error:
            ended.append(type(error).__name__)
        over.set()

    process = call(handler, *header)
    say(process, {"n": 1})
    assert process.popen.stdout.readline()
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(20) == 130
    assert process.popen.stderr.read() == b""
    assert over.wait(10)
    assert ended == ["FlowCancelled"]


def test_ctrl_c_leaves_a_pipe_that_nobody_writes_to(call, tmp_path):
    """
    A named one is not closed while it is read: that would wait for a writer.
    """
    path = tmp_path / "pipe"
    os.mkfifo(path)
    process = call(echo, path, "-H", "a=b")
    with path.open("wb", buffering=0) as pipe:
        pipe.write(b'{"n":1}\n')
        assert process.popen.stdout.readline()
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(20) == 130
        assert process.popen.stderr.read() == b""


def test_a_reader_that_leaves_ends_a_call_whose_input_is_silent(call):
    """
    With the exit code of SIGPIPE, and the handler hears of it.
    """
    handler = Endless()
    process = call(handler, "-H", "a=b")
    process.popen.stdout.readline()
    process.popen.stdout.close()
    assert process.popen.wait(20) == 128 + signal.SIGPIPE
    assert process.popen.stderr.read() == b""
    assert handler.over.wait(10)
    assert handler.ending == "FlowCancelled"


def test_ctrl_c_ends_a_call_whose_reader_is_slow(call):
    """
    What waits for it is given up.
    """
    handler = Endless()
    process = call(handler, "-H", "a=b")
    assert process.popen.stdout.readline()
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(20) == 130
    assert handler.over.wait(10)


@pytest.fixture
def pipe(monkeypatch):
    """
    A pipe in the place of stdout; return the end that is read.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as read, os.fdopen(writing, "wb", 0) as written:
        monkeypatch.setattr(exchange, "standard", lambda _: written)
        yield read


def test_a_reader_that_is_slow_is_waited_for(pipe):
    """
    Once UNWRITTEN bytes wait: memory is bounded, the event loop goes on, and nothing is lost.
    """
    text = "x" * 100_000

    async def write():
        async with exchange.Output() as output:
            for number in range(64):
                await output.write({"n": number, "text": text})
                written.append(number)

    async def main():
        task = asyncio.create_task(write())
        for _ in range(100):
            await asyncio.sleep(0)
        assert 10 < len(written) <= exchange.UNWRITTEN // len(text) + 2
        read = await asyncio.to_thread(lambda: [pipe.readline() for _ in range(64)])
        await task
        return read

    written: list[int] = []
    assert [json.loads(line)["n"] for line in asyncio.run(main())] == list(range(64))


def test_a_line_takes_another_one_away(pipe):
    """
    That of the progress, where both are on one terminal.
    """

    async def write():
        async with exchange.Output(meter.CLEAR) as output:
            await output.write({"n": 1})

    asyncio.run(write())
    assert pipe.readline() == b'\r\x1b[K{"n":1}\n'


def test_a_reader_that_leaves_cancels_who_writes(pipe):
    """
    Wherever it waits; the ``with`` raises why.
    """

    async def wait():
        async with exchange.Output() as output:
            pipe.close()
            await output.write({"n": 1})
            await asyncio.Event().wait()

    async def leave():
        async with exchange.Output() as output:
            pipe.close()
            await output.write({"n": 1})

    for each in (wait, leave):
        with pytest.raises(BrokenPipeError):
            asyncio.run(each())


def test_a_disk_that_is_full_is_named(monkeypatch):
    """
    As what was to be written.
    """

    async def write():
        async with exchange.Output() as output:
            await output.write({"n": 1})

    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(exchange, "standard", lambda _: full)
        with pytest.raises(OSError, match="No space left on device: 'stdout'"):
            asyncio.run(write())


def test_all_that_came_before_a_failure_is_written(call):
    """
    A handler's messages, though nobody read them yet as it failed.
    """

    def handler(flow, client):
        next(flow)
        for number in range(2000):
            client.message({"n": number, "text": "x" * 1000})
        client.error("no room")

    process = call(handler, "-H", "a=b")
    code, out = process.end(None)
    assert (code, len(out.splitlines())) == (1, 2000)
    assert "no room" in process.said
