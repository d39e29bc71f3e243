"""A server in a process that has other work: tgscheduler runs the reactor in a thread.

    python examples/embedded_server.py [PORT]

It needs pyf.station[embed]. Then run examples/client.py in another terminal. The main thread is
free for other work; here it waits for Ctrl-C. examples/flask_app.py shows pyf.station.embed, which
does this in one call.
"""

import sys
import threading

from tgscheduler import scheduler
from twisted.internet import reactor

from pyf.station import FlowServer
from pyf.transport import Packet


def sample_handler(flow, client=None):
    header = next(flow)
    print(header, flush=True)
    for i, item in enumerate(flow):
        if not i % 50:
            client.message(Packet({"type": "info", "message": f"hello! ({i})"}))
    client.success("Done")


port = reactor.listenTCP(int(sys.argv[1]) if sys.argv[1:] else 8000, FlowServer(sample_handler))
scheduler.add_single_task(reactor.run, kw=dict(installSignalHandlers=0), initialdelay=0)
scheduler.start_scheduler()

print(f"Listening on port {port.getHost().port}", flush=True)
try:
    threading.Event().wait()  # the main thread's own work would be here
except KeyboardInterrupt:
    reactor.callFromThread(reactor.stop)
    scheduler.stop_scheduler()
