"""Send a file of any size and kind to another process, in chunks, and check that all of it came.

    python examples/send_file.py receive FOLDER [--port PORT]
    python examples/send_file.py send FILE [--host HOST] [--port PORT]

The file appears in FOLDER under its name, in one step, once its size and SHA-256 are right. Until
then, and after any failure, whatever was there before stays as it is.
"""

import argparse
import hashlib
import os
import tempfile
from pathlib import Path

from pyf.station import FlowServer, StationClient
from pyf.transport import Packet

CHUNK = 256 * 1024


def chunks(path):
    """Yield the file in packets, and what it must add up to as the last one."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
            size += len(data)
            yield Packet(data=data)
    yield Packet(size=size, sha256=digest.hexdigest())


def send(path, host, port):
    client = StationClient(host, port, True)
    done = client.send(chunks(path), header=Packet(name=path.name))
    print(f"{done['size']:,} bytes arrived as {done['path']} (SHA-256 {done['sha256']})")


class Receiver:
    """Handles the flows of one folder. An object can be a handler when it can be called."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, flow, client):
        # Only the last part of what the client calls it: nothing lands outside the folder.
        name = Path(next(flow).name).name
        if not name:
            raise ValueError("the file needs a name")
        handle, part = tempfile.mkstemp(prefix=f".{name[:100]}-", suffix=".part", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                done = self.write(flow, file)
            Path(part).replace(self.folder / name)
        except BaseException:
            Path(part).unlink()
            raise
        return {"path": str(self.folder / name), **done}

    def write(self, flow, file):
        digest = hashlib.sha256()
        expected = None
        for packet in flow:
            if "data" in packet:
                digest.update(packet.data)
                file.write(packet.data)
            else:
                expected = packet
        actual = {"size": file.tell(), "sha256": digest.hexdigest()}
        if actual != expected:
            raise ValueError(f"expected {expected}, got {actual}")
        file.flush()
        os.fsync(file.fileno())
        return actual


def receive(folder, port):
    from twisted.internet import reactor  # only the receiving side needs it

    folder.mkdir(parents=True, exist_ok=True)
    listening = reactor.listenTCP(port, FlowServer(Receiver(folder)), interface="127.0.0.1")
    print(f"Listening on port {listening.getHost().port}", flush=True)
    reactor.run()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    roles = parser.add_subparsers(dest="role", required=True)
    for role, argument in (("receive", "folder"), ("send", "file")):
        options = roles.add_parser(role)
        options.add_argument(argument, type=Path)
        options.add_argument("--port", type=int, default=8000)
        if role == "send":
            options.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args()
    if args.role == "receive":
        receive(args.folder, args.port)
    else:
        send(args.file, args.host, args.port)


if __name__ == "__main__":
    main()
