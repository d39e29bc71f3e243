"""Interceptors: what stands around a flow, at the client or at the server, and sees how it ends.

An interceptor is called with an :class:`Interception` and returns a context manager, so a generator
function under ``contextlib.contextmanager`` is one. The flow runs inside its ``with`` block: what
goes wrong, also after the first packet, is raised there.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Sequence,
)
from contextlib import AbstractContextManager, ContextDecorator, ExitStack, contextmanager
from functools import partial, reduce
from itertools import chain, repeat
from typing import Any, Final, Literal

from pyf.transport import Packet

__all__ = ["Interception", "Interceptor"]

Map = Callable[[Any], dict[str, Any] | None]
Wrap = Callable[[Any], Any]
Lift = Callable[[Map], Callable[[Any], Any]]

PULLED: Final = "pulled"
AWAITED: Final = "awaited"
PUSHED: Final = "pushed"
TURNED: Final = "turned"


class Pipe:
    """What packets pass in one direction. How they move, *kind*, is one of the four above.

    What is turned is pushed, but may pass iterators, too, with the help of ``Turned``. *outwards*
    is from the innermost interceptor to the outermost one. *lift* makes of what maps a packet what
    maps a step of the iterator, where these are not the same.
    """

    def __init__(self, kind: str, lift: Lift | None = None, *, outwards: bool = False) -> None:
        self.kind: str = kind
        self._lift = lift
        self._step = -1 if outwards else 1
        self._wraps: list[Wrap] = []
        self._maps: list[Map] = []
        self.wrapped: bool = False
        """Whether packets have to pass an iterator."""

    def map(self, function: Map) -> None:
        """Have each packet pass *function*."""
        function = partial(_mapped, function)
        self._maps.append(function)
        step = function if self._lift is None else self._lift(function)
        self._wraps.append(partial(_map, step))

    def wrap(self, function: Wrap, what: str) -> None:
        """Have the iterator pass *function*; raises TypeError where there is none."""
        if self.kind == PUSHED:
            text = f"{what} go one by one here: there is no iterator to wrap; use map_{what}"
            raise TypeError(text)
        self.wrapped = True
        self._wraps.append(function)

    def __bool__(self) -> bool:
        return bool(self._wraps)

    def iterate(self, packets: Any) -> Any:
        """Return *packets* as they come out behind what they pass."""
        return reduce(lambda inner, wrap: wrap(inner), self._wraps[:: self._step], packets)

    def push(self, packet: Any) -> Any:
        """Return *packet* behind what it passes, None where that drops it."""
        for function in self._maps[:: self._step]:
            if packet is None:
                break
            packet = function(packet)
        return packet


def _mapped(function: Map, packet: Any) -> Any:
    mapped: Any = function(packet)
    plain = isinstance(mapped, dict) and not isinstance(mapped, Packet)
    return Packet(mapped) if plain else mapped


def _map(function: Map, packets: Any) -> Any:
    if isinstance(packets, AsyncIterable):
        return _amap(function, packets)
    # In C, but for the function itself.
    return filter(_is_packet, map(function, packets))


async def _amap(function: Map, packets: AsyncIterable[Any]) -> AsyncGenerator[Any]:
    try:
        async for packet in packets:
            if (mapped := function(packet)) is not None:
                yield mapped
    finally:
        if isinstance(packets, AsyncGenerator):
            await packets.aclose()


def _same(packet: Any) -> Any:
    return packet


def _is_packet(value: object) -> bool:
    return value is not None


class Interception:
    """One flow, as an interceptor sees it. What it sees changes while the flow goes on."""

    def __init__(
        self,
        side: Literal["client", "server"],
        header: Packet | None,
        peer: Any,
        counts: Callable[[], tuple[int, int]],
        packets: str,
        messages: str,
        final: Callable[[], object] = bool,
        lift: Lift | None = None,
    ) -> None:
        self.side: Literal["client", "server"] = side
        """Where the interceptor is: ``client`` or ``server``."""
        self.header: Any = header
        """The flow's header. A client's interceptor may put another one in its place, before the
        flow begins; None where the flow's first packet is the header, which has not come yet."""
        self.peer: Any = peer
        """The other side: a ``(host, port)`` at the client, a Twisted address at the server."""
        self.identity: object = None
        """Who the client is known to be, at the server; None where nobody asked."""
        self.status: str | None = None
        """The handler's word, ``success`` or ``error``, once it is known."""
        self.value: Any = None
        """What the handler has succeeded with, at the client."""
        self._counts = counts
        self._final = final
        # Neither is for interceptors.
        self.packets_pipe: Pipe = Pipe(packets, lift)
        self.messages_pipe: Pipe = Pipe(messages, outwards=True)

    @property
    def packets(self) -> int:
        """Packets of the flow: at the client those that have left, at the server consumed ones."""
        return self._counts()[0]

    @property
    def messages(self) -> int:
        """Messages: at the client those that have come, at the server those that have left."""
        return self._counts()[1]

    def map_header(self, function: Map) -> None:
        """Have the header pass *function*, whether it is known already or is the first packet."""
        if self.header is not None:
            self.header = function(self.header)
        else:
            rest = chain([function], repeat(_same))
            self.map_packets(lambda packet: next(rest)(packet))  # noqa: PLW0108 - a new one each time

    def map_packets(self, function: Map) -> None:
        """Have each packet of the flow pass *function*, which returns one, or None to drop it."""
        self.packets_pipe.map(function)

    def map_messages(self, function: Map) -> None:
        """Have each message of the handler pass *function*, as ``map_packets`` does.

        What the handler succeeds with is no message.
        """
        self.messages_pipe.map(self._of_messages(function))

    def _of_messages(self, function: Map) -> Map:
        def map_one(value: Any) -> Any:
            return value if value is True or self.is_final(value) else function(value)

        return function if self.messages_pipe.kind in (PUSHED, TURNED) else map_one

    def is_final(self, value: object) -> bool:
        """Whether *value*, which the call has yielded, stands for the handler's success."""
        return value is self._final()

    def wrap_packets(self, function: Wrap) -> None:
        """Have *function* take the iterator of the flow's packets, and return another one.

        For a coroutine both are async iterators, and at an asyncio or Twisted client where the flow
        is one. Raises TypeError where a ``client.open()`` sends packets one by one.
        """
        self.packets_pipe.wrap(function, "packets")

    def wrap_messages(self, function: Wrap) -> None:
        """Have *function* take the iterator of what the call yields, and return another one.

        That is True for each packet that has left, each message, and the success; at an asyncio or
        Twisted client both are async iterators. At a server it is the handler's messages: what
        comes out leaves at once, also behind the last of them. There it runs in a thread of its own
        while the handler, or the coroutine, sends one; for a coroutine both are async iterators.
        Raises TypeError for a ``client.open()``.
        """
        self.messages_pipe.wrap(function, "messages")


Interceptor = Callable[[Interception], AbstractContextManager[Any]]
"""Called once for each flow, in the thread where its packets pass; what it returns is entered."""


def checked(interceptors: Sequence[Interceptor]) -> tuple[Interceptor, ...]:
    """Return *interceptors*; raises TypeError where one is none, before there is any flow."""
    for each in interceptors:
        if isinstance(each, ContextDecorator):
            raise TypeError(f"an interceptor is called for each flow: give {each!r} uncalled")
        if not callable(each):
            raise TypeError(f"an interceptor is called with an Interception; {each!r} is not")
    return tuple(interceptors)


@contextmanager
def entered(interceptors: Sequence[Interceptor], call: Interception) -> Generator[None]:
    """Run a flow inside *interceptors*, the first of them outermost.

    They see how it ends, and may put another error in the place of one; none can be swallowed.
    """
    failure = None
    with ExitStack() as stack:
        for interceptor in interceptors:
            stack.enter_context(interceptor(call))
        try:
            yield
        except BaseException as error:
            failure = error
            raise
    if failure is not None:
        raise failure
