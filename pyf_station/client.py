"""The blocking client: ships a generator to a server, and yields what comes back."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any, Literal, Self

from pyf.station.base import DEFAULT_PORT, BaseClient, check_call, not_a_flow
from pyf.station.burst import first_burst, next_burst
from pyf.station.conversation import Conversation
from pyf.station.counts import Counted, Progress
from pyf.station.intercept import Interceptor, checked
from pyf.station.intercepted import InterceptedConversation, Through, intercepted
from pyf.station.length import known_length
from pyf.station.line import TURN
from pyf.station.link import Link
from pyf.station.outcome import outcome
from pyf.station.resuming import Persistence, ResumingLink, persist
from pyf.station.tls import ClientTls, Paths, client_context, dial
from pyf.station.wire import Wire
from pyf.transport import (
    DeadlineExceeded,
    Limits,
    Packet,
    StationError,
)

Flow = Iterable[dict[str, Any]]
Source = Callable[[int], Flow]
"""Makes a flow from the packet of the given number on, as often as it is asked."""
Value = Packet | Literal[True]
Values = Iterable[Value]


class StationClient(BaseClient):
    """Ships flows to the server at *host*:*port*, each over a connection of its own.

    :param host: a name or address; or ``"unix:/run/station.sock"``, the path of a socket, to which
        *port* says nothing.
    :param waits_for_success: whether a call goes on until the handler has succeeded or failed. If
        not, it ends once the whole flow has reached the server; the handler's end is not known.
    :param tls: True where the server is known by an authority that the system trusts, the path of
        a private authority's certificate, or an ``ssl.SSLContext`` for everything else. The
        server's name has to be *host*.
    :param certificate: paths of the client's own certificate and its key, for a server that asks
        for one.
    :param interceptors: what each call runs inside, the first one outermost; see
        :class:`~pyf.station.intercept.Interception`.
    :param limits: bounds of sizes and times.

    Usable from several threads at once, each with calls of its own. Raises ValueError for a port
    that no host can have, or TLS where there is no host; OSError for a file that cannot be read.
    """

    def __init__(
        self,
        host: str,
        port: int = DEFAULT_PORT,
        waits_for_success: bool = False,
        *,
        tls: ClientTls = False,
        certificate: Paths | None = None,
        interceptors: Sequence[Interceptor] = (),
        limits: Limits | None = None,
    ) -> None:
        super().__init__(host, port, waits_for_success, limits=limits)
        self._tls = client_context(host, tls, certificate)
        self._interceptors = checked(interceptors)

    def call(
        self,
        flow: Flow | Source,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
        flow_id: str | None = None,
    ) -> Call:
        """Return an iterator that ships *flow* as it is iterated; before, nothing happens at all.

        It yields True for each packet of the flow that has left, and a Packet for each that comes
        back: the handler's messages and, last, ``{'type': 'success', 'message': value}``. Without
        *header* the flow's first packet is the header. *timeout* bounds the whole call, in
        seconds, on both sides.

        With *resume* the flow survives its connection: lost, it is made anew in the background, and
        the flow goes on as if nothing had happened. The server must allow it, and the call waits
        for the handler whatever ``waits_for_success`` says. With *flow_id* it survives the server,
        too: *flow* is then a function that is called with the number of packets that are handled
        for good, and returns the rest; again after each crash.

        Raises TypeError at once for a flow that is no iterable of packets, or a header that is no
        packet, ValueError for a timeout that is no duration. Iterating raises what the flow itself
        raises; PacketError or TypeError for a packet that cannot travel; ConnectFailed,
        ConnectionLost, OutcomeUnknown, FlowRefused, ServerError, DeadlineExceeded or ProtocolError;
        ResumeRejected for a flow that lost its connection, and cannot go on.
        """
        waits = self.waits_for_success or resume or flow_id is not None
        return self._call(flow, header, timeout, waits=waits, resume=resume, flow_id=flow_id)

    def send(
        self,
        flow: Flow | Source,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
        flow_id: str | None = None,
    ) -> Any:
        """Ship all of *flow*, wait for the handler, and return what it succeeded with.

        Raises as ``call`` does, and as iterating does.
        """
        call = self._call(flow, header, timeout, waits=True, resume=resume, flow_id=flow_id)
        (last,) = deque(call, maxlen=1)
        assert isinstance(last, Packet)
        return last.message

    def stream(
        self,
        flow: Flow | Source,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
        flow_id: str | None = None,
    ) -> Generator[Packet, None, None]:
        """Return an iterator of only what comes back from a ``call``, the success included.

        It waits for the handler, as ``send`` does. Raises as ``call`` does.
        """
        call = self._call(flow, header, timeout, waits=True, resume=resume, flow_id=flow_id)
        return _answers(call)

    def open(
        self,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        resume: bool = False,
    ) -> Conversation:
        """Return a flow to be sent packet by packet, for use in ``with``.

        It connects now, and raises as ``call`` does.
        """
        check_call(header, timeout)

        def connect(header: dict[str, Any] | None) -> Link:
            link = self._connect(timeout, resume=resume)
            try:
                link.open(header, waits=True)
                link.send()
            except BaseException:
                link.cancel()
                link.close()
                raise
            return link

        if self._interceptors:
            around = self._interceptors, (self.host, self.port)
            return InterceptedConversation(*around, header, connect, self._notify)
        return Conversation(connect(header), self._notify)

    def _connect(
        self, timeout: float | None, *, resume: bool = False, flow_id: str | None = None
    ) -> Link:
        deadline = None if timeout is None else time.monotonic() + timeout
        if resume:
            return ResumingLink(self._dial, self.limits, timeout, deadline, name=flow_id)
        return Link(self._dial(timeout), self.limits, timeout, deadline)

    def _dial(self, timeout: float | None) -> Wire:
        return dial(self.host, self.port, self._tls, self.limits, timeout)

    def _call(
        self,
        flow: Flow | Source,
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        waits: bool,
        resume: bool,
        flow_id: str | None,
    ) -> Call:
        check_call(header, timeout)
        progress = Progress()
        steps: Callable[[Through, Any], Generator[Values, None, None]]
        known = partial(self._steps, progress=progress)
        if flow_id is not None:
            if not callable(flow):
                raise TypeError("with flow_id=, a flow is a function of the packet to start with")
            steps = partial(_again, partial(known, flow_id=flow_id), flow, timeout, progress)
        elif isinstance(flow, str | bytes | bytearray | Mapping) or not isinstance(flow, Iterable):
            raise not_a_flow(flow, "an iterable")
        else:
            progress.length_hint = known_length(flow)
            once = partial(known, timeout=timeout, waits=waits, resume=resume)
            steps = partial(_once, once, iter(flow))
        if self._interceptors:
            around = self._interceptors, (self.host, self.port)
            return Call(intercepted(*around, header, progress, steps), progress)
        return Call(steps(_same, header), progress)

    def _steps(
        self,
        source: Iterator[dict[str, Any]] | None,
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        progress: Progress,
        waits: bool = True,
        resume: bool = True,
        make: Source | None = None,
        flow_id: str | None = None,
    ) -> Generator[Values, None, None]:
        """One call, many values at a time: so each of them costs no change of generators.

        It must hold no reference to its Call: dropping that ends this.
        """
        link = None
        try:
            link = self._connect(timeout, resume=resume, flow_id=flow_id)
            link.open(header, waits=waits, length_hint=progress.length_hint)
            progress.follow(link)
            if source is None:
                assert make is not None
                source = iter(make(link.start))
            yield from self._send_flow(link, source, progress)
            yield from self._receive(link, waits, progress)
        except BaseException as error:
            if link is not None:
                if isinstance(error, GeneratorExit | KeyboardInterrupt | DeadlineExceeded):
                    link.cancel()
                else:
                    link.abort(type(error).__name__)
                if isinstance(error, Exception):
                    yield progress.departures()
            raise
        finally:
            try:
                _close(source)
            finally:
                if link is not None:
                    link.close()

    def _send_flow(
        self, link: Link, source: Iterator[dict[str, Any]], progress: Progress
    ) -> Generator[Values, None, None]:
        """Send the flow and its END, unless a result comes before."""
        # A source that is slow is asked for one packet, which then leaves at once. One that is
        # fast is asked for more at a time: the keeper sends what it has given where it stops.
        count = first_burst(source)
        ended = False
        turn_ends = time.monotonic() + TURN
        while not ended and (room := (yield from self._await_credit(link, progress))):
            asked = min(count, room)
            before = link.sent
            failure = None
            began = time.monotonic()
            try:
                ended = link.take_in(source, asked)
            except Exception as error:  # noqa: BLE001 - raised again behind what came before it
                failure = error
            except BaseException as error:
                with suppress(StationError):
                    link.send()
                link.abort(type(error).__name__)
                raise
            seconds = time.monotonic() - began
            yield from self._send_pending(link, progress, failure, last=ended)
            yield progress.departures()
            yield from self._messages(link, progress)
            count = next_burst(link.sent - before, seconds, link.packet_size)
            if count > 1 and began + seconds > turn_ends:
                link.give_way()
                turn_ends = time.monotonic() + TURN
        if not ended:
            _close(source)  # The handler wants no more.
            link.forget_pending()
        link.end()

    def _await_credit(self, link: Link, progress: Progress) -> Generator[Values, None, int]:
        """Wait until a packet may be sent: before, the source is not even asked.

        Return how many may be; none once the handler wants no more.
        """
        link.check_deadline()
        while link.wanted and not link.room():
            yield from self._messages(link, progress)
            link.wait()
        return link.room()

    def _send_pending(
        self, link: Link, progress: Progress, failure: Exception | None, *, last: bool
    ) -> Generator[Values, None, None]:
        """Have what is pending leave, the *last* with the END; then raise *failure*, if any."""
        try:
            while not link.send(last=last):
                yield progress.departures()
                yield from self._messages(link, progress)
                link.wait()
        except StationError:
            if failure is None:
                raise
        if failure is not None:
            link.abort(type(failure).__name__)
            raise failure

    def _receive(
        self, link: Link, waits: bool, progress: Progress
    ) -> Generator[Values, None, None]:
        """Yield what comes back until the result, or until the server has the whole flow."""
        if not waits and link.result is None:
            link.confirm()
        while waits and link.result is None:
            yield from self._messages(link, progress)
            if link.result is None:
                link.wait()
        yield from self._messages(link, progress)
        if link.result is not None:
            progress.final = outcome(link.result, link.sent, link.timeout, self._notify)
            yield (progress.final,)

    def _messages(self, link: Link, progress: Progress) -> Generator[Values, None, None]:
        while maps := link.take_maps():
            yield from progress.messages(maps, self._notify)


class _Steps(Iterator[Values]):
    """The steps of a call, of which there is one at a time; who comes meanwhile gets a ValueError.

    Not raised here, for a chain that sees its source fail ends: without a word to its other user.
    """

    def __init__(self, steps: Generator[Values, None, None]) -> None:
        self._steps = steps
        self._lock = threading.Lock()

    def __next__(self) -> Values:
        if not self._lock.acquire(blocking=False):
            return map(_refuse, ("somebody else is iterating the call right now",))
        try:
            return next(self._steps)
        finally:
            self._lock.release()


def _refuse(text: str) -> Value:
    raise ValueError(text)


class Call(Counted, Iterator[Value]):
    """A call that goes on as it is iterated. Closing it, or dropping it, cancels the flow.

    For one thread at a time: iterating raises ValueError where another one is iterating right now.
    The counters can be read, and the call closed, from any.
    """

    def __init__(self, steps: Generator[Values, None, None], progress: Progress) -> None:
        self._steps = steps
        self._values = chain.from_iterable(_Steps(steps))
        self._progress = progress

    def __iter__(self) -> Iterator[Value]:  # noqa: PYI034 - its packets cost no call of ours
        return self._values

    def __next__(self) -> Value:
        return next(self._values)

    def cancel(self) -> None:
        """Tell the handler that the flow is given up, from a signal handler, which then raises.

        What it raises is not told any more.
        """
        if isinstance(self._progress.link, Link):
            self._progress.link.cancel(wait=False)

    def close(self) -> None:
        """Give the flow up: its generator is closed, and the handler told.

        Raises ValueError where another thread is iterating right now.
        """
        self._steps.close()
        self._progress.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answers(call: Call) -> Generator[Packet, None, None]:
    with call:
        for value in call:
            if value is not True:
                yield value


def _same(source: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return source


def _once(
    steps: Callable[..., Generator[Values, None, None]],
    source: Iterator[dict[str, Any]],
    through: Through,
    header: dict[str, Any] | None,
) -> Generator[Values, None, None]:
    return steps(through(source), header)


def _again(
    steps: Callable[..., Generator[Values, None, None]],
    make: Source,
    timeout: float | None,
    progress: Progress,
    through: Through,
    header: dict[str, Any] | None,
) -> Generator[Values, None, None]:
    rest = partial(_start, through, make)
    return persist(partial(steps, None, header, make=rest), Persistence(progress, timeout))


def _start(through: Through, make: Source, start: int) -> Flow:
    return through(iter(make(start)))


def _close(source: Iterator[dict[str, Any]] | None) -> None:
    if isinstance(source, Generator):
        source.close()
