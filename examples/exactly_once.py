"""Write rows into a table, each exactly once, while the server is killed ten times in mid-load.

    python examples/exactly_once.py [--rows ROWS] [--kills KILLS]

The handler writes rows, and how many packets they were, in one transaction (``client.checkpoint``).
After each crash the client asks the server that comes up in its place how far it is, and goes on
from there: its flow is a function of the packet to start with. Rows whose transaction had not been
committed are sent again; rows that had been are not.
"""

import argparse
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from pyf.station import FlowServer, ResumePolicy, SQLiteStore, StationClient
from pyf.transport import Packet

BATCH = 50
"""Rows in one transaction."""


def serve(path, port):
    """The server, in a process of its own: run again after each kill."""
    from twisted.internet import reactor

    def write_rows(flow, client):
        done = client.start
        rows = []

        def commit():
            def insert(database):
                database.executemany("INSERT INTO rows VALUES (?, ?)", rows)

            client.checkpoint(done, insert)
            rows.clear()

        for row in flow:
            rows.append((row.number, row.text))
            done += 1
            if len(rows) == BATCH:
                commit()
        commit()
        return done

    policy = ResumePolicy(store=SQLiteStore(path))
    reactor.listenTCP(port, FlowServer(write_rows, resume=policy), interface="127.0.0.1")
    reactor.run()


def rows_from(start, count):
    for number in range(start, count):
        time.sleep(0.0005)  # a source that takes its time: there is something to kill
        yield Packet(number=number, text=f"row {number}")


def run_and_kill(command, kills, committed, finished):
    """Run the server, kill it a few transactions later, and run it again; let the last one live."""
    for kills_left in range(kills, -1, -1):
        enough = committed() + 2 * BATCH
        with subprocess.Popen(command) as server:
            while kills_left and committed() < enough and not finished.is_set():
                time.sleep(0.01)
            if not kills_left:
                finished.wait()
            server.kill()
            server.wait()
            print(f"killed the server, with {committed()} rows in the table", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--serve", nargs=2, metavar=("PATH", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], int(args.serve[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        ship(Path(folder) / "rows.db", args.rows, args.kills)


def wait_for_server(port):
    """A client comes back to a server that was there, but does not wait for one that never was."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)


def ship(path, count, kills):
    with closing(sqlite3.connect(path)) as database:
        # Without a key: were a row written twice, nothing would stop it.
        database.execute("CREATE TABLE rows (number INTEGER, text TEXT)")
        database.commit()

    def committed():
        with closing(sqlite3.connect(path, timeout=30)) as database:
            return database.execute("SELECT count(*) FROM rows").fetchone()[0]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, __file__, "--serve", str(path), str(port)]
    finished = threading.Event()

    killer = threading.Thread(target=run_and_kill, args=(command, kills, committed, finished))
    killer.start()
    try:
        wait_for_server(port)
        client = StationClient("127.0.0.1", port)
        total = client.send(lambda start: rows_from(start, count), flow_id="rows")
    finally:
        finished.set()
        killer.join()
    with closing(sqlite3.connect(path)) as database:
        found = [number for (number,) in database.execute("SELECT number FROM rows ORDER BY 1")]
    exact = found == list(range(count))
    print(f"{total} packets handled, {len(found)} rows in the table")
    print("each of them exactly once" if exact else "NOT exactly once")
    sys.exit(not exact)


if __name__ == "__main__":
    main()
