"""A file arrives byte for byte, under its name only once it is whole."""

import os
import threading

import pytest

from pyf.station import ServerError, StationClient
from pyf.station.files import CHUNK, FileFlow, Receiver


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def send(serve, folder):
    def send(flow, header, **options):
        returned = threading.Event()
        receiver = Receiver(folder, **options)

        def handler(flow, client):
            try:
                return receiver(flow, client)
            finally:
                returned.set()

        try:
            return StationClient("127.0.0.1", serve(handler)).send(flow, header=header)
        finally:
            assert returned.wait(10)

    return send


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 1])
def test_a_file_arrives_byte_for_byte(tmp_path, folder, send, size):
    """
    Also an empty one; the number of packets is told before.
    """
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(size))
    flow = FileFlow(path)
    assert flow.__length_hint__() == len(list(flow))
    done = send(flow, flow.header)
    assert done["size"] == size
    assert (folder / "data.bin").read_bytes() == path.read_bytes()
    assert [each.name for each in folder.iterdir()] == ["data.bin"]


def cut(path):
    *chunks, _ = FileFlow(path)
    yield from chunks
    raise ValueError("cut")


def without_sum(path):
    *chunks, _ = FileFlow(path)
    yield from chunks


def changed(path):
    *chunks, last = FileFlow(path)
    yield from chunks
    yield {**last, "size": last.size + 1}


@pytest.mark.parametrize("flow", [cut, without_sum, changed])
def test_what_is_not_whole_leaves_nothing(tmp_path, folder, send, flow, logged_errors):
    """
    A transfer that was cut, lacks its checksum or has another leaves no file, nor part of one.
    """
    path = tmp_path / "data.bin"
    path.write_bytes(os.urandom(CHUNK + 1))
    with pytest.raises((ServerError, ValueError)):
        send(flow(path), {"name": "data.bin"})
    if flow is not cut:
        logged_errors.claim(ValueError)
    assert not list(folder.iterdir())


def test_a_file_that_is_there_is_kept_unless_told(tmp_path, folder, send, logged_errors):
    """
    A peer replaces nothing, unless whoever receives said so.
    """
    path = tmp_path / "a"
    path.write_bytes(b"new")
    (folder / "a").write_bytes(b"old")
    flow = FileFlow(path)
    with pytest.raises(ServerError, match="FileExistsError"):
        send(flow, flow.header)
    logged_errors.claim(FileExistsError)
    assert (folder / "a").read_bytes() == b"old"
    send(flow, flow.header, overwrite=True)
    assert (folder / "a").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["", ".", "..", "/", "../.."])
def test_a_name_that_is_none_is_refused(folder, send, logged_errors, name):
    """
    What would not be a file in the folder is refused.
    """
    with pytest.raises(ServerError):
        send([{"size": 0}], {"name": name})
    logged_errors.claim(ValueError)


def test_a_file_lands_in_the_folder_whatever_its_path(tmp_path, folder, send):
    """
    Of a path that a peer sends, only the last part counts.
    """
    path = tmp_path / "a"
    path.write_bytes(b"x")
    send(FileFlow(path), {"name": "../../evil"})
    assert [each.name for each in folder.iterdir()] == ["evil"]
