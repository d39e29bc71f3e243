"""The blocking client: ships a generator to a server, and yields what comes back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice, repeat
from types import TracebackType
from typing import Any, Literal, Self

from pyf.station.link import LAST_WORD, Link, connect
from pyf.station.outcome import failure_packet, result_error, success_packet
from pyf.transport import (
    DeadlineExceeded,
    Limits,
    LocalProtocolError,
    Packet,
    StationError,
    encode_packet,
)
from pyf.transport.events import ResultReceived
from pyf.transport.limits import BATCH_BYTES, BATCH_PACKETS

DEFAULT_PORT = 6789

Flow = Iterable[dict[str, Any]]
Value = Packet | Literal[True]
Listener = Callable[[Packet], object]

_EVENTS = {"appinfo": "appinfo", "success": "success", "failure": "failure"}
LISTENER_EVENTS = frozenset({"message_received", "other", *_EVENTS.values()})
"""What a listener can be added for."""

FAST = 0.001
"""Seconds: a source that gives a batch sooner is asked for twice as many packets the next time."""


class StationClient:
    """Ships flows to the server at *host*:*port*, each over a connection of its own.

    :param waits_for_success: whether a call goes on until the handler has succeeded or failed. If not, it ends once
        the whole flow has reached the server, and the handler's end is not known.
    :param limits: bounds of sizes and times.

    Usable from several threads, each with calls of its own. Listeners are called in the thread that iterates.
    """

    def __init__(
        self,
        host: str,
        port: int = DEFAULT_PORT,
        waits_for_success: bool = False,
        *,
        limits: Limits | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.waits_for_success = waits_for_success
        self.limits = limits or Limits()
        self._listeners: dict[str, list[Listener]] = {event: [] for event in LISTENER_EVENTS}

    def call(self, flow: Flow, header: dict[str, Any] | None = None, timeout: float | None = None) -> Call:
        """Return an iterator that ships *flow* as it is iterated; nothing happens, not even a connection, before.

        It yields True for each packet of the flow that has left, and a Packet for each that comes back: the handler's
        messages and, last, ``{'type': 'success', 'message': value}``. Without *header* the flow's first packet is the
        header. *timeout* bounds the whole call, in seconds, on both sides.

        Raises TypeError at once for a flow that is no iterable of packets. Iterating raises what the flow itself
        raises; PacketError for a packet that cannot travel; ConnectFailed, ConnectionLost, OutcomeUnknown,
        FlowRefused, ServerError, DeadlineExceeded or RemoteProtocolError.
        """
        return self._call(flow, header, timeout, self.waits_for_success)

    def send(self, flow: Flow, header: dict[str, Any] | None = None, timeout: float | None = None) -> Any:
        """Ship all of *flow*, wait for the handler, and return what it succeeded with; raises as ``call`` does."""
        value = None
        for value in self._call(flow, header, timeout, waits=True):
            pass
        assert isinstance(value, Packet)
        return value["message"]

    def stream(
        self, flow: Flow, header: dict[str, Any] | None = None, timeout: float | None = None
    ) -> Iterator[Packet]:
        """Yield only what comes back from a ``call``."""
        with self.call(flow, header, timeout) as call:
            for value in call:
                if value is not True:
                    yield value

    def open(self, header: dict[str, Any] | None = None, timeout: float | None = None) -> Conversation:
        """Return a flow to be sent packet by packet, for use in ``with``. It connects now; raises as ``call`` does."""
        _check_header(header)
        link = self._connect(timeout)
        try:
            link.open(header, waits=True)
            link.arm(burst=False)
            link.send_pending()
        except BaseException:
            link.close()
            raise
        return Conversation(link, self._notify)

    def add_listener(self, event: str, listener: Listener) -> None:
        """Have *listener* called with packets that come back to any call of this client.

        *event* is ``message_received`` (every message), or by the packet's ``type``: ``appinfo``, ``success``,
        ``failure``, or ``other`` for the rest. A call stops with the exception that a listener raises.
        Raises ValueError for another event.
        """
        self._listeners_of(event).append(listener)

    def remove_listener(self, event: str, listener: Listener) -> None:
        """Undo ``add_listener``; raises ValueError if it was not added."""
        self._listeners_of(event).remove(listener)

    def _listeners_of(self, event: str) -> list[Listener]:
        try:
            return self._listeners[event]
        except KeyError:
            raise ValueError(f"no event {event!r}; there are {', '.join(sorted(LISTENER_EVENTS))}") from None

    def _notify(self, packet: Packet) -> None:
        event = _EVENTS.get(str(packet.get("type")), "other")
        if event not in ("success", "failure"):
            for listener in tuple(self._listeners["message_received"]):
                listener(packet)
        for listener in tuple(self._listeners[event]):
            listener(packet)

    def _connect(self, timeout: float | None) -> Link:
        return Link(connect(self.host, self.port, self.limits), self.limits, timeout)

    def _call(self, flow: Flow, header: dict[str, Any] | None, timeout: float | None, waits: bool) -> Call:
        _check_header(header)
        if isinstance(flow, str | bytes | bytearray | Mapping) or not isinstance(flow, Iterable):
            text = f"a flow is an iterable of Packets or dicts, not a {type(flow).__qualname__}"
            raise TypeError(text)
        progress = _Progress()
        return Call(self._steps(iter(flow), header, timeout, waits, progress), progress)

    def _steps(
        self,
        source: Iterator[dict[str, Any]],
        header: dict[str, Any] | None,
        timeout: float | None,
        waits: bool,
        progress: _Progress,
    ) -> Generator[Value, None, None]:
        """One call. It must hold no reference to its Call: dropping that ends this."""
        link = None
        try:
            progress.link = link = self._connect(timeout)
            link.open(header, waits)
            yield from self._send_flow(link, source, progress)
            yield from self._receive(link, waits, progress)
        except (GeneratorExit, KeyboardInterrupt, DeadlineExceeded):
            if link is not None:
                link.cancel()
            raise
        except BaseException as error:
            if link is not None:
                link.abort(type(error).__name__)
            raise
        finally:
            try:
                if isinstance(source, Generator):
                    source.close()
            finally:
                if link is not None:
                    link.close()

    def _send_flow(
        self, link: Link, source: Iterator[dict[str, Any]], progress: _Progress
    ) -> Generator[Value, None, None]:
        """Send the flow and its END, unless a result comes before."""
        yielded = 0
        count = 1
        while link.result is None:
            link.check_deadline()
            # A source that is slow is asked for one packet, which then leaves at once. One that is fast is asked for
            # more at a time; the keeper sends what a source that stops in the middle has given.
            link.arm(burst=count > 1)
            before = link.left()
            began = time.monotonic()
            try:
                # Encoded as they come: a source may change and yield the same packet again.
                link.pending.extend(map(encode_packet, islice(source, count)))
            except BaseException as error:
                with suppress(StationError):
                    link.send_pending(None if isinstance(error, Exception) else LAST_WORD)
                link.abort(type(error).__name__)
                raise
            fast = time.monotonic() - began < FAST
            given = link.left() - before
            size = sum(map(len, link.pending)) // max(1, len(link.pending))
            link.send_pending()
            yield from repeat(True, link.sent - yielded)
            yielded = link.sent
            yield from self._messages(link, progress)
            if given < count:
                link.end()
                return
            most = max(1, min(BATCH_PACKETS, BATCH_BYTES // max(1, size)))
            count = min(2 * count if fast else max(1, count // 2), most)

    def _receive(self, link: Link, waits: bool, progress: _Progress) -> Generator[Value, None, None]:
        """Yield what comes back until the result, or until the server has the whole flow."""
        if not waits and link.result is None:
            link.confirm()
        while waits and link.result is None:
            yield from self._messages(link, progress)
            if link.result is None:
                link.wait()
        yield from self._messages(link, progress)
        if link.result is not None:
            progress.received += 1
            yield _outcome(link.result, link, self._notify)

    def _messages(self, link: Link, progress: _Progress) -> Generator[Value, None, None]:
        while packets := link.take_messages():
            for packet in packets:
                progress.received += 1
                self._notify(packet)
                yield packet


class _Progress:
    """How far a call is."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.received = 0


