"""Arrow Flight: record batches made of 1,000 packets, summed as a column."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import flight

from benchmarks.cases import Case
from benchmarks.contestant import HOST, Contestant, announce
from benchmarks.contestants.sockets import batches

COLUMNS = {
    "plain": {
        "Field1": pa.int64(),
        "Field2": pa.string(),
        "num": pa.int64(),
        "Field3": pa.int64(),
    },
    "bulk": {"num": pa.int64(), "data": pa.binary()},
}
ROWS = {"plain": 1000, "bulk": 1}


def record_batches(case: Case) -> Any:
    schema = pa.schema(COLUMNS[case.shape])
    for rows in batches(case, ROWS[case.shape]):
        yield pa.RecordBatch.from_pylist(rows, schema)


def total(reader: Any) -> int:
    found = 0
    for chunk in reader:
        found += pc.sum(chunk.data.column("num")).as_py()
    return found


class Server(flight.FlightServerBase):
    def __init__(self, case: Case) -> None:
        super().__init__(f"grpc://{HOST}:0")
        self._case = case

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        writer.write(b"%d" % total(reader))

    def do_get(self, context: Any, ticket: Any) -> Any:
        case = type(self._case)(**{**vars(self._case), "count": int(ticket.ticket)})
        schema = pa.schema(COLUMNS[case.shape])
        return flight.GeneratorStream(schema, record_batches(case))


class Flight(Contestant):
    name = "flight"
    title = "Arrow Flight, in batches"
    how = "Record batches of 1,000 rows made from packets; the far side sums the column."
    shapes = tuple(COLUMNS)

    def there(self, port: int, case: Case) -> int:
        with flight.connect(f"grpc://{HOST}:{port}") as client:
            descriptor = flight.FlightDescriptor.for_path("packets")
            writer, reader = client.do_put(descriptor, pa.schema(COLUMNS[case.shape]))
            with writer:
                for batch in record_batches(case):
                    writer.write_batch(batch)
                writer.done_writing()
                return int(reader.read().to_pybytes())

    def back(self, port: int, case: Case) -> int:
        with flight.connect(f"grpc://{HOST}:{port}") as client:
            return total(client.do_get(flight.Ticket(b"%d" % case.count)))

    def serve(self, case: Case) -> None:
        server = Server(case)
        announce(server.port)
        server.serve()


CONTESTANTS = (Flight(),)
