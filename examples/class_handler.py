"""A server whose handler is a class: one object for each flow, which may keep state in attributes.

    python examples/class_handler.py [PORT]

Then run examples/client.py in another terminal. Stop the server with Ctrl-C.
"""

import sys

from twisted.internet import reactor

from pyf.station import FlowServer


class SampleHandler:
    def __init__(self, flow, client):
        self.flow = flow
        self.client = client

    def handle_data(self):
        header = next(self.flow)
        print(header, flush=True)
        for i, item in enumerate(self.flow):
            if not i % 50:
                print(i, item, flush=True)
        self.client.success("Done")


port = reactor.listenTCP(int(sys.argv[1]) if sys.argv[1:] else 8000, FlowServer(SampleHandler))
print(f"Listening on port {port.getHost().port}", flush=True)
reactor.run()
