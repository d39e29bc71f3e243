"""A server whose handler is a function: it answers every 50th packet and ends with "Done".

    python examples/function_handler.py [PORT]

Then run examples/client.py in another terminal. Stop the server with Ctrl-C.
"""

import sys

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
print(f"Listening on port {port.getHost().port}", flush=True)
reactor.run()
