"""A TCP proxy that does to a connection what networks do: cut, stall, trickle, fall silent."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, Literal, Self

from pyf.transport.errors import RemoteProtocolError
from pyf.transport.frames import FrameParser, FrameType, decode_batch
from pyf.transport.limits import MAX_FRAME

Cut = Literal["fin", "rst", "silence"]
"""How a connection is cut, both ways: by an orderly close, by a reset, or without a word."""

WAIT: Final = 10.0
"""Seconds that anything here waits for before it says that it did not come."""

LINGER: Final = 2.0
"""Seconds that both sides have to close after a ``"fin"``, before they are cut off."""

CHUNK: Final = 64 * 1024
"""Bytes read at once."""

RETRY: Final = 0.05
"""Seconds until the next attempt to accept a connection, after one that failed."""

STEPS: Final = 20
"""Pieces a second where the rate is limited."""

BATCHES: Final = (FrameType.DATA, FrameType.MESSAGE)


class Direction:
    """What happens to the bytes that go one way, on every connection of a proxy.

    Attributes can be set at any time, from any thread; they hold from the next piece of bytes on.
    """

    def __init__(self, stage: _Stage) -> None:
        self._stage = stage
        self._gate = asyncio.Event()
        self._gate.set()
        self.cut_after_bytes: int | None = None
        """Forward this many bytes of a connection, then cut it."""
        self.cut_after_packets: int | None = None
        """Forward a connection up to the end of the frame that completes this many packets, then
        cut it. A frame can bring several."""
        self.how: Cut = "fin"
        """How to cut. A reset may overtake bytes that the receiver has not read yet."""
        self.slice: int | None = None
        """Bytes forwarded at a time, at the most. With a delay: a trickle."""
        self.delay: float = 0.0
        """Seconds that each piece waits before it is forwarded, one after the other."""
        self.rate: float | None = None
        """Bytes a second, at the most."""
        self.black_hole: bool = False
        """Take everything, forward nothing, no close either: the receiver never hears again."""
        self.record: bool = False
        """Whether to keep what is forwarded in ``recorded``."""
        self.forwarded: int = 0
        """Bytes forwarded so far, of all connections together."""
        self.packets: int = 0
        """Packets forwarded so far, in whole frames, of all connections together."""
        self.recorded: bytearray = bytearray()
        """What was forwarded while ``record`` was set. Clear it between connections."""

    def stall(self) -> None:
        """Forward nothing, and read nothing, until ``resume()``. In force once this returns."""
        self._stage.do(self._gate.clear)

    def resume(self) -> None:
        """Go on after ``stall()``."""
        self._stage.do(self._gate.set)

    def wait_for_bytes(self, count: int, timeout: float = WAIT) -> None:
        """Wait until *count* bytes have been forwarded; raises TimeoutError."""
        self._stage.wait_for(lambda: self.forwarded >= count, f"{count} forwarded bytes", timeout)

    def wait_for_packets(self, count: int, timeout: float = WAIT) -> None:
        """Wait until *count* packets have been forwarded; raises TimeoutError."""
        self._stage.wait_for(lambda: self.packets >= count, f"{count} forwarded packets", timeout)


class _Way(Direction):
    """A direction as the proxy's thread sees it."""

    async def flowing(self) -> None:
        """Wait while the direction is stalled."""
        await self._gate.wait()

    def limit(self, meter: _Meter) -> int | None:
        """Return the offset at which a connection is to be cut, None where that is not known."""
        offsets = [self.cut_after_bytes]
        if self.cut_after_packets is not None:
            offsets.append(meter.end_of(self.cut_after_packets))
        return min((offset for offset in offsets if offset is not None), default=None)

    def pace(self) -> tuple[int, float]:
        """Return the bytes of the next piece, at the most, and the seconds that each byte costs."""
        size, cost = max(1, self.slice or CHUNK), 0.0
        if self.rate is not None:
            size, cost = max(1, min(size, int(self.rate / STEPS))), 1 / self.rate
        return size, cost

    def count(self, piece: bytes, packets: int) -> None:
        """Note what has been forwarded."""
        with self._stage.change():
            self.forwarded += len(piece)
            self.packets += packets
            if self.record:
                self.recorded += piece


