"""A flow of an async client that survives its connection.

Whoever uses it does not notice. What is sent meanwhile goes to the machine of the connection that
was lost, until credit ends: it is kept, and leaves again once there is another connection.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from pyf.station.backoff import pauses
from pyf.station.multiplex import Multiplex
from pyf.station.outcome import cut_off
from pyf.station.pump import LAST_WORD
from pyf.station.resuming import ASSUMED_TTL
from pyf.station.stream import Carrier, Resumable
from pyf.station.trunk import Timeout, Trunk, sleep
from pyf.transport import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    FlowRefused,
    StationError,
)
from pyf.transport.events import FlowRejected, LateResult, ResultReceived
from pyf.transport.resume import FlowMachine, Ticket


class ResumingStream(Resumable):
    """A flow that goes on over whatever connection its *trunk* has.

    *name* is what the client calls the flow across sessions.
    """

    start: int
    left_off: tuple[FlowMachine, Ticket]

    def __init__(
        self,
        trunk: Trunk,
        connection: Multiplex,
        header: dict[str, Any] | None,
        timeout: float | None,
        *,
        length_hint: int | None,
        name: str | None,
    ) -> None:
        super().__init__(connection, 0, timeout)
        self._trunk = trunk
        self._name = name
        self._opening = header, timeout
        self._facts: dict[str, Any] = {
            "length_hint": length_hint,
            "resume": trunk.limits.retention,
            "name": name,
        }
        self._ticket: Ticket | None = None
        self._until = inf
        self._reviving = False
        self._answered = False
        self._attached = True
        self._cancel: Callable[[], object] = bool
        self._open(connection)

    def _open(self, connection: Multiplex) -> None:
        connection.open(*self._opening, waits=True, stream=self, **self._facts)

    async def opened(self) -> None:
        """Wait until the server has given the flow a session, or has refused it."""
        while self._ticket is None and not self.has_ended:
            await self.changed()

    # What connections tell

    def begin(self, flow: FlowMachine, ticket: Ticket) -> None:
        """Take the session that the server has given."""
        self.left_off = flow, ticket
        self._ticket, self.start = ticket, ticket.start
        self._answer(attached=True)

    def go_on(self, carrier: Carrier, flow_id: int, token: bytes) -> None:
        """Be carried by another connection from now on, with the *token* for the next one."""
        flow, ticket = self.left_off
        self.left_off = flow, ticket._replace(token=token)
        self.move(carrier, flow_id)
        self._answer(attached=True)

    def reject(self, event: FlowRejected) -> None:
        """Note that the server has refused to go on: for now, or for good."""
        if event.final:
            self._until = -inf
            self._cannot_go_on(event.code, event.message)
        self._answer(attached=False)

    def answer(self, result: ResultReceived | LateResult) -> None:
        """Take the server's last word."""
        super().answer(result)
        self._answer(attached=True)

    def lose(self, reason: str, facts: dict[str, Any]) -> None:  # noqa: ARG002 - it is not final
        """Note that a connection is gone: get another one."""
        self._answer(attached=False)
        if not self._reviving and not self.has_ended:
            self._reviving = True
            self._trunk.reviving[self] = bool
            cancel = self._trunk.loop.spawn(self._revive())
            if self._reviving:
                self._trunk.reviving[self] = cancel

    def drain(self, message: str) -> None:
        """Leave a server that is about to go, where another one can carry on."""
        if self._name is not None:
            self.cancel()
            self.fail(FlowRefused(message, code="draining"))

    def leave(self) -> None:
        """Take no more of what comes back; the server may still be told of that."""
        self.given_up = True
        self._until = min(self._until, self._trunk.loop.clock() + LAST_WORD)
        super().leave()

    def _answer(self, *, attached: bool) -> None:
        self._answered, self._attached = True, attached
        self.touch()

    def _cannot_go_on(self, code: str, message: str) -> None:
        facts = {"sent": self.sent, "consumed": self.consumed}
        self.fail(cut_off(code, message, whole=self.ended, **facts))

    # Another connection

    async def _revive(self) -> None:
        """Try to go on over another connection, until the server says no or it is too late."""
        loop = self._trunk.loop
        ttl = ASSUMED_TTL if self._ticket is None else self._ticket.ttl
        self._until = min(self._until, loop.clock() + ttl)
        try:
            for pause in pauses(self._trunk.rng):
                if pause:
                    await sleep(loop, min(pause, max(0.0, self._until - loop.clock())))
                left = self._until - loop.clock()
                if left <= 0:
                    break
                if await self._attempt(left):
                    self._until = inf
                    return
            self._cannot_go_on("expired", "no server let it go on in time")
        except loop.cancelled:
            pass  # The client is closed.
        except StationError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - nobody else would wake the caller
            self._cannot_go_on("failed", f"connecting failed with {error!r}")
        finally:
            self._reviving = False
            self._trunk.reviving.pop(self, None)

    async def _attempt(self, left: float) -> bool:
        """Ask for the flow to go on; return whether it does.

        Where that may be tried again, it does not; raises what makes it useless.
        """
        clock = Timeout(self._trunk.loop, left)
        try:
            connection = await self._trunk.connected(clock)
            self._answered = False
            if self._ticket is None:
                self._open(connection)
                connection.flush()
            else:
                connection.resume(self)
        except (ConnectFailed, ConnectionLost, DeadlineExceeded, FlowRefused):
            return False
        finally:
            clock.cancel()
        await self.until(lambda: self._answered, self._until - self._trunk.loop.clock())
        return self._answered and self._attached