class Call(Iterator[Value]):
    """A call that goes on as it is iterated. Closing it, or dropping it, cancels the flow."""

    def __init__(self, steps: Generator[Value, None, None], progress: _Progress) -> None:
        self._steps = steps
        self._progress = progress

    @property
    def sent(self) -> int:
        """Packets of the flow that have left."""
        return self._progress.link.sent if self._progress.link else 0

    @property
    def consumed(self) -> int:
        """Packets that the handler has taken, as last reported; exact once the call has ended."""
        return self._progress.link.consumed if self._progress.link else 0

    @property
    def received(self) -> int:
        """Packets that have come back."""
        return self._progress.received

    def __iter__(self) -> Iterator[Value]:
        return self._steps

    def __next__(self) -> Value:
        return next(self._steps)

    def close(self) -> None:
        """Give the flow up: its generator is closed, and the handler told."""
        self._steps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Conversation:
    """A flow that is sent packet by packet, for use in ``with``. For one thread at a time.

    Leaving the ``with`` without ``end()`` cancels the flow; leaving it with an exception tells the handler that
    the client failed.
    """

    def __init__(self, link: Link, notify: Listener) -> None:
        self._link = link
        self._notify = notify
        self._received: deque[Packet] = deque()
        self._count = 0
        self._done = False
        self._value: Any = None
        self._closed = False

    @property
    def sent(self) -> int:
        """Packets that have left."""
        return self._link.sent

    @property
    def consumed(self) -> int:
        """Packets that the handler has taken, as last reported."""
        return self._link.consumed

    @property
    def received(self) -> int:
        """Messages that have been received."""
        return self._count

    def send(self, packet: dict[str, Any]) -> None:
        """Send *packet* at once. Blocks while the handler does not read.

        Raises PacketError or TypeError for what cannot travel; LocalProtocolError after ``end()`` or once the handler
        has succeeded; and what ``StationClient.call`` raises once it has failed, or the connection has.
        """
        self._check_open("send")
        self._link.pending.append(encode_packet(packet))
        self._link.send_pending()
        if self._link.pending:
            self._link.pending.clear()
            self._finish()
            raise LocalProtocolError("the handler has succeeded already: it takes no more", code="answered")

    def receive(self, timeout: float | None = None) -> Packet | None:
        """Return the next message, or None once the handler has succeeded.

        Waits *timeout* seconds at the most, then raises DeadlineExceeded; the flow goes on.
        Raises what ``StationClient.call`` raises where the handler or the connection has failed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self._received:
            if self._done:
                return None
            self._check_open("receive")
            self._received.extend(self._link.take_messages())
            if self._received:
                break
            if self._link.result is not None:
                self._finish()
            elif until is not None and time.monotonic() >= until:
                raise DeadlineExceeded(f"no message came within {timeout:g} s", timeout=timeout)
            else:
                self._link.wait(until)
        packet = self._received.popleft()
        self._count += 1
        self._notify(packet)
        return packet

    def __iter__(self) -> Iterator[Packet]:
        return iter(self.receive, None)

    def end(self) -> Any:
        """Say that the flow is whole, wait for the handler, and return what it succeeded with.

        Messages that come meanwhile can still be received. Raises what ``StationClient.call`` raises.
        """
        if not self._done:
            self._check_open("end")
            self._link.end()
            while self._link.result is None:
                self._received.extend(self._link.take_messages())
                self._link.wait()
            while packets := self._link.take_messages():
                self._received.extend(packets)
            self._finish()
        return self._value

    def cancel(self) -> None:
        """Give the flow up, and tell the handler. Does nothing where it is over."""
        if not self._closed:
            self._link.cancel()
            self.close()

    def close(self) -> None:
        """Let go of the connection, with no word to the handler. Safe to call again."""
        if not self._closed:
            self._closed = True
            self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._closed:
            return
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt | GeneratorExit):
                self._link.cancel()
            else:
                self._link.abort(kind.__name__)
        finally:
            self.close()

    def _check_open(self, what: str) -> None:
        if self._closed or self._done:
            raise LocalProtocolError(f"{what}: the flow is over", code="flow_over")

    def _finish(self) -> None:
        """Take the result: keep the value of a success, raise the error of anything else."""
        assert self._link.result is not None
        try:
            self._value = _outcome(self._link.result, self._link, self._notify)["message"]
            self._done = True
        finally:
            self.close()


def _outcome(result: ResultReceived, link: Link, notify: Listener) -> Packet:
    """Return the packet of a success, raise the error of anything else; listeners hear of either."""
    error = result_error(result, link.sent)
    if error is not None:
        notify(failure_packet(error))
        raise error
    packet = success_packet(result)
    notify(packet)
    return packet


def _check_header(header: object) -> None:
    if header is not None and not isinstance(header, dict):
        raise TypeError(f"a header is a Packet or a dict, not a {type(header).__qualname__}")