class ChaosProxy:
    """Forwards connections to the server at *port* of *host*, and harms them as it is told.

    For use in ``with``, once: it listens on ``proxy.port`` of 127.0.0.1 from entering to leaving,
    and leaves no connection, thread or descriptor behind. ``to_server`` and ``to_client`` say what
    happens to the bytes of each direction. All of it can be used from any thread.

    Entering raises OSError where no port can be had.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._stage = _Stage()
        self._ways = (_Way(self._stage), _Way(self._stage))
        self.to_server: Direction = self._ways[0]
        """What happens to what the clients send."""
        self.to_client: Direction = self._ways[1]
        """What happens to what the server sends."""
        self.host: str = "127.0.0.1"
        """Where it listens."""
        self.port: int = 0
        """Its port there, once entered."""
        self.connections: int = 0
        """Connections accepted so far."""
        self.cuts: int = 0
        """Connections cut so far."""
        self._target = (host, port)
        self._links: set[_Link] = set()
        self._stop = asyncio.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        listener = socket.create_server((self.host, 0), backlog=1024)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        run = partial(asyncio.run, self._serve(listener))
        self._thread = threading.Thread(target=run, name="pyf.station-chaos", daemon=True)
        self._thread.start()
        self._stage.wait_for(lambda: self._stage.loop is not None, "start of the proxy", WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the port and every connection. Safe to call again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stage.do(self._stop.set)
            thread.join(WAIT)

    def cut(self, how: Cut = "fin") -> None:
        """Cut every connection now. Nothing is forwarded once this returns."""

        def cut() -> None:
            for link in self._links:
                link.cut(how)

        self._stage.do(cut)

    def wait_for_cut(self, count: int = 1, timeout: float = WAIT) -> None:
        """Wait until *count* connections in all have been cut; raises TimeoutError."""
        self._stage.wait_for(lambda: self.cuts >= count, f"{count} cut connections", timeout)

    def wait_for_connections(self, count: int = 1, timeout: float = WAIT) -> None:
        """Wait until *count* connections in all have been accepted; raises TimeoutError."""
        self._stage.wait_for(lambda: self.connections >= count, f"{count} connections", timeout)

    def wait_until_idle(self, timeout: float = WAIT) -> None:
        """Wait until no connection is open; raises TimeoutError."""
        self._stage.wait_for(lambda: not self._links, "end of all connections", timeout)

    async def _serve(self, listener: socket.socket) -> None:
        """Accept connections until told to stop, then let go of them all; in a thread of its own.

        asyncio cancels and awaits the tasks that are left when this returns.
        """
        with listener:
            accepting = asyncio.create_task(self._accept(listener))
            self._stage.start()
            await self._stop.wait()
            self._stage.stop()
            await _cancelled(accepting)  # before its socket is closed

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # Out of descriptors, most likely.
                await asyncio.sleep(RETRY)
                continue
            link = _Link(client, *self._ways)
            with self._stage.change():
                self.connections += 1
                self._links.add(link)
            # The loop itself holds tasks weakly.
            link.task = asyncio.create_task(self._carry(link))

    async def _carry(self, link: _Link) -> None:
        try:
            how = await link.forward(self._target)
            if link.was_cut:
                with self._stage.change():
                    self.cuts += 1
            await link.part(how)
        finally:
            link.close()
            with self._stage.change():
                self._links.discard(link)


class _Stage:
    """What a proxy and its directions share: the loop that runs them, and news of what happens."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._changed = threading.Condition()

    def start(self) -> None:
        with self.change():
            self.loop = asyncio.get_running_loop()

    def stop(self) -> None:
        with self.change():
            self.loop = None

    @contextmanager
    def change(self) -> Generator[None]:
        """Change what others may wait for."""
        with self._changed:
            yield
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(f"no {what} within {timeout:g} s")

    def do(self, function: Callable[[], object]) -> None:
        """Call *function* in the loop's thread, and return when it has been; here if none runs."""
        done = threading.Event()

        def call() -> None:
            function()
            done.set()

        with self._changed:
            if self.loop is None:
                call()
            else:
                self.loop.call_soon_threadsafe(call)
        done.wait(WAIT)


