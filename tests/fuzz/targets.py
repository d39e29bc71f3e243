"""Fuzz targets: whatever the bytes, only the documented error, and nothing that was not sent.

    python tests/fuzz/targets.py TARGET [libFuzzer options] [corpus]

Needs atheris. Without it, ``targets.TARGETS`` are functions of bytes, for whatever calls them.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

try:
    import atheris as installed
except ImportError:  # The tests call the targets with the corpus alone.
    installed = None
atheris: Any = installed

if atheris is not None and __name__ == "__main__":
    with atheris.instrument_imports(include=["pyf.transport"]):
        import pyf.transport  # noqa: F401 - for what it instruments

from pyf.transport import (  # noqa: E402 - behind its instrumentation
    BadFlowEnding,
    ClientError,
    Connection,
    Limits,
    RemoteProtocolError,
    Role,
    UnsupportedValue,
    codec,
    decode_packet_flow,
    encode_packet,
    speed,
)
from pyf.transport.codec import decode  # noqa: E402
from pyf.transport.events import PacketsReceived  # noqa: E402

LIMITS = Limits(max_packet=64 * 1024, max_header=64 * 1024)


def decoder(data: bytes) -> None:
    """Bytes give a value that travels again, or the error."""
    # What is nested deeper than we send is taken, and not sent on.
    with suppress(RemoteProtocolError, UnsupportedValue):
        value = decode(data)
        encode_packet({"value": value})


def batch(data: bytes) -> None:
    """Bytes give the same packets, or the same error, whichever codec takes them."""
    found = []
    for each in (codec, speed):
        try:
            # As text: a nan is not equal to itself.
            found.append(repr([*map(dict, each.decode_maps(data, 1))]))
        except RemoteProtocolError as error:
            found.append(str(error))
        except RecursionError:
            return  # It is nested too deep to be written down.
    assert found[0] == found[1]


def _machine(role: Role, data: bytes) -> None:
    machine = Connection(role, LIMITS)
    if role is Role.CLIENT:
        machine.open_flow()
    # The first byte says how the rest is cut.
    size = data[0] + 1 if data else 1
    with suppress(RemoteProtocolError):
        for start in range(1, len(data), size):
            machine.receive_data(data[start : start + size])
            while event := machine.next_event():
                if isinstance(event, PacketsReceived):
                    packets = list(event.batch.decode())
                    assert len(packets) == event.batch.packets
                    machine.consume(event.flow_id, event.batch.packets, event.batch.size)
            machine.data_to_send()
        machine.receive_eof()
        while machine.next_event():
            pass


def server(data: bytes) -> None:
    """Bytes from a client."""
    _machine(Role.SERVER, data)


def client(data: bytes) -> None:
    """Bytes from a server."""
    _machine(Role.CLIENT, data)


def record(data: bytes) -> None:
    """Bytes from a file."""
    with suppress(RemoteProtocolError, BadFlowEnding, ClientError):
        for _ in decode_packet_flow([data]):
            pass


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (decoder, batch, server, client, record)
}


def main() -> None:
    """Run one target under atheris."""
    assert atheris is not None, "pip install atheris"
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
