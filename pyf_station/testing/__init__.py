"""For tests of your own handlers and clients: bad networks on demand, and promises to check.

:class:`ChaosProxy` does to real connections what networks do; :class:`MachinePair` joins a client's
and a server's machine without any; :func:`check_flow_promises` says in code what each client and
server must do. ``pyf.station.testing.fixtures`` has fixtures for pytest.
"""

from pyf.station.testing.awaited import (
    AwaitedCall,
    AwaitedClient,
    AwaitedConversation,
    asyncio_thread,
)
from pyf.station.testing.bench import (
    Bench,
    Connect,
    FlowCall,
    FlowClient,
    HandlerFailed,
    Promise,
    SourceFailed,
)
from pyf.station.testing.chaos import ChaosProxy, Cut, Direction
from pyf.station.testing.memory import MachinePair, Wire
from pyf.station.testing.promises import PROMISES, check_flow_promises, check_promise
from pyf.station.testing.scripts import KINDS, Kind

__all__ = [
    "KINDS",
    "PROMISES",
    "AwaitedCall",
    "AwaitedClient",
    "AwaitedConversation",
    "Bench",
    "ChaosProxy",
    "Connect",
    "Cut",
    "Direction",
    "FlowCall",
    "FlowClient",
    "HandlerFailed",
    "Kind",
    "MachinePair",
    "Promise",
    "SourceFailed",
    "Wire",
    "asyncio_thread",
    "check_flow_promises",
    "check_promise",
]
