"""A client that ships 10,000 packets to one of the servers here, and prints what comes back.

    python examples/client.py [PORT]

Start function_handler.py, class_handler.py, embedded_server.py or flask_app.py first. A message is
printed twice: by the listener and by the loop. Use the one that suits you.
"""

import sys

from pyf.station import StationClient
from pyf.transport import Packet

port = int(sys.argv[1]) if sys.argv[1:] else 8000
client = StationClient("127.0.0.1", port, True)  # third: waits_for_success
client.add_listener("message_received", print)
flow = (
    Packet(dict(Field1=i + 1, Field2=("titi", "tata")[i % 2], num=i + 1, Field3=(i + 1) * 10))
    for i in range(10000)
)
for value in client.call(flow, header=dict(authtkt="my false auth token :)", action="my_action")):
    if isinstance(value, Packet):
        print(value)
