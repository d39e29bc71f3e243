"""What all clients have in common: whom they call, and who listens."""

from __future__ import annotations

from numbers import Real
from sys import float_info

from pyf.station.address import path_of
from pyf.station.listeners import Listener, Listeners
from pyf.transport import Limits
from pyf.transport.limits import limits_of

DEFAULT_PORT = 6789


class BaseClient:
    """Whom a client calls, with which bounds, and who hears of what comes back."""

    def __init__(
        self, host: str, port: int, waits_for_success: bool, *, limits: Limits | None
    ) -> None:
        for name, value, kind in ("host", host, str), ("port", port, int):
            if not isinstance(value, kind):
                raise TypeError(f"a {name} is of type {kind.__name__}, not {value!r}")
        path = path_of(host)
        if not host or path == "":
            raise ValueError(f"a host is a name, an address, or unix:PATH, not {host!r}")
        if not 0 < port < 2**16:
            raise ValueError(f"a port is 1 to 65535, not {port!r}")
        self.host: str = host
        self.port: int = port if path is None else 0
        self.waits_for_success: bool = waits_for_success
        self.limits: Limits = limits_of(limits)
        self._notify = Listeners()

    def add_listener(self, event: str, listener: Listener) -> None:
        """Have *listener* called with packets that come back to any call of this client.

        *event* is ``message_received`` (every message), or by the packet's ``type``: ``appinfo``,
        ``success``, ``failure``, or ``other`` for the rest. Listeners are called where the call is
        iterated: in its thread, and in its task. A call stops with the exception that a listener
        raises.

        Raises ValueError for another event, TypeError for what cannot be called. Callable from any
        thread.
        """
        self._notify.add(event, listener)

    def remove_listener(self, event: str, listener: Listener) -> None:
        """Undo ``add_listener``, from any thread; raises ValueError if it was not added."""
        self._notify.remove(event, listener)


def check_call(header: object, timeout: float | None) -> None:
    """Raise TypeError for a *header* that is no packet, ValueError for a *timeout* that is none.

    A *timeout* that is no number at all is a TypeError.
    """
    if header is not None and not isinstance(header, dict):
        raise TypeError(f"a header is a Packet or a dict, not a {type(header).__qualname__}")
    if timeout is None:
        return
    number: object = timeout
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"a timeout is a number of seconds, not {timeout!r}")
    if not 0 <= timeout <= float_info.max:
        raise ValueError(f"a timeout is a number of seconds, not {timeout!r}")


def not_a_flow(flow: object, kinds: str) -> TypeError:
    """Return the error of a *flow* that is none of the *kinds* that can be one."""
    return TypeError(f"a flow is {kinds} of Packets or dicts, not a {type(flow).__qualname__}")