class _Link:
    """One connection: a socket to the client, and one to the server. For the proxy's thread."""

    def __init__(self, client: socket.socket, to_server: _Way, to_client: _Way) -> None:
        self.task: asyncio.Task[None] | None = None
        self.was_cut: bool = False
        """Whether it was cut here, and not by a client or a server."""
        self._client = client
        self._server = socket.socket()
        self._ways = (to_server, to_client)
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[Cut | None] = self._loop.create_future()
        for sock in (self._client, self._server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cut(self, how: Cut) -> None:
        """Go no further, and cut as *how* says. Does nothing where it has ended."""
        if not self._end.done():
            self.was_cut = True
            self._end.set_result(how)

    def _finish(self, how: Cut | None) -> None:
        """Go no further: both sides have closed, or one of them has reset."""
        if not self._end.done():
            self._end.set_result(how)

    async def forward(self, target: tuple[str, int]) -> Cut | None:
        """Forward both ways; return how it is to end."""
        both = asyncio.create_task(self._forward(target))
        try:
            return await self._end
        finally:
            await _cancelled(both)

    async def part(self, how: Cut | None) -> None:
        """Leave both sides, as *how* says."""
        socks = (self._client, self._server)
        if how == "rst":
            for sock in socks:
                with suppress(OSError):  # It has gone already.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if how == "fin":
            for sock in socks:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
        # Closing with bytes unread would be a reset.
        with suppress(TimeoutError):
            async with asyncio.timeout(None if how == "silence" else LINGER):
                await asyncio.gather(*map(self._drain, socks))

    def close(self) -> None:
        """Close both sockets."""
        self._client.close()
        self._server.close()

    async def _forward(self, target: tuple[str, int]) -> None:
        to_server, to_client = self._ways
        try:
            await self._loop.sock_connect(self._server, target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(self._client, self._server, to_server))
                group.create_task(self._pump(self._server, self._client, to_client))
        except* OSError:
            self._finish("rst")  # One side has gone with a reset, or was never there.
        else:
            self._finish(None)

    async def _pump(self, source: socket.socket, sink: socket.socket, way: _Way) -> None:
        """Forward what comes from *source* until it closes, or until it is to be cut."""
        meter = _Meter()
        done = 0
        while True:
            limit = way.limit(meter)
            if limit is not None and done >= limit:
                self.cut(way.how)
                return
            await way.flowing()
            data = await self._loop.sock_recv(source, CHUNK)
            if way.black_hole:
                if data:
                    continue
                return
            if not data:
                await way.flowing()
                sink.shutdown(socket.SHUT_WR)
                return
            meter.feed(data)
            limit = way.limit(meter)
            if limit is not None and limit - done <= len(data):
                # Also where the limit is lifted meanwhile: what is left out must not be missed.
                await self._send(sink, data[: max(0, limit - done)], way, meter, done)
                self.cut(way.how)
                return
            done = await self._send(sink, data, way, meter, done)

    async def _send(
        self, sink: socket.socket, data: bytes, way: _Way, meter: _Meter, done: int
    ) -> int:
        """Forward *data* in the pieces that *way* asks for; return the bytes *done* then."""
        while data and not way.black_hole and not self._end.done():
            size, cost = way.pace()
            piece, data = data[:size], data[size:]
            if pause := way.delay + cost * len(piece):
                await asyncio.sleep(pause)
            await way.flowing()
            await self._loop.sock_sendall(sink, piece)
            before, done = done, done + len(piece)
            way.count(piece, meter.packets_until(done) - meter.packets_until(before))
        return done

    async def _drain(self, source: socket.socket) -> None:
        with suppress(OSError):
            while await self._loop.sock_recv(source, CHUNK):
                pass


class _Meter:
    """Knows which byte of a stream completes which packet. Of another protocol it knows nothing."""

    def __init__(self) -> None:
        self._parser = FrameParser(MAX_FRAME, MAX_FRAME)
        self._parser.allowed = ()
        self._lost = False
        self._fed = 0
        # In order: where the frames with packets end, and how many packets have come by then.
        self._ends = [0]
        self._totals = [0]

    def feed(self, data: bytes) -> None:
        """Take what is to be forwarded, once all that was fed before has been."""
        self._fed += len(data)
        del self._ends[:-1], self._totals[:-1]
        if self._lost:
            return
        self._parser.receive_data(data)
        try:
            while frame := self._parser.next_frame():
                if frame.type in BATCHES:
                    total = self._totals[-1] + decode_batch(frame.payload).packets
                    self._totals.append(total)
                    self._ends.append(self._fed - self._parser.pending)
        except RemoteProtocolError:
            self._lost = True

    def end_of(self, packets: int) -> int | None:
        """Return the offset behind the frame that completes *packets*, None if it has not come."""
        index = bisect_left(self._totals, packets)
        return self._ends[index] if index < len(self._ends) else None

    def packets_until(self, offset: int) -> int:
        """Return how many packets are whole at *offset*."""
        return self._totals[max(0, bisect_right(self._ends, offset) - 1)]


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
