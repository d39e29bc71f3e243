"""The server of the soak, a process of its own: prints its port, then serves until it is killed."""

from __future__ import annotations

import sys
import time
from typing import Any

from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred

from pyf.station import BadFlowEnding, FlowServer

reactor: Any = default_reactor
tally: dict[str, float] = {"truncated": 0, "broken_at": 0.0}


def ended(flow: Any, count: int) -> int:
    """Note a flow that ended as if it were whole, and was not."""
    expected = flow.header.get("count", count)
    tally["truncated"] += count != expected
    return count


def in_a_thread(flow: Any, _client: Any) -> Any:
    if flow.header.get("action") == "report":
        return {"handlers": server.handlers - 1, **tally}
    try:
        return ended(flow, sum(1 for _ in flow) - 1)
    except BadFlowEnding:
        tally["broken_at"] = time.monotonic()
        raise


async def on_the_reactor(flow: Any, client: Any) -> Any:
    if client.header.get("action") == "stall":
        await Deferred()
    count = -1
    async for _ in flow:
        count += 1
    return ended(flow, count)


server = FlowServer(in_a_thread if sys.argv[1:] == ["thread"] else on_the_reactor)
port = reactor.listenTCP(0, server, interface="127.0.0.1", backlog=1024)
print(port.getHost().port, flush=True)
reactor.run()
